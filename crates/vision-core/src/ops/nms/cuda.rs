//! [`super::nms`] and [`super::batched_nms`] on a CUDA device.
//!
//! The host sorts the scores. The device compares pairs, a band of boxes against all later ones at a time, and settles
//! the boxes of the band.

use candle_core::backend::BackendStorage;
use candle_core::{DType, Tensor};

use super::NmsArgs;
use crate::cuda::{
    Kernels, Work, count, empty, nothing, on_cuda, ptx, read_all, read_storage, real, tensor, upload, write,
    zeros,
};
use crate::error::Result;
use crate::ops::box_columns::by_decreasing_score;
use crate::ops::support::{Float, dispatch_float};

const KERNELS: Kernels = Kernels { name: "nms", ptx: ptx::NMS };

/// Boxes that the walk settles together, `TILE` of the kernel file.
const TILE: usize = 64;
/// Threads of a block, each of which has a box of the band.
const THREADS: usize = 256;
/// Words of bits in memory at a time, but for bands that are larger by themselves.
const MOST_WORDS: usize = 1 << 24;

/// Rows that are kept, best first. Only boxes of one class, if there are classes, remove each other.
pub(super) fn suppress(
    boxes: &Tensor,
    scores: &Tensor,
    classes: Option<&[i64]>,
    args: &NmsArgs,
) -> Result<Tensor> {
    let (n, dtype) = (boxes.dims()[0], boxes.dtype());
    if n == 0 {
        let (s, _) = boxes.storage_and_layout();
        return Ok(tensor(empty(on_cuda("nms: boxes", &s)?.device(), DType::U32, 0)?, 0));
    }
    let boxes = boxes.contiguous()?;
    let (order, margin, threshold) = dispatch_float!("nms: scores", dtype, T => {
        let order = by_decreasing_score(&scores.to_vec1::<T>()?);
        let margin: T = args.extent.margin();
        // A number of this type is above the threshold exactly if it is above the threshold rounded down.
        Ok::<_, crate::Error>((order, margin.to_f64(), T::from_f64_down(args.iou_threshold).to_f64()))
    })?;
    let (s, l) = boxes.storage_and_layout();
    let device = on_cuda("nms: boxes", &s)?.device();
    let classes = classes.map(|classes| upload(device, &numbered(classes, &order))).transpose()?;
    let order = upload(device, &order)?;
    let tiles = n.div_ceil(TILE);
    let band = (MOST_WORDS / (2 * tiles) / THREADS).clamp(1, n.div_ceil(THREADS)) * THREADS;
    let mut bits = empty(device, DType::U32, band * 2 * tiles)?;
    let mut removed = zeros(device, DType::U32, 2 * tiles)?;
    let mut keep = empty(device, DType::U32, n)?;
    let mut kept = zeros(device, DType::U32, 1)?;
    for first in (0..n).step_by(band) {
        let rows = band.min(n - first);
        let args = [
            read_storage("nms: boxes", &s, l)?,
            read_all("nms: order", &order)?,
            classes.as_ref().map_or(Ok(nothing()), |classes| read_all("nms: classes", classes))?,
            write("nms: bits", &mut bits)?,
            count(first),
            count(rows),
            count(n),
            real(dtype, margin),
            real(dtype, threshold),
        ];
        KERNELS.launch(device, "nms_bits", dtype, Work::Grid(tiles, rows.div_ceil(THREADS)), args)?;
        let args = [
            read_all("nms: bits", &bits)?,
            read_all("nms: order", &order)?,
            write("nms: removed", &mut removed)?,
            write("nms: keep", &mut keep)?,
            write("nms: kept", &mut kept)?,
            count(first),
            count(rows),
            count(n),
        ];
        KERNELS.launch(device, "nms_walk", dtype, Work::Blocks(1), args)?;
    }
    let kept = tensor(kept, 1).to_vec1::<u32>()?.iter().map(|&kept| kept as usize).sum();
    Ok(tensor(keep, n).narrow(0, 0, kept)?)
}

/// Numbers from 0 on for the classes of the rows that `order` names.
fn numbered(classes: &[i64], order: &[u32]) -> Vec<u32> {
    let mut known = classes.to_vec();
    known.sort_unstable();
    known.dedup();
    let number = |&row: &u32| known.partition_point(|&class| class < classes[row as usize]) as u32;
    order.iter().map(number).collect()
}
