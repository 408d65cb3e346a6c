//! Soft non-maximum suppression (Bodla et al., 2017), as the `cpu_soft_nms` that its authors published.
//!
//! The box with the highest remaining score is taken; the scores of the others that overlap it are multiplied
//! by a weight of the overlap `o` (intersection over union), and those that fall below `min_score` are dropped.
//! Then the next. The weight is
//!
//! - `Hard`: 0 if `o > iou_threshold`, else 1;
//! - `Linear`: `1 - o` if `o > iou_threshold`, else 1;
//! - `Gaussian`: `exp(-o^2 / sigma)`.
//!
//! As in the original, a box that overlaps nothing is never dropped however low its score, and equal scores
//! are decided by position in an array in which a taken box changes places with the first one left and a
//! dropped one is replaced by the last. The original counts pixels (`x2 - x1 + 1`), which is
//! [`BoxExtent::Inclusive`]; the default here is continuous boxes. It computes in `f32`; here the type of the
//! boxes is kept. With a `min_score` of 0 nothing is dropped, which some detectors rely on.
//!
//! Results have no gradient. Memory is linear in the number of boxes. A CUDA device takes the same boxes in the same
//! order; its exponential may differ from the host's in the last bit.

#[cfg(feature = "cuda")]
mod cuda;

use candle_core::{Device, Tensor};

use super::box_columns::{BoxExtent, area, check_boxes, columns};
use super::nms::check_scores;
use super::support::{Float, dispatch_float, storage_slice, vectorised};
use crate::error::{Error, Result};

/// How [`soft_nms`] lowers the score of a box that overlaps a better one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SoftNmsMethod {
    /// To zero above the threshold: greedy suppression.
    Hard,
    /// By one minus the overlap above the threshold.
    #[default]
    Linear,
    /// By a Gaussian of the overlap.
    Gaussian,
}

/// Options of [`soft_nms`]; the defaults are the original's, but for the extent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SoftNmsArgs {
    /// How scores are lowered.
    pub method: SoftNmsMethod,
    /// Width of the Gaussian, above 0; unused by the other methods.
    pub sigma: f64,
    /// Overlap above which the score changes; unused by the Gaussian.
    pub iou_threshold: f64,
    /// A box whose lowered score is below this is dropped.
    pub min_score: f64,
    /// How widths are counted.
    pub extent: BoxExtent,
}

impl Default for SoftNmsArgs {
    fn default() -> Self {
        Self {
            method: SoftNmsMethod::Linear,
            sigma: 0.5,
            iou_threshold: 0.3,
            min_score: 0.001,
            extent: BoxExtent::Continuous,
        }
    }
}

/// Result of [`soft_nms`]: the boxes that remain, in the order in which they were taken.
#[derive(Clone, Debug)]
pub struct SoftNms {
    /// Their coordinates, `(K, 4)`.
    pub boxes: Tensor,
    /// Their lowered scores, `(K)`; they do not increase.
    pub scores: Tensor,
    /// Their rows in the input, `(K)`, `u32`.
    pub keep: Tensor,
}

/// Lowers `scores` `(N)` of `boxes` `(N, 4)` that overlap better ones. Results lie on the device of the boxes.
///
/// # Errors
/// If shapes do not fit, if boxes and scores are not `f32` or `f64` tensors of one type on one device, if `sigma` is
/// not above 0, or if a threshold is NaN.
pub fn soft_nms(boxes: &Tensor, scores: &Tensor, args: &SoftNmsArgs) -> Result<SoftNms> {
    check_boxes("soft_nms: boxes", boxes)?;
    check_scores("soft_nms", scores, boxes)?;
    if !(args.sigma > 0. && args.sigma.is_finite()) {
        return Err(Error::argument("soft_nms: sigma", format!("{} is not above 0", args.sigma)));
    }
    for (name, value) in [("iou_threshold", args.iou_threshold), ("min_score", args.min_score)] {
        if value.is_nan() {
            return Err(Error::argument(format!("soft_nms: {name}"), "is NaN"));
        }
    }
    #[cfg(feature = "cuda")]
    if boxes.device().is_cuda() {
        return cuda::soft_nms(boxes, scores, args);
    }
    let (boxes, scores) = (boxes.contiguous()?, scores.contiguous()?);
    let ((bs, bl), (ss, sl)) = (boxes.storage_and_layout(), scores.storage_and_layout());
    dispatch_float!("soft_nms: boxes", boxes.dtype(), T => {
        let all = storage_slice::<T>("soft_nms: boxes", &bs, bl)?;
        let mut pool = Pool::new(all, storage_slice::<T>("soft_nms: scores", &ss, sl)?, args);
        pool.run();
        let kept: Vec<T> = pool.rows.iter().flat_map(|&row| &all[row as usize * 4..][..4]).copied().collect();
        Ok(SoftNms {
            boxes: Tensor::from_vec(kept, (pool.rows.len(), 4), &Device::Cpu)?,
            scores: Tensor::new(pool.scores, &Device::Cpu)?,
            keep: Tensor::new(pool.rows, &Device::Cpu)?,
        })
    })
}

/// Boxes whose overlap with the taken one is tested together, and of whose scores the highest is remembered.
const BLOCK: usize = 64;

/// Boxes by column; those that are taken stand first, in order.
struct Pool<T> {
    corners: [Vec<T>; 4],
    areas: Vec<T>,
    scores: Vec<T>,
    /// Rows in the input.
    rows: Vec<u32>,
    /// Highest score of every block of boxes that are not taken.
    tops: Vec<T>,
    method: SoftNmsMethod,
    sigma: T,
    threshold: T,
    min_score: T,
    margin: T,
}

impl<T: Float> Pool<T> {
    fn new(boxes: &[T], scores: &[T], args: &SoftNmsArgs) -> Self {
        let margin = args.extent.margin();
        let rows: Vec<u32> = (0..scores.len() as u32).collect();
        let corners = columns(boxes, &rows.iter().copied());
        let corner = |i: usize| corners.each_ref().map(|column| column[i]);
        let mut pool = Self {
            areas: (0..rows.len()).map(|i| area(corner(i), margin)).collect(),
            scores: scores.to_vec(),
            tops: vec![T::NEG_INFINITY; rows.len().div_ceil(BLOCK)],
            rows,
            method: args.method,
            sigma: T::from_f64(args.sigma),
            threshold: T::from_f64_down(args.iou_threshold),
            min_score: T::from_f64(args.min_score),
            margin,
            corners,
        };
        for block in 0..pool.tops.len() {
            pool.update_top(block, 0);
        }
        pool
    }

    fn run(&mut self) {
        let mut taken = 0;
        while taken < self.rows.len() {
            let best = self.best(taken);
            self.swap(taken, best);
            taken += 1;
            self.update_top((taken - 1) / BLOCK, taken);
            self.update_top(best / BLOCK, taken);
            self.decay(taken);
        }
    }

    /// Position of the first of the highest scores from `taken` on. A NaN is only found at that position.
    fn best(&self, taken: usize) -> usize {
        let first = taken / BLOCK;
        let (mut top, mut found) = (self.scores[taken], None);
        for (block, &x) in self.tops.iter().enumerate().skip(first) {
            if x > top {
                (top, found) = (x, Some(block));
            }
        }
        // The block's first score of that value: scores before it are smaller.
        found.map_or(taken, |block| {
            let start = (block * BLOCK).max(taken);
            let scores = &self.scores[start..self.rows.len().min((block + 1) * BLOCK)];
            start + scores.iter().position(|&x| x == top).unwrap_or(0)
        })
    }

    /// Recomputes the highest score of a block from position `taken` on.
    fn update_top(&mut self, block: usize, taken: usize) {
        let range = (block * BLOCK).max(taken)..self.rows.len().min((block + 1) * BLOCK);
        let scores = self.scores.get(range).unwrap_or(&[]);
        let Some(slot) = self.tops.get_mut(block) else { return };
        *slot = vectorised(|| {
            let mut tops = [T::NEG_INFINITY; 8];
            let (parts, rest) = scores.as_chunks::<8>();
            for part in parts {
                for (top, &x) in tops.iter_mut().zip(part) {
                    *top = if x > *top { x } else { *top };
                }
            }
            tops.iter().chain(rest).fold(T::NEG_INFINITY, |top, &x| if x > top { x } else { top })
        });
    }

    fn swap(&mut self, a: usize, b: usize) {
        for column in &mut self.corners {
            column.swap(a, b);
        }
        self.areas.swap(a, b);
        self.scores.swap(a, b);
        self.rows.swap(a, b);
    }

    /// Puts the last box into `position` and forgets the one that was there.
    fn drop_box(&mut self, position: usize) {
        for column in &mut self.corners {
            column.swap_remove(position);
        }
        self.areas.swap_remove(position);
        self.scores.swap_remove(position);
        self.rows.swap_remove(position);
    }

    /// Lowers the scores from `taken` on by their overlap with the box before it.
    fn decay(&mut self, taken: usize) {
        let best = self.corners.each_ref().map(|column| column[taken - 1]);
        let best_area = self.areas[taken - 1];
        let mut block = taken / BLOCK;
        let mut dropped = false;
        let mut sides = [T::ZERO; BLOCK];
        while block * BLOCK < self.rows.len() {
            let start = (block * BLOCK).max(taken);
            let end = self.rows.len().min((block + 1) * BLOCK);
            let sides = &mut sides[..end - start];
            if vectorised(|| self.shorter_sides(best, start, sides)) {
                for (position, &side) in (start..end).zip(&*sides) {
                    if side > T::ZERO && position < self.rows.len() {
                        dropped |= self.decay_one(position, best, best_area);
                    }
                }
                self.update_top(block, taken);
            }
            block += 1;
        }
        if dropped {
            let blocks = self.rows.len().div_ceil(BLOCK);
            self.tops.truncate(blocks);
            // The last block may have lost boxes after its scores were looked at.
            self.update_top(blocks.saturating_sub(1), taken);
        }
    }

    /// The shorter side of the intersection with `best` of the boxes from `start` on, not above zero where
    /// there is none; returns whether there is one.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "must be compiled with the features of `vectorised`")]
    fn shorter_sides(&self, best: [T; 4], start: usize, sides: &mut [T]) -> bool {
        let [x1, y1, x2, y2] = self.corners.each_ref().map(|column| &column[start..start + sides.len()]);
        let mut longest = T::ZERO;
        for ((side, (&x1, &y1)), (&x2, &y2)) in sides.iter_mut().zip(x1.iter().zip(y1)).zip(x2.iter().zip(y2))
        {
            let (w, h) = intersection(best, [x1, y1, x2, y2], self.margin);
            *side = if w < h { w } else { h };
        }
        for &side in &*sides {
            longest = if side > longest { side } else { longest };
        }
        longest > T::ZERO
    }

    /// Lowers the score at `position`; while the result is too low, the last box takes its place and is
    /// treated in turn. Returns whether a box was dropped.
    fn decay_one(&mut self, position: usize, best: [T; 4], best_area: T) -> bool {
        let mut dropped = false;
        while position < self.rows.len() {
            let other = self.corners.each_ref().map(|column| column[position]);
            let (w, h) = intersection(best, other, self.margin);
            if !(w > T::ZERO && h > T::ZERO) {
                break;
            }
            let overlap = w * h / (best_area + self.areas[position] - w * h);
            let weight = match self.method {
                SoftNmsMethod::Gaussian => T::from_f64((-(overlap * overlap) / self.sigma).to_f64().exp()),
                SoftNmsMethod::Linear if overlap > self.threshold => T::ONE - overlap,
                SoftNmsMethod::Hard if overlap > self.threshold => T::ZERO,
                _ => T::ONE,
            };
            let score = weight * self.scores[position];
            if score < self.min_score {
                self.drop_box(position);
                dropped = true;
            } else {
                self.scores[position] = score;
                break;
            }
        }
        dropped
    }
}

/// Sides of the intersection of two boxes.
#[inline(always)]
#[allow(clippy::inline_always, reason = "part of vectorised loops")]
fn intersection<T: Float>(a: [T; 4], b: [T; 4], margin: T) -> (T, T) {
    let larger = |a: T, b: T| if a >= b { a } else { b };
    let smaller = |a: T, b: T| if a <= b { a } else { b };
    (smaller(a[2], b[2]) - larger(a[0], b[0]) + margin, smaller(a[3], b[3]) - larger(a[1], b[1]) + margin)
}

#[cfg(test)]
mod tests;
