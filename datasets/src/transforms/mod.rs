//! Random and fixed changes to pictures, with torchvision's semantics.
//!
//! Each operation is a small struct that can be written in a configuration file; [`ImageOp`] is any of
//! them and [`Pipeline`] a list of them that ends in numbers:
//!
//! ```
//! use vision_datasets::transforms::ImageOp;
//!
//! #[derive(serde::Deserialize)]
//! struct Config {
//!     augment: Vec<ImageOp>,
//! }
//! let config: Config = toml::from_str(r#"
//!     augment = [
//!         { op = "random_resized_crop", size = [32, 32], scale = [0.2, 1.0] },
//!         { op = "color_jitter", brightness = 0.4, contrast = 0.4, saturation = 0.4, hue = 0.4 },
//!         { op = "random_grayscale", p = 0.2 },
//!     ]
//! "#)?;
//! assert_eq!(config.augment.len(), 3);
//! assert!(config.augment.iter().all(|op| op.problems().is_empty()));
//! # Ok::<(), toml::de::Error>(())
//! ```

mod colour;
mod filter;
mod geometry;
mod op;
mod pipeline;
mod pixels;
mod random_resized_crop;
mod segmentation;

pub use colour::{ColorJitter, RandomGrayscale};
pub use geometry::{CenterCrop, PadTo, RandomCrop, RandomHorizontalFlip, Resize, ResizeShortSide, ToRgb};
pub use op::{Compose, ImageOp};
pub use pipeline::{LabelledPixels, Pipeline};
pub use pixels::{Pixels, ToPixels};
pub use random_resized_crop::RandomResizedCrop;
pub use segmentation::{
    PadRightBottom, RandomBlur, RandomFactor, RandomRotation, RandomSide, SegmentationOp,
    SegmentationPipeline, SegmentationPreset, SegmentedPixels, Side, TrainSizes,
};

use vision_image::Image;

use crate::{Result, SampleRng};

/// An operation from picture to picture.
pub trait ImageTransform {
    /// Changes `image`, drawing what is random from `rng`.
    ///
    /// # Errors
    /// If the picture cannot be changed that way.
    fn transform(&self, image: Image, rng: &mut SampleRng) -> Result<Image>;

    /// What is wrong with the settings, one sentence each that starts with the field's name; empty if
    /// nothing is.
    fn problems(&self) -> Vec<String>;
}

/// Adds a problem unless both sides are at least 1.
fn check_size(problems: &mut Vec<String>, field: &str, size: [u32; 2]) {
    if size.contains(&0) {
        problems.push(format!("{field}: {}x{}, both sides must be at least 1", size[0], size[1]));
    }
}

/// Adds a problem unless `p` is a probability.
fn check_probability(problems: &mut Vec<String>, field: &str, p: f64) {
    if !(0.0..=1.0).contains(&p) {
        problems.push(format!("{field}: {p}, must be between 0 and 1"));
    }
}
