//! Unit vectors: `y = x / max(||x||, eps)` over the last dimension.
//!
//! As `torch.nn.functional.normalize` with `p = 2` and `dim = -1`; its default `eps` is [`L2_EPS`]. The
//! released code of instance discrimination (Wu et al., 2018) has no `eps` and returns NaN for a zero
//! vector; `eps = 0` does the same here. Norms are accumulated in `f64`.

#[cfg(feature = "cuda")]
mod cuda;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::support::{
    Float, check_device, check_float, chunk_rows, cpu_slice, dispatch_float, storage_slice,
};
use crate::error::{Error, Result};

/// The smallest norm [`l2_normalize`] divides by, unless told otherwise.
pub const L2_EPS: f64 = 1e-12;

/// Divides every vector of the last dimension by its Euclidean norm, or by `eps` if that is larger.
///
/// Where the norm is below `eps` the gradient is that of a division by the constant `eps`.
///
/// # Errors
/// If the tensor is a scalar, not of a float type or on a device without kernels, or `eps` is negative or not finite.
pub fn l2_normalize(input: &Tensor, eps: f64) -> Result<Tensor> {
    check_float("l2_normalize: input", input)?;
    check_device("l2_normalize: input", input)?;
    if input.rank() == 0 {
        return Err(Error::shape("l2_normalize: input", "(..., D)", input.dims()));
    }
    if !(eps.is_finite() && eps >= 0.) {
        return Err(Error::argument("l2_normalize: eps", format!("{eps} is not a finite number >= 0")));
    }
    Ok(input.contiguous()?.apply_op1(L2Normalize { eps })?)
}

struct L2Normalize {
    eps: f64,
}

impl CustomOp1 for L2Normalize {
    fn name(&self) -> &'static str {
        "l2-normalize"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let width = l.dims().last().copied().unwrap_or(1);
        dispatch_float!("l2_normalize: input", s.dtype(), T => {
            let y = forward(cpu_slice::<T>("l2_normalize: input", s, l)?, width, self.eps);
            Ok((T::to_cpu_storage_owned(y), l.shape().clone()))
        })
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, s: &CudaStorage, l: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        let width = l.dims().last().copied().unwrap_or(1);
        Ok((cuda::forward(s, l, width, self.eps)?, l.shape().clone()))
    }

    fn bwd(&self, arg: &Tensor, res: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        if !arg.track_op() {
            return Ok(None);
        }
        let grad = grad.contiguous()?;
        let width = arg.dims().last().copied().unwrap_or(1);
        #[cfg(feature = "cuda")]
        if grad.device().is_cuda() {
            return Ok(Some(cuda::gradient(arg, res, &grad, width, self.eps)?));
        }
        let ((xs, xl), (ys, yl), (gs, gl)) =
            (arg.storage_and_layout(), res.storage_and_layout(), grad.storage_and_layout());
        dispatch_float!("l2_normalize: gradient", arg.dtype(), T => {
            let x = storage_slice::<T>("l2_normalize: input", &xs, xl)?;
            let y = storage_slice::<T>("l2_normalize: output", &ys, yl)?;
            let g = storage_slice::<T>("l2_normalize: gradient", &gs, gl)?;
            Tensor::from_vec(backward(x, y, g, width, self.eps), arg.shape(), &Device::Cpu).map(Some)
        })
    }
}

fn norm<T: Float>(x: &[T]) -> f64 {
    x.iter().map(|x| x.to_f64() * x.to_f64()).sum::<f64>().sqrt()
}

fn forward<T: Float>(x: &[T], width: usize, eps: f64) -> Vec<T> {
    let mut y = vec![T::ZERO; x.len()];
    if x.is_empty() {
        return y;
    }
    let chunk = chunk_rows(x.len() / width, width) * width;
    y.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).for_each(|(y, x)| {
        for (y, x) in y.chunks_mut(width).zip(x.chunks(width)) {
            let norm = clamped(norm(x), eps);
            for (y, x) in y.iter_mut().zip(x) {
                *y = T::from_f64(x.to_f64() / norm);
            }
        }
    });
    y
}

/// `(g - y <y, g>) / ||x||`, or `g / eps` where the norm was clamped.
fn backward<T: Float>(x: &[T], y: &[T], g: &[T], width: usize, eps: f64) -> Vec<T> {
    let mut dx = vec![T::ZERO; x.len()];
    if x.is_empty() {
        return dx;
    }
    let chunk = chunk_rows(x.len() / width, width) * width;
    let parts = x.par_chunks(chunk).zip(y.par_chunks(chunk)).zip(g.par_chunks(chunk));
    dx.par_chunks_mut(chunk).zip(parts).for_each(|(dx, ((x, y), g))| {
        let rows = x.chunks(width).zip(y.chunks(width)).zip(g.chunks(width));
        for (dx, ((x, y), g)) in dx.chunks_mut(width).zip(rows) {
            let norm = norm(x);
            let along =
                if norm < eps { 0. } else { y.iter().zip(g).map(|(y, g)| y.to_f64() * g.to_f64()).sum() };
            let divisor = clamped(norm, eps);
            for (dx, (y, g)) in dx.iter_mut().zip(y.iter().zip(g)) {
                *dx = T::from_f64((g.to_f64() - y.to_f64() * along) / divisor);
            }
        }
    });
    dx
}

/// The larger of the two; NaN stays NaN.
fn clamped(norm: f64, eps: f64) -> f64 {
    if norm < eps { eps } else { norm }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Var};

    use super::*;
    use crate::rng::Key;
    use crate::testing::{assert_close, gradcheck};

    #[test]
    fn unit_vectors_and_clamping() {
        let x = Tensor::new(&[[3.0f32, 4.0], [0.0, 0.0], [-0.0, 2.0]], &Device::Cpu).unwrap();
        let y = l2_normalize(&x, L2_EPS).unwrap();
        assert_eq!(y.to_vec2::<f32>().unwrap(), [[0.6, 0.8], [0.0, 0.0], [-0.0, 1.0]]);
        let y = l2_normalize(&x, 10.).unwrap();
        assert_eq!(y.to_vec2::<f32>().unwrap(), [[0.3, 0.4], [0.0, 0.0], [0.0, 0.2]]);
        assert!(l2_normalize(&x, 0.).unwrap().to_vec2::<f32>().unwrap()[1][0].is_nan());
        // Squares that leave the range of f32.
        let big = Tensor::new(&[[3e30_f32, 4e30], [3e-30, 4e-30]], &Device::Cpu).unwrap();
        let want = Tensor::new(&[[0.6_f32, 0.8], [0.6, 0.8]], &Device::Cpu).unwrap();
        assert_close(&l2_normalize(&big, 0.).unwrap(), &want, 1e-6, 0.).unwrap();
        let empty = Tensor::zeros((2, 0), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(l2_normalize(&empty, L2_EPS).unwrap().dims(), [2, 0]);
    }

    #[test]
    fn gradients() {
        let x = Key::new(1).normal((2, 3, 5), 0., 1., DType::F64, &Device::Cpu).unwrap();
        gradcheck(|t| l2_normalize(&t[0], L2_EPS), std::slice::from_ref(&x), 1e-4, 1e-6).unwrap();
        gradcheck(|t| l2_normalize(&t[0], 100.), std::slice::from_ref(&x), 1e-4, 1e-6).unwrap();
        gradcheck(|t| l2_normalize(&t[0].transpose(0, 2)?, L2_EPS), &[x], 1e-4, 1e-6).unwrap();
        let zero = Var::zeros((1, 2), DType::F32, &Device::Cpu).unwrap();
        let grads = l2_normalize(&zero, 0.5).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(grads.get(&zero).unwrap().to_vec2::<f32>().unwrap(), [[2., 2.]]);
    }

    #[test]
    fn bad_input_is_refused() {
        let x = Tensor::new(&[1.0f32], &Device::Cpu).unwrap();
        assert!(matches!(l2_normalize(&x.get(0).unwrap(), 0.1), Err(Error::Shape { .. })));
        assert!(matches!(l2_normalize(&x, -1.), Err(Error::Argument { .. })));
        assert!(matches!(l2_normalize(&x, f64::NAN), Err(Error::Argument { .. })));
        assert!(matches!(l2_normalize(&x.to_dtype(DType::U8).unwrap(), 0.1), Err(Error::Dtype { .. })));
    }
}
