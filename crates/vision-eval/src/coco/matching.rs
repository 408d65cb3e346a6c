//! One category in one image: which detection finds which truth.

use std::cmp::Ordering;

use super::{Detection, Overlap, Truth};
use crate::Result;

/// Ranges of areas, both ends included: all, small, medium, large.
pub(super) const AREAS: [[f64; 2]; 4] = [[0.0, 1e10], [0.0, 1024.0], [1024.0, 9216.0], [9216.0, 1e10]];

/// Overlaps at which detections are matched: 0.5, 0.55, ..., 0.95.
pub(super) const OVERLAPS: usize = 10;

/// The most detections of a category that count in an image.
pub(super) const MOST: usize = 100;

/// What one image says about one category.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Piece {
    /// Scores of the detections, the best first.
    pub(super) scores: Vec<f64>,
    /// For each range of areas, the truths that count.
    pub(super) truths: [u32; AREAS.len()],
    /// For each range of areas and detection, what became of it.
    pub(super) fates: [Vec<Fate>; AREAS.len()],
}

/// What became of a detection, a bit for each overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Fate {
    /// It found a truth, be it one that is ignored.
    pub(super) matched: u16,
    /// It counts neither as right nor as wrong.
    pub(super) ignored: u16,
}

/// The overlaps, with the rounding of `numpy.linspace`.
pub(super) fn overlaps() -> [f64; OVERLAPS] {
    let step = (0.95 - 0.5) / 9.0;
    let mut overlaps: [f64; OVERLAPS] = std::array::from_fn(|index| index as f64 * step + 0.5);
    overlaps[OVERLAPS - 1] = 0.95;
    overlaps
}

/// The order of scores, the best first; stable sorts by it keep equal ones as they were. Scores are finite.
pub(super) fn falling(a: f64, b: f64) -> Ordering {
    // Not `total_cmp`, for which 0 and -0 differ.
    b.partial_cmp(&a).unwrap_or(Ordering::Equal)
}

/// Matches the detections of an image with its truths, all of one category.
pub(super) fn piece(overlap: Overlap, truths: &[&Truth], detections: &[&Detection]) -> Result<Piece> {
    let mut best = detections.to_vec();
    best.sort_by(|a, b| falling(a.score, b.score));
    best.truncate(MOST);
    let row = |found: &&Detection| match overlap {
        Overlap::Boxes => Ok(box_row(found, truths)),
        Overlap::Masks => mask_row(found, truths),
    };
    let table: Vec<Vec<f64>> = best.iter().map(row).collect::<Result<_>>()?;
    let sizes: Vec<f64> = best.iter().map(|found| size(overlap, found)).collect();
    let mut piece = Piece { scores: best.iter().map(|found| found.score).collect(), ..Piece::default() };
    for (range, (count, fates)) in AREAS.iter().zip(piece.truths.iter_mut().zip(&mut piece.fates)) {
        (*count, *fates) = match_range(*range, truths, &sizes, &table);
    }
    Ok(piece)
}

/// The area that says whether an unmatched detection is outside a range.
fn size(overlap: Overlap, found: &Detection) -> f64 {
    match (overlap, &found.mask) {
        (Overlap::Masks, Some(mask)) => f64::from(mask.area()),
        _ => found.bbox[2] * found.bbox[3],
    }
}

/// Overlaps of a detection's box with those of all truths.
fn box_row(found: &Detection, truths: &[&Truth]) -> Vec<f64> {
    let [x, y, w, h] = found.bbox;
    let one = |truth: &&Truth| {
        let [tx, ty, tw, th] = truth.bbox;
        let width = (w + x).min(tw + tx) - x.max(tx);
        let height = (h + y).min(th + ty) - y.max(ty);
        if width <= 0.0 || height <= 0.0 {
            return 0.0;
        }
        let both = width * height;
        both / if truth.crowd { w * h } else { w * h + tw * th - both }
    };
    truths.iter().map(one).collect()
}

/// Overlaps of a detection's mask with those of all truths.
fn mask_row(found: &Detection, truths: &[&Truth]) -> Result<Vec<f64>> {
    let Some(mask) = &found.mask else {
        return Ok(vec![0.0; truths.len()]);
    };
    let near = mask.bounding_box();
    let one = |truth: &&Truth| match &truth.mask {
        // Runs are walked only where boxes meet.
        Some(other) if meet(near, other.bounding_box()) => mask.iou(other, truth.crowd),
        _ => Ok(0.0),
    };
    truths.iter().map(one).collect()
}

/// Whether two boxes have a pixel in common.
fn meet([ax, ay, aw, ah]: [u32; 4], [bx, by, bw, bh]: [u32; 4]) -> bool {
    ax < bx + bw && bx < ax + aw && ay < by + bh && by < ay + ah
}

/// How many truths count in a range of areas, and what becomes of each detection.
fn match_range(
    [least, most]: [f64; 2],
    truths: &[&Truth],
    sizes: &[f64],
    table: &[Vec<f64>],
) -> (u32, Vec<Fate>) {
    let outside = |area: f64| area < least || area > most;
    let ignored: Vec<bool> = truths.iter().map(|truth| truth.crowd || outside(truth.area)).collect();
    // Those that count come first; ignored ones only get what none of them takes.
    let mut order: Vec<usize> = (0..truths.len()).collect();
    order.sort_by_key(|&index| ignored[index]);
    let mut fates = vec![Fate::default(); sizes.len()];
    for (position, overlap) in overlaps().into_iter().enumerate() {
        let bit = 1_u16 << position;
        let mut taken = vec![false; truths.len()];
        for (fate, (row, size)) in fates.iter_mut().zip(table.iter().zip(sizes)) {
            let (mut found, mut best) = (None, overlap);
            for &index in &order {
                if taken[index] && !truths[index].crowd {
                    continue;
                }
                if found.is_some_and(|found: usize| !ignored[found]) && ignored[index] {
                    break;
                }
                // The last of equals wins.
                if row[index] >= best {
                    (found, best) = (Some(index), row[index]);
                }
            }
            match found {
                Some(index) => {
                    taken[index] = true;
                    fate.matched |= bit;
                    fate.ignored |= if ignored[index] { bit } else { 0 };
                }
                None if outside(*size) => fate.ignored |= bit,
                None => {}
            }
        }
    }
    let counted = ignored.iter().filter(|ignored| !**ignored).count();
    (u32::try_from(counted).unwrap_or(u32::MAX), fates)
}
