//! Operations that move the pixels of a picture and its labels, and one that blurs the picture.

use serde::{Deserialize, Serialize};
use vision_image::{Filter, Image, LabelMap, gaussian_blur, rotate};

use super::{PairTransform, fill, ignored, moved};
use crate::transforms::{
    CenterCrop, ImageTransform, RandomCrop, RandomHorizontalFlip, ResizeShortSide, check_probability,
    check_size,
};
use crate::{IGNORE_LABEL, Result, SampleRng};

impl PairTransform for RandomHorizontalFlip {
    fn transform(&self, image: Image, labels: LabelMap, rng: &mut SampleRng) -> Result<(Image, LabelMap)> {
        if rng.uniform_f64() >= self.p {
            return Ok((image, labels));
        }
        Ok((image.flip_horizontal(), moved(labels, |labels| Ok(labels.flip_horizontal()))?))
    }

    fn problems(&self) -> Vec<String> {
        ImageTransform::problems(self)
    }
}

impl PairTransform for ResizeShortSide {
    fn transform(&self, image: Image, labels: LabelMap, rng: &mut SampleRng) -> Result<(Image, LabelMap)> {
        let image = ImageTransform::transform(self, image, rng)?;
        let size = [image.width(), image.height()];
        let labels =
            moved(labels, |labels| vision_image::resize(&labels, size[0], size[1], Filter::Nearest))?;
        Ok((image, labels))
    }

    fn problems(&self) -> Vec<String> {
        ImageTransform::problems(self)
    }
}

/// What lies outside is black and ignored.
impl PairTransform for CenterCrop {
    fn transform(&self, image: Image, labels: LabelMap, rng: &mut SampleRng) -> Result<(Image, LabelMap)> {
        let half = |spare: u32| [spare / 2, spare - spare / 2];
        let [left, right] = half(self.width.saturating_sub(labels.width()));
        let [top, bottom] = half(self.height.saturating_sub(labels.height()));
        let labels = moved(labels, |labels| {
            labels.pad(left, top, right, bottom, &[IGNORE_LABEL])?.center_crop(self.width, self.height)
        })?;
        Ok((ImageTransform::transform(self, image, rng)?, labels))
    }

    fn problems(&self) -> Vec<String> {
        ImageTransform::problems(self)
    }
}

/// Turns picture and labels by a random angle around the middle, on the same canvas: the picture as Pillow's bilinear
/// rotation, the labels by nearest sample.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RandomRotation {
    /// The largest angle in degrees; the angle is drawn evenly from `-degrees..degrees`.
    pub degrees: f64,
    /// The colour of corners that come from outside the picture.
    pub color: [u8; 3],
    /// The label of those corners.
    pub label: u8,
}

impl Default for RandomRotation {
    /// Ten degrees; corners are black and ignored.
    fn default() -> Self {
        Self { degrees: 10.0, color: [0; 3], label: IGNORE_LABEL }
    }
}

impl PairTransform for RandomRotation {
    fn transform(&self, image: Image, labels: LabelMap, rng: &mut SampleRng) -> Result<(Image, LabelMap)> {
        let degrees = rng.range(-self.degrees, self.degrees);
        let image = rotate(&image, degrees, Filter::Bilinear, &fill(&image, self.color)?)?;
        let labels = moved(labels, |labels| rotate(&labels, degrees, Filter::Nearest, &[self.label]))?;
        Ok((image, labels))
    }

    fn problems(&self) -> Vec<String> {
        if (0.0..=180.0).contains(&self.degrees) {
            return Vec::new();
        }
        vec![format!("degrees: {}, must be between 0 and 180", self.degrees)]
    }
}

/// With probability `p`, blurs the picture as Pillow's `GaussianBlur` of a random radius; the labels stay.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RandomBlur {
    /// How often, between 0 and 1.
    pub p: f64,
    /// The smallest and largest radius (standard deviation) in pixels, drawn evenly.
    pub radius: [f64; 2],
}

impl Default for RandomBlur {
    fn default() -> Self {
        Self { p: 0.5, radius: [0.0, 1.0] }
    }
}

impl PairTransform for RandomBlur {
    fn transform(&self, image: Image, labels: LabelMap, rng: &mut SampleRng) -> Result<(Image, LabelMap)> {
        if rng.uniform_f64() >= self.p {
            return Ok((image, labels));
        }
        let radius = rng.range(self.radius[0], self.radius[1]);
        Ok((gaussian_blur(&image, radius as f32)?, labels))
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        check_probability(&mut problems, "p", self.p);
        let [low, high] = self.radius;
        if !(low >= 0.0 && low <= high && high <= 10_000.0) {
            problems.push(format!("radius: [{low}, {high}], must be 0 <= low <= high <= 10000"));
        }
        problems
    }
}

/// Makes a picture at least that large by columns on the right and rows at the bottom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PadRightBottom {
    /// Least width of the result in pixels.
    pub width: u32,
    /// Least height of the result in pixels.
    pub height: u32,
    /// The colour of what is added; black unless said otherwise.
    #[serde(default)]
    pub color: [u8; 3],
    /// The label of what is added; ignored unless said otherwise.
    #[serde(default = "ignored")]
    pub label: u8,
}

impl PairTransform for PadRightBottom {
    fn transform(&self, image: Image, labels: LabelMap, _rng: &mut SampleRng) -> Result<(Image, LabelMap)> {
        let right = self.width.saturating_sub(image.width());
        let bottom = self.height.saturating_sub(image.height());
        if right == 0 && bottom == 0 {
            return Ok((image, labels));
        }
        let image = image.pad(0, 0, right, bottom, &fill(&image, self.color)?)?;
        Ok((image, moved(labels, |labels| labels.pad(0, 0, right, bottom, &[self.label]))?))
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        check_size(&mut problems, "width, height", [self.width, self.height]);
        problems
    }
}

impl PairTransform for RandomCrop {
    fn transform(&self, image: Image, labels: LabelMap, rng: &mut SampleRng) -> Result<(Image, LabelMap)> {
        let [x, y] = self.place(&image, rng)?;
        let (width, height) = (self.width, self.height);
        Ok((image.crop(x, y, width, height)?, moved(labels, |labels| labels.crop(x, y, width, height))?))
    }

    fn problems(&self) -> Vec<String> {
        ImageTransform::problems(self)
    }
}
