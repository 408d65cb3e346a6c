//! What the operations over regions of interest share.
//!
//! All but max pooling are weighted sums of pixels whose weights are products of one factor per row and one per
//! column of a cell: `out[k, i, j] = sum over r, c of rows[k, i](r) * columns[k, j](c) * in[r, c]`. The factors
//! ([`Taps`]) come from the boxes alone, so an operation consists of making them, and the sums and their gradient
//! are here. Samples that fall on the same pixels are added up before anything is read.
//!
//! Position-sensitive operations read another group of channels in each cell. Their maps are packed so that the
//! channels of a group lie together: channel `(c * G + gy) * G + gx` of `(N, H, W, C)` goes to
//! `(N, G * G, H, W, C / G^2)`.

#[cfg(feature = "cuda")]
pub(super) mod cuda;
mod sum;
mod taps;

use std::borrow::Cow;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Shape, Tensor};
use rayon::prelude::*;

pub(super) use self::sum::{AxisRoom, Cell, Grid, Places, Room};
pub(super) use self::taps::Taps;
use super::support::{
    Float, check_device, check_dtype, check_float, check_result, check_same_device, cpu_slice,
    dispatch_float, storage_slice,
};
use crate::FeatureMap;
use crate::error::{Error, Result};

/// A box with the number of its picture.
#[derive(Clone, Copy, Debug)]
pub(super) struct Region {
    pub(super) image: usize,
    /// The four numbers after the picture's.
    pub(super) sides: [f64; 4],
}

/// Reads boxes `(K, 5)` of picture number and `x1, y1, x2, y2`, for a map of `batch` pictures.
///
/// Boxes get no gradient, here as in torchvision.
pub(super) fn regions(op: &str, input: &Tensor, boxes: &Tensor) -> Result<Vec<Region>> {
    let what = format!("{op}: boxes");
    check_dtype(&what, boxes, input.dtype())?;
    check_same_device(&what, boxes, input)?;
    if boxes.rank() != 2 || boxes.dims()[1] != 5 {
        return Err(Error::shape(what, "(K, 5)", boxes.dims()));
    }
    let batch = input.dims()[0];
    let numbers: Vec<f64> =
        boxes.detach().to_device(&Device::Cpu)?.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?;
    let region = |(k, row): (usize, &[f64])| {
        let sides = [row[1], row[2], row[3], row[4]];
        if sides.iter().any(|side| !side.is_finite()) {
            return Err(Error::argument(&what, format!("box {k} is {sides:?}, which is not finite")));
        }
        let image = row[0];
        if !(image >= 0.0 && image < batch as f64 && image.fract() == 0.0) {
            let problem = format!("box {k} is of picture {image}, the batch has {batch}");
            return Err(Error::argument(&what, problem));
        }
        Ok(Region { image: image as usize, sides })
    };
    numbers.chunks_exact(5).enumerate().map(region).collect()
}

/// Rounds a result of arithmetic as the element type `dtype` does.
///
/// Which pixels a cell covers is decided by rounding; this way it is decided as in the reference, which computes
/// in the element type.
pub(super) fn rounded(dtype: DType) -> impl Fn(f64) -> f64 + Copy {
    move |x| if dtype == DType::F32 { f64::from(x as f32) } else { x }
}

/// Checks the map of an operation over regions: type, device, and at least one pixel.
pub(super) fn check_map(op: &str, input: &FeatureMap) -> Result<[usize; 4]> {
    let what = format!("{op}: input");
    check_float(&what, input.nhwc())?;
    check_device(&what, input.nhwc())?;
    let (n, h, w, c) = input.dims()?;
    if h == 0 || w == 0 {
        return Err(Error::shape(what, "at least one pixel", input.nhwc().dims()));
    }
    // Taps count pixels of an axis in 32 bits.
    if h.max(w) > u32::MAX as usize {
        return Err(Error::argument(what, format!("{h} x {w} pixels are too many")));
    }
    Ok([n, h, w, c])
}

/// Checks a size of cells per region of `boxes`, with `channels` each, and a scale from boxes to pixels.
pub(super) fn check_cells(
    op: &str,
    output_size: [usize; 2],
    spatial_scale: f64,
    boxes: &Tensor,
    channels: usize,
) -> Result<()> {
    if output_size.contains(&0) {
        return Err(Error::argument(format!("{op}: output_size"), format!("{output_size:?} contains 0")));
    }
    if !(spatial_scale.is_finite() && spatial_scale > 0.0) {
        return Err(Error::argument(
            format!("{op}: spatial_scale"),
            format!("{spatial_scale} is not positive"),
        ));
    }
    let (regions, [down, across]) = (boxes.dims().first().copied().unwrap_or(0), output_size);
    check_result(&format!("{op}: output_size"), &[regions, down, across, channels])
}

/// Channels per group if each cell of a `cells` grid reads its own.
pub(super) fn check_groups(op: &str, channels: usize, cells: [usize; 2]) -> Result<usize> {
    match cells[0].checked_mul(cells[1]) {
        Some(groups) if channels.is_multiple_of(groups) => Ok(channels / groups),
        _ => Err(Error::argument(
            format!("{op}: input"),
            format!("{channels} channels are no multiple of {} x {} cells", cells[0], cells[1]),
        )),
    }
}

/// `(N, C, H, W)` in, `(K, C', PH, PW)` out, around an operation on maps.
pub(super) fn with_nchw(
    op: &str,
    input: &Tensor,
    run: impl FnOnce(&FeatureMap) -> Result<FeatureMap>,
) -> Result<Tensor> {
    if input.rank() != 4 {
        return Err(Error::shape(format!("{op}: input"), "(N, C, H, W)", input.dims()));
    }
    run(&FeatureMap::from_nchw(input)?)?.to_nchw()
}

/// A weighted sum over regions as a differentiable operation of the map.
pub(super) struct WeightedSum {
    pub(super) name: &'static str,
    pub(super) grid: Grid,
    /// Picture of each region.
    pub(super) images: Vec<usize>,
    /// Factors of the rows of each region's cells: `PH` per region.
    pub(super) rows: Taps,
    /// Factors of the columns: `PW` per region.
    pub(super) columns: Taps,
    /// Value of cells without rows or without columns.
    pub(super) fill: f64,
}

impl WeightedSum {
    /// The operation's result, `(K, PH, PW, channels of a group)`.
    pub(super) fn apply(self, input: &FeatureMap) -> Result<FeatureMap> {
        FeatureMap::from_nhwc(input.nhwc().apply_op1(self)?)
    }
}

impl Places for WeightedSum {
    fn cell<'a>(&'a self, region: usize, _run: usize, [i, j]: [usize; 2], _: &'a mut Room) -> Cell<'a> {
        let [ph, pw] = self.grid.cells;
        Cell { rows: self.rows.of(region * ph + i), columns: self.columns.of(region * pw + j), scale: 1.0 }
    }
}

impl CustomOp1 for WeightedSum {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        dispatch_float!(self.name, s.dtype(), T => {
            let input = pack(&self.grid, cpu_slice::<T>(self.name, s, l)?);
            let out = self.grid.forward(&self.images, &input, self, T::from_f64(self.fill));
            let shape = Shape::from(self.grid.output_dims(self.images.len()).as_slice());
            Ok((T::to_cpu_storage_owned(out), shape))
        })
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, s: &CudaStorage, l: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        let shape = Shape::from(self.grid.output_dims(self.images.len()).as_slice());
        Ok((cuda::forward(self, s, l)?, shape))
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
        dispatch_float!(self.name, grad.dtype(), T => {
            let dy = storage_slice::<T>(self.name, &s, l)?;
            let dx = self.grid.input_gradient(&self.images, dy, self);
            Ok(Some(Tensor::from_vec(unpack(&self.grid, dx), arg.dims(), &Device::Cpu)?))
        })
    }
}

/// `(N, H, W, C)` to `(N, G * G, H, W, C / G^2)`; nothing to do for one group.
pub(super) fn pack<'a, T: Float>(grid: &Grid, input: &'a [T]) -> Cow<'a, [T]> {
    let (groups, [_, h, w, c]) = (grid.groups(), grid.input);
    if groups == 1 || input.is_empty() {
        return Cow::Borrowed(input);
    }
    let width = c / groups;
    let (plane, share) = (h * w * width, groups.div_ceil(rayon::current_num_threads()));
    let mut out = vec![T::ZERO; input.len()];
    // Pixel by pixel, so that each is read into the cache once by each task.
    let task = |image: usize, first: usize, out: &mut [T]| {
        let pixels = input[image * h * w * c..][..h * w * c].chunks_exact(c);
        for (at, pixel) in pixels.enumerate() {
            for (group, out) in out.chunks_exact_mut(plane).enumerate() {
                let from = pixel[first + group..].iter().step_by(groups);
                for (out, &x) in out[at * width..(at + 1) * width].iter_mut().zip(from) {
                    *out = x;
                }
            }
        }
    };
    out.par_chunks_mut(groups * plane).enumerate().for_each(|(image, out)| {
        out.par_chunks_mut(share * plane).enumerate().for_each(|(part, out)| task(image, part * share, out));
    });
    Cow::Owned(out)
}

/// The inverse of [`pack`].
pub(super) fn unpack<T: Float>(grid: &Grid, packed: Vec<T>) -> Vec<T> {
    let (groups, [_, h, w, c]) = (grid.groups(), grid.input);
    if groups == 1 || packed.is_empty() {
        return packed;
    }
    let width = c / groups;
    let plane = h * w * width;
    let mut out = vec![T::ZERO; packed.len()];
    out.par_chunks_mut(w * c).enumerate().for_each(|(row, out)| {
        let (image, y) = (row / h, row % h);
        for (x, out) in out.chunks_exact_mut(c).enumerate() {
            for group in 0..groups {
                let from = (image * groups + group) * plane + (y * w + x) * width;
                let to = out[group..].iter_mut().step_by(groups);
                for (out, &x) in to.zip(&packed[from..from + width]) {
                    *out = x;
                }
            }
        }
    });
    out
}
