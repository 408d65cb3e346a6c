//! Polygons to masks, with the roundings of pycocotools' `rleFrPoly` on x86-64.
//!
//! Corners are rounded to fifths of a pixel and joined by lines of points, one per fifth along the longer axis. Wherever
//! the line passes the middle of a column, the mask changes there from that row on; sorted, the changes are the runs.

use super::{Rle, pixels};
use crate::{Error, Result};

/// Points per pixel.
const SCALE: f64 = 5.0;

/// Points on the outline of a polygon at most, 13 million pixels: what bounds time and memory.
const MOST_POINTS: u64 = 1 << 26;

impl Rle {
    /// The pixels inside a polygon, given as `[x0, y0, x1, y1, ...]` in pixels from the top left corner. Corners may lie
    /// outside the picture. Where the outline crosses itself, what is surrounded twice is outside.
    ///
    /// # Errors
    /// [`Error::Argument`] for `size`, as [`Rle::from_counts`]; for `polygon` if it has less than three corners, half a
    /// corner, coordinates that are not finite or beyond 400 million pixels, or an outline of more than 13 million pixels.
    pub fn from_polygon(height: u32, width: u32, polygon: &[f64]) -> Result<Self> {
        let pixels = pixels(height, width)?;
        let corners = corners(polygon)?;
        // The middles of columns are every fifth point, from 2 on.
        let (columns, mut changes) = (i64::from(width), Vec::new());
        let mut before: Option<(i64, i64)> = None;
        for (from, to) in corners.iter().zip(corners.iter().cycle().skip(1)) {
            edge(*from, *to, |u, v| {
                if let Some((last_u, last_v)) = before.replace((u, v))
                    && u != last_u
                {
                    let crossed = if u < last_u { u } else { u - 1 };
                    if crossed.rem_euclid(5) == 2
                        && (0..columns).contains(&((crossed - 2) / 5))
                        && crossed >= 2
                    {
                        let row = (v.min(last_v) as f64 + 0.5) / SCALE - 0.5;
                        let row = row.clamp(0.0, f64::from(height)).ceil();
                        changes.push(((crossed - 2) / 5) as u32 * height + row as u32);
                    }
                }
            });
        }
        changes.sort_unstable();
        Ok(Self { height, width, counts: runs(&changes, pixels) })
    }

    /// The pixels inside any of several polygons: an object in parts.
    ///
    /// # Errors
    /// As [`Rle::from_polygon`], and [`Error::Argument`] for `polygon` if there is none.
    pub fn from_polygons(height: u32, width: u32, polygons: &[impl AsRef<[f64]>]) -> Result<Self> {
        let mut parts = polygons.iter().map(|polygon| Self::from_polygon(height, width, polygon.as_ref()));
        let first = parts.next().unwrap_or_else(|| {
            Err(Error::Argument { name: "polygon", problem: "there is none".to_owned() })
        })?;
        parts.try_fold(first, |all, part| all.union(&part?))
    }
}

/// The corners in fifths of a pixel.
fn corners(polygon: &[f64]) -> Result<Vec<(i64, i64)>> {
    let problem = |problem: String| Err(Error::Argument { name: "polygon", problem });
    if polygon.len() < 6 || polygon.len() % 2 == 1 {
        return problem(format!(
            "{} numbers, two for each of three or more corners are needed",
            polygon.len()
        ));
    }
    if let Some(at) = polygon.iter().position(|v| !(v.is_finite() && v.abs() < 4e8)) {
        return problem(format!("number {at} is {}", polygon[at]));
    }
    // As in C, the sum is cut towards zero: negative numbers round up.
    let point = |v: f64| (SCALE * v + 0.5) as i64;
    let corners: Vec<(i64, i64)> =
        polygon.as_chunks::<2>().0.iter().map(|&[x, y]| (point(x), point(y))).collect();
    let lengths = corners.iter().zip(corners.iter().cycle().skip(1));
    let points: u64 = lengths.map(|(a, b)| a.0.abs_diff(b.0).max(a.1.abs_diff(b.1)) + 1).sum();
    if points > MOST_POINTS {
        return problem(format!("its outline has {} pixels", points / 5));
    }
    Ok(corners)
}

/// The points of an edge, from its start to its end, both included.
fn edge(from: (i64, i64), to: (i64, i64), mut each: impl FnMut(i64, i64)) {
    let (dx, dy) = ((to.0 - from.0).abs(), (to.1 - from.1).abs());
    let flat = dx >= dy;
    let flip = if flat { from.0 > to.0 } else { from.1 > to.1 };
    let (start, end) = if flip { (to, from) } else { (from, to) };
    let length = dx.max(dy);
    let rise = if flat { end.1 - start.1 } else { end.0 - start.0 };
    // An edge of no length has one point, whose place on the other axis is its own.
    let slope = if length == 0 { 0.0 } else { rise as f64 / length as f64 };
    for step in 0..=length {
        let t = if flip { length - step } else { step };
        let other = |base: i64| (base as f64 + slope * t as f64 + 0.5) as i64;
        if flat { each(t + start.0, other(start.1)) } else { each(other(start.0), t + start.1) }
    }
}

/// Sorted places at which the mask changes, as run lengths. Two changes at one place are none.
fn runs(changes: &[u32], pixels: u32) -> Vec<u32> {
    let mut lengths = Vec::with_capacity(changes.len() + 1);
    let mut last = 0;
    for &change in changes.iter().chain([&pixels]) {
        lengths.push(change - last);
        last = change;
    }
    let mut lengths = lengths.into_iter();
    let mut counts: Vec<u32> = lengths.next().into_iter().collect();
    while let Some(length) = lengths.next() {
        if length > 0 {
            counts.push(length);
        } else if let (Some(run), Some(next)) = (counts.last_mut(), lengths.next()) {
            *run += next;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_box_has_its_pixels() {
        let rle = Rle::from_polygon(5, 6, &[1.0, 1.0, 4.0, 1.0, 4.0, 3.0, 1.0, 3.0]).unwrap();
        assert_eq!((rle.area(), rle.bounding_box()), (6, [1, 1, 3, 2]));
        // The other way round, and far beyond the picture.
        let back = Rle::from_polygon(5, 6, &[1.0, 3.0, 4.0, 3.0, 4.0, 1.0, 1.0, 1.0]).unwrap();
        assert_eq!(back, rle);
        let all = Rle::from_polygon(5, 6, &[-9e3, -9e3, 9e3, -9e3, 9e3, 9e3, -9e3, 9e3]).unwrap();
        assert_eq!(all.area(), 30);
        let left = Rle::from_polygon(5, 6, &[-9.0, -9.0, -1.0, -9.0, -1.0, 9.0, -9.0, 9.0]).unwrap();
        assert_eq!((left.area(), left.counts()), (0, &[30][..]));
    }

    #[test]
    fn parts_are_joined() {
        let boxed = |x: f64| [x, 0.0, x + 2.0, 0.0, x + 2.0, 2.0, x, 2.0];
        assert_eq!(Rle::from_polygons(2, 9, &[boxed(0.0), boxed(1.0), boxed(6.0)]).unwrap().area(), 10);
        assert!(Rle::from_polygons(2, 9, &[[0.0; 0]; 0]).is_err());
    }

    #[test]
    fn bad_polygons_are_errors() {
        let error = |polygon: &[f64]| match Rle::from_polygon(9, 9, polygon) {
            Err(Error::Argument { name: "polygon", problem }) => problem,
            other => panic!("{other:?}"),
        };
        assert!(error(&[]).contains("0 numbers"));
        assert!(error(&[1.0; 7]).contains("7 numbers"));
        assert!(error(&[0.0, 0.0, 1.0, f64::NAN, 1.0, 1.0]).contains("number 3 is NaN"));
        assert!(error(&[0.0, 0.0, 1.0, 0.0, 1e300, 1.0]).contains("number 4"));
        assert!(error(&[0.0, 0.0, 3e8, 0.0, 1.0, 1.0]).contains("its outline has"));
        assert!(matches!(Rle::from_polygon(0, 9, &[0.0; 6]), Err(Error::Argument { name: "size", .. })));
    }

    proptest! {
        #[test]
        fn arbitrary_polygons_never_panic(
            polygon in prop::collection::vec(prop_oneof![-30.0..60.0_f64, any::<f64>(), -5e4..5e4_f64], 0..14),
            height in 0..40_u32,
            width in 0..40_u32,
        ) {
            if let Ok(rle) = Rle::from_polygon(height, width, &polygon) {
                let again = Rle::from_counts(height, width, rle.counts().to_vec()).unwrap();
                prop_assert_eq!(again, rle);
            }
        }
    }
}
