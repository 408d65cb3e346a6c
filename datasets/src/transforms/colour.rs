//! Random changes of colour.

use serde::{Deserialize, Serialize};
use vision_image::{Image, colour};

use super::{ImageTransform, check_probability};
use crate::{Result, SampleRng};

/// Changes brightness, contrast, saturation and hue by random amounts, in random order, as torchvision's
/// `ColorJitter` on PIL pictures. It applies to every picture; an amount of 0 leaves that property alone.
/// Grey pictures become RGB first.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ColorJitter {
    /// Brightness is multiplied by a factor drawn evenly from `max(0, 1 - brightness)..1 + brightness`.
    pub brightness: f64,
    /// The same for the distance of every pixel from the mean grey.
    pub contrast: f64,
    /// The same for the distance of every pixel from its own grey.
    pub saturation: f64,
    /// Hue is turned by a share of the full circle drawn evenly from `-hue..hue`; at most 0.5.
    pub hue: f64,
}

#[derive(Clone, Copy)]
enum Change {
    Brightness(f32),
    Contrast(f32),
    Saturation(f32),
    Hue(f32),
}

impl ColorJitter {
    /// The changes for one picture, in the order in which they apply.
    fn draw(&self, rng: &mut SampleRng) -> Vec<Change> {
        let mut order = [0u8, 1, 2, 3];
        rng.shuffle(&mut order);
        let mut factor =
            |amount: f64| (amount > 0.0).then(|| rng.range((1.0 - amount).max(0.0), 1.0 + amount) as f32);
        // Drawn before the order is followed, so that the stream is the same in any order.
        let brightness = factor(self.brightness).map(Change::Brightness);
        let contrast = factor(self.contrast).map(Change::Contrast);
        let saturation = factor(self.saturation).map(Change::Saturation);
        let hue = (self.hue > 0.0).then(|| Change::Hue(rng.range(-self.hue, self.hue) as f32));
        order
            .iter()
            .filter_map(|which| match which {
                0 => brightness,
                1 => contrast,
                2 => saturation,
                _ => hue,
            })
            .collect()
    }
}

impl ImageTransform for ColorJitter {
    fn transform(&self, image: Image, rng: &mut SampleRng) -> Result<Image> {
        let mut image = if image.channels() == 3 { image } else { image.to_rgb() };
        for change in self.draw(rng) {
            match change {
                Change::Brightness(factor) => colour::adjust_brightness(&mut image, factor)?,
                Change::Contrast(factor) => colour::adjust_contrast(&mut image, factor)?,
                Change::Saturation(factor) => colour::adjust_saturation(&mut image, factor)?,
                Change::Hue(shift) => colour::adjust_hue(&mut image, shift)?,
            }
        }
        Ok(image)
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (field, amount) in
            [("brightness", self.brightness), ("contrast", self.contrast), ("saturation", self.saturation)]
        {
            if !(amount >= 0.0 && amount.is_finite()) {
                problems.push(format!("{field}: {amount}, must be at least 0"));
            }
        }
        if !(0.0..=0.5).contains(&self.hue) {
            problems.push(format!("hue: {}, must be between 0 and 0.5", self.hue));
        }
        problems
    }
}

/// With probability `p`, replaces the picture by its grey version with three equal channels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RandomGrayscale {
    /// How often, between 0 and 1.
    pub p: f64,
}

impl Default for RandomGrayscale {
    fn default() -> Self {
        Self { p: 0.1 }
    }
}

impl ImageTransform for RandomGrayscale {
    fn transform(&self, image: Image, rng: &mut SampleRng) -> Result<Image> {
        if rng.uniform_f64() >= self.p {
            return Ok(image);
        }
        let image = if image.channels() == 3 { image } else { image.to_rgb() };
        Ok(colour::grayscale3(&image)?)
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        check_probability(&mut problems, "p", self.p);
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn picture() -> Image {
        Image::new(2, 2, 3, vec![200, 30, 40, 10, 220, 90, 5, 60, 250, 128, 128, 100]).unwrap()
    }

    #[test]
    fn jitter_draws_every_order_and_stays_in_range() {
        let jitter = ColorJitter { brightness: 0.4, contrast: 0.4, saturation: 1.4, hue: 0.1 };
        let mut orders = BTreeSet::new();
        let mut extremes = [[f32::INFINITY, f32::NEG_INFINITY]; 4];
        for i in 0..4000 {
            let mut order = Vec::new();
            for change in jitter.draw(&mut SampleRng::new(0, 0, i)) {
                let (which, value) = match change {
                    Change::Brightness(v) => (0, v),
                    Change::Contrast(v) => (1, v),
                    Change::Saturation(v) => (2, v),
                    Change::Hue(v) => (3, v),
                };
                order.push(which);
                extremes[which][0] = extremes[which][0].min(value);
                extremes[which][1] = extremes[which][1].max(value);
            }
            orders.insert(order);
        }
        assert_eq!(orders.len(), 24);
        for (extreme, want) in extremes.iter().zip([[0.6, 1.4], [0.6, 1.4], [0.0, 2.4], [-0.1, 0.1]]) {
            assert!((extreme[0] - want[0]).abs() < 0.01 && extreme[0] >= want[0], "{extreme:?} {want:?}");
            assert!((extreme[1] - want[1]).abs() < 0.01 && extreme[1] <= want[1], "{extreme:?} {want:?}");
        }
    }

    #[test]
    fn no_amount_changes_nothing() {
        let rng = &mut SampleRng::new(0, 0, 0);
        let out = ColorJitter::default().transform(picture(), rng).unwrap();
        assert_eq!(out.data(), picture().data());
        let grey = Image::new(1, 1, 1, vec![7]).unwrap();
        assert_eq!(ColorJitter::default().transform(grey, rng).unwrap().data(), [7, 7, 7]);
    }

    #[test]
    fn grayscale_happens_as_often_as_asked() {
        let op = RandomGrayscale { p: 0.2 };
        let grey = (0..5000)
            .filter(|&i| {
                let out = op.transform(picture(), &mut SampleRng::new(0, 0, i)).unwrap();
                out.data().chunks(3).all(|p| p[0] == p[1] && p[1] == p[2])
            })
            .count();
        assert!((880..1120).contains(&grey), "{grey}");
        let always = RandomGrayscale { p: 1.0 };
        let out = always.transform(picture(), &mut SampleRng::new(0, 0, 0)).unwrap();
        // (19595 * 200 + 38470 * 30 + 7471 * 40 + 32768) / 65536 = 82.
        assert_eq!(out.pixel(0, 0), Some(&[82, 82, 82][..]));
    }

    #[test]
    fn names_wrong_fields() {
        let bad = ColorJitter { brightness: -0.1, contrast: f64::NAN, saturation: 0.0, hue: 0.6 };
        assert_eq!(bad.problems().len(), 3);
        assert_eq!(RandomGrayscale { p: 1.1 }.problems(), ["p: 1.1, must be between 0 and 1"]);
    }
}
