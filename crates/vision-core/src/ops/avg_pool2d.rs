//! Mean over windows, as PyTorch's `avg_pool2d`.
//!
//! Window `i` along an axis covers the padded pixels `i * s - p .. i * s - p + k`, cut off at the end of the
//! far padding. The sum of the input pixels in it is divided by `divisor_override` if there is one, else by
//! the number of padded pixels in it (`count_include_pad`) or of input pixels. Sizes and `ceil_mode` are those
//! of [`super::max_pool2d`]: a window that would start in the far padding is dropped.

#[cfg(feature = "cuda")]
mod cuda;

use std::ops::Range;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::max_pool2d::{Pool2dArgs, pool_windows};
use super::support::{
    Float, check_device, check_float, check_result, cpu_slice, dispatch_float, storage_slice, vectorised,
};
use crate::FeatureMap;
use crate::error::{Error, Result};

/// How the window of [`avg_pool2d`] moves and what its sum is divided by. Pairs are (vertical, horizontal).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AvgPool2dArgs {
    /// Pixels of the window, at least 1.
    pub kernel_size: [usize; 2],
    /// Distance between windows, at least 1.
    pub stride: [usize; 2],
    /// Rows and columns of zeros added on each side; at most half of the window.
    pub padding: [usize; 2],
    /// Whether the last window may reach beyond the far padding.
    pub ceil_mode: bool,
    /// Whether padding counts as pixels of a window.
    pub count_include_pad: bool,
    /// What every sum is divided by instead of the number of pixels; not 0.
    pub divisor_override: Option<usize>,
}

impl AvgPool2dArgs {
    /// A square window with the same stride and padding along both axes.
    pub fn square(kernel_size: usize, stride: usize, padding: usize) -> Self {
        Self { kernel_size: [kernel_size; 2], stride: [stride; 2], padding: [padding; 2], ..Self::default() }
    }
}

impl Default for AvgPool2dArgs {
    /// Windows of 2 x 2, side by side.
    fn default() -> Self {
        Self {
            kernel_size: [2, 2],
            stride: [2, 2],
            padding: [0, 0],
            ceil_mode: false,
            count_include_pad: true,
            divisor_override: None,
        }
    }
}

/// Mean of each window of `input`, `(N, C, H, W)`, as `(N, C, OH, OW)`.
///
/// # Errors
/// If the input is not a `f32` or `f64` tensor of rank 4 on the CPU, a kernel size, stride or the divisor is
/// 0, the padding exceeds half of the window, or no window fits.
pub fn avg_pool2d(input: &Tensor, args: &AvgPool2dArgs) -> Result<Tensor> {
    if input.rank() != 4 {
        return Err(Error::shape("avg_pool2d: input", "(N, C, H, W)", input.dims()));
    }
    avg_pool2d_nhwc(&FeatureMap::from_nchw(input)?, args)?.to_nchw()
}

/// [`avg_pool2d`] of a feature map.
///
/// # Errors
/// As [`avg_pool2d`].
pub fn avg_pool2d_nhwc(input: &FeatureMap, args: &AvgPool2dArgs) -> Result<FeatureMap> {
    let (batch, height, width, channels) = input.dims()?;
    let input = input.nhwc();
    check_float("avg_pool2d: input", input)?;
    check_device("avg_pool2d: input", input)?;
    if args.divisor_override == Some(0) {
        return Err(Error::argument("avg_pool2d: divisor_override", "must not be 0"));
    }
    let moves = Pool2dArgs {
        kernel_size: args.kernel_size,
        stride: args.stride,
        padding: args.padding,
        dilation: [1, 1],
        ceil_mode: args.ceil_mode,
    };
    let windows = |size, axis| pool_windows("avg_pool2d", size, &moves, axis);
    let output = [windows(height, 0)?, windows(width, 1)?];
    check_result("avg_pool2d: padding", &[batch, output[0], output[1], channels])?;
    let op = AvgPool { args: *args, batch, input: [height, width], output, channels };
    FeatureMap::from_nhwc(input.apply_op1(op)?)
}

struct AvgPool {
    args: AvgPool2dArgs,
    batch: usize,
    input: [usize; 2],
    output: [usize; 2],
    channels: usize,
}

impl AvgPool {
    /// Input pixels of window `index` along `axis`.
    fn pixels(&self, axis: usize, index: usize) -> Range<usize> {
        let (start, padding) = (index * self.args.stride[axis], self.args.padding[axis]);
        let end = (start + self.args.kernel_size[axis]).saturating_sub(padding).min(self.input[axis]);
        start.saturating_sub(padding).min(end)..end
    }

    /// Windows that input pixel `index` lies in, along `axis`.
    fn windows(&self, axis: usize, index: usize) -> Range<usize> {
        let (stride, at) = (self.args.stride[axis], index + self.args.padding[axis]);
        let end = (at / stride + 1).min(self.output[axis]);
        (at + 1).saturating_sub(self.args.kernel_size[axis]).div_ceil(stride).min(end)..end
    }

    /// What the sum of window `index` is divided by, as far as `axis` decides it.
    fn count(&self, axis: usize, index: usize) -> f64 {
        if !self.args.count_include_pad {
            return self.pixels(axis, index).len() as f64;
        }
        let start = index * self.args.stride[axis];
        let end = (start + self.args.kernel_size[axis]).min(self.input[axis] + 2 * self.args.padding[axis]);
        end.saturating_sub(start) as f64
    }

    /// What the sum of each window of one image is divided by.
    fn divisors<T: Float>(&self) -> Vec<T> {
        let [oh, ow] = self.output;
        if let Some(divisor) = self.args.divisor_override {
            return vec![T::from_f64(divisor as f64); oh * ow];
        }
        let columns: Vec<f64> = (0..ow).map(|x| self.count(1, x)).collect();
        (0..oh)
            .flat_map(|y| {
                let rows = self.count(0, y);
                columns.iter().map(move |columns| T::from_f64(rows * columns))
            })
            .collect()
    }

    fn row_len(&self) -> usize {
        self.input[1] * self.channels
    }

    fn forward<T: Float>(&self, input: &[T]) -> Vec<T> {
        let ([oh, ow], c) = (self.output, self.channels);
        let mut out = vec![T::ZERO; self.batch * oh * ow * c];
        if out.is_empty() {
            return out;
        }
        let divisors = self.divisors::<T>();
        let columns: Vec<Range<usize>> = (0..ow).map(|x| self.pixels(1, x)).collect();
        let image_len = self.input[0] * self.row_len();
        out.par_chunks_mut(ow * c).enumerate().for_each(|(row, out)| {
            let image = &input[row / oh * image_len..(row / oh + 1) * image_len];
            let (rows, divisors) = (self.pixels(0, row % oh), &divisors[row % oh * ow..]);
            vectorised(|| {
                for ((out, columns), &divisor) in out.chunks_exact_mut(c).zip(&columns).zip(divisors) {
                    for y in rows.clone() {
                        let from = y * self.row_len();
                        let pixels = &image[from + columns.start * c..from + columns.end * c];
                        for pixel in pixels.chunks_exact(c) {
                            for (out, &x) in out.iter_mut().zip(pixel) {
                                *out += x;
                            }
                        }
                    }
                    for out in out {
                        *out /= divisor;
                    }
                }
            });
        });
        out
    }

    /// Each input pixel collects the shares of the windows it lies in.
    fn backward<T: Float>(&self, grad: &[T]) -> Vec<T> {
        let ([oh, ow], c) = (self.output, self.channels);
        let height = self.input[0];
        let mut out = vec![T::ZERO; self.batch * height * self.row_len()];
        if out.is_empty() || grad.is_empty() {
            return out;
        }
        let shares: Vec<T> = self.divisors::<T>().into_iter().map(|divisor| T::ONE / divisor).collect();
        let columns: Vec<Range<usize>> = (0..self.input[1]).map(|x| self.windows(1, x)).collect();
        let grad_len = oh * ow * c;
        out.par_chunks_mut(self.row_len()).enumerate().for_each(|(row, out)| {
            let grad = &grad[row / height * grad_len..(row / height + 1) * grad_len];
            let rows = self.windows(0, row % height);
            vectorised(|| {
                for (out, columns) in out.chunks_exact_mut(c).zip(&columns) {
                    for y in rows.clone() {
                        let at = y * ow + columns.start..y * ow + columns.end;
                        let windows = grad[at.start * c..at.end * c].chunks_exact(c);
                        for (window, &share) in windows.zip(&shares[at]) {
                            for (out, &g) in out.iter_mut().zip(window) {
                                *out += g * share;
                            }
                        }
                    }
                }
            });
        });
        out
    }
}

impl CustomOp1 for AvgPool {
    fn name(&self) -> &'static str {
        "avg_pool2d"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        dispatch_float!("avg_pool2d: input", s.dtype(), T => {
            let out = self.forward(cpu_slice::<T>("avg_pool2d: input", s, l)?);
            let shape = (self.batch, self.output[0], self.output[1], self.channels);
            Ok((T::to_cpu_storage_owned(out), Shape::from(shape)))
        })
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, s: &CudaStorage, l: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        let shape = (self.batch, self.output[0], self.output[1], self.channels);
        Ok((cuda::forward(self, s, l)?, Shape::from(shape)))
    }

    fn bwd(&self, arg: &Tensor, _res: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        if !arg.track_op() {
            return Ok(None);
        }
        let grad = grad.contiguous()?;
        #[cfg(feature = "cuda")]
        if grad.device().is_cuda() {
            return Ok(Some(cuda::gradient(self, arg, &grad)?));
        }
        let (s, l) = grad.storage_and_layout();
        dispatch_float!("avg_pool2d: gradient", grad.dtype(), T => {
            let dx = self.backward(storage_slice::<T>("avg_pool2d: gradient", &s, l)?);
            Ok(Some(Tensor::from_vec(dx, arg.dims(), &Device::Cpu)?))
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Var};
    use proptest::prelude::*;

    use super::*;
    use crate::rng::Key;
    use crate::testing::gradcheck;

    fn map(values: &[f32], h: usize, w: usize) -> Tensor {
        Tensor::from_slice(values, (1, 1, h, w), &Device::Cpu).unwrap()
    }

    fn flat(t: &Tensor) -> Vec<f32> {
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn divisors_count_padding_or_not() {
        let x = map(&[1.0, 2.0, 3.0, 4.0], 2, 2);
        let args = AvgPool2dArgs::square(2, 2, 1);
        assert_eq!(flat(&avg_pool2d(&x, &args).unwrap()), [0.25, 0.5, 0.75, 1.0]);
        let inside = AvgPool2dArgs { count_include_pad: false, ..args };
        assert_eq!(flat(&avg_pool2d(&x, &inside).unwrap()), [1.0, 2.0, 3.0, 4.0]);
        let fixed = AvgPool2dArgs { divisor_override: Some(2), ..inside };
        assert_eq!(flat(&avg_pool2d(&x, &fixed).unwrap()), [0.5, 1.0, 1.5, 2.0]);
    }

    #[test]
    fn a_window_beyond_the_far_edge_counts_what_is_there() {
        let x = map(&[2.0, 4.0, 8.0], 1, 3);
        let args = AvgPool2dArgs {
            kernel_size: [1, 2],
            stride: [1, 2],
            ceil_mode: true,
            ..AvgPool2dArgs::default()
        };
        assert_eq!(flat(&avg_pool2d(&x, &args).unwrap()), [3.0, 8.0]);
    }

    #[test]
    fn gradients_of_all_options() {
        let x = Key::new(3).normal((2, 3, 7, 6), 0., 1., DType::F64, &Device::Cpu).unwrap();
        for args in [
            AvgPool2dArgs::square(3, 2, 1),
            AvgPool2dArgs { count_include_pad: false, ..AvgPool2dArgs::square(3, 1, 1) },
            AvgPool2dArgs {
                kernel_size: [2, 3],
                stride: [1, 2],
                padding: [0, 1],
                ceil_mode: true,
                count_include_pad: false,
                divisor_override: None,
            },
            AvgPool2dArgs { divisor_override: Some(5), ceil_mode: true, ..AvgPool2dArgs::square(2, 3, 1) },
        ] {
            gradcheck(|t| avg_pool2d(&t[0], &args), std::slice::from_ref(&x), 1e-4, 1e-8).unwrap();
        }
    }

    #[test]
    fn strided_and_empty_inputs() {
        let x = Key::new(3).normal((2, 5, 4, 3), 0., 1., DType::F32, &Device::Cpu).unwrap();
        let view = x.transpose(1, 3).unwrap();
        let args = AvgPool2dArgs::square(2, 1, 1);
        let want = avg_pool2d(&view.contiguous().unwrap(), &args).unwrap();
        assert_eq!(flat(&avg_pool2d(&view, &args).unwrap()), flat(&want));
        let empty = Var::zeros((0, 2, 4, 4), DType::F32, &Device::Cpu).unwrap();
        let y = avg_pool2d(&empty, &args).unwrap();
        assert_eq!(y.dims(), [0, 2, 5, 5]);
        assert_eq!(y.sum_all().unwrap().backward().unwrap().get(&empty).unwrap().dims(), [0, 2, 4, 4]);
    }

    #[test]
    fn wrong_arguments_are_named() {
        let x = map(&[0.0; 4], 2, 2);
        let problem = |args: AvgPool2dArgs| avg_pool2d(&x, &args).unwrap_err().to_string();
        assert!(problem(AvgPool2dArgs::square(0, 1, 0)).starts_with("avg_pool2d: kernel_size"));
        assert!(problem(AvgPool2dArgs::square(2, 0, 0)).starts_with("avg_pool2d: stride"));
        assert!(problem(AvgPool2dArgs::square(2, 1, 2)).starts_with("avg_pool2d: padding"));
        assert!(problem(AvgPool2dArgs::square(3, 1, 0)).starts_with("avg_pool2d: input"));
        let zero = AvgPool2dArgs { divisor_override: Some(0), ..AvgPool2dArgs::default() };
        assert!(problem(zero).starts_with("avg_pool2d: divisor_override"));
        let flat = Tensor::zeros((2, 2), DType::F32, &Device::Cpu).unwrap();
        assert!(matches!(avg_pool2d(&flat, &AvgPool2dArgs::default()), Err(Error::Shape { .. })));
        let whole = Tensor::zeros((1, 1, 2, 2), DType::U32, &Device::Cpu).unwrap();
        assert!(matches!(avg_pool2d(&whole, &AvgPool2dArgs::default()), Err(Error::Dtype { .. })));
    }

    proptest! {
        #[test]
        fn any_arguments_give_a_result_or_an_error(
            dims in prop::array::uniform4(0usize..5),
            kernel_size in prop::array::uniform2(0usize..5),
            stride in prop::array::uniform2(0usize..4),
            padding in prop::array::uniform2(0usize..3),
            ceil_mode: bool,
            count_include_pad: bool,
        ) {
            let args = AvgPool2dArgs {
                kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override: None,
            };
            let x = Var::ones(&dims, DType::F32, &Device::Cpu).unwrap();
            if let Ok(y) = avg_pool2d(&x, &args) {
                y.sum_all().unwrap().backward().unwrap();
                // A mean of ones over pixels of the input is one.
                if !count_include_pad {
                    prop_assert!(flat(&y).iter().all(|y| (y - 1.0).abs() < 1e-6));
                }
            }
        }
    }
}
