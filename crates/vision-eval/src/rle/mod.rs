//! Masks of objects as run lengths, in the form of COCO.
//!
//! Pixels are counted down the first column, then down the second and so on: a number of pixels outside the object, then
//! a number inside, in turns. Files have the counts as a list ("uncompressed"), as a string of letters, or instead of
//! them polygons. All functions give the numbers of pycocotools; what it does not check is an error here, and no function
//! takes more memory than its input and the size of the mask account for.

mod polygon;
mod text;

use crate::{Error, Result};

/// The most pixels a mask may have, 2^27 (about 134 million).
pub const MAX_PIXELS: u64 = 1 << 27;

/// The mask of an object: which pixels of a picture are inside.
///
/// Width and height are at least 1, and the counts add up to exactly `height * width`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Rle {
    height: u32,
    width: u32,
    counts: Vec<u32>,
}

impl std::fmt::Debug for Rle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The counts would drown every assertion message.
        write!(f, "Rle({}x{}, {} runs)", self.height, self.width, self.counts.len())
    }
}

/// Pixels of a mask, or the error that says what is wrong with its size.
fn pixels(height: u32, width: u32) -> Result<u32> {
    let problem = |problem: String| Err(Error::Argument { name: "size", problem });
    if height == 0 || width == 0 {
        return problem(format!("a mask of {height} x {width} pixels has none"));
    }
    let pixels = u64::from(height) * u64::from(width);
    match u32::try_from(pixels) {
        Ok(fits) if pixels <= MAX_PIXELS => Ok(fits),
        _ => problem(format!("a mask of {height} x {width} pixels exceeds the limit of {MAX_PIXELS} pixels")),
    }
}

impl Rle {
    /// A mask from its counts, the "uncompressed" form of COCO (`size` is `[height, width]` there).
    ///
    /// # Errors
    /// [`Error::Argument`] for `size` if a side is 0 or there are more than [`MAX_PIXELS`], for `counts` if they do not add
    /// up to the number of pixels.
    pub fn from_counts(height: u32, width: u32, counts: Vec<u32>) -> Result<Self> {
        let pixels = pixels(height, width)?;
        let sum: u64 = counts.iter().map(|&count| u64::from(count)).sum();
        if sum != u64::from(pixels) {
            let problem = format!("they add up to {sum}, but {height} x {width} pixels are {pixels}");
            return Err(Error::Argument { name: "counts", problem });
        }
        Ok(Self { height, width, counts })
    }

    /// A mask from its pixels, row by row; anything but 0 is inside.
    ///
    /// # Errors
    /// [`Error::Argument`] for the size, as [`Rle::from_counts`]; [`Error::Length`] if there are more or fewer pixels.
    pub fn encode(height: u32, width: u32, mask: &[u8]) -> Result<Self> {
        let pixels = pixels(height, width)? as usize;
        if mask.len() != pixels {
            return Err(Error::Length { what: "mask", expected: pixels, got: mask.len() });
        }
        let (mut counts, mut inside, mut run) = (Vec::new(), false, 0);
        for column in 0..width as usize {
            for &pixel in mask.iter().skip(column).step_by(width as usize) {
                if (pixel != 0) != inside {
                    counts.push(run);
                    (inside, run) = (!inside, 0);
                }
                run += 1;
            }
        }
        counts.push(run);
        Ok(Self { height, width, counts })
    }

    /// The pixels row by row, 1 inside and 0 outside.
    pub fn decode(&self) -> Vec<u8> {
        let (height, width) = (self.height as usize, self.width as usize);
        let mut mask = vec![0; height * width];
        for (start, end) in self.spans() {
            let (mut column, mut row) = (start as usize / height, start as usize % height);
            for _ in start..end {
                mask[row * width + column] = 1;
                row += 1;
                if row == height {
                    (column, row) = (column + 1, 0);
                }
            }
        }
        mask
    }

    /// Rows.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Columns.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Run lengths, the first of them outside the object; they add up to the number of pixels.
    pub fn counts(&self) -> &[u32] {
        &self.counts
    }

    /// Pixels inside.
    pub fn area(&self) -> u32 {
        self.counts.iter().skip(1).step_by(2).sum()
    }

    /// The smallest box around the pixels inside, `[x, y, width, height]`; all 0 for an empty mask.
    pub fn bounding_box(&self) -> [u32; 4] {
        let (mut left, mut top, mut right, mut bottom) = (u32::MAX, u32::MAX, 0, 0);
        for (start, end) in self.spans() {
            let (first, last) = (start / self.height, (end - 1) / self.height);
            // A run over more than one column touches both the last row and the first.
            let (from, to) = if first == last {
                (start % self.height, (end - 1) % self.height)
            } else {
                (0, self.height - 1)
            };
            (left, right) = (left.min(first), right.max(last + 1));
            (top, bottom) = (top.min(from), bottom.max(to + 1));
        }
        if right == 0 { [0; 4] } else { [left, top, right - left, bottom - top] }
    }

    /// Start and end of every run inside the object that is not empty.
    fn spans(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let mut at = 0;
        let runs = self.counts.iter().enumerate().map(move |(index, count)| {
            let start = at;
            // No overflow: the sum is the number of pixels.
            at += count;
            (index % 2 == 1, start, at)
        });
        runs.filter(|(inside, start, end)| *inside && start < end).map(|(_, start, end)| (start, end))
    }

    /// Fails unless both masks are of pictures of one size.
    fn same_size(&self, other: &Self) -> Result<()> {
        if (self.height, self.width) == (other.height, other.width) {
            return Ok(());
        }
        let problem = format!(
            "a mask of {} x {} pixels and one of {} x {}",
            self.height, self.width, other.height, other.width
        );
        Err(Error::Argument { name: "size", problem })
    }

    /// Walks over both masks and reports the length of every stretch in which neither changes, and who is inside.
    fn both(&self, other: &Self, mut each: impl FnMut(u32, bool, bool)) {
        let (mut ours, mut theirs) = (self.counts.iter().copied(), other.counts.iter().copied());
        let (mut a, mut b) = (ours.next(), theirs.next());
        let (mut in_a, mut in_b) = (false, false);
        while let (Some(left), Some(right)) = (a, b) {
            let step = left.min(right);
            each(step, in_a, in_b);
            (a, in_a) = if left == step { (ours.next(), !in_a) } else { (Some(left - step), in_a) };
            (b, in_b) = if right == step { (theirs.next(), !in_b) } else { (Some(right - step), in_b) };
        }
    }

    /// The mask of the pixels for which `keep` holds.
    fn combine(&self, other: &Self, keep: fn(bool, bool) -> bool) -> Result<Self> {
        self.same_size(other)?;
        let (mut counts, mut inside, mut run) = (Vec::new(), false, 0);
        self.both(other, |step, a, b| {
            if step > 0 && keep(a, b) != inside {
                counts.push(run);
                (inside, run) = (!inside, 0);
            }
            run += step;
        });
        counts.push(run);
        Ok(Self { height: self.height, width: self.width, counts })
    }

    /// The pixels that are inside either.
    ///
    /// # Errors
    /// [`Error::Argument`] if the sizes differ.
    pub fn union(&self, other: &Self) -> Result<Self> {
        self.combine(other, |a, b| a || b)
    }

    /// The pixels that are inside both.
    ///
    /// # Errors
    /// [`Error::Argument`] if the sizes differ.
    pub fn intersection(&self, other: &Self) -> Result<Self> {
        self.combine(other, |a, b| a && b)
    }

    /// Intersection over union with a ground truth. Of a `crowd`, of which an object is a part, it is the share of this
    /// mask that lies in it. 0 where nothing meets, also for empty masks.
    ///
    /// # Errors
    /// [`Error::Argument`] if the sizes differ.
    pub fn iou(&self, truth: &Self, crowd: bool) -> Result<f64> {
        self.same_size(truth)?;
        let (mut intersection, mut union) = (0_u32, 0_u32);
        self.both(truth, |step, a, b| {
            intersection += if a && b { step } else { 0 };
            union += if a || b { step } else { 0 };
        });
        let whole = if crowd { self.area() } else { union };
        Ok(if intersection == 0 { 0.0 } else { f64::from(intersection) / f64::from(whole) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pixels_are_counted_down_the_columns() {
        let mask = [0, 1, 1, 0, 1, 0];
        let rle = Rle::encode(2, 3, &mask).unwrap();
        assert_eq!(rle.counts(), [2, 3, 1]);
        assert_eq!((rle.decode().as_slice(), rle.area(), rle.bounding_box()), (&mask[..], 3, [1, 0, 2, 2]));
        // A mask that begins inside has an empty run first.
        assert_eq!(Rle::encode(2, 2, &[9, 0, 0, 0]).unwrap().counts(), [0, 1, 3]);
        let empty = Rle::encode(2, 2, &[0; 4]).unwrap();
        assert_eq!((empty.counts(), empty.area(), empty.bounding_box()), (&[4][..], 0, [0; 4]));
        let low = Rle::encode(4, 2, &[0, 0, 0, 0, 0, 1, 0, 1]).unwrap();
        assert_eq!(low.bounding_box(), [1, 2, 1, 2]);
    }

    #[test]
    fn wrong_sizes_and_counts_are_errors() {
        let name = |result: Result<Rle>| match result {
            Err(Error::Argument { name, .. }) => name,
            other => panic!("{other:?}"),
        };
        assert_eq!(name(Rle::from_counts(0, 3, vec![])), "size");
        assert_eq!(name(Rle::from_counts(u32::MAX, u32::MAX, vec![1])), "size");
        assert_eq!(name(Rle::from_counts(1 << 14, (1 << 13) + 1, vec![])), "size");
        assert_eq!(name(Rle::from_counts(2, 3, vec![2, 3])), "counts");
        assert_eq!(name(Rle::from_counts(2, 3, vec![u32::MAX, u32::MAX])), "counts");
        assert!(matches!(Rle::encode(2, 3, &[0; 5]), Err(Error::Length { what: "mask", .. })));
        let (a, b) = (Rle::encode(1, 2, &[1, 1]).unwrap(), Rle::encode(2, 1, &[1, 1]).unwrap());
        assert!(a.union(&b).is_err() && a.intersection(&b).is_err() && a.iou(&b, true).is_err());
    }

    #[test]
    fn empty_runs_are_nothing() {
        let plain = Rle::from_counts(1, 9, vec![2, 3, 4]).unwrap();
        let split = Rle::from_counts(1, 9, vec![2, 1, 0, 2, 4, 0]).unwrap();
        assert_eq!(split.decode(), plain.decode());
        assert_eq!((split.area(), split.bounding_box()), (3, [2, 0, 3, 1]));
        assert_eq!(split.union(&plain).unwrap(), plain);
        assert_eq!(split.iou(&plain, false).unwrap(), 1.0);
    }

    fn masks() -> impl Strategy<Value = (u32, u32, Vec<u8>, Vec<u8>)> {
        (1..12_u32, 1..12_u32).prop_flat_map(|(height, width)| {
            let pixels = (height * width) as usize;
            let mask = || prop::collection::vec(0..=1_u8, pixels);
            (Just(height), Just(width), mask(), mask())
        })
    }

    proptest! {
        #[test]
        fn runs_agree_with_pixels((height, width, a, b) in masks()) {
            let (left, right) = (Rle::encode(height, width, &a).unwrap(), Rle::encode(height, width, &b).unwrap());
            prop_assert_eq!(left.decode(), a.clone());
            prop_assert_eq!(Rle::from_counts(height, width, left.counts().to_vec()).unwrap(), left.clone());
            prop_assert_eq!(Rle::from_text(height, width, &left.to_text()).unwrap(), left.clone());
            let pairs = || a.iter().zip(&b);
            let count = |keep: fn(u8, u8) -> bool| pairs().filter(|&(&a, &b)| keep(a, b)).count() as u32;
            let (inter, union) = (count(|a, b| a & b == 1), count(|a, b| a | b == 1));
            prop_assert_eq!(left.area(), a.iter().map(|&v| u32::from(v)).sum::<u32>());
            prop_assert_eq!(left.intersection(&right).unwrap().area(), inter);
            let either: Vec<u8> = pairs().map(|(a, b)| a | b).collect();
            prop_assert_eq!(left.union(&right).unwrap(), Rle::encode(height, width, &either).unwrap());
            let iou = if inter == 0 { 0.0 } else { f64::from(inter) / f64::from(union) };
            prop_assert_eq!(left.iou(&right, false).unwrap(), iou);
            let [x, y, w, h] = left.bounding_box();
            let inside = |at: usize| {
                let (row, column) = (at as u32 / width, at as u32 % width);
                (x..x + w).contains(&column) && (y..y + h).contains(&row)
            };
            prop_assert!(a.iter().enumerate().all(|(at, &v)| v == 0 || inside(at)));
        }

        #[test]
        fn arbitrary_counts_never_panic(counts in prop::collection::vec(0..6_u32, 0..12), height in 0..5_u32) {
            let width: u32 = counts.iter().sum::<u32>().checked_div(height).unwrap_or(0);
            if let Ok(rle) = Rle::from_counts(height, width, counts) {
                prop_assert_eq!(rle.decode().iter().map(|&v| u32::from(v)).sum::<u32>(), rle.area());
                let back = Rle::from_text(height, width, &rle.to_text()).unwrap();
                prop_assert_eq!(back, rle.clone());
                prop_assert_eq!(rle.iou(&rle, true).unwrap(), if rle.area() == 0 { 0.0 } else { 1.0 });
                rle.bounding_box();
            }
        }
    }
}
