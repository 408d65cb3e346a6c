//! From pictures to features with nothing but a weight file.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use vision_core::Pass;
use vision_core::params::ParamStore;
use vision_core::rng::Key;
use vision_image::{Filter, Image, normalise, resize, resize_short_side};

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::model::InstDisc;
use crate::weights;

/// How a picture becomes the network's input.
#[derive(Clone, Debug, PartialEq)]
pub struct InputRule {
    /// Size operations, in order.
    pub steps: Vec<SizeStep>,
    /// Mean per channel, of values within 0 and 1.
    pub mean: [f32; 3],
    /// Standard deviation per channel.
    pub std: [f32; 3],
}

/// One size operation.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum SizeStep {
    /// To an exact size.
    Resize {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// The shorter side to a length, the other in proportion.
    ResizeShortSide {
        /// Length in pixels.
        size: u32,
    },
    /// The middle part.
    CenterCrop {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// Into the middle of a larger black picture.
    PadTo {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// Three channels; they always are here.
    ToRgb {},
}

impl InputRule {
    /// The normalised values of a picture, `(H, W, 3)`, with height and width.
    ///
    /// # Errors
    /// If a size operation fails.
    pub fn apply(&self, image: &Image) -> Result<(Vec<f32>, usize, usize)> {
        let mut image = image.to_rgb();
        for step in &self.steps {
            image = match *step {
                SizeStep::Resize { width, height } => resize(&image, width, height, Filter::Bilinear)?,
                SizeStep::ResizeShortSide { size } => resize_short_side(&image, size, Filter::Bilinear)?,
                SizeStep::CenterCrop { width, height } => image.center_crop(width, height)?,
                SizeStep::PadTo { width, height } => {
                    let (x, y) = (width.saturating_sub(image.width()), height.saturating_sub(image.height()));
                    image.pad(x / 2, y / 2, x - x / 2, y - y / 2, &[0, 0, 0])?
                }
                SizeStep::ToRgb {} => image,
            };
        }
        let values = normalise(&image, self.mean, self.std);
        Ok((values, image.height() as usize, image.width() as usize))
    }
}

/// Turns pictures into features.
///
/// ```no_run
/// use instdisc::Embedder;
/// # fn main() -> instdisc::Result<()> {
/// // `instdisc export` wrote it.
/// let embedder = Embedder::load("pictures.safetensors")?;
/// let picture = vision_image::open("cat.jpg")?;
/// let feature = embedder.embed(&[picture])?;
/// println!("{} numbers", feature[0].len());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Embedder {
    model: InstDisc,
    rule: InputRule,
}

/// The parts of a stored configuration that matter here.
#[derive(Deserialize)]
struct Stored {
    model: ModelConfig,
    data: StoredData,
}

#[derive(Deserialize)]
struct StoredData {
    test: Vec<SizeStep>,
    normalise: StoredNormalise,
}

#[derive(Deserialize)]
struct StoredNormalise {
    mean: [f32; 3],
    std: [f32; 3],
}

impl Embedder {
    /// Around a network and the rule for its input.
    pub fn new(model: InstDisc, rule: InputRule) -> Self {
        Self { model, rule }
    }

    /// Reads a weight file of this crate: one that was exported, or `model.safetensors` of a checkpoint.
    ///
    /// # Errors
    /// If the file is damaged, is of another system, or lacks its configuration.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = vision_weights::open(path)?;
        let metadata = file.metadata();
        let config = metadata
            .get("config")
            .ok_or_else(|| Error::file(path, "has no configuration in it; was it written by this crate?"))?;
        let stored: Stored = toml::from_str(config)
            .map_err(|error| Error::file(path, format!("its configuration: {}", error.message())))?;
        let params = ParamStore::new(Key::new(0), DType::F32, &Device::Cpu);
        // Weights that are no variables are brought into the order of the kernels only once.
        params.freeze("")?;
        let model = InstDisc::new(&stored.model, params.var_builder())?;
        weights::load(&params, file.state_dict()?)?;
        let StoredNormalise { mean, std } = stored.data.normalise;
        Ok(Self::new(model, InputRule { steps: stored.data.test, mean, std }))
    }

    /// One unit vector per picture. Pictures may differ in size only if the input rule fixes it.
    ///
    /// # Errors
    /// If a picture cannot be brought to the network's input size, or sizes differ.
    pub fn embed(&self, images: &[Image]) -> Result<Vec<Vec<f32>>> {
        let mut pixels = Vec::new();
        let mut size = None;
        for image in images {
            let (values, height, width) = self.rule.apply(image)?;
            let expected = *size.get_or_insert((height, width));
            if expected != (height, width) {
                return Err(Error::size(
                    "picture",
                    format!("{} x {} as the others", expected.1, expected.0),
                    format!("{width} x {height}"),
                ));
            }
            pixels.extend(values);
        }
        let Some((height, width)) = size else { return Ok(Vec::new()) };
        let input = Tensor::from_vec(pixels, (images.len(), height, width, 3), &Device::Cpu)?;
        let output = self.model.forward(&input.permute((0, 3, 1, 2))?, &Pass::inference())?;
        Ok(output.embedding.to_vec2()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_sizes_and_normalises() {
        let rule = InputRule {
            steps: vec![
                SizeStep::ResizeShortSide { size: 8 },
                SizeStep::CenterCrop { width: 8, height: 8 },
                SizeStep::PadTo { width: 10, height: 8 },
            ],
            mean: [0.5; 3],
            std: [0.25; 3],
        };
        let grey = Image::filled(32, 16, &[255]).unwrap();
        let (values, height, width) = rule.apply(&grey).unwrap();
        assert_eq!((height, width, values.len()), (8, 10, 240));
        assert_eq!((values[0], values[3]), (-2.0, 2.0));
    }
}
