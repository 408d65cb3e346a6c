//! Deformable position-sensitive RoI pooling (Dai et al., "Deformable convolutional networks", 2017, section 2.2),
//! as `DeformablePSROIPooling` of `MXNet` 1.x, which the paper's code was written for.
//!
//! A box from `round(x1) s - 0.5` to `(round(x2) + 1) s - 0.5`, halves rounded away from zero, at least 0.1 pixels
//! wide and high, is cut into `P x P` cells. Cell `(i, j)` of class `k` is moved down by
//! `trans_std * height * offset[2 k + 1]` and right by `trans_std * width * offset[2 k]` (x first), read at part
//! `(floor(i S / P), floor(j S / P))` of `S` parts. It is the mean of `sample_per_part^2` samples between pixels, at
//! the upper left corners of its equal parts; those outside `[-0.5, H - 0.5]` are left out, the others moved to the
//! nearest pixel centre; 0 without samples. Output channel `c` reads channel `(c G + gy) G + gx` with
//! `gy = floor(i G / P)`, and belongs to class `c / (C / classes)`.
//!
//! Differentiable in the map and the offsets. Boxes must be finite; an offset that is not leaves its cell without
//! samples.

#[cfg(feature = "cuda")]
mod cuda;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Device, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::regions::{
    AxisRoom, Cell, Grid, Places, Region, Room, check_cells, check_groups, check_map, pack, regions, unpack,
    with_nchw,
};
use super::support::{
    Float, check_dims, check_dtype, check_result, check_same_device, contiguous, cpu_slice, dispatch_float,
    storage_slice,
};
use crate::FeatureMap;
use crate::error::{Error, Result};

/// Options of [`deform_ps_roi_pool`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeformPsRoiPoolArgs {
    /// Cells per region along each axis.
    pub output_size: usize,
    /// Pixels of the map per unit of the boxes, such as 1/16.
    pub spatial_scale: f64,
    /// Groups of channels along each axis; 1 for pooling that is not position-sensitive.
    pub group_size: usize,
    /// Offsets per region along each axis; 0 for one per cell.
    pub part_size: usize,
    /// Samples per cell along each axis.
    pub sample_per_part: usize,
    /// Offset of one, as a share of the box.
    pub trans_std: f64,
}

impl Default for DeformPsRoiPoolArgs {
    /// 7 x 7 cells of as many groups, scale 1, an offset per cell, 4 x 4 samples, 0.1.
    fn default() -> Self {
        Self {
            output_size: 7,
            spatial_scale: 1.0,
            group_size: 7,
            part_size: 0,
            sample_per_part: 4,
            trans_std: 0.1,
        }
    }
}

/// Pools `boxes`, `(K, 5)` of picture number and `x1, y1, x2, y2`, from `input`, `(N, C G^2, H, W)`, as
/// `(K, C, P, P)`.
///
/// `offset`, `(K, 2 classes, S, S)`, moves the cells; without it they stay.
///
/// # Errors
/// As [`super::roi_align`], and if the channels are no multiple of the groups or of the classes, or the offsets
/// have another shape.
pub fn deform_ps_roi_pool(
    input: &Tensor,
    boxes: &Tensor,
    offset: Option<&Tensor>,
    args: &DeformPsRoiPoolArgs,
) -> Result<Tensor> {
    with_nchw("deform_ps_roi_pool", input, |map| deform_ps_roi_pool_nhwc(map, boxes, offset, args))
}

/// [`deform_ps_roi_pool`] of a feature map; the offsets stay `(K, 2 classes, S, S)`.
///
/// # Errors
/// As [`deform_ps_roi_pool`].
pub fn deform_ps_roi_pool_nhwc(
    input: &FeatureMap,
    boxes: &Tensor,
    offset: Option<&Tensor>,
    args: &DeformPsRoiPoolArgs,
) -> Result<FeatureMap> {
    const OP: &str = "deform_ps_roi_pool";
    let dims = check_map(OP, input)?;
    check_cells(OP, [args.output_size; 2], args.spatial_scale, boxes, dims[3])?;
    for (name, value) in [("group_size", args.group_size), ("sample_per_part", args.sample_per_part)] {
        if value == 0 {
            return Err(Error::argument(format!("{OP}: {name}"), "must be at least 1"));
        }
    }
    if !args.trans_std.is_finite() {
        return Err(Error::argument(format!("{OP}: trans_std"), format!("{} is not finite", args.trans_std)));
    }
    let channels = check_groups(OP, dims[3], [args.group_size; 2])?;
    let regions = regions(OP, input.nhwc(), boxes)?;
    let parts = if args.part_size == 0 { args.output_size } else { args.part_size };
    check_result("deform_ps_roi_pool: part_size", &[parts, parts])?;
    let classes = match offset {
        None => 1,
        Some(offset) => {
            let what = "deform_ps_roi_pool: offset";
            check_dtype(what, offset, input.nhwc().dtype())?;
            check_same_device(what, offset, input.nhwc())?;
            let classes = if offset.rank() == 4 { offset.dims()[1] / 2 } else { 0 };
            if classes == 0 || channels % classes != 0 {
                let expected =
                    format!("({}, 2 classes, {parts}, {parts}), classes dividing {channels}", regions.len());
                return Err(Error::shape(what, expected, offset.dims()));
            }
            check_dims(what, offset, &[regions.len(), 2 * classes, parts, parts])?;
            classes
        }
    };
    let op = DeformPool {
        args: *args,
        grid: Grid {
            input: dims,
            cells: [args.output_size; 2],
            group_size: [args.group_size; 2],
            runs: classes,
        },
        images: regions.iter().map(|region| region.image).collect(),
        boxes: regions.iter().map(|region| placed(region, args)).collect(),
        parts,
        part_of: (0..args.output_size).map(|at| at * parts / args.output_size).collect(),
        moved: offset.is_some(),
    };
    let offset = match offset {
        Some(offset) => contiguous(offset)?,
        // Nobody reads it.
        None => Tensor::zeros(1, input.nhwc().dtype(), input.nhwc().device())?,
    };
    FeatureMap::from_nhwc(input.nhwc().apply_op2(&offset, op)?)
}

/// A box on the map, along one axis.
#[derive(Clone, Copy, Debug)]
struct Side {
    start: f64,
    length: f64,
    /// Length of a cell.
    bin: f64,
    /// Distance of samples.
    step: f64,
}

/// Where a box lies along (y, x).
fn placed(region: &Region, args: &DeformPsRoiPoolArgs) -> [Side; 2] {
    [0, 1].map(|axis| {
        let start = region.sides[1 - axis].round() * args.spatial_scale - 0.5;
        let end = (region.sides[3 - axis].round() + 1.0) * args.spatial_scale - 0.5;
        let length = (end - start).max(0.1);
        let bin = length / args.output_size as f64;
        Side { start, length, bin, step: bin / args.sample_per_part as f64 }
    })
}

struct DeformPool {
    args: DeformPsRoiPoolArgs,
    grid: Grid,
    images: Vec<usize>,
    boxes: Vec<[Side; 2]>,
    /// Offsets per region along each axis.
    parts: usize,
    /// The part that a cell belongs to, along either axis.
    part_of: Vec<usize>,
    moved: bool,
}

/// The cells at the places that some offsets give.
struct Moved<'a, T> {
    op: &'a DeformPool,
    offset: &'a [T],
}

impl DeformPool {
    /// Index of the x offset of a cell; that of y is `parts^2` behind.
    fn offset_index(&self, region: usize, class: usize, cell: [usize; 2]) -> usize {
        let [i, j] = cell.map(|at| self.part_of[at]);
        (((region * self.grid.runs + class) * 2) * self.parts + i) * self.parts + j
    }
}

impl<T: Float> Moved<'_, T> {
    /// The samples along one axis, in `room`, with their slopes if those are wanted; returns their number.
    #[inline]
    fn samples<const SLOPES: bool>(
        &self,
        side: Side,
        cell: usize,
        offset: f64,
        size: usize,
        room: &mut AxisRoom,
    ) -> usize {
        let args = &self.op.args;
        let start = side.start + cell as f64 * side.bin + offset * args.trans_std * side.length;
        let last = size as f64 - 1.0;
        let inside = |at: f64| (-0.5..=last + 0.5).contains(&at);
        // Samples advance, so those inside follow each other.
        let place = |sample: usize| start + sample as f64 * side.step;
        let mut samples = 0..args.sample_per_part;
        while !samples.is_empty() && !inside(place(samples.start)) {
            samples.start += 1;
        }
        while !samples.is_empty() && !inside(place(samples.end - 1)) {
            samples.end -= 1;
        }
        room.taps.clear();
        room.slopes.clear();
        if samples.is_empty() {
            return 0;
        }
        // The pixel below, and how far beyond it.
        let split = |sample: usize| {
            let at = place(sample).clamp(0.0, last);
            let low = at as u32;
            (low, at - f64::from(low))
        };
        let (first, _) = split(samples.start);
        let (highest, beyond) = split(samples.end - 1);
        let end = highest + if beyond > 0.0 { 2 } else { 1 };
        room.taps.extend((first..end).map(|pixel| (pixel, 0.0)));
        if SLOPES {
            room.slopes.resize(room.taps.len(), 0.0);
        }
        for sample in samples.clone() {
            let (low, beyond) = split(sample);
            let tap = (low - first) as usize;
            room.taps[tap].1 += 1.0 - beyond;
            if beyond > 0.0 {
                room.taps[tap + 1].1 += beyond;
                if SLOPES {
                    room.slopes[tap] -= 1.0;
                    room.slopes[tap + 1] += 1.0;
                }
            }
        }
        samples.len()
    }

    /// Both axes' samples, and one over their number.
    fn place<const SLOPES: bool>(
        &self,
        region: usize,
        class: usize,
        cell: [usize; 2],
        room: &mut Room,
    ) -> f64 {
        let op = self.op;
        let [dy, dx] = if op.moved {
            let at = op.offset_index(region, class, cell);
            [self.offset[at + op.parts * op.parts].to_f64(), self.offset[at].to_f64()]
        } else {
            [0.0; 2]
        };
        let [_, h, w, _] = op.grid.input;
        let [down, across] = op.boxes[region];
        let rows = self.samples::<SLOPES>(down, cell[0], dy, h, &mut room.rows);
        let columns = self.samples::<SLOPES>(across, cell[1], dx, w, &mut room.columns);
        1.0 / (rows * columns).max(1) as f64
    }

    /// The gradient of the offsets.
    fn offset_gradient(&self, packed: &[T], grad: &[T]) -> Vec<T> {
        let (op, grid) = (self.op, &self.op.grid);
        let mut out = vec![T::ZERO; self.offset.len()];
        if out.is_empty() || grad.is_empty() {
            return out;
        }
        let (d, run_len) = (grid.channels(), grid.channels() / grid.runs);
        let (region_len, area) = (grid.cells[0] * grid.cells[1] * d, op.parts * op.parts);
        let len = 2 * grid.runs * area;
        let regions = out.par_chunks_mut(len).zip(grad.par_chunks(region_len)).enumerate();
        regions.for_each(|(region, (out, grad))| {
            let mut room = Room::default();
            for ((at, grad), class) in grid
                .all_cells()
                .zip(grad.chunks_exact(d))
                .flat_map(|cell| (0..grid.runs).map(move |class| (cell, class)))
            {
                let scale = self.place::<true>(region, class, at, &mut room) * op.args.trans_std;
                let grad = &grad[class * run_len..(class + 1) * run_len];
                let plane = (op.images[region] * grid.groups() + grid.group(at)) * grid.plane_len();
                let plane = &packed[plane..plane + grid.plane_len()];
                let mut slopes = [0.0; 2];
                for (&(y, row), row_slope) in room.rows.taps.iter().zip(&room.rows.slopes) {
                    for (&(x, column), column_slope) in room.columns.taps.iter().zip(&room.columns.slopes) {
                        let start = (y as usize * grid.input[2] + x as usize) * d + class * run_len;
                        let product = if let &[g] = grad {
                            plane[start] * g
                        } else {
                            let pixel = plane[start..start + run_len].iter().zip(grad);
                            pixel.fold(T::ZERO, |sum, (&a, &g)| sum + a * g)
                        };
                        let product = product.to_f64();
                        slopes[0] += product * row_slope * column;
                        slopes[1] += product * row * column_slope;
                    }
                }
                let [down, across] = op.boxes[region].map(|side| side.length * scale);
                let to = op.offset_index(0, class, at);
                out[to] += T::from_f64(slopes[1] * across);
                out[to + area] += T::from_f64(slopes[0] * down);
            }
        });
        out
    }
}

impl<T: Float> Places for Moved<'_, T> {
    fn cell<'a>(&'a self, region: usize, run: usize, cell: [usize; 2], room: &'a mut Room) -> Cell<'a> {
        let scale = self.place::<false>(region, run, cell, room);
        Cell { rows: &room.rows.taps, columns: &room.columns.taps, scale }
    }
}

impl CustomOp2 for DeformPool {
    fn name(&self) -> &'static str {
        "deform_ps_roi_pool"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        dispatch_float!("deform_ps_roi_pool: input", s1.dtype(), T => {
            let input = pack(&self.grid, cpu_slice::<T>("deform_ps_roi_pool: input", s1, l1)?);
            let offset = cpu_slice::<T>("deform_ps_roi_pool: offset", s2, l2)?;
            let out = self.grid.forward(&self.images, &input, &Moved { op: self, offset }, T::ZERO);
            let shape = Shape::from(self.grid.output_dims(self.images.len()).as_slice());
            Ok((T::to_cpu_storage_owned(out), shape))
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
        let shape = Shape::from(self.grid.output_dims(self.images.len()).as_slice());
        Ok((cuda::forward(self, (s1, l1), (s2, l2))?, shape))
    }

    fn bwd(
        &self,
        input: &Tensor,
        offset: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = contiguous(grad)?;
        #[cfg(feature = "cuda")]
        if grad.device().is_cuda() {
            return Ok(cuda::backward(self, input, offset, &grad)?);
        }
        let ((sx, lx), (so, lo)) = (input.storage_and_layout(), offset.storage_and_layout());
        let (sg, lg) = grad.storage_and_layout();
        dispatch_float!("deform_ps_roi_pool: gradient", grad.dtype(), T => {
            let dy = storage_slice::<T>("deform_ps_roi_pool: gradient", &sg, lg)?;
            let moved = Moved { op: self, offset: storage_slice::<T>("deform_ps_roi_pool: offset", &so, lo)? };
            let dx = if input.track_op() {
                let dx = unpack(&self.grid, self.grid.input_gradient(&self.images, dy, &moved));
                Some(Tensor::from_vec(dx, input.dims(), &Device::Cpu)?)
            } else {
                None
            };
            let doffset = if self.moved && offset.track_op() {
                let x = pack(&self.grid, storage_slice::<T>("deform_ps_roi_pool: input", &sx, lx)?);
                Some(Tensor::from_vec(moved.offset_gradient(&x, dy), offset.dims(), &Device::Cpu)?)
            } else {
                None
            };
            Ok((dx, doffset))
        })
    }
}

#[cfg(test)]
mod tests;
