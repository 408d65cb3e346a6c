//! From pictures to classes with nothing but a weight file.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use vision_core::Pass;
use vision_core::params::ParamStore;
use vision_core::rng::Key;
use vision_image::{Filter, Image, resize_short_side};

use crate::cifar::{CifarConfig, CifarNet};
use crate::error::{Error, Result};
use crate::predict::Normalise;
use crate::weights;

/// Where the names of classes stand in the metadata of a weight file.
const NAMES: &str = "class_names";

/// A class and how likely a picture shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Guess {
    /// The class.
    pub class: usize,
    /// Its name.
    pub name: String,
    /// Between 0 and 1; over all classes they sum to 1.
    pub probability: f64,
}

/// Finds the class of pictures.
///
/// ```no_run
/// use encnet::classify::Classifier;
/// # fn main() -> encnet::Result<()> {
/// let classifier = Classifier::load("classes.safetensors")?;
/// let picture = vision_image::open("cat.jpg")?;
/// for guesses in classifier.classify(&[picture])? {
///     println!("{}", guesses[0].name);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Classifier {
    model: CifarNet,
    size: u32,
    normalise: Normalise,
    names: Vec<String>,
    device: Device,
}

/// The parts of a stored configuration that matter here.
#[derive(Deserialize)]
struct Stored {
    model: CifarConfig,
    data: StoredData,
}

#[derive(Deserialize)]
struct StoredData {
    size: u32,
    normalise: Normalise,
}

impl Classifier {
    /// Reads a weight file of this crate on the CPU: one that was exported, or `model.safetensors` of a checkpoint.
    ///
    /// # Errors
    /// If the file is damaged, is of another system, or lacks its configuration.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        Self::load_on(path, &Device::Cpu)
    }

    /// [`Classifier::load`] on a device.
    ///
    /// # Errors
    /// As [`Classifier::load`].
    pub fn load_on(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let path = path.as_ref();
        let file = vision_weights::open(path)?;
        let metadata: BTreeMap<String, String> = file.metadata().clone();
        let Some(config) = metadata.get("config") else {
            let problem = "has no configuration in it; was it written by this crate?";
            return Err(Error::file(path, problem));
        };
        let Stored { model: config, data } = toml::from_str(config)
            .map_err(|error| Error::file(path, format!("its configuration: {}", error.message())))?;
        let names = match names_from_metadata(&metadata)? {
            Some(names) => names,
            None => (0..config.classes).map(|class| format!("class {class}")).collect(),
        };
        if names.len() != config.classes {
            return Err(Error::size("class names", config.classes, names.len()));
        }
        let params = ParamStore::new(Key::new(0), DType::F32, device);
        // Weights that are no variables are brought into the order of the kernels only once.
        params.freeze("")?;
        let model = CifarNet::new(&config, params.var_builder())?;
        weights::load_cifar(&params, file.state_dict()?)?;
        Ok(Self { model, size: data.size, normalise: data.normalise, names, device: device.clone() })
    }

    /// Names of the classes.
    pub fn class_names(&self) -> &[String] {
        &self.names
    }

    /// All classes of each picture, the most likely first. Pictures may have any size; see
    /// `data.size` of the configuration.
    ///
    /// # Errors
    /// If a picture cannot be resized or the forward pass fails.
    pub fn classify(&self, images: &[Image]) -> Result<Vec<Vec<Guess>>> {
        if images.is_empty() {
            return Ok(Vec::new());
        }
        let mut pictures = Vec::new();
        for image in images {
            let middle = resize_short_side(image, self.size, Filter::Bilinear)?;
            let picture = self.normalise.apply(&middle.center_crop(self.size, self.size)?)?;
            pictures.push(picture.nhwc().clone());
        }
        let input = Tensor::cat(&pictures, 0)?.to_device(&self.device)?.permute((0, 3, 1, 2))?;
        let logits: Vec<Vec<f32>> = self.model.forward(&input, &Pass::inference())?.to_vec2()?;
        Ok(logits.iter().map(|logits| self.guesses(logits)).collect())
    }

    fn guesses(&self, logits: &[f32]) -> Vec<Guess> {
        let probabilities = probabilities(logits);
        let guess = |class: usize| {
            let (name, &probability) = (self.names.get(class)?, probabilities.get(class)?);
            Some(Guess { class, name: name.clone(), probability })
        };
        ranking(&probabilities).into_iter().filter_map(guess).collect()
    }
}

/// Softmax of the logits of one picture.
pub(super) fn probabilities(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shares: Vec<f64> = logits.iter().map(|&logit| f64::from(logit - largest).exp()).collect();
    let sum: f64 = shares.iter().sum();
    shares.into_iter().map(|share| share / sum).collect()
}

/// All classes, the most likely first, among equals the one that is counted first.
pub(super) fn ranking(probabilities: &[f64]) -> Vec<usize> {
    let mut order: Vec<(usize, f64)> = probabilities.iter().copied().enumerate().collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1));
    order.into_iter().map(|(class, _)| class).collect()
}

fn names_from_metadata(metadata: &BTreeMap<String, String>) -> Result<Option<Vec<String>>> {
    let parse = |text: &String| {
        serde_json::from_str(text)
            .map_err(|error| Error::config(NAMES, format!("in the weight file's metadata: {error}")))
    };
    metadata.get(NAMES).map(parse).transpose()
}

/// The names of classes as they travel with weights.
#[cfg(feature = "train")]
pub(super) fn names_to_metadata(names: &[String]) -> Result<BTreeMap<String, String>> {
    let text = serde_json::to_string(names).map_err(|error| Error::config(NAMES, error.to_string()))?;
    Ok(BTreeMap::from([(NAMES.to_owned(), text)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_sum_to_one_and_rank() {
        let found = probabilities(&[1.0, 1000.0, 999.0, 1000.0]);
        assert!((found.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert!((found[1] / found[2] - 1f64.exp()).abs() < 1e-9);
        assert_eq!(ranking(&found), [1, 3, 2, 0]);
    }
}
