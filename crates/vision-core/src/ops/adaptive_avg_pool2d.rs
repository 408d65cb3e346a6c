//! Mean over bins that cover the map, for any output size.
//!
//! Bin `i` of `n` along an axis of `size` pixels holds the pixels from `floor(i * size / n)` up to
//! `ceil((i + 1) * size / n)`, as in PyTorch; neighbouring bins may share a pixel.

#[cfg(feature = "cuda")]
mod cuda;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::adaptive_bins::{Bins, from_nchw};
use super::support::{Float, cpu_slice, dispatch_float, storage_slice};
use crate::FeatureMap;
use crate::error::Result;

/// Averages `input`, `(N, C, H, W)`, into `(N, C, output_size[0], output_size[1])`.
///
/// # Errors
/// If the input is not a `f32` or `f64` tensor of rank 4 or has no pixels, or the output is too large.
pub fn adaptive_avg_pool2d(input: &Tensor, output_size: [usize; 2]) -> Result<Tensor> {
    adaptive_avg_pool2d_nhwc(&from_nchw("adaptive_avg_pool2d", input)?, output_size)?.to_nchw()
}

/// [`adaptive_avg_pool2d`] of a feature map.
///
/// # Errors
/// As [`adaptive_avg_pool2d`].
pub fn adaptive_avg_pool2d_nhwc(input: &FeatureMap, output_size: [usize; 2]) -> Result<FeatureMap> {
    let op = AdaptiveAvgPool { bins: Bins::new("adaptive_avg_pool2d", input, output_size)? };
    FeatureMap::from_nhwc(input.nhwc().apply_op1(op)?)
}

struct AdaptiveAvgPool {
    bins: Bins,
}

impl AdaptiveAvgPool {
    /// Calls `visit(bin number, pixels per bin, offset of a pixel in the image)` for all pixels of all bins.
    fn visit(&self, mut visit: impl FnMut(usize, usize, usize)) {
        let Bins { input: [_, width], output: [oh, ow], channels, .. } = self.bins;
        for y in 0..oh {
            for x in 0..ow {
                let (rows, columns) = (self.bins.bin(0, y), self.bins.bin(1, x));
                let count = rows.len() * columns.len();
                for row in rows {
                    for column in columns.clone() {
                        visit(y * ow + x, count, (row * width + column) * channels);
                    }
                }
            }
        }
    }

    fn forward<T: Float>(&self, input: &[T]) -> Vec<T> {
        let c = self.bins.channels;
        let out_len = self.bins.output[0] * self.bins.output[1] * c;
        let mut out = vec![T::ZERO; self.bins.batch * out_len];
        if out.is_empty() {
            return out;
        }
        out.par_chunks_mut(out_len).zip(input.par_chunks(self.bins.image_len())).for_each(|(out, image)| {
            // Sums in f64: a bin may be a whole map.
            let mut sums = vec![0.0; out_len];
            let mut counts = vec![1; out_len / c];
            self.visit(|bin, count, from| {
                counts[bin] = count;
                for (sum, &x) in sums[bin * c..(bin + 1) * c].iter_mut().zip(&image[from..from + c]) {
                    *sum += x.to_f64();
                }
            });
            for ((out, sums), &count) in out.chunks_exact_mut(c).zip(sums.chunks_exact(c)).zip(&counts) {
                for (out, &sum) in out.iter_mut().zip(sums) {
                    *out = T::from_f64(sum / count as f64);
                }
            }
        });
        out
    }

    fn backward<T: Float>(&self, grad: &[T]) -> Vec<T> {
        let c = self.bins.channels;
        let mut out = vec![T::ZERO; self.bins.batch * self.bins.image_len()];
        let grad_len = self.bins.output[0] * self.bins.output[1] * c;
        if grad_len == 0 || out.is_empty() {
            return out;
        }
        out.par_chunks_mut(self.bins.image_len()).zip(grad.par_chunks(grad_len)).for_each(|(image, grad)| {
            self.visit(|bin, count, to| {
                let share = T::from_f64(1.0 / count as f64);
                for (x, &g) in image[to..to + c].iter_mut().zip(&grad[bin * c..(bin + 1) * c]) {
                    *x += g * share;
                }
            });
        });
        out
    }
}

impl CustomOp1 for AdaptiveAvgPool {
    fn name(&self) -> &'static str {
        "adaptive_avg_pool2d"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        dispatch_float!("adaptive_avg_pool2d: input", s.dtype(), T => {
            let out = self.forward(cpu_slice::<T>("adaptive_avg_pool2d: input", s, l)?);
            Ok((T::to_cpu_storage_owned(out), self.bins.shape()))
        })
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, s: &CudaStorage, l: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        Ok((cuda::forward(&self.bins, s, l)?, self.bins.shape()))
    }

    fn bwd(&self, arg: &Tensor, _res: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        if !arg.track_op() {
            return Ok(None);
        }
        let grad = grad.contiguous()?;
        #[cfg(feature = "cuda")]
        if grad.device().is_cuda() {
            return Ok(Some(cuda::gradient(&self.bins, arg, &grad)?));
        }
        let (s, l) = grad.storage_and_layout();
        dispatch_float!("adaptive_avg_pool2d: gradient", grad.dtype(), T => {
            let dx = self.backward(storage_slice::<T>("adaptive_avg_pool2d: gradient", &s, l)?);
            Ok(Some(Tensor::from_vec(dx, arg.dims(), &Device::Cpu)?))
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Var};

    use super::*;
    use crate::error::Error;
    use crate::rng::Key;
    use crate::testing::gradcheck;

    fn flat(t: &Tensor) -> Vec<f32> {
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn bins_overlap_when_sizes_do_not_divide() {
        let x = Tensor::from_slice(&[1.0f32, 2.0, 6.0], (1, 1, 1, 3), &Device::Cpu).unwrap();
        assert_eq!(flat(&adaptive_avg_pool2d(&x, [1, 2]).unwrap()), [1.5, 4.0]);
        assert_eq!(flat(&adaptive_avg_pool2d(&x, [1, 1]).unwrap()), [3.0]);
        // More bins than pixels repeat them.
        assert_eq!(flat(&adaptive_avg_pool2d(&x, [2, 4]).unwrap()), [1.0, 1.5, 4.0, 6.0, 1.0, 1.5, 4.0, 6.0]);
    }

    #[test]
    fn gradients() {
        let x = Key::new(5).normal((2, 3, 5, 4), 0., 1., DType::F64, &Device::Cpu).unwrap();
        for size in [[1, 1], [2, 3], [5, 4], [7, 1]] {
            gradcheck(|t| adaptive_avg_pool2d(&t[0], size), std::slice::from_ref(&x), 1e-4, 1e-8).unwrap();
        }
    }

    #[test]
    fn strided_empty_and_wrong_inputs() {
        let x = Key::new(5).normal((2, 3, 5, 4), 0., 1., DType::F32, &Device::Cpu).unwrap();
        let view = x.transpose(1, 2).unwrap();
        let want = adaptive_avg_pool2d(&view.contiguous().unwrap(), [2, 2]).unwrap();
        assert_eq!(flat(&adaptive_avg_pool2d(&view, [2, 2]).unwrap()), flat(&want));
        assert_eq!(adaptive_avg_pool2d(&x, [0, 2]).unwrap().dims(), [2, 3, 0, 2]);
        let empty = Var::zeros((0, 2, 4, 4), DType::F32, &Device::Cpu).unwrap();
        let y = adaptive_avg_pool2d(&empty, [1, 1]).unwrap();
        assert_eq!(y.sum_all().unwrap().backward().unwrap().get(&empty).unwrap().dims(), [0, 2, 4, 4]);
        let none = Tensor::zeros((2, 2, 0, 4), DType::F32, &Device::Cpu).unwrap();
        assert!(matches!(adaptive_avg_pool2d(&none, [1, 1]), Err(Error::Shape { .. })));
        assert!(matches!(adaptive_avg_pool2d(&x, [usize::MAX, 1]), Err(Error::Argument { .. })));
    }
}
