//! Greedy non-maximum suppression, as `torchvision.ops.nms` and `batched_nms` 0.29 on the CPU.
//!
//! Boxes `x1, y1, x2, y2` are visited by decreasing score, equal scores in their order. A visited box is kept
//! and removes every later box whose intersection over union with it is above the threshold. NaN scores come
//! first, and boxes whose overlap is NaN (two boxes without area, NaN coordinates) do not remove each other.
//!
//! `batched_nms` treats each class by itself. torchvision shifts classes apart by an offset where there are few
//! boxes, which rounds coordinates and lets negative ones touch the next class; here the classes are always
//! separated exactly, as torchvision does it for many boxes.
//!
//! Nothing here has a gradient: results are numbers of rows, to be used with `index_select`.

#[cfg(feature = "cuda")]
mod cuda;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::box_columns::{area, by_decreasing_score, check_boxes, columns};
use super::support::{Float, check_same_device, dispatch_float, storage_slice, vectorised};
use crate::error::{Error, Result};

pub use super::box_columns::BoxExtent;

/// Options of [`nms`] and [`batched_nms`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NmsArgs {
    /// A box is removed if its overlap with a kept one is larger than this.
    pub iou_threshold: f64,
    /// How widths are counted.
    pub extent: BoxExtent,
}

impl NmsArgs {
    /// Continuous boxes, as in torchvision, with this threshold.
    pub fn new(iou_threshold: f64) -> Self {
        Self { iou_threshold, extent: BoxExtent::Continuous }
    }
}

/// Rows of `boxes` `(N, 4)` that are kept, by decreasing entry of `scores` `(N)`, as a `u32` tensor on their device.
///
/// # Errors
/// If shapes do not fit, if boxes and scores are not `f32` or `f64` tensors of one type on one device, or if the
/// threshold is NaN.
pub fn nms(boxes: &Tensor, scores: &Tensor, args: &NmsArgs) -> Result<Tensor> {
    check("nms", boxes, scores, args)?;
    #[cfg(feature = "cuda")]
    if boxes.device().is_cuda() {
        return cuda::suppress(boxes, scores, None, args);
    }
    let (boxes, scores) = (boxes.contiguous()?, scores.contiguous()?);
    let ((bs, bl), (ss, sl)) = (boxes.storage_and_layout(), scores.storage_and_layout());
    let kept = dispatch_float!("nms: boxes", boxes.dtype(), T => {
        let order = by_decreasing_score(storage_slice::<T>("nms: scores", &ss, sl)?);
        let boxes = storage_slice::<T>("nms: boxes", &bs, bl)?;
        let numbers = order.clone();
        Ok::<_, Error>(Candidates::new(boxes, &order, numbers, args.extent).suppress(args))
    })?;
    Ok(Tensor::new(kept, &Device::Cpu)?)
}

/// As [`nms`], where only boxes with the same entry of `idxs` `(N)`, of type `u32` or `i64`, remove each other.
///
/// # Errors
/// As [`nms`], or if `idxs` does not fit.
pub fn batched_nms(boxes: &Tensor, scores: &Tensor, idxs: &Tensor, args: &NmsArgs) -> Result<Tensor> {
    let count = check("batched_nms", boxes, scores, args)?;
    check_same_device("batched_nms: idxs", idxs, boxes)?;
    if idxs.dims() != [count] {
        return Err(Error::shape("batched_nms: idxs", format!("[{count}]"), idxs.dims()));
    }
    let classes: Vec<i64> = match idxs.dtype() {
        // An empty tensor of some devices cannot be read.
        DType::I64 | DType::U32 if count == 0 => Vec::new(),
        DType::I64 => idxs.to_vec1()?,
        DType::U32 => idxs.to_vec1::<u32>()?.into_iter().map(i64::from).collect(),
        got => {
            let (what, expected) = ("batched_nms: idxs".into(), "u32 or i64".into());
            return Err(Error::Dtype { what, expected, got });
        }
    };
    #[cfg(feature = "cuda")]
    if boxes.device().is_cuda() {
        return cuda::suppress(boxes, scores, Some(&classes), args);
    }
    let (boxes, scores) = (boxes.contiguous()?, scores.contiguous()?);
    let ((bs, bl), (ss, sl)) = (boxes.storage_and_layout(), scores.storage_and_layout());
    let kept = dispatch_float!("batched_nms: boxes", boxes.dtype(), T => {
        let order = by_decreasing_score(storage_slice::<T>("batched_nms: scores", &ss, sl)?);
        let boxes = storage_slice::<T>("batched_nms: boxes", &bs, bl)?;
        // Ranks by class; within a class they stay sorted by score.
        let mut ranks: Vec<(i64, u32)> =
            order.iter().zip(0..).map(|(&row, rank)| (classes[row as usize], rank)).collect();
        ranks.sort_unstable();
        let groups: Vec<&[(i64, u32)]> = ranks.chunk_by(|a, b| a.0 == b.0).collect();
        let mut kept: Vec<u32> = groups
            .into_par_iter()
            .flat_map_iter(|group| {
                let ranks: Vec<u32> = group.iter().map(|(_, rank)| *rank).collect();
                let rows: Vec<u32> = ranks.iter().map(|&rank| order[rank as usize]).collect();
                Candidates::<T>::new(boxes, &rows, ranks, args.extent).suppress(args)
            })
            .collect();
        kept.sort_unstable();
        Ok::<_, Error>(kept.into_iter().map(|rank| order[rank as usize]).collect::<Vec<_>>())
    })?;
    Ok(Tensor::new(kept, &Device::Cpu)?)
}

fn check(op: &str, boxes: &Tensor, scores: &Tensor, args: &NmsArgs) -> Result<usize> {
    let count = check_boxes(&format!("{op}: boxes"), boxes)?;
    check_scores(op, scores, boxes)?;
    if args.iou_threshold.is_nan() {
        return Err(Error::argument(format!("{op}: iou_threshold"), "is NaN"));
    }
    Ok(count)
}

/// Fails unless `scores` has one number of the type of `boxes` for each of them.
pub(super) fn check_scores(op: &str, scores: &Tensor, boxes: &Tensor) -> Result<()> {
    let what = format!("{op}: scores");
    check_same_device(&what, scores, boxes)?;
    if scores.dims() != [boxes.dims()[0]] {
        return Err(Error::shape(what, format!("[{}]", boxes.dims()[0]), scores.dims()));
    }
    if scores.dtype() != boxes.dtype() {
        return Err(Error::Dtype { what, expected: format!("{:?}", boxes.dtype()), got: scores.dtype() });
    }
    Ok(())
}

/// Best boxes that are settled one by one before the rest is compared with those of them that are kept.
const HEAD: usize = 64;
/// Boxes compared side by side.
const LANES: usize = 16;
/// Pairs of boxes worth handing to a thread.
const PAIRS: usize = 1 << 14;

/// Boxes by column that are not settled, best first.
struct Candidates<T> {
    corners: [Vec<T>; 4],
    areas: Vec<T>,
    /// What the result calls them.
    numbers: Vec<u32>,
    margin: T,
}

/// A kept box: corners and area.
type Kept<T> = ([T; 4], T);

impl<T: Float> Candidates<T> {
    fn new(boxes: &[T], rows: &[u32], numbers: Vec<u32>, extent: BoxExtent) -> Self {
        let margin = extent.margin();
        let corners = columns(boxes, &rows.iter().copied());
        let areas = (0..rows.len()).map(|i| area(corner(&corners, i), margin)).collect();
        Self { corners, areas, numbers, margin }
    }

    /// Numbers of the boxes that are kept, best first.
    fn suppress(mut self, args: &NmsArgs) -> Vec<u32> {
        // A number of this type is above the threshold exactly if it is above the threshold rounded down.
        let threshold = T::from_f64_down(args.iou_threshold);
        let mut kept = Vec::new();
        let mut removed = vec![0_u8; self.numbers.len().next_multiple_of(LANES)];
        while !self.numbers.is_empty() {
            let head = HEAD.min(self.numbers.len());
            let winners = self.settle(head, threshold, &mut removed, &mut kept);
            let rest = self.numbers.len() - head;
            let removed = &mut removed[..rest];
            let chunk = (PAIRS / winners.len().max(1)).next_multiple_of(LANES);
            let work = |(part, removed): (usize, &mut [u8])| {
                vectorised(|| self.compare(head + part * chunk, &winners, threshold, removed));
            };
            if rest <= chunk {
                work((0, removed));
            } else {
                removed.par_chunks_mut(chunk).enumerate().for_each(work);
            }
            self.retain(head, removed);
        }
        kept
    }

    /// Settles the first `head` boxes among themselves.
    fn settle(&self, head: usize, threshold: T, removed: &mut [u8], kept: &mut Vec<u32>) -> Vec<Kept<T>> {
        let mut winners = Vec::with_capacity(head);
        removed[..head].fill(0);
        for i in 0..head {
            if removed[i] != 0 {
                continue;
            }
            let winner = [(corner(&self.corners, i), self.areas[i])];
            let mut hits = [0; HEAD];
            vectorised(|| self.compare(i + 1, &winner, threshold, &mut hits[..head - i - 1]));
            for (removed, &hit) in removed[i + 1..head].iter_mut().zip(&hits) {
                *removed |= hit;
            }
            kept.push(self.numbers[i]);
            winners.extend(winner);
        }
        winners
    }

    /// Which boxes from `start` on one of the winners removes.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "must be compiled with the features of `vectorised`")]
    fn compare(&self, start: usize, winners: &[Kept<T>], threshold: T, removed: &mut [u8]) {
        let mut start = start;
        let (whole, rest) = removed.as_chunks_mut::<LANES>();
        for removed in whole {
            let lanes = |x: &[T]| -> [T; LANES] { std::array::from_fn(|l| x[start + l]) };
            *removed = self.hits(
                &self.corners.each_ref().map(|x| lanes(x)),
                &lanes(&self.areas),
                winners,
                threshold,
            );
            start += LANES;
        }
        if !rest.is_empty() {
            // Missing lanes repeat the last box; their results are not read.
            let last = start + rest.len() - 1;
            let lanes = |x: &[T]| -> [T; LANES] { std::array::from_fn(|l| x[(start + l).min(last)]) };
            let hits = self.hits(
                &self.corners.each_ref().map(|x| lanes(x)),
                &lanes(&self.areas),
                winners,
                threshold,
            );
            rest.copy_from_slice(&hits[..rest.len()]);
        }
    }

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "must be compiled with the features of `vectorised`")]
    fn hits(
        &self,
        [x1, y1, x2, y2]: &[[T; LANES]; 4],
        areas: &[T; LANES],
        winners: &[Kept<T>],
        threshold: T,
    ) -> [u8; LANES] {
        let mut hits = [T::ZERO; LANES];
        for &(a, area) in winners {
            for l in 0..LANES {
                // The comparisons are those of the reference, which decide what NaN does.
                let left = if a[0] < x1[l] { x1[l] } else { a[0] };
                let top = if a[1] < y1[l] { y1[l] } else { a[1] };
                let right = if x2[l] < a[2] { x2[l] } else { a[2] };
                let bottom = if y2[l] < a[3] { y2[l] } else { a[3] };
                let (w, h) = (right - left + self.margin, bottom - top + self.margin);
                let w = if w > T::ZERO { w } else { T::ZERO };
                let h = if h > T::ZERO { h } else { T::ZERO };
                let intersection = w * h;
                let overlap = intersection / (area + areas[l] - intersection);
                hits[l] = if overlap > threshold { T::ONE } else { hits[l] };
            }
        }
        hits.map(|hit| u8::from(hit > T::ZERO))
    }

    /// Drops the first `head` boxes and those of the rest that are removed.
    fn retain(&mut self, head: usize, removed: &[u8]) {
        let mut to = 0;
        for (from, _) in (head..).zip(removed).filter(|(_, removed)| **removed == 0) {
            for column in &mut self.corners {
                column[to] = column[from];
            }
            self.areas[to] = self.areas[from];
            self.numbers[to] = self.numbers[from];
            to += 1;
        }
        self.numbers.truncate(to);
    }
}

/// Corners of box `i`.
fn corner<T: Copy>(corners: &[Vec<T>; 4], i: usize) -> [T; 4] {
    corners.each_ref().map(|column| column[i])
}

#[cfg(test)]
mod tests;
