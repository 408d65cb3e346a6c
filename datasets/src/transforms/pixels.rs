//! From pictures to numbers.

use serde::{Deserialize, Serialize};
use vision_image::{Image, normalise};

use crate::{Error, Result};

/// A picture as numbers, ready to be copied into a tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Pixels {
    /// Row by row, the channels of a pixel side by side (HWC); `height * width * channels` numbers.
    pub data: Vec<f32>,
    /// Height in pixels.
    pub height: usize,
    /// Width in pixels.
    pub width: usize,
    /// Numbers per pixel.
    pub channels: usize,
}

/// Makes a picture RGB, brings its values to 0..1, subtracts `mean` and divides by `std`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ToPixels {
    /// What is subtracted, per channel (red, green, blue), on the scale 0..1.
    pub mean: [f32; 3],
    /// What is divided by, per channel, on the scale 0..1; not 0.
    pub std: [f32; 3],
}

impl Default for ToPixels {
    /// The usual ImageNet statistics.
    fn default() -> Self {
        Self::IMAGENET
    }
}

impl ToPixels {
    /// The usual ImageNet statistics.
    pub const IMAGENET: Self = Self { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
    /// The usual CIFAR-10 statistics.
    pub const CIFAR10: Self = Self { mean: [0.4914, 0.4822, 0.4465], std: [0.2023, 0.1994, 0.2010] };

    /// What is wrong with the settings, one sentence each; empty if nothing is.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !self.mean.iter().all(|mean| mean.is_finite()) {
            problems.push(format!("mean: {:?}, must be finite", self.mean));
        }
        if !self.std.iter().all(|&std| std > 0.0 && std.is_finite()) {
            problems.push(format!("std: {:?}, must be above 0", self.std));
        }
        problems
    }

    /// The numbers of `image`. Grey is repeated in all three channels, transparency is laid over white.
    ///
    /// # Errors
    /// If the settings are not usable (see [`problems`](Self::problems)).
    pub fn convert(&self, image: &Image) -> Result<Pixels> {
        if let Some(problem) = self.problems().into_iter().next() {
            return Err(Error::argument("to_pixels", problem));
        }
        let data = normalise(image, self.mean, self.std);
        Ok(Pixels { data, height: image.height() as usize, width: image.width() as usize, channels: 3 })
    }

    /// Back to a picture, for showing what a model saw; values are rounded and cut to a byte.
    ///
    /// # Errors
    /// If `pixels` does not hold three channels or not as many numbers as its sizes say.
    pub fn invert(&self, pixels: &Pixels) -> Result<Image> {
        if pixels.channels != 3 {
            return Err(Error::argument("pixels", format!("{} channels, must have 3", pixels.channels)));
        }
        let data = pixels
            .data
            .iter()
            .zip(self.mean.iter().zip(&self.std).cycle())
            // A float out of range becomes the nearest byte.
            .map(|(value, (mean, std))| ((value * std + mean) * 255.0).round() as u8)
            .collect();
        Ok(Image::new(pixels.width as u32, pixels.height as u32, 3, data)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises_row_by_row() {
        let image = Image::new(2, 1, 3, vec![0, 255, 51, 102, 0, 255]).unwrap();
        let op = ToPixels { mean: [0.5, 0.0, 0.2], std: [0.5, 1.0, 0.25] };
        let pixels = op.convert(&image).unwrap();
        assert_eq!((pixels.height, pixels.width, pixels.channels), (1, 2, 3));
        let want = [-1.0, 1.0, 0.0, -0.2, 0.0, 3.2];
        assert!(pixels.data.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{:?}", pixels.data);
        assert_eq!(op.invert(&pixels).unwrap().data(), image.data());
    }

    #[test]
    fn grey_is_repeated() {
        let image = Image::new(1, 1, 1, vec![255]).unwrap();
        let op = ToPixels { mean: [0.0; 3], std: [1.0, 0.5, 0.25] };
        assert_eq!(op.convert(&image).unwrap().data, [1.0, 2.0, 4.0]);
    }

    #[test]
    fn refuses_useless_settings() {
        let image = Image::new(1, 1, 1, vec![255]).unwrap();
        assert!(ToPixels { mean: [0.0; 3], std: [0.0, 1.0, 1.0] }.convert(&image).is_err());
        assert_eq!(ToPixels { mean: [f32::NAN; 3], std: [-1.0; 3] }.problems().len(), 2);
    }
}
