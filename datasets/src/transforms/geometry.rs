//! Operations that move pixels.

use serde::{Deserialize, Serialize};
use vision_image::{Filter, Image, resize, resize_short_side};

use super::{ImageTransform, check_probability, check_size};
use crate::{Error, Result, SampleRng};

/// With probability `p`, mirrors the picture left to right.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RandomHorizontalFlip {
    /// How often, between 0 and 1.
    pub p: f64,
}

impl Default for RandomHorizontalFlip {
    fn default() -> Self {
        Self { p: 0.5 }
    }
}

impl ImageTransform for RandomHorizontalFlip {
    fn transform(&self, image: Image, rng: &mut SampleRng) -> Result<Image> {
        Ok(if rng.uniform_f64() < self.p { image.flip_horizontal() } else { image })
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        check_probability(&mut problems, "p", self.p);
        problems
    }
}

/// Resizes to exactly `width` x `height`, whatever the shape was.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// New width in pixels.
    pub width: u32,
    /// New height in pixels.
    pub height: u32,
    /// How. Bilinear unless said otherwise.
    #[serde(with = "super::filter", default = "bilinear")]
    pub filter: Filter,
}

fn bilinear() -> Filter {
    Filter::Bilinear
}

impl ImageTransform for Resize {
    fn transform(&self, image: Image, _rng: &mut SampleRng) -> Result<Image> {
        Ok(resize(&image, self.width, self.height, self.filter)?)
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        check_size(&mut problems, "width, height", [self.width, self.height]);
        problems
    }
}

/// Resizes so that the shorter side becomes `size`, keeping the shape; torchvision's `Resize(int)`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResizeShortSide {
    /// New length of the shorter side in pixels.
    pub size: u32,
    /// How. Bilinear unless said otherwise.
    #[serde(with = "super::filter", default = "bilinear")]
    pub filter: Filter,
}

impl ImageTransform for ResizeShortSide {
    fn transform(&self, image: Image, _rng: &mut SampleRng) -> Result<Image> {
        Ok(resize_short_side(&image, self.size, self.filter)?)
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        check_size(&mut problems, "size", [self.size, self.size]);
        problems
    }
}

/// Cuts out the middle. A picture that is too small is padded with black first, as in torchvision.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CenterCrop {
    /// New width in pixels.
    pub width: u32,
    /// New height in pixels.
    pub height: u32,
}

impl ImageTransform for CenterCrop {
    fn transform(&self, image: Image, _rng: &mut SampleRng) -> Result<Image> {
        let image = pad_to(image, self.width, self.height, [0; 3])?;
        // Half pixels are rounded to even.
        let half = |spare: u32| (f64::from(spare) / 2.0).round_ties_even() as u32;
        let (x, y) = (half(image.width() - self.width), half(image.height() - self.height));
        Ok(image.crop(x, y, self.width, self.height)?)
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        check_size(&mut problems, "width, height", [self.width, self.height]);
        problems
    }
}

/// Cuts out a part of this size at a random place, all equally likely. For torchvision's `RandomCrop(32, padding=4)` put a
/// [`PadTo`] of 40x40 before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomCrop {
    /// Width of the result in pixels.
    pub width: u32,
    /// Height of the result in pixels.
    pub height: u32,
}

impl RandomCrop {
    /// The left and upper edge of a part of `image`.
    ///
    /// # Errors
    /// If the picture is smaller than the part.
    pub(super) fn place(self, image: &Image, rng: &mut SampleRng) -> Result<[u32; 2]> {
        let spare = |have: u32, want: u32| have.checked_sub(want);
        let (Some(x), Some(y)) = (spare(image.width(), self.width), spare(image.height(), self.height))
        else {
            let problem = format!(
                "{}x{} pixels cannot be cut out of {}x{}; pad first",
                self.width,
                self.height,
                image.width(),
                image.height()
            );
            return Err(Error::argument("random_crop", problem));
        };
        // At most 2^32 places, so the draw fits.
        let mut choose = |spare: u32| rng.below_u64(u64::from(spare) + 1) as u32;
        Ok([choose(x), choose(y)])
    }
}

impl ImageTransform for RandomCrop {
    fn transform(&self, image: Image, rng: &mut SampleRng) -> Result<Image> {
        let [x, y] = self.place(&image, rng)?;
        Ok(image.crop(x, y, self.width, self.height)?)
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        check_size(&mut problems, "width, height", [self.width, self.height]);
        problems
    }
}

/// Puts the picture in the middle of a larger one; an odd pixel goes to the right and the bottom. Sides
/// that are already long enough stay as they are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PadTo {
    /// Least width of the result in pixels.
    pub width: u32,
    /// Least height of the result in pixels.
    pub height: u32,
    /// What surrounds the picture, as RGB; black unless said otherwise. On grey pictures its grey value.
    #[serde(default)]
    pub color: [u8; 3],
}

impl ImageTransform for PadTo {
    fn transform(&self, image: Image, _rng: &mut SampleRng) -> Result<Image> {
        pad_to(image, self.width, self.height, self.color)
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        check_size(&mut problems, "width, height", [self.width, self.height]);
        problems
    }
}

fn pad_to(image: Image, width: u32, height: u32, color: [u8; 3]) -> Result<Image> {
    let spare_x = width.saturating_sub(image.width());
    let spare_y = height.saturating_sub(image.height());
    if spare_x == 0 && spare_y == 0 {
        return Ok(image);
    }
    let [r, g, b] = color;
    let fill = match image.channels() {
        1 => Image::filled(1, 1, &color)?.to_gray().into_data(),
        4 => vec![r, g, b, 255],
        _ => color.to_vec(),
    };
    let (left, top) = (spare_x / 2, spare_y / 2);
    Ok(image.pad(left, top, spare_x - left, spare_y - top, &fill)?)
}

/// Makes the picture RGB: grey is repeated, transparency is laid over white.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToRgb {}

impl ImageTransform for ToRgb {
    fn transform(&self, image: Image, _rng: &mut SampleRng) -> Result<Image> {
        Ok(if image.channels() == 3 { image } else { image.to_rgb() })
    }

    fn problems(&self) -> Vec<String> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(width: u32, height: u32) -> Image {
        Image::new(width, height, 1, (0..width * height).map(|v| v as u8).collect()).unwrap()
    }

    fn rng() -> SampleRng {
        SampleRng::new(0, 0, 0)
    }

    #[test]
    fn flip_is_a_coin() {
        let op = RandomHorizontalFlip::default();
        let flipped = (0..4000)
            .filter(|&i| {
                let out = op.transform(ramp(2, 1), &mut SampleRng::new(0, 0, i)).unwrap();
                out.data() == [1, 0]
            })
            .count();
        assert!((1850..2150).contains(&flipped), "{flipped}");
    }

    #[test]
    fn crops_anywhere_and_equally_often() {
        let op = RandomCrop { width: 2, height: 1 };
        let mut counts = [0; 6];
        for index in 0..6000 {
            // The value of a pixel of the ramp is its place.
            let out = op.transform(ramp(4, 2), &mut SampleRng::new(0, 0, index)).unwrap();
            assert_eq!((out.width(), out.height(), out.data()[1]), (2, 1, out.data()[0] + 1));
            counts[usize::from(out.data()[0] % 4 + 3 * (out.data()[0] / 4))] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
        let message = op.transform(ramp(1, 2), &mut rng()).unwrap_err().to_string();
        assert!(message.contains("2x1") && message.contains("1x2"), "{message}");
        assert_eq!(RandomCrop { width: 0, height: 1 }.problems().len(), 1);
    }

    #[test]
    fn pads_around_the_middle() {
        let out = PadTo { width: 4, height: 3, color: [255; 3] }.transform(ramp(1, 1), &mut rng()).unwrap();
        assert_eq!(out.data(), [255, 255, 255, 255, 255, 0, 255, 255, 255, 255, 255, 255]);
        let same = PadTo { width: 1, height: 1, color: [0; 3] }.transform(ramp(3, 2), &mut rng()).unwrap();
        assert_eq!(same.data(), ramp(3, 2).data());
        let out = PadTo { width: 32, height: 32, color: [0; 3] }.transform(ramp(28, 28), &mut rng()).unwrap();
        assert_eq!((out.width(), out.height()), (32, 32));
        assert_eq!(out.pixel(3, 2), Some(&[1][..]));
    }

    #[test]
    fn crops_the_middle_or_pads() {
        let out = CenterCrop { width: 2, height: 2 }.transform(ramp(4, 4), &mut rng()).unwrap();
        assert_eq!(out.data(), [5, 6, 9, 10]);
        // Spare 3: 1.5 rounds to 2.  Spare 1: 0.5 rounds to 0.
        let out = CenterCrop { width: 1, height: 1 }.transform(ramp(4, 2), &mut rng()).unwrap();
        assert_eq!(out.data(), [2]);
        let out = CenterCrop { width: 3, height: 1 }.transform(ramp(1, 1), &mut rng()).unwrap();
        assert_eq!(out.data(), [0, 0, 0]);
    }

    #[test]
    fn resizes() {
        let op = Resize { width: 6, height: 3, filter: Filter::Nearest };
        let out = op.transform(ramp(2, 1), &mut rng()).unwrap();
        assert_eq!(out.data(), [0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1]);
        let op = ResizeShortSide { size: 4, filter: Filter::Bilinear };
        let out = op.transform(ramp(16, 8), &mut rng()).unwrap();
        assert_eq!((out.width(), out.height()), (8, 4));
        assert_eq!(ToRgb {}.transform(ramp(1, 1), &mut rng()).unwrap().channels(), 3);
    }
}
