//! Resizing of maps by nearest or bilinear interpolation, as PyTorch's `interpolate` (2.x).
//!
//! Both axes are handled alike. Output pixel `i` looks at input coordinate `s * i` if corners are aligned, else
//! `s * (i + 0.5) - 0.5`, cut off at 0, with `s` the input size over the output size (both less one if corners
//! are aligned) or one over a given factor:
//!
//! - nearest takes pixel `floor(s * i)`, whatever the corners;
//! - bilinear mixes the two pixels around the coordinate; past the last pixel both are the last one;
//! - antialiased bilinear widens the triangle to `max(s, 1)` pixels around `s * (i + 0.5)` and divides the
//!   weights by their sum. It differs from bilinear only where an axis shrinks. An axis that keeps its size is
//!   copied.
//!
//! A factor gives `floor(factor * size)` output pixels. The interpolation itself uses the factor as given, or,
//! with `recompute`, the ratio of the sizes: the two differ when `factor * size` is not whole.
//!
//! Weights are computed once per axis in the map's own type. Each output row mixes whole input rows first and
//! pixels of the mixture then; the gradient does the same with transposed weights, so that nothing is
//! scattered. PyTorch goes the other way round, which shows in the last bit.

#[cfg(feature = "cuda")]
mod cuda;
mod weights;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Shape, Tensor};
use rayon::prelude::*;

use self::weights::{Axis, Table};
use super::support::{
    Float, check_device, check_float, check_result, cpu_slice, dispatch_float, storage_slice, vectorised,
};
use crate::FeatureMap;
use crate::error::{Error, Result};

/// The size that [`interpolate`] gives a map. Pairs are (vertical, horizontal).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ResizeTo {
    /// That many pixels, at least 1.
    Size([usize; 2]),
    /// The input size times these positive factors, rounded down.
    Factor {
        /// The factors.
        factor: [f64; 2],
        /// Whether to interpolate by the ratio of the sizes instead of by the factor: PyTorch's
        /// `recompute_scale_factor`.
        recompute: bool,
    },
}

/// What an output pixel of [`interpolate`] is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InterpolateMode {
    /// One input pixel.
    #[default]
    Nearest,
    /// The input pixels around it, weighted by distance.
    Bilinear,
}

/// Options of [`interpolate`]; the defaults are PyTorch's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterpolateArgs {
    /// What an output pixel is made of.
    pub mode: InterpolateMode,
    /// Whether the centres of the corner pixels coincide, not their outer corners; bilinear only.
    pub align_corners: bool,
    /// Whether to average over all input pixels below an output pixel when shrinking; bilinear only.
    pub antialias: bool,
}

impl InterpolateArgs {
    /// Bilinear interpolation without antialiasing.
    pub fn bilinear(align_corners: bool) -> Self {
        Self { mode: InterpolateMode::Bilinear, align_corners, antialias: false }
    }
}

/// Resizes `input`, `(N, C, H, W)`, to `(N, C, OH, OW)`.
///
/// # Errors
/// If the input is not a `f32` or `f64` tensor of rank 4 on the CPU, input or output have no pixels, a factor
/// is not a positive finite number, the output is too large for memory, or nearest interpolation is combined
/// with an option of bilinear.
pub fn interpolate(input: &Tensor, to: ResizeTo, args: &InterpolateArgs) -> Result<Tensor> {
    if input.rank() != 4 {
        return Err(Error::shape("interpolate: input", "(N, C, H, W)", input.dims()));
    }
    interpolate_nhwc(&FeatureMap::from_nchw(input)?, to, args)?.to_nchw()
}

/// [`interpolate`] of a feature map.
///
/// # Errors
/// As [`interpolate`].
pub fn interpolate_nhwc(input: &FeatureMap, to: ResizeTo, args: &InterpolateArgs) -> Result<FeatureMap> {
    let (batch, height, width, channels) = input.dims()?;
    let input = input.nhwc();
    check_float("interpolate: input", input)?;
    check_device("interpolate: input", input)?;
    if args.mode == InterpolateMode::Nearest {
        for (name, given) in [("align_corners", args.align_corners), ("antialias", args.antialias)] {
            if given {
                return Err(Error::argument(format!("interpolate: {name}"), "is an option of bilinear only"));
            }
        }
    }
    if height == 0 || width == 0 {
        return Err(Error::shape("interpolate: input", "at least one pixel", input.dims()));
    }
    let axes = [axis(height, 0, to)?, axis(width, 1, to)?];
    check_result("interpolate: size", &[batch, axes[0].output, axes[1].output, channels])?;
    let op = Interpolate { args: *args, batch, axes, channels };
    FeatureMap::from_nhwc(input.apply_op1(op)?)
}

/// Sizes along axis number `index`, which has `input` pixels.
fn axis(input: usize, index: usize, to: ResizeTo) -> Result<Axis> {
    let (name, output, factor) = match to {
        ResizeTo::Size(size) => ("size", size[index], None),
        ResizeTo::Factor { factor, recompute } => {
            let factor = factor[index];
            if !(factor.is_finite() && factor > 0.) {
                let problem = format!("{factor} is not a positive finite number");
                return Err(Error::argument("interpolate: scale_factor", problem));
            }
            ("scale_factor", (input as f64 * factor) as usize, (!recompute).then_some(factor))
        }
    };
    if output == 0 {
        let problem = format!("no pixel is left of {input}");
        return Err(Error::argument(format!("interpolate: {name}"), problem));
    }
    Ok(Axis { input, output, factor })
}

struct Interpolate {
    args: InterpolateArgs,
    batch: usize,
    axes: [Axis; 2],
    channels: usize,
}

impl Interpolate {
    fn tables<T: Float>(&self) -> [Table<T>; 2] {
        self.axes.map(|axis| match (self.args.mode, self.args.antialias) {
            (InterpolateMode::Nearest, _) => axis.nearest(),
            (InterpolateMode::Bilinear, false) => axis.linear(self.args.align_corners),
            (InterpolateMode::Bilinear, true) => axis.antialiased(self.args.align_corners),
        })
    }

    fn forward<T: Float>(&self, input: &[T]) -> Vec<T> {
        let [rows, columns] = &self.axes;
        let mut out = vec![T::ZERO; self.batch * rows.output * columns.output * self.channels];
        if !out.is_empty() {
            mix(&self.tables(), self.channels, [rows.input, columns.input], input, &mut out);
        }
        out
    }

    fn backward<T: Float>(&self, grad: &[T]) -> Vec<T> {
        let [rows, columns] = &self.axes;
        let mut out = vec![T::ZERO; self.batch * rows.input * columns.input * self.channels];
        if !out.is_empty() {
            let [y, x] = self.tables();
            let tables = [y.transposed(rows.input), x.transposed(columns.input)];
            mix(&tables, self.channels, [rows.output, columns.output], grad, &mut out);
        }
        out
    }
}

/// Makes each row of `out`, `(N, H', W', C)`, of rows of `source`, `(N, H, W, C)` with `size` H and W.
fn mix<T: Float>([rows, columns]: &[Table<T>; 2], c: usize, size: [usize; 2], source: &[T], out: &mut [T]) {
    let row_len = size[1] * c;
    out.par_chunks_mut(columns.len() * c).enumerate().for_each(|(index, out)| {
        let image = &source[index / rows.len() * size[0] * row_len..][..size[0] * row_len];
        let row = |y: usize| &image[y * row_len..(y + 1) * row_len];
        let taps = rows.taps(index % rows.len());
        T::with_scratch(|line| {
            vectorised(|| match taps {
                [] => {}
                [(y, weight)] if *weight == T::ONE => mix_pixels(columns, c, row(*y), out),
                [(y, weight), rest @ ..] => {
                    line.clear();
                    line.extend(row(*y).iter().map(|&x| x * *weight));
                    for (y, weight) in rest {
                        for (line, &x) in line.iter_mut().zip(row(*y)) {
                            *line += x * *weight;
                        }
                    }
                    mix_pixels(columns, c, line, out);
                }
            });
        });
    });
}

/// Makes each pixel of a row of pixels of another row.
#[inline(always)]
#[allow(clippy::inline_always, reason = "must end up inside a function with vector instructions")]
fn mix_pixels<T: Float>(columns: &Table<T>, c: usize, line: &[T], out: &mut [T]) {
    // A number of channels known to the compiler spares loops of few turns.
    match c {
        1 => mix_pixels_of(columns, 1, line, out),
        2 => mix_pixels_of(columns, 2, line, out),
        3 => mix_pixels_of(columns, 3, line, out),
        4 => mix_pixels_of(columns, 4, line, out),
        c => mix_pixels_of(columns, c, line, out),
    }
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "must end up inside a function with vector instructions")]
fn mix_pixels_of<T: Float>(columns: &Table<T>, c: usize, line: &[T], out: &mut [T]) {
    let pixel = |x: usize| &line[x * c..(x + 1) * c];
    for (index, out) in out.chunks_exact_mut(c).enumerate() {
        match columns.taps(index) {
            [] => {}
            [(x, weight)] => {
                for (out, &a) in out.iter_mut().zip(pixel(*x)) {
                    *out = a * *weight;
                }
            }
            [(x, weight), (x2, weight2), rest @ ..] => {
                for ((out, &a), &b) in out.iter_mut().zip(pixel(*x)).zip(pixel(*x2)) {
                    *out = a * *weight + b * *weight2;
                }
                for (x, weight) in rest {
                    for (out, &a) in out.iter_mut().zip(pixel(*x)) {
                        *out += a * *weight;
                    }
                }
            }
        }
    }
}

impl CustomOp1 for Interpolate {
    fn name(&self) -> &'static str {
        "interpolate"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        dispatch_float!("interpolate: input", s.dtype(), T => {
            let out = self.forward(cpu_slice::<T>("interpolate: input", s, l)?);
            let shape = (self.batch, self.axes[0].output, self.axes[1].output, self.channels);
            Ok((T::to_cpu_storage_owned(out), Shape::from(shape)))
        })
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, s: &CudaStorage, l: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        let shape = (self.batch, self.axes[0].output, self.axes[1].output, self.channels);
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
        dispatch_float!("interpolate: gradient", grad.dtype(), T => {
            let dx = self.backward(storage_slice::<T>("interpolate: gradient", &s, l)?);
            Ok(Some(Tensor::from_vec(dx, arg.dims(), &Device::Cpu)?))
        })
    }
}

#[cfg(test)]
mod tests;
