//! A random part of the picture, resized.

use serde::{Deserialize, Serialize};
use vision_image::{Filter, Image, resize};

use super::{ImageTransform, check_size};
use crate::{Result, SampleRng};

/// Cuts out a part of random area and shape and resizes it, as torchvision's `RandomResizedCrop`.
///
/// The area is drawn evenly from `scale` times the picture's, the shape (width over height) evenly on a
/// logarithmic scale from `ratio`; sides are rounded half to even, and the place is drawn evenly. If ten
/// draws do not fit into the picture, the largest central part whose shape lies in `ratio` is taken.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RandomResizedCrop {
    /// Width and height of the result, in pixels.
    pub size: [u32; 2],
    /// Smallest and largest area, as fractions of the picture's.
    pub scale: [f64; 2],
    /// Smallest and largest width over height.
    pub ratio: [f64; 2],
    /// How the part is resized.
    #[serde(with = "super::filter")]
    pub filter: Filter,
}

impl Default for RandomResizedCrop {
    fn default() -> Self {
        Self { size: [224, 224], scale: [0.08, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0], filter: Filter::Bilinear }
    }
}

impl RandomResizedCrop {
    /// Draws the part of a picture of `width` x `height` pixels: x, y, width, height. The part lies inside
    /// the picture and is at least one pixel wide and high if the picture is.
    pub fn region(&self, width: u32, height: u32, rng: &mut SampleRng) -> [u32; 4] {
        let area = f64::from(width) * f64::from(height);
        let (low, high) = (self.ratio[0].ln(), self.ratio[1].ln());
        for _ in 0..10 {
            let target = area * rng.range(self.scale[0], self.scale[1]);
            let aspect = rng.range(low, high).exp();
            // A float out of range becomes the nearest u32, which then does not fit.
            let w = (target * aspect).sqrt().round_ties_even() as u32;
            let h = (target / aspect).sqrt().round_ties_even() as u32;
            if (1..=width).contains(&w) && (1..=height).contains(&h) {
                let y = rng.below(height - h + 1);
                let x = rng.below(width - w + 1);
                return [x, y, w, h];
            }
        }
        let shape = f64::from(width) / f64::from(height);
        let (w, h) = if shape < self.ratio[0] {
            (width, (f64::from(width) / self.ratio[0]).round_ties_even() as u32)
        } else if shape > self.ratio[1] {
            ((f64::from(height) * self.ratio[1]).round_ties_even() as u32, height)
        } else {
            (width, height)
        };
        let (w, h) = (w.clamp(1.min(width), width), h.clamp(1.min(height), height));
        [(width - w) / 2, (height - h) / 2, w, h]
    }
}

impl ImageTransform for RandomResizedCrop {
    fn transform(&self, image: Image, rng: &mut SampleRng) -> Result<Image> {
        let [x, y, w, h] = self.region(image.width(), image.height(), rng);
        Ok(resize(&image.crop(x, y, w, h)?, self.size[0], self.size[1], self.filter)?)
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        check_size(&mut problems, "size", self.size);
        let [low, high] = self.scale;
        if !(low > 0.0 && low <= high && high <= 1.0) {
            problems.push(format!("scale: [{low}, {high}], must be 0 < low <= high <= 1"));
        }
        let [low, high] = self.ratio;
        if !(low > 0.0 && low <= high && high.is_finite()) {
            problems.push(format!("ratio: [{low}, {high}], must be 0 < low <= high"));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Largest distance between the empirical distribution of `values` and the uniform one on [low, high].
    fn kolmogorov(mut values: Vec<f64>, low: f64, high: f64) -> f64 {
        values.sort_by(f64::total_cmp);
        let n = values.len() as f64;
        values
            .iter()
            .enumerate()
            .map(|(i, v)| {
                let cdf = ((v - low) / (high - low)).clamp(0.0, 1.0);
                (cdf - i as f64 / n).abs().max(((i + 1) as f64 / n - cdf).abs())
            })
            .fold(0.0, f64::max)
    }

    #[test]
    fn area_and_shape_have_the_right_distributions() {
        // Large and with an area range that always fits, so neither rounding nor rejection bends the
        // distributions: 0.2..0.7 of a square with shapes up to 4/3 has sides below 0.97.
        let crop = RandomResizedCrop { scale: [0.2, 0.7], ..Default::default() };
        let side = 20_000;
        let n = 20_000;
        let (mut areas, mut shapes) = (Vec::new(), Vec::new());
        for i in 0..n {
            let [x, y, w, h] = crop.region(side, side, &mut SampleRng::new(3, 0, i));
            assert!(x + w <= side && y + h <= side);
            areas.push(f64::from(w) * f64::from(h) / f64::from(side).powi(2));
            shapes.push((f64::from(w) / f64::from(h)).ln());
        }
        // Critical value of the Kolmogorov-Smirnov test at p = 0.001.
        let limit = 1.95 / f64::from(n as u32).sqrt();
        let (low, high) = ((0.75f64).ln(), (4.0f64 / 3.0).ln());
        assert!(kolmogorov(areas, 0.2, 0.7) < limit);
        assert!(kolmogorov(shapes, low, high) < limit);
    }

    #[test]
    fn place_is_uniform() {
        let crop = RandomResizedCrop { scale: [0.25, 0.25], ratio: [1.0, 1.0], ..Default::default() };
        let mut seen = [[0u32; 2]; 5];
        for i in 0..10_000 {
            let [x, y, w, h] = crop.region(8, 8, &mut SampleRng::new(1, 0, i));
            assert_eq!((w, h), (4, 4));
            seen[x as usize][0] += 1;
            seen[y as usize][1] += 1;
        }
        assert!(seen.iter().flatten().all(|&n| (1800..2200).contains(&n)), "{seen:?}");
    }

    #[test]
    fn falls_back_to_the_centre() {
        // No crop of shape 3/4..4/3 with at least half of the area fits into a strip.
        let crop = RandomResizedCrop { scale: [0.5, 1.0], ..Default::default() };
        let rng = &mut SampleRng::new(0, 0, 0);
        assert_eq!(crop.region(100, 9, rng), [44, 0, 12, 9]);
        assert_eq!(crop.region(9, 100, rng), [0, 44, 9, 12]);
        assert_eq!(crop.region(1, 1, rng), [0, 0, 1, 1]);
        let whole = RandomResizedCrop { scale: [1.0, 1.0], ratio: [2.0, 2.0], ..Default::default() };
        assert_eq!(whole.region(20, 10, rng), [0, 0, 20, 10]);
    }

    #[test]
    fn result_has_the_size_asked_for() {
        let image = Image::filled(40, 30, &[9, 8, 7]).unwrap();
        let crop = RandomResizedCrop { size: [16, 12], ..Default::default() };
        let out = crop.transform(image, &mut SampleRng::new(0, 0, 0)).unwrap();
        assert_eq!((out.width(), out.height(), out.channels()), (16, 12, 3));
        assert_eq!(out.pixel(5, 5), Some(&[9, 8, 7][..]));
    }

    #[test]
    fn names_wrong_fields() {
        let bad =
            RandomResizedCrop { size: [0, 3], scale: [0.5, 0.2], ratio: [0.0, 1.0], ..Default::default() };
        assert_eq!(bad.problems().len(), 3);
        assert!(RandomResizedCrop::default().problems().is_empty());
        let nan = RandomResizedCrop { scale: [f64::NAN, 1.0], ..Default::default() };
        assert_eq!(nan.problems().len(), 1);
    }
}
