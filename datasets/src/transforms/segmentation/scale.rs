//! Pictures in random sizes.

use serde::{Deserialize, Serialize};
use vision_image::{Image, LabelMap};

use super::{PairTransform, choose, resize_pair};
use crate::{Result, SampleRng};

/// Which side of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The shorter one. The other is rounded down, as in the authors' first versions.
    Short,
    /// The longer one. The other is rounded, as in the authors' later versions.
    Long,
}

/// Resizes so that one side gets a random length in whole pixels, keeping the shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomSide {
    /// Which side.
    pub side: Side,
    /// Its smallest and largest length; both occur, as do all between, equally often.
    pub range: [u32; 2],
}

impl RandomSide {
    /// The width and height of a picture of `width` x `height` pixels whose chosen side becomes `length`; each is at least 1.
    fn size(&self, [width, height]: [u32; 2], length: u32) -> [u32; 2] {
        let scaled = |other: u32, this: u32| {
            let exact = f64::from(other) * f64::from(length) / f64::from(this);
            // A float out of range becomes the nearest number, which resizing then refuses.
            let whole = match self.side {
                Side::Short => exact as u32,
                Side::Long => (exact + 0.5) as u32,
            };
            whole.max(1)
        };
        let height_leads = match self.side {
            Side::Short => width > height,
            Side::Long => height > width,
        };
        if height_leads { [scaled(width, height), length] } else { [length, scaled(height, width)] }
    }
}

impl PairTransform for RandomSide {
    fn transform(&self, image: Image, labels: LabelMap, rng: &mut SampleRng) -> Result<(Image, LabelMap)> {
        let length = choose(rng, self.range);
        let size = self.size([image.width(), image.height()], length);
        resize_pair(&image, labels, size)
    }

    fn problems(&self) -> Vec<String> {
        let [low, high] = self.range;
        if low >= 1 && low <= high {
            return Vec::new();
        }
        vec![format!("range: [{low}, {high}], must be 1 <= low <= high")]
    }
}

/// Resizes both sides by one random factor.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomFactor {
    /// The smallest and largest factor, drawn evenly; sides are rounded.
    pub range: [f64; 2],
}

impl PairTransform for RandomFactor {
    fn transform(&self, image: Image, labels: LabelMap, rng: &mut SampleRng) -> Result<(Image, LabelMap)> {
        let factor = rng.range(self.range[0], self.range[1]);
        let scaled = |side: u32| ((f64::from(side) * factor + 0.5) as u32).max(1);
        let size = [scaled(image.width()), scaled(image.height())];
        resize_pair(&image, labels, size)
    }

    fn problems(&self) -> Vec<String> {
        let [low, high] = self.range;
        if low > 0.0 && low <= high && high.is_finite() {
            return Vec::new();
        }
        vec![format!("range: [{low}, {high}], must be 0 < low <= high")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_side_is_rounded_as_the_side_asks() {
        let size = |side, of, length| RandomSide { side, range: [1, 1] }.size(of, length);
        // 500 * 300 / 375 = 400; 333 * 300 / 500 = 199.8.
        assert_eq!(size(Side::Short, [500, 375], 300), [400, 300]);
        assert_eq!(size(Side::Short, [375, 500], 300), [300, 400]);
        assert_eq!(size(Side::Long, [500, 333], 300), [300, 200]);
        assert_eq!(size(Side::Long, [333, 500], 300), [200, 300]);
        // 500 * 299 / 333 = 448.9.
        assert_eq!(size(Side::Short, [500, 333], 299), [448, 299]);
        for side in [Side::Short, Side::Long] {
            assert_eq!(size(side, [7, 7], 20), [20, 20]);
            assert_eq!(size(side, [1000, 1], 1)[1], 1);
        }
    }

    #[test]
    fn wrong_ranges_have_names() {
        for range in [[0, 5], [6, 5]] {
            assert_eq!(RandomSide { side: Side::Long, range }.problems().len(), 1);
        }
        for range in [[0.0, 1.0], [2.0, 1.0], [1.0, f64::INFINITY], [f64::NAN, 1.0]] {
            assert_eq!(RandomFactor { range }.problems().len(), 1);
        }
    }
}
