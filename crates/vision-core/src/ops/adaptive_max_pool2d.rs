//! Maximum over bins that cover the map, for any output size.
//!
//! Bins are those of [`super::adaptive_avg_pool2d`]. Among equal maxima the first in row-major order gets the whole
//! gradient, and NaN wins over numbers, the last one over others, as in PyTorch.

#[cfg(feature = "cuda")]
mod cuda;

use std::sync::OnceLock;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::adaptive_bins::{Bins, from_nchw};
use super::argmax::{OUTSIDE, add_to_argmax};
use super::support::{Float, cpu_slice, dispatch_float, storage_slice, vectorised};
use crate::FeatureMap;
use crate::error::{Error, Result};

/// The largest value of each bin of `input`, `(N, C, H, W)`, as `(N, C, output_size[0], output_size[1])`.
///
/// # Errors
/// If the input is not a `f32` or `f64` tensor of rank 4 or has no pixels, or the output is too large.
pub fn adaptive_max_pool2d(input: &Tensor, output_size: [usize; 2]) -> Result<Tensor> {
    adaptive_max_pool2d_nhwc(&from_nchw("adaptive_max_pool2d", input)?, output_size)?.to_nchw()
}

/// [`adaptive_max_pool2d`] of a feature map.
///
/// # Errors
/// As [`adaptive_max_pool2d`].
pub fn adaptive_max_pool2d_nhwc(input: &FeatureMap, output_size: [usize; 2]) -> Result<FeatureMap> {
    let bins = Bins::new("adaptive_max_pool2d", input, output_size)?;
    let input = input.nhwc();
    if bins.input[0].checked_mul(bins.input[1]).is_none_or(|pixels| pixels >= OUTSIDE as usize) {
        return Err(Error::shape("adaptive_max_pool2d: input", "fewer than 2^32 - 1 pixels", input.dims()));
    }
    let op = AdaptiveMaxPool {
        bins,
        keep: input.track_op(),
        argmax: OnceLock::new(),
        #[cfg(feature = "cuda")]
        device_argmax: OnceLock::new(),
    };
    FeatureMap::from_nhwc(input.apply_op1(op)?)
}

struct AdaptiveMaxPool {
    bins: Bins,
    /// Whether a gradient may be asked for.
    keep: bool,
    /// Input pixel, counted within the image, that each output element came from.
    argmax: OnceLock<Vec<u32>>,
    /// The same on a CUDA device.
    #[cfg(feature = "cuda")]
    device_argmax: OnceLock<CudaStorage>,
}

impl AdaptiveMaxPool {
    /// Maxima of one row of bins and, if `argmax` is not empty, where they came from.
    fn row<T: Float>(&self, image: &[T], y: usize, out: &mut [T], argmax: &mut [u32]) {
        let (bins, c) = (&self.bins, self.bins.channels);
        let rows = bins.bin(0, y);
        for (x, out) in out.chunks_exact_mut(c).enumerate() {
            let columns = bins.bin(1, x);
            // A bin has a pixel at least.
            let first = rows.start * bins.input[1] + columns.start;
            out.copy_from_slice(&image[first * c..(first + 1) * c]);
            let argmax = argmax.get_mut(x * c..(x + 1) * c);
            let pixels =
                rows.clone().flat_map(|row| columns.clone().map(move |column| row * bins.input[1] + column));
            let pixels = pixels.map(|pixel| (pixel, &image[pixel * c..(pixel + 1) * c]));
            if let Some(argmax) = argmax {
                argmax.fill(first as u32);
                for (pixel, values) in pixels {
                    for ((out, at), &value) in out.iter_mut().zip(argmax.iter_mut()).zip(values) {
                        let better = value > *out || value.is_nan();
                        *out = if better { value } else { *out };
                        *at = if better { pixel as u32 } else { *at };
                    }
                }
            } else {
                for (_, values) in pixels {
                    for (out, &value) in out.iter_mut().zip(values) {
                        *out = if value > *out || value.is_nan() { value } else { *out };
                    }
                }
            }
        }
    }

    fn forward<T: Float>(&self, input: &[T]) -> (Vec<T>, Vec<u32>) {
        let bins = &self.bins;
        let [oh, ow] = bins.output;
        let mut out = vec![T::ZERO; bins.shape().elem_count()];
        let mut argmax = vec![0; if self.keep { out.len() } else { 0 }];
        if out.is_empty() {
            return (out, argmax);
        }
        let (image_len, row_len) = (bins.image_len(), ow * bins.channels);
        let row = |(index, (out, argmax)): (usize, (&mut [T], &mut [u32]))| {
            let image = &input[index / oh * image_len..(index / oh + 1) * image_len];
            vectorised(|| self.row(image, index % oh, out, argmax));
        };
        let rows = out.par_chunks_mut(row_len);
        if self.keep {
            rows.zip(argmax.par_chunks_mut(row_len)).enumerate().for_each(row);
        } else {
            rows.enumerate().for_each(|(index, out)| row((index, (out, &mut []))));
        }
        (out, argmax)
    }
}

impl CustomOp1 for AdaptiveMaxPool {
    fn name(&self) -> &'static str {
        "adaptive_max_pool2d"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        dispatch_float!("adaptive_max_pool2d: input", s.dtype(), T => {
            let (out, argmax) = self.forward(cpu_slice::<T>("adaptive_max_pool2d: input", s, l)?);
            if self.keep {
                // Filled once: the op is made for one call.
                let _ = self.argmax.set(argmax);
            }
            Ok((T::to_cpu_storage_owned(out), self.bins.shape()))
        })
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, s: &CudaStorage, l: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        let (out, argmax) = cuda::forward(&self.bins, s, l)?;
        let _ = self.device_argmax.set(argmax);
        Ok((out, self.bins.shape()))
    }

    fn bwd(&self, arg: &Tensor, _res: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        #[cfg(feature = "cuda")]
        if let (true, Some(argmax)) = (arg.track_op(), self.device_argmax.get()) {
            return Ok(Some(cuda::gradient(&self.bins, argmax, arg, &grad.contiguous()?)?));
        }
        let (true, Some(argmax)) = (arg.track_op(), self.argmax.get()) else {
            return Ok(None);
        };
        let grad = grad.contiguous()?;
        let (s, l) = grad.storage_and_layout();
        dispatch_float!("adaptive_max_pool2d: gradient", grad.dtype(), T => {
            let bins = &self.bins;
            let sizes = [bins.batch, bins.input.iter().product(), bins.output.iter().product(), bins.channels];
            let dx = add_to_argmax(argmax, storage_slice::<T>("adaptive_max_pool2d: gradient", &s, l)?, sizes);
            Ok(Some(Tensor::from_vec(dx, arg.dims(), &Device::Cpu)?))
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Var};

    use super::*;
    use crate::rng::Key;
    use crate::testing::gradcheck;

    fn row(values: &[f32]) -> Tensor {
        Tensor::from_slice(values, (1, 1, 1, values.len()), &Device::Cpu).unwrap()
    }

    fn flat(t: &Tensor) -> Vec<f32> {
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn gradient(x: &Tensor, size: [usize; 2]) -> Vec<f32> {
        let x = Var::from_tensor(x).unwrap();
        let grads = adaptive_max_pool2d(&x, size).unwrap().sum_all().unwrap().backward().unwrap();
        flat(grads.get(&x).unwrap())
    }

    #[test]
    fn bins_overlap_when_sizes_do_not_divide() {
        let x = row(&[1.0, 6.0, 2.0]);
        assert_eq!(flat(&adaptive_max_pool2d(&x, [1, 2]).unwrap()), [6.0, 6.0]);
        assert_eq!(gradient(&x, [1, 2]), [0.0, 2.0, 0.0]);
        // More bins than pixels repeat them.
        let wide = adaptive_max_pool2d(&x, [2, 4]).unwrap();
        assert_eq!(flat(&wide), [1.0, 6.0, 6.0, 2.0, 1.0, 6.0, 6.0, 2.0]);
    }

    #[test]
    fn first_of_equal_maxima_and_last_nan() {
        assert_eq!(gradient(&row(&[3.0, 3.0, 3.0]), [1, 1]), [1.0, 0.0, 0.0]);
        let minus = row(&[f32::NEG_INFINITY; 2]);
        assert_eq!(flat(&adaptive_max_pool2d(&minus, [1, 1]).unwrap()), [f32::NEG_INFINITY]);
        assert_eq!(gradient(&minus, [1, 1]), [1.0, 0.0]);
        let nan = row(&[f32::NAN, 7.0, f32::NAN, 9.0]);
        assert!(flat(&adaptive_max_pool2d(&nan, [1, 1]).unwrap())[0].is_nan());
        assert_eq!(gradient(&nan, [1, 1]), [0.0, 0.0, 1.0, 0.0]);
    }

    #[test]
    fn gradients() {
        // Distinct values, so that no step of the difference changes a maximum.
        let count = 2 * 3 * 5 * 4;
        let order: Vec<f64> = (0..count).map(|i| (i * 89 % count) as f64).collect();
        let x = Tensor::from_vec(order, (2, 3, 5, 4), &Device::Cpu).unwrap();
        for size in [[1, 1], [2, 3], [5, 4], [7, 1]] {
            gradcheck(|t| adaptive_max_pool2d(&t[0], size), std::slice::from_ref(&x), 1e-3, 1e-8).unwrap();
        }
    }

    #[test]
    fn strided_empty_and_wrong_inputs() {
        let x = Key::new(5).normal((2, 3, 5, 4), 0., 1., DType::F32, &Device::Cpu).unwrap();
        let view = x.transpose(1, 2).unwrap();
        let want = adaptive_max_pool2d(&view.contiguous().unwrap(), [2, 2]).unwrap();
        assert_eq!(flat(&adaptive_max_pool2d(&view, [2, 2]).unwrap()), flat(&want));
        assert_eq!(adaptive_max_pool2d(&x, [0, 2]).unwrap().dims(), [2, 3, 0, 2]);
        let empty = Var::zeros((0, 2, 4, 4), DType::F32, &Device::Cpu).unwrap();
        let y = adaptive_max_pool2d(&empty, [1, 1]).unwrap();
        assert_eq!(y.sum_all().unwrap().backward().unwrap().get(&empty).unwrap().dims(), [0, 2, 4, 4]);
        let none = Tensor::zeros((2, 2, 0, 4), DType::F32, &Device::Cpu).unwrap();
        assert!(matches!(adaptive_max_pool2d(&none, [1, 1]), Err(Error::Shape { .. })));
        assert!(matches!(
            adaptive_max_pool2d(&none.flatten_all().unwrap(), [1, 1]),
            Err(Error::Shape { .. })
        ));
        assert!(matches!(adaptive_max_pool2d(&x, [usize::MAX, 1]), Err(Error::Argument { .. })));
        assert!(matches!(adaptive_max_pool2d(&x, [1 << 40, 1 << 20]), Err(Error::Argument { .. })));
    }
}
