//! `softplus(x) = ln(1 + e^x)` in its exact stable form, `max(x, 0) + ln(1 + e^-|x|)`.
//!
//! PyTorch's `softplus` with its defaults returns `x` itself above the threshold 20; the exact value is
//! `x + 2e-9` there, which `f32` cannot tell apart and `f64` can. The derivative is the logistic function,
//! also in a form that does not overflow. `softplus(-x)` is the stable `-ln sigmoid(x)`.

#[cfg(feature = "cuda")]
mod cuda;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::support::{Float, check_device, check_float, chunk_rows, cpu_slice, dispatch_float};
use crate::error::Result;

/// `ln(1 + e^x)` of every element of an `f32` or `f64` tensor of any shape; finite for every finite
/// element, NaN stays NaN.
///
/// # Errors
/// If the tensor is not of a float type, or on a device without kernels.
pub fn softplus(input: &Tensor) -> Result<Tensor> {
    check_float("softplus: input", input)?;
    check_device("softplus: input", input)?;
    Ok(input.contiguous()?.apply_op1(Softplus)?)
}

struct Softplus;

impl CustomOp1 for Softplus {
    fn name(&self) -> &'static str {
        "softplus"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        dispatch_float!("softplus: input", s.dtype(), T => {
            let y = map(cpu_slice::<T>("softplus: input", s, l)?, value);
            Ok((T::to_cpu_storage_owned(y), l.shape().clone()))
        })
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, s: &CudaStorage, l: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        Ok((cuda::forward(s, l)?, l.shape().clone()))
    }

    fn bwd(&self, arg: &Tensor, _res: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        if !arg.track_op() {
            return Ok(None);
        }
        arg.detach().apply_op2_no_bwd(&grad.contiguous()?, &SoftplusGrad).map(Some)
    }
}

struct SoftplusGrad;

impl CustomOp2 for SoftplusGrad {
    fn name(&self) -> &'static str {
        "softplus-grad"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        dispatch_float!("softplus: gradient", s1.dtype(), T => {
            let mut dx = map(cpu_slice::<T>("softplus: input", s1, l1)?, logistic);
            let dy = cpu_slice::<T>("softplus: gradient", s2, l2)?;
            let chunk = chunk_rows(dx.len(), 1);
            dx.par_chunks_mut(chunk).zip(dy.par_chunks(chunk)).for_each(|(dx, dy)| {
                for (dx, &dy) in dx.iter_mut().zip(dy) {
                    *dx *= dy;
                }
            });
            Ok((T::to_cpu_storage_owned(dx), l1.shape().clone()))
        })
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        Ok((cuda::gradient(s1, l1, s2, l2)?, l1.shape().clone()))
    }
}

fn map<T: Float>(x: &[T], f: impl Fn(T) -> T + Sync) -> Vec<T> {
    let mut y = vec![T::ZERO; x.len()];
    let chunk = chunk_rows(x.len(), 1);
    y.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).for_each(|(y, x)| {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = f(x);
        }
    });
    y
}

fn value<T: Float>(x: T) -> T {
    let positive = if x > T::ZERO { x } else { T::ZERO };
    positive + (-x.abs()).exp().ln_1p()
}

fn logistic<T: Float>(x: T) -> T {
    let e = (-x.abs()).exp();
    if x >= T::ZERO { T::ONE / (T::ONE + e) } else { e / (T::ONE + e) }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;
    use crate::error::Error;
    use crate::rng::Key;
    use crate::testing::gradcheck;

    #[test]
    fn values_at_both_ends() {
        let x = [-1e4_f64, -100., -1., 0., 1., 20., 30., 1e4];
        let y = softplus(&Tensor::new(&x, &Device::Cpu).unwrap()).unwrap().to_vec1::<f64>().unwrap();
        assert_eq!(y[0], 0.);
        assert!((y[1] / (-100_f64).exp() - 1.).abs() < 1e-15);
        assert!((y[2] - 0.313_261_687_518_222_8).abs() < 1e-16);
        assert!((y[3] - 2_f64.ln()).abs() < 1e-16);
        assert!((y[4] - 1.313_261_687_518_222_8).abs() < 1e-15);
        // Exact, where a threshold of 20 would give 20.
        assert!((y[5] - 20. - 2.061_153_6e-9).abs() < 1e-14);
        assert_eq!(y[7], 1e4);
        let nan = softplus(&Tensor::new(&[f32::NAN], &Device::Cpu).unwrap()).unwrap();
        assert!(nan.to_vec1::<f32>().unwrap()[0].is_nan());
    }

    #[test]
    fn gradient() {
        let x = Key::new(1).normal((3, 4), 0., 3., DType::F64, &Device::Cpu).unwrap();
        gradcheck(|t| softplus(&t[0]), &[x.t().unwrap()], 1e-4, 1e-6).unwrap();
        let x = Var::new(&[-1e4_f32, 1e4, 0.], &Device::Cpu).unwrap();
        let grads = softplus(&x).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(grads.get(&x).unwrap().to_vec1::<f32>().unwrap(), [0., 1., 0.5]);
    }

    #[test]
    fn integers_are_refused() {
        assert!(matches!(softplus(&Tensor::new(&[1u32], &Device::Cpu).unwrap()), Err(Error::Dtype { .. })));
    }
}
