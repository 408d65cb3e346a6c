//! Sampling of a map at given places, as PyTorch's `grid_sample` (2.x) for two dimensions.
//!
//! `out[n, y, x] = input[n]` at place `grid[n, y, x] = (gx, gy)`, where -1 and 1 are the outer corners of the
//! map, or the centres of its corner pixels if `align_corners`. Along an axis of `size` pixels the coordinate is
//! `((g + 1) size - 1) / 2`, or `(g + 1) (size - 1) / 2`. What lies outside is zero, or the nearest border
//! pixel, or the map mirrored at -1 and 1 as often as needed. Bilinear mixes the four pixels around, nearest
//! takes one, with halves rounded to even.
//!
//! Differentiable in both: the grid's gradient is 0 for nearest and where a coordinate was moved to the border.
//! NaN and infinite coordinates give NaN with zeros outside and the mode bilinear, else NaN counts as the first
//! pixel, as do infinities that are mirrored; PyTorch computes the same forward and may crash backward.

#[cfg(feature = "cuda")]
mod cuda;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Device, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::corners::{Band, Corners, bands, for_each_band};
use super::support::{
    Float, check_device, check_dtype, check_float, check_same_device, cpu_slice, dispatch_float,
    storage_slice, vectorised,
};
use crate::FeatureMap;
use crate::error::{Error, Result};

/// How [`grid_sample`] reads between pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GridMode {
    /// The four pixels around a place, by distance.
    #[default]
    Bilinear,
    /// The nearest pixel.
    Nearest,
}

/// What [`grid_sample`] finds outside the map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GridPadding {
    /// Zeros.
    #[default]
    Zeros,
    /// The nearest pixel of the border.
    Border,
    /// The map, mirrored at its edges (at the centres of the border pixels if corners are aligned).
    Reflection,
}

/// Options of [`grid_sample`]; the defaults are PyTorch's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GridSampleArgs {
    /// How to read between pixels.
    pub mode: GridMode,
    /// What lies outside the map.
    pub padding_mode: GridPadding,
    /// Whether -1 and 1 are the centres of the corner pixels.
    pub align_corners: bool,
}

/// Samples `input`, `(N, C, H, W)`, at the places `grid`, `(N, OH, OW, 2)` of (x, y), as `(N, C, OH, OW)`.
///
/// # Errors
/// If shapes, element types (`f32` or `f64`, both the same) or devices do not fit, or the input has no pixels.
pub fn grid_sample(input: &Tensor, grid: &Tensor, args: &GridSampleArgs) -> Result<Tensor> {
    if input.rank() != 4 {
        return Err(Error::shape("grid_sample: input", "(N, C, H, W)", input.dims()));
    }
    grid_sample_nhwc(&FeatureMap::from_nchw(input)?, grid, args)?.to_nchw()
}

/// [`grid_sample`] of a feature map; the grid stays `(N, OH, OW, 2)`.
///
/// # Errors
/// As [`grid_sample`].
pub fn grid_sample_nhwc(input: &FeatureMap, grid: &Tensor, args: &GridSampleArgs) -> Result<FeatureMap> {
    let (batch, height, width, channels) = input.dims()?;
    let input = input.nhwc();
    check_float("grid_sample: input", input)?;
    check_device("grid_sample: input", input)?;
    check_dtype("grid_sample: grid", grid, input.dtype())?;
    check_same_device("grid_sample: grid", grid, input)?;
    let output = match *grid.dims() {
        [n, height, width, 2] if n == batch => [height, width],
        _ => return Err(Error::shape("grid_sample: grid", format!("({batch}, OH, OW, 2)"), grid.dims())),
    };
    if height == 0 || width == 0 {
        return Err(Error::shape("grid_sample: input", "at least one pixel", input.dims()));
    }
    let op = GridSample { args: *args, batch, input: [height, width], output, channels };
    FeatureMap::from_nhwc(input.apply_op2(&grid.contiguous()?, op)?)
}

struct GridSample {
    args: GridSampleArgs,
    batch: usize,
    input: [usize; 2],
    output: [usize; 2],
    channels: usize,
}

/// How grid numbers become coordinates along one axis.
#[derive(Clone, Copy)]
struct Axis<T> {
    padding: GridPadding,
    /// Coordinate of grid number -1.
    low: T,
    /// Pixels per grid unit.
    scale: T,
    /// Coordinate of the last pixel.
    last: T,
}

impl<T: Float> Axis<T> {
    fn new(size: usize, args: GridSampleArgs) -> Self {
        let size = size as f64;
        let (low, scale) = if args.align_corners { (0., (size - 1.) / 2.) } else { (-0.5, size / 2.) };
        Self {
            padding: args.padding_mode,
            low: T::from_f64(low),
            scale: T::from_f64(scale),
            last: T::from_f64(size - 1.),
        }
    }

    /// The coordinate of grid number `g`, and its derivative.
    fn locate(&self, g: T) -> (T, T) {
        let at = (g + T::ONE) * self.scale + self.low;
        match self.padding {
            GridPadding::Zeros => (at, self.scale),
            GridPadding::Border => self.clip(at, self.scale),
            GridPadding::Reflection => self.reflect(at),
        }
    }

    /// Moves `at` into the map; borders count as outside for the derivative.
    fn clip(&self, at: T, slope: T) -> (T, T) {
        if at > T::ZERO && at < self.last {
            (at, slope)
        } else if at >= self.last {
            (self.last, T::ZERO)
        } else {
            // Left of the map, or NaN.
            (T::ZERO, T::ZERO)
        }
    }

    fn reflect(&self, at: T) -> (T, T) {
        let period = self.scale * T::from_f64(4.);
        if period == T::ZERO {
            return (T::ZERO, T::ZERO);
        }
        let from_low = at - self.low;
        let distance = from_low.abs();
        let extra = distance - T::from_f64((distance / period).to_f64().trunc()) * period;
        let mirrored = period - extra;
        let flipped = extra > mirrored;
        let at = if flipped { mirrored } else { extra } + self.low;
        self.clip(at, if flipped == (from_low < T::ZERO) { self.scale } else { -self.scale })
    }
}

impl GridSample {
    fn axes<T: Float>(&self) -> [Axis<T>; 2] {
        self.input.map(|size| Axis::new(size, self.args))
    }

    /// The pixels around a place, and the derivatives of its coordinates (y, x).
    fn corners<T: Float>(&self, axes: &[Axis<T>; 2], place: &[T]) -> (Corners<T>, [T; 2]) {
        let ((y, dy), (x, dx)) = (axes[0].locate(place[1]), axes[1].locate(place[0]));
        let corners = match self.args.mode {
            GridMode::Bilinear => Corners::new([y, x], self.input),
            GridMode::Nearest => {
                let round = |at: T| T::from_f64(at.to_f64().round_ties_even());
                let (y, x) = (round(y), round(x));
                // A pixel without a number for a place is none, not NaN.
                if y.to_f64().is_finite() && x.to_f64().is_finite() {
                    Corners::new([y, x], self.input)
                } else {
                    Corners::nowhere()
                }
            }
        };
        (corners, [dy, dx])
    }

    fn image_len(&self) -> usize {
        self.input[0] * self.input[1] * self.channels
    }

    fn forward<T: Float>(&self, input: &[T], grid: &[T]) -> Vec<T> {
        let ([oh, ow], c) = (self.output, self.channels);
        let mut out = vec![T::ZERO; self.batch * oh * ow * c];
        if out.is_empty() {
            return out;
        }
        let axes = self.axes();
        out.par_chunks_mut(ow * c).zip(grid.par_chunks(ow * 2)).enumerate().for_each(|(row, (out, grid))| {
            let image = &input[row / oh * self.image_len()..][..self.image_len()];
            vectorised(|| {
                for (out, place) in out.chunks_exact_mut(c).zip(grid.chunks_exact(2)) {
                    let (corners, _) = self.corners(&axes, place);
                    corners.sample(image, [self.input[1], c], 0, T::ONE, out);
                }
            });
        });
        out
    }

    fn grid_gradient<T: Float>(&self, input: &[T], grid: &[T], grad: &[T]) -> Vec<T> {
        let ([oh, ow], c) = (self.output, self.channels);
        let mut out = vec![T::ZERO; grid.len()];
        if out.is_empty() || c == 0 || self.args.mode == GridMode::Nearest {
            return out;
        }
        let axes = self.axes();
        let rows = out.par_chunks_mut(ow * 2).zip(grid.par_chunks(ow * 2)).zip(grad.par_chunks(ow * c));
        rows.enumerate().for_each(|(row, ((out, grid), grad))| {
            let image = &input[row / oh * self.image_len()..][..self.image_len()];
            vectorised(|| {
                let places = out.chunks_exact_mut(2).zip(grid.chunks_exact(2));
                for ((out, place), grad) in places.zip(grad.chunks_exact(c)) {
                    let (corners, [dy, dx]) = self.corners(&axes, place);
                    let [y, x] = corners.slopes(corners.products(image, [self.input[1], c], 0, grad));
                    out[0] = x * dx;
                    out[1] = y * dy;
                }
            });
        });
        out
    }

    fn input_gradient<T: Float>(&self, grid: &[T], grad: &[T]) -> Vec<T> {
        let ([oh, ow], c) = (self.output, self.channels);
        let mut out = vec![T::ZERO; self.batch * self.image_len()];
        if out.is_empty() || grad.is_empty() {
            return out;
        }
        let axes = self.axes();
        let images = out.par_chunks_mut(self.image_len()).zip(grid.par_chunks(oh * ow * 2));
        images.zip(grad.par_chunks(oh * ow * c)).for_each(|((image, grid), grad)| {
            let work = |band: &mut Band<'_, T>| {
                vectorised(|| {
                    for (place, grad) in grid.chunks_exact(2).zip(grad.chunks_exact(c)) {
                        self.corners(&axes, place).0.scatter(band, 0, [c, 0], T::ONE, grad);
                    }
                });
            };
            for_each_band(image, self.input[1] * c, bands(self.batch), work);
        });
        out
    }
}

impl CustomOp2 for GridSample {
    fn name(&self) -> &'static str {
        "grid_sample"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        dispatch_float!("grid_sample: input", s1.dtype(), T => {
            let input = cpu_slice::<T>("grid_sample: input", s1, l1)?;
            let out = self.forward(input, cpu_slice::<T>("grid_sample: grid", s2, l2)?);
            let shape = (self.batch, self.output[0], self.output[1], self.channels);
            Ok((T::to_cpu_storage_owned(out), Shape::from(shape)))
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
        let shape = (self.batch, self.output[0], self.output[1], self.channels);
        Ok((cuda::forward(self, (s1, l1), (s2, l2))?, Shape::from(shape)))
    }

    fn bwd(
        &self,
        input: &Tensor,
        grid: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        #[cfg(feature = "cuda")]
        if grad.device().is_cuda() {
            return Ok(cuda::backward(self, input, grid, &grad)?);
        }
        let ((sx, lx), (sg, lg)) = (input.storage_and_layout(), grid.storage_and_layout());
        let (sd, ld) = grad.storage_and_layout();
        dispatch_float!("grid_sample: gradient", grad.dtype(), T => {
            let dy = storage_slice::<T>("grid_sample: gradient", &sd, ld)?;
            let places = storage_slice::<T>("grid_sample: grid", &sg, lg)?;
            let dx = if input.track_op() {
                Some(Tensor::from_vec(self.input_gradient(places, dy), input.dims(), &Device::Cpu)?)
            } else {
                None
            };
            let dg = if grid.track_op() {
                let dg = self.grid_gradient(storage_slice::<T>("grid_sample: input", &sx, lx)?, places, dy);
                Some(Tensor::from_vec(dg, grid.dims(), &Device::Cpu)?)
            } else {
                None
            };
            Ok((dx, dg))
        })
    }
}

#[cfg(test)]
mod tests;
