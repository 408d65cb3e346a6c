//! Boxes as four columns of coordinates, which loops over boxes read as vectors, and their checks.

use candle_core::Tensor;

use super::support::{Float, check_device, check_float};
use crate::error::{Error, Result};

/// Where a box ends, which decides its width.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BoxExtent {
    /// Corners are points: the width is `x2 - x1`.
    #[default]
    Continuous,
    /// Corners are pixels that belong to the box: the width is `x2 - x1 + 1`, as in detectors up to 2018.
    Inclusive,
}

impl BoxExtent {
    /// What is added to the difference of two coordinates.
    pub(crate) fn margin<T: Float>(self) -> T {
        match self {
            Self::Continuous => T::ZERO,
            Self::Inclusive => T::ONE,
        }
    }
}

/// Fails unless `boxes` is a `(N, 4)` tensor of a float type on the CPU or a CUDA device; returns `N`.
pub(crate) fn check_boxes(what: &str, boxes: &Tensor) -> Result<usize> {
    check_device(what, boxes)?;
    check_float(what, boxes)?;
    match boxes.dims() {
        &[count, 4] if u32::try_from(count).is_ok() => Ok(count),
        &[_, 4] => Err(Error::shape(what, "fewer than 2^32 boxes", boxes.dims())),
        got => Err(Error::shape(what, "(N, 4)", got)),
    }
}

/// The four coordinates of `boxes` by column, in the order of the rows that `order` names.
pub(super) fn columns<T: Float>(boxes: &[T], order: &(impl Iterator<Item = u32> + Clone)) -> [Vec<T>; 4] {
    std::array::from_fn(|k| order.clone().map(|row| boxes[row as usize * 4 + k]).collect())
}

/// Numbers of the scores from the largest to the smallest, equal ones in their order; NaN comes first, as in
/// PyTorch.
pub(super) fn by_decreasing_score<T: Float>(scores: &[T]) -> Vec<u32> {
    let key = |score: T| {
        let score = score.to_f64();
        if score.is_nan() {
            return 0;
        }
        // Bits of a float sort like the float once negative ones are turned around; adding zero makes the
        // two zeros equal.
        let bits = (score + 0.0).to_bits();
        let ascending = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
        !ascending
    };
    let mut keys: Vec<(u64, u32)> = scores.iter().zip(0..).map(|(&score, i)| (key(score), i)).collect();
    keys.sort_unstable();
    keys.into_iter().map(|(_, i)| i).collect()
}

/// `(x2 - x1 + margin) (y2 - y1 + margin)`.
#[inline(always)]
#[allow(clippy::inline_always, reason = "part of vectorised loops")]
pub(super) fn area<T: Float>([x1, y1, x2, y2]: [T; 4], margin: T) -> T {
    (x2 - x1 + margin) * (y2 - y1 + margin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_sort_stably_with_nan_first() {
        let scores = [0.0, -1.0, f32::INFINITY, -0.0, f32::NAN, 2.0, f32::NEG_INFINITY, 2.0];
        assert_eq!(by_decreasing_score(&scores), [4, 2, 5, 7, 0, 3, 1, 6]);
        assert!(by_decreasing_score::<f64>(&[]).is_empty());
    }
}
