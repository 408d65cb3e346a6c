//! Gradients against central differences.

use candle_core::{DType, Device, Tensor, Var};

use super::close::{Mismatch, index};
use crate::error::{Error, Result};
use crate::rng::Key;

/// Compares the gradient of `f` with central differences.
///
/// The scalar compared is the sum over the output's elements, each multiplied by a fixed random weight in
/// `[0.5, 1.5)`, so that errors cannot cancel. `inputs` are `F64` tensors on the CPU and all get a
/// gradient; constants belong into the closure. Stay away from kinks by more than `eps`.
///
/// An element passes if `|analytic - numeric| <= tol * scale`, where `scale` is the largest gradient of that
/// input, but at least 1e-3 because differences are not good enough to compare smaller ones: with `eps`
/// around 1e-5 and values near 1 their error is about 1e-10.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use vision_core::testing::gradcheck;
/// let x = Tensor::new(&[0.3_f64, -1.2], &Device::Cpu)?;
/// gradcheck(|t| Ok(t[0].sqr()?), &[x], 1e-5, 1e-8)?;
/// # Ok::<(), vision_core::Error>(())
/// ```
///
/// # Errors
/// If `f` fails, if an input is not an `F64` CPU tensor, or if a gradient is missing or differs; the
/// message names the input and the worst element.
pub fn gradcheck(
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
    inputs: &[Tensor],
    eps: f64,
    tol: f64,
) -> Result<()> {
    for (i, input) in inputs.iter().enumerate() {
        if input.dtype() != DType::F64 {
            return Err(Error::Dtype {
                what: format!("gradcheck: input {i}"),
                expected: "F64".into(),
                got: input.dtype(),
            });
        }
    }
    let vars =
        inputs.iter().map(|t| Var::from_tensor(&t.copy()?)).collect::<candle_core::Result<Vec<_>>>()?;
    let tracked: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let output = f(&tracked)?;
    let weights = Key::new(0x67_7261_6463).uniform(output.shape(), 0.5, 1.5, DType::F64, &Device::Cpu)?;
    let grads = output.mul(&weights)?.sum_all()?.backward()?;
    let objective =
        |tensors: &[Tensor]| -> Result<f64> { Ok(f(tensors)?.mul(&weights)?.sum_all()?.to_scalar::<f64>()?) };
    let plain: Vec<Tensor> = inputs.iter().map(Tensor::detach).collect();
    for (which, (var, input)) in vars.iter().zip(inputs).enumerate() {
        let Some(gradient) = grads.get(var) else {
            return Err(Mismatch::new(format!("gradcheck: input {which} got no gradient")).into());
        };
        if gradient.dims() != input.dims() {
            return Err(Error::shape(
                format!("gradcheck: gradient of input {which}"),
                format!("{:?}", input.dims()),
                gradient.dims(),
            ));
        }
        let analytic: Vec<f64> = gradient.flatten_all()?.to_vec1()?;
        let base: Vec<f64> = input.flatten_all()?.to_vec1()?;
        let at = |position: usize, step: f64| -> Result<f64> {
            let mut moved = base.clone();
            moved[position] += step;
            let mut tensors = plain.clone();
            tensors[which] = Tensor::from_vec(moved, input.shape(), &Device::Cpu)?;
            objective(&tensors)
        };
        let numeric = (0..base.len())
            .map(|position| Ok((at(position, eps)? - at(position, -eps)?) / (2. * eps)))
            .collect::<Result<Vec<f64>>>()?;
        let scale = analytic.iter().chain(&numeric).fold(1e-3, |scale: f64, g| scale.max(g.abs()));
        let mut worst = (0, 0.);
        for (position, (a, n)) in analytic.iter().zip(&numeric).enumerate() {
            let error = (a - n).abs() / scale;
            let error = if error.is_nan() { f64::INFINITY } else { error };
            if error > worst.1 {
                worst = (position, error);
            }
        }
        let (position, error) = worst;
        if error > tol {
            return Err(Mismatch::new(format!(
                "gradcheck: input {which} at {:?}: gradient {:e}, central difference {:e}, relative error \
                 {error:.3e} > {tol:e}",
                index(position, input.dims()),
                analytic[position],
                numeric[position],
            ))
            .into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input() -> Tensor {
        Key::new(1).normal((2, 3), 0., 1., DType::F64, &Device::Cpu).unwrap()
    }

    #[test]
    fn right_gradients_pass() {
        let other = input().affine(0.5, 2.).unwrap();
        gradcheck(|t| Ok(t[0].mul(&t[1])?.tanh()?), &[input(), other], 1e-5, 1e-8).unwrap();
        // A view with strides.
        gradcheck(|t| Ok(t[0].sqr()?), &[input().t().unwrap()], 1e-5, 1e-8).unwrap();
    }

    #[test]
    fn wrong_and_missing_gradients_fail() {
        // The detached part moves with the input but has no gradient.
        let wrong = |t: &[Tensor]| Ok(t[0].sqr()?.sub(&t[0].detach())?);
        let message = gradcheck(wrong, &[input()], 1e-5, 1e-6).unwrap_err().to_string();
        assert!(message.contains("input 0"), "{message}");
        let unused = |t: &[Tensor]| Ok(t[0].sqr()?);
        let message = gradcheck(unused, &[input(), input()], 1e-5, 1e-6).unwrap_err().to_string();
        assert!(message.contains("input 1 got no gradient"), "{message}");
        let f32 = input().to_dtype(DType::F32).unwrap();
        assert!(matches!(gradcheck(unused, &[f32], 1e-5, 1e-6), Err(Error::Dtype { .. })));
    }
}
