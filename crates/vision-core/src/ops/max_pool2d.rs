//! Maximum over windows.
//!
//! Sizes, padding (with minus infinity) and `ceil_mode` are those of PyTorch's `max_pool2d`: a window that
//! would start in the far padding is dropped. Among equal maxima the first in row-major order gets the whole
//! gradient, and NaN wins over numbers.

#[cfg(feature = "cuda")]
mod cuda;

use std::sync::OnceLock;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::argmax::{OUTSIDE, add_to_argmax};
use super::support::{
    Float, check_device, check_float, check_result, cpu_slice, dispatch_float, storage_slice, vectorised,
};
use crate::FeatureMap;
use crate::error::{Error, Result};

/// How the window of [`max_pool2d`] moves. Pairs are (vertical, horizontal).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool2dArgs {
    /// Taps of the window, at least 1.
    pub kernel_size: [usize; 2],
    /// Distance between windows, at least 1.
    pub stride: [usize; 2],
    /// Rows and columns of minus infinity added on each side; at most half of the window's extent.
    pub padding: [usize; 2],
    /// Distance between the taps of a window, at least 1.
    pub dilation: [usize; 2],
    /// Whether the last window may reach beyond the far padding.
    pub ceil_mode: bool,
}

impl Pool2dArgs {
    /// A square window with the same stride and padding along both axes.
    pub fn square(kernel_size: usize, stride: usize, padding: usize) -> Self {
        Self { kernel_size: [kernel_size; 2], stride: [stride; 2], padding: [padding; 2], ..Self::default() }
    }
}

impl Default for Pool2dArgs {
    /// Windows of 2 x 2, side by side.
    fn default() -> Self {
        Self { kernel_size: [2, 2], stride: [2, 2], padding: [0, 0], dilation: [1, 1], ceil_mode: false }
    }
}

/// Maximum of each window of `input`, `(N, C, H, W)`, as `(N, C, OH, OW)`.
///
/// # Errors
/// If the input is not a `f32` or `f64` tensor of rank 4 on the CPU, a kernel size, stride or dilation is 0,
/// the padding exceeds half of the window, or no window fits.
pub fn max_pool2d(input: &Tensor, args: &Pool2dArgs) -> Result<Tensor> {
    if input.rank() != 4 {
        return Err(Error::shape("max_pool2d: input", "(N, C, H, W)", input.dims()));
    }
    max_pool2d_nhwc(&FeatureMap::from_nchw(input)?, args)?.to_nchw()
}

/// [`max_pool2d`] of a feature map.
///
/// # Errors
/// As [`max_pool2d`].
pub fn max_pool2d_nhwc(input: &FeatureMap, args: &Pool2dArgs) -> Result<FeatureMap> {
    let (batch, height, width, channels) = input.dims()?;
    let input = input.nhwc();
    check_float("max_pool2d: input", input)?;
    check_device("max_pool2d: input", input)?;
    let windows = |size, axis| pool_windows("max_pool2d", size, args, axis);
    let output = [windows(height, 0)?, windows(width, 1)?];
    check_result("max_pool2d: padding", &[batch, output[0], output[1], channels])?;
    if height.checked_mul(width).is_none_or(|area| area >= OUTSIDE as usize) {
        return Err(Error::shape("max_pool2d: input", "fewer than 2^32 - 1 pixels", input.dims()));
    }
    let op = MaxPool {
        args: *args,
        batch,
        input: [height, width],
        output,
        channels,
        keep: input.track_op(),
        argmax: OnceLock::new(),
        #[cfg(feature = "cuda")]
        device_argmax: OnceLock::new(),
    };
    FeatureMap::from_nhwc(input.apply_op1(op)?)
}

/// Number of windows along `axis`, in which the input of `op` has `size` pixels.
pub(super) fn pool_windows(op: &str, size: usize, args: &Pool2dArgs, axis: usize) -> Result<usize> {
    let (kernel, stride) = (args.kernel_size[axis], args.stride[axis]);
    let (padding, dilation) = (args.padding[axis], args.dilation[axis]);
    for (name, value) in [("kernel_size", kernel), ("stride", stride), ("dilation", dilation)] {
        if value == 0 {
            return Err(Error::argument(format!("{op}: {name}"), "must be at least 1"));
        }
    }
    let extent = (kernel - 1).checked_mul(dilation).and_then(|e| e.checked_add(1)).filter(|e| *e <= SPAN);
    let Some(extent) = extent.filter(|_| stride <= SPAN && size <= SPAN) else {
        return Err(Error::argument(format!("{op}: kernel_size"), "window or stride too large"));
    };
    if padding > extent / 2 {
        return Err(Error::argument(
            format!("{op}: padding"),
            format!("{padding} is more than half of the window's extent of {extent}"),
        ));
    }
    let padded = size + 2 * padding;
    if size == 0 || padded < extent {
        return Err(Error::argument(
            format!("{op}: input"),
            format!("{size} pixels with padding {padding} are fewer than the window's extent of {extent}"),
        ));
    }
    let spare = if args.ceil_mode { stride - 1 } else { 0 };
    let mut windows = (padded - extent + spare) / stride + 1;
    if args.ceil_mode && (windows - 1) * stride >= size + padding {
        windows -= 1;
    }
    Ok(windows)
}

/// Largest size and window handled, so that sums of a few of them cannot overflow.
const SPAN: usize = 1 << 40;

struct MaxPool {
    args: Pool2dArgs,
    batch: usize,
    input: [usize; 2],
    output: [usize; 2],
    channels: usize,
    /// Whether a gradient may be asked for.
    keep: bool,
    /// Input pixel, counted within the image, that each output element came from.
    argmax: OnceLock<Vec<u32>>,
    /// The same on a CUDA device.
    #[cfg(feature = "cuda")]
    device_argmax: OnceLock<CudaStorage>,
}

impl MaxPool {
    /// First tap and number of taps of window `index` along `axis` that lie inside the input.
    fn taps(&self, axis: usize, index: usize) -> (usize, usize) {
        let (padding, dilation) = (self.args.padding[axis], self.args.dilation[axis]);
        let start = index * self.args.stride[axis];
        let skipped = padding.saturating_sub(start).div_ceil(dilation);
        let first = start + skipped * dilation - padding;
        let inside = self.input[axis].saturating_sub(first).div_ceil(dilation);
        (first, inside.min(self.args.kernel_size[axis].saturating_sub(skipped)))
    }

    /// Maxima of one row of windows, and where they came from.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "must be compiled with the features of `vectorised`")]
    fn row<T: Float>(&self, image: &[T], y: usize, out: &mut [T], mut argmax: Option<&mut [u32]>) {
        let c = self.channels;
        let [dy, dx] = self.args.dilation;
        let (y0, rows) = self.taps(0, y);
        for (x, out) in out.chunks_exact_mut(c).enumerate() {
            let (x0, columns) = self.taps(1, x);
            out.fill(T::NEG_INFINITY);
            let mut argmax = argmax.as_deref_mut().map(|a| &mut a[x * c..(x + 1) * c]);
            if let (Some(argmax), true) = (&mut argmax, rows > 0 && columns > 0) {
                argmax.fill((y0 * self.input[1] + x0) as u32);
            }
            for tap in 0..rows * columns {
                let pixel = (y0 + tap / columns * dy) * self.input[1] + x0 + tap % columns * dx;
                let values = &image[pixel * c..(pixel + 1) * c];
                // Choices instead of branches, so that they become vector code. NaN is larger than anything.
                match &mut argmax {
                    Some(argmax) => {
                        for ((out, at), &value) in out.iter_mut().zip(argmax.iter_mut()).zip(values) {
                            let larger = (value > *out) | value.is_nan();
                            *out = if larger { value } else { *out };
                            *at = if larger { pixel as u32 } else { *at };
                        }
                    }
                    None => {
                        for (out, &value) in out.iter_mut().zip(values) {
                            *out = if (value > *out) | value.is_nan() { value } else { *out };
                        }
                    }
                }
            }
        }
    }

    fn forward<T: Float>(&self, input: &[T]) -> (Vec<T>, Option<Vec<u32>>) {
        let [oh, ow] = self.output;
        let mut out = vec![T::ZERO; self.batch * oh * ow * self.channels];
        let mut argmax = self.keep.then(|| vec![OUTSIDE; out.len()]);
        if out.is_empty() {
            return (out, argmax);
        }
        let image_len = self.input[0] * self.input[1] * self.channels;
        let row_len = ow * self.channels;
        let image = |row: usize| &input[row / oh * image_len..(row / oh + 1) * image_len];
        match &mut argmax {
            Some(argmax) => {
                out.par_chunks_mut(row_len).zip(argmax.par_chunks_mut(row_len)).enumerate().for_each(
                    |(row, (out, argmax))| {
                        vectorised(|| self.row(image(row), row % oh, out, Some(argmax)));
                    },
                );
            }
            None => out
                .par_chunks_mut(row_len)
                .enumerate()
                .for_each(|(row, out)| vectorised(|| self.row(image(row), row % oh, out, None))),
        }
        (out, argmax)
    }
}

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "max_pool2d"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        dispatch_float!("max_pool2d: input", s.dtype(), T => {
            let (out, argmax) = self.forward(cpu_slice::<T>("max_pool2d: input", s, l)?);
            if let Some(argmax) = argmax {
                // Filled once: the op is made for one call.
                let _ = self.argmax.set(argmax);
            }
            let shape = (self.batch, self.output[0], self.output[1], self.channels);
            Ok((T::to_cpu_storage_owned(out), Shape::from(shape)))
        })
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, s: &CudaStorage, l: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        let (out, argmax) = cuda::forward(self, s, l)?;
        let _ = self.device_argmax.set(argmax);
        Ok((out, Shape::from((self.batch, self.output[0], self.output[1], self.channels))))
    }

    fn bwd(&self, arg: &Tensor, _res: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        #[cfg(feature = "cuda")]
        if let (true, Some(argmax)) = (arg.track_op(), self.device_argmax.get()) {
            return Ok(Some(cuda::gradient(self, argmax, arg, &grad.contiguous()?)?));
        }
        let (true, Some(argmax)) = (arg.track_op(), self.argmax.get()) else {
            return Ok(None);
        };
        let grad = grad.contiguous()?;
        let (s, l) = grad.storage_and_layout();
        dispatch_float!("max_pool2d: gradient", grad.dtype(), T => {
            let sizes = [self.batch, self.input.iter().product(), self.output.iter().product(), self.channels];
            let dx = add_to_argmax(argmax, storage_slice::<T>("max_pool2d: gradient", &s, l)?, sizes);
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

    fn map(values: &[f32], h: usize, w: usize) -> Tensor {
        Tensor::from_slice(values, (1, 1, h, w), &Device::Cpu).unwrap()
    }

    fn flat(t: &Tensor) -> Vec<f32> {
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn stem_pooling_pads_with_minus_infinity() {
        let x: Vec<f32> = (1..=16).map(|v| -(v as f32)).collect();
        let y = max_pool2d(&map(&x, 4, 4), &Pool2dArgs::square(3, 2, 1)).unwrap();
        assert_eq!(y.dims(), [1, 1, 2, 2]);
        assert_eq!(flat(&y), [-1.0, -2.0, -5.0, -6.0]);
    }

    #[test]
    fn sizes_as_in_pytorch() {
        let sizes = |size, kernel, stride, padding, ceil_mode| {
            let args = Pool2dArgs { ceil_mode, ..Pool2dArgs::square(kernel, stride, padding) };
            pool_windows("max_pool2d", size, &args, 0).unwrap()
        };
        assert_eq!(sizes(112, 3, 2, 1, false), 56);
        assert_eq!(sizes(7, 2, 2, 0, false), 3);
        assert_eq!(sizes(7, 2, 2, 0, true), 4);
        // The fourth window would start at 6 - 1 = 5 = size + padding - stride: kept; a fifth is dropped.
        assert_eq!(sizes(6, 3, 2, 1, true), 4);
        assert_eq!(sizes(5, 2, 3, 1, true), 2);
        let dilated = Pool2dArgs { dilation: [2, 2], ..Pool2dArgs::square(3, 1, 2) };
        assert_eq!(pool_windows("max_pool2d", 6, &dilated, 0).unwrap(), 6);
    }

    #[test]
    fn first_of_equal_maxima_gets_the_gradient_and_overlaps_add_up() {
        let x = Var::from_tensor(&map(&[2.0, 2.0, 2.0, 2.0], 2, 2)).unwrap();
        let y = max_pool2d(&x, &Pool2dArgs::default()).unwrap();
        let grads = y.sum_all().unwrap().backward().unwrap();
        assert_eq!(flat(grads.get(&x).unwrap()), [1.0, 0.0, 0.0, 0.0]);
        let x = Var::from_tensor(&map(&[0.0, 5.0, 1.0], 1, 3)).unwrap();
        let args = Pool2dArgs { kernel_size: [1, 2], stride: [1, 1], ..Pool2dArgs::default() };
        let grads = max_pool2d(&x, &args).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(flat(grads.get(&x).unwrap()), [0.0, 2.0, 0.0]);
    }

    #[test]
    fn nan_and_minus_infinity() {
        let y = max_pool2d(&map(&[1.0, f32::NAN, 7.0, 3.0], 2, 2), &Pool2dArgs::default()).unwrap();
        assert!(flat(&y)[0].is_nan());
        let x = Var::from_tensor(&map(&[f32::NEG_INFINITY; 4], 2, 2)).unwrap();
        let grads = max_pool2d(&x, &Pool2dArgs::default()).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(flat(grads.get(&x).unwrap()), [1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn gradients_of_all_options() {
        // Distinct values, so that no step of the difference changes a maximum.
        let count = 2 * 3 * 7 * 6;
        let order: Vec<f64> = (0..count).map(|i| (i * 89 % count) as f64).collect();
        let x = Tensor::from_vec(order, (2, 3, 7, 6), &Device::Cpu).unwrap();
        for args in [
            Pool2dArgs::square(3, 2, 1),
            Pool2dArgs { ceil_mode: true, ..Pool2dArgs::default() },
            Pool2dArgs {
                kernel_size: [2, 3],
                stride: [1, 2],
                padding: [0, 1],
                dilation: [2, 1],
                ceil_mode: true,
            },
        ] {
            gradcheck(|t| max_pool2d(&t[0], &args), std::slice::from_ref(&x), 1e-3, 1e-8).unwrap();
        }
    }

    #[test]
    fn strided_and_empty_inputs() {
        let x = Key::new(3).normal((2, 5, 4, 3), 0., 1., DType::F32, &Device::Cpu).unwrap();
        let view = x.transpose(1, 3).unwrap();
        let args = Pool2dArgs::square(2, 1, 1);
        let want = max_pool2d(&view.contiguous().unwrap(), &args).unwrap();
        assert_eq!(flat(&max_pool2d(&view, &args).unwrap()), flat(&want));
        let empty = Var::zeros((0, 2, 4, 4), DType::F32, &Device::Cpu).unwrap();
        let y = max_pool2d(&empty, &args).unwrap();
        assert_eq!(y.dims(), [0, 2, 5, 5]);
        assert_eq!(y.sum_all().unwrap().backward().unwrap().get(&empty).unwrap().dims(), [0, 2, 4, 4]);
    }

    #[test]
    fn wrong_arguments_are_named() {
        let x = map(&[0.0; 4], 2, 2);
        let problem = |args: Pool2dArgs| max_pool2d(&x, &args).unwrap_err().to_string();
        assert!(problem(Pool2dArgs::square(0, 1, 0)).contains("kernel_size"));
        assert!(problem(Pool2dArgs::square(2, 0, 0)).contains("stride"));
        assert!(problem(Pool2dArgs::square(2, 1, 2)).contains("padding"));
        assert!(problem(Pool2dArgs::square(3, 1, 0)).contains("input"));
        assert!(problem(Pool2dArgs::square(usize::MAX, usize::MAX, 0)).contains("max_pool2d"));
        let flat = Tensor::zeros((2, 2), DType::F32, &Device::Cpu).unwrap();
        assert!(matches!(max_pool2d(&flat, &Pool2dArgs::default()), Err(Error::Shape { .. })));
    }
}
