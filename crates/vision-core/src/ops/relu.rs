//! Rectified linear unit, `max(x, 0)`.
//!
//! As in PyTorch the derivative at exactly 0 is 0 and NaN stays NaN. (The tensor library's own `relu` has
//! derivative 1 at 0.)

#[cfg(feature = "cuda")]
mod cuda;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::support::{Float, check_device, check_float, chunk_rows, cpu_slice, dispatch_float};
use crate::FeatureMap;
use crate::error::Result;

/// `max(x, 0)` of every element of a `f32` or `f64` tensor of any shape.
///
/// # Errors
/// If the tensor is not of a float type, or on a device without kernels.
pub fn relu(input: &Tensor) -> Result<Tensor> {
    check_float("relu: input", input)?;
    check_device("relu: input", input)?;
    Ok(input.contiguous()?.apply_op1(Relu)?)
}

/// [`relu`] of a feature map.
///
/// # Errors
/// As [`relu`].
pub fn relu_nhwc(input: &FeatureMap) -> Result<FeatureMap> {
    FeatureMap::from_nhwc(relu(input.nhwc())?)
}

struct Relu;

impl CustomOp1 for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        fn run<T: Float>(s: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
            let x = cpu_slice::<T>("relu: input", s, l)?;
            let mut y = vec![T::ZERO; x.len()];
            let chunk = chunk_rows(x.len(), 1);
            y.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).for_each(|(y, x)| {
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = if x <= T::ZERO { T::ZERO } else { x };
                }
            });
            Ok((T::to_cpu_storage_owned(y), l.shape().clone()))
        }
        dispatch_float!("relu: input", candle_core::backend::BackendStorage::dtype(s), T => run::<T>(s, l))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, s: &CudaStorage, l: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        Ok((cuda::forward(s, l)?, l.shape().clone()))
    }

    fn bwd(&self, arg: &Tensor, res: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        if !arg.track_op() {
            return Ok(None);
        }
        // The output says which elements passed, so the input need not be read.
        res.detach().apply_op2_no_bwd(&grad.contiguous()?, &ReluGrad).map(Some)
    }
}

struct ReluGrad;

impl CustomOp2 for ReluGrad {
    fn name(&self) -> &'static str {
        "relu-grad"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        dispatch_float!("relu: gradient", candle_core::backend::BackendStorage::dtype(s1), T => {
            let y = cpu_slice::<T>("relu: output", s1, l1)?;
            let dy = cpu_slice::<T>("relu: gradient", s2, l2)?;
            Ok((T::to_cpu_storage_owned(mask_by_output(y, dy)), l1.shape().clone()))
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

/// The gradient `dy` where the output `y` is above zero (or NaN), 0 elsewhere.
fn mask_by_output<T: Float>(y: &[T], dy: &[T]) -> Vec<T> {
    let mut dx = vec![T::ZERO; y.len()];
    let chunk = chunk_rows(y.len(), 1);
    dx.par_chunks_mut(chunk).zip(y.par_chunks(chunk).zip(dy.par_chunks(chunk))).for_each(|(dx, (y, dy))| {
        for ((dx, &y), &dy) in dx.iter_mut().zip(y).zip(dy) {
            *dx = if y <= T::ZERO { T::ZERO } else { dy };
        }
    });
    dx
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;
    use crate::error::Error;

    #[test]
    fn values_and_gradient_with_zero_at_zero() {
        let x = Var::new(&[-1.0f32, 0.0, -0.0, 2.0, 3.5], &Device::Cpu).unwrap();
        let y = relu(&x).unwrap();
        assert_eq!(y.to_vec1::<f32>().unwrap(), [0.0, 0.0, 0.0, 2.0, 3.5]);
        let grads = (&y * &y).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(grads.get(&x).unwrap().to_vec1::<f32>().unwrap(), [0.0, 0.0, 0.0, 4.0, 7.0]);
        let grads = relu(&x).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(grads.get(&x).unwrap().to_vec1::<f32>().unwrap(), [0.0, 0.0, 0.0, 1.0, 1.0]);
    }

    #[test]
    fn nan_stays_and_empty_and_strided_inputs_work() {
        let nan = relu(&Tensor::new(&[f64::NAN], &Device::Cpu).unwrap()).unwrap();
        assert!(nan.to_vec1::<f64>().unwrap()[0].is_nan());
        let empty = Var::zeros((0, 3), DType::F32, &Device::Cpu).unwrap();
        let grads = relu(&empty).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(grads.get(&empty).unwrap().dims(), [0, 3]);
        let x = Tensor::new(&[[-1.0f32, 2.0], [3.0, -4.0]], &Device::Cpu).unwrap().t().unwrap();
        assert_eq!(relu(&x).unwrap().to_vec2::<f32>().unwrap(), [[0.0, 3.0], [2.0, 0.0]]);
    }

    #[test]
    fn integers_are_refused() {
        let error = relu(&Tensor::new(&[1u32], &Device::Cpu).unwrap()).unwrap_err();
        assert!(matches!(error, Error::Dtype { .. }), "{error}");
    }
}
