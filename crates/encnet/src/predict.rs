//! From pictures to labels with nothing but a weight file.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use vision_core::params::ParamStore;
use vision_core::rng::Key;
use vision_core::{FeatureMap, Pass};
use vision_image::draw::{LabelStyle, beside, legend_of, overlay};
use vision_image::{Image, LabelMap, encode_indexed, normalise};

use crate::argmax::argmax;
use crate::classes::Classes;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::model::EncNet;
use crate::sliding::SlidingConfig;
use crate::weights;

/// Mean and standard deviation per channel, of values within 0 and 1.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Normalise {
    /// What is subtracted.
    pub mean: [f32; 3],
    /// What is divided by.
    pub std: [f32; 3],
}

impl Default for Normalise {
    /// The usual ImageNet statistics.
    fn default() -> Self {
        Self { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] }
    }
}

impl Normalise {
    /// The numbers of a picture, `(1, H, W, 3)`.
    pub(crate) fn apply(&self, image: &Image) -> Result<FeatureMap> {
        let values = normalise(image, self.mean, self.std);
        let shape = (1, image.height() as usize, image.width() as usize, 3);
        Ok(FeatureMap::from_nhwc(Tensor::from_vec(values, shape, &Device::Cpu)?)?)
    }

    /// What a black pixel becomes.
    pub(crate) fn black(&self) -> [f32; 3] {
        std::array::from_fn(|channel| -self.mean[channel] / self.std[channel])
    }
}

/// How a picture is looked at.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum View {
    /// Once, as large as it is.
    #[default]
    Whole,
    /// At several scales, by windows; see [`crate::sliding`].
    Sliding(SlidingConfig),
}

/// Labels of one picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// The class of every pixel.
    pub labels: LabelMap,
    /// What was found, the largest area first.
    pub areas: Vec<ClassArea>,
}

/// How much of a picture a class covers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassArea {
    /// The class.
    pub class: usize,
    /// Its name.
    pub name: String,
    /// Pixels.
    pub pixels: u64,
    /// Share of the picture, 0 to 1.
    pub share: f64,
}

/// Finds the class of every pixel of pictures.
///
/// ```no_run
/// use encnet::{Predictor, View};
/// # fn main() -> encnet::Result<()> {
/// // `encnet export` wrote it.
/// let predictor = Predictor::load("streets.safetensors")?;
/// let picture = vision_image::open("street.jpg")?;
/// let found = predictor.predict(&picture, &View::Whole)?;
/// for area in &found.areas {
///     println!("{:5.1} % {}", 100.0 * area.share, area.name);
/// }
/// predictor.draw(&picture, &found, 0.5)?.save("street-classes.png")?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Predictor {
    model: EncNet,
    normalise: Normalise,
    classes: Classes,
    sliding: SlidingConfig,
    device: Device,
}

/// The parts of a stored configuration that matter here.
#[derive(Deserialize)]
struct Stored {
    model: ModelConfig,
    data: StoredData,
    eval: StoredEval,
}

#[derive(Deserialize)]
struct StoredData {
    normalise: Normalise,
}

#[derive(Deserialize)]
struct StoredEval {
    sliding: SlidingConfig,
}

impl Predictor {
    /// Around a network on `device`.
    ///
    /// # Errors
    /// If the model has another number of classes than there are names.
    pub fn new(model: EncNet, classes: Classes, normalise: Normalise, device: &Device) -> Result<Self> {
        if model.classes() != classes.names.len() {
            return Err(Error::size("class names", model.classes(), classes.names.len()));
        }
        let sliding = SlidingConfig::default();
        Ok(Self { model, normalise, classes, sliding, device: device.clone() })
    }

    /// Reads a weight file of this crate on the CPU: one that was exported, or `model.safetensors` of a checkpoint.
    ///
    /// # Errors
    /// If the file is damaged, is of another system, or lacks its configuration.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        Self::load_on(path, &Device::Cpu)
    }

    /// [`Predictor::load`] on a device.
    ///
    /// # Errors
    /// As [`Predictor::load`].
    pub fn load_on(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let path = path.as_ref();
        let file = vision_weights::open(path)?;
        let metadata: BTreeMap<String, String> = file.metadata().clone();
        let Some(config) = metadata.get("config") else {
            let problem = "has no configuration in it; was it written by this crate?";
            return Err(Error::file(path, problem));
        };
        let stored: Stored = toml::from_str(config)
            .map_err(|error| Error::file(path, format!("its configuration: {}", error.message())))?;
        let classes = match Classes::from_metadata(&metadata)? {
            Some(classes) => classes,
            None => Classes::unnamed(stored.model.classes)?,
        };
        let params = ParamStore::new(Key::new(0), DType::F32, device);
        // Weights that are no variables are brought into the order of the kernels only once.
        params.freeze("")?;
        let model = EncNet::new(&stored.model, params.var_builder())?;
        weights::load(&params, file.state_dict()?)?;
        let mut predictor = Self::new(model, classes, stored.data.normalise, device)?;
        predictor.sliding = stored.eval.sliding;
        Ok(predictor)
    }

    /// Names and colours of the classes.
    pub fn classes(&self) -> &Classes {
        &self.classes
    }

    /// The network.
    pub fn model(&self) -> &EncNet {
        &self.model
    }

    /// The device of the network.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Scales and windows of the configuration that came with the weights.
    pub fn sliding(&self) -> &SlidingConfig {
        &self.sliding
    }

    /// The numbers of a picture on the network's device, `(1, 3, H, W)`.
    ///
    /// # Errors
    /// If the copy fails.
    pub(crate) fn input(&self, image: &Image) -> Result<Tensor> {
        Ok(self.normalise.apply(image)?.nhwc().to_device(&self.device)?.permute((0, 3, 1, 2))?)
    }

    /// The class of every pixel.
    ///
    /// # Errors
    /// If a setting of the view is out of range or a forward pass fails.
    pub fn predict(&self, image: &Image, view: &View) -> Result<Prediction> {
        let picture = self.normalise.apply(image)?;
        let labels = classify(&self.model, &self.device, &picture, self.normalise.black(), view)?;
        let labels = LabelMap::new(image.width(), image.height(), labels)?;
        Ok(Prediction { areas: self.areas(&labels), labels })
    }

    fn areas(&self, labels: &LabelMap) -> Vec<ClassArea> {
        let total = labels.data().len() as f64;
        let counts = labels.counts();
        let mut areas: Vec<ClassArea> = self
            .classes
            .names
            .iter()
            .zip(counts)
            .enumerate()
            .filter(|(_, (_, pixels))| *pixels > 0)
            .map(|(class, (name, pixels))| ClassArea {
                class,
                name: name.clone(),
                pixels,
                share: pixels as f64 / total,
            })
            .collect();
        areas.sort_by_key(|area| std::cmp::Reverse(area.pixels));
        areas
    }

    /// The picture with the colours of its classes over it, `alpha` of them and the rest of the picture, and a legend
    /// beside it.
    ///
    /// # Errors
    /// If the prediction is of a picture of another size.
    pub fn draw(&self, image: &Image, found: &Prediction, alpha: f32) -> Result<Image> {
        let parts = [self.overlay(image, found, alpha)?, self.legend(&found.labels.counts())?];
        Ok(beside(&parts, 8, [255; 3])?)
    }

    /// [`draw`](Self::draw) without the legend: of the picture's own size, as frames of a video have to be.
    ///
    /// # Errors
    /// As [`draw`](Self::draw).
    pub fn overlay(&self, image: &Image, found: &Prediction, alpha: f32) -> Result<Image> {
        let style = LabelStyle { alpha, ..LabelStyle::new(&self.classes.palette) };
        Ok(overlay(image, &found.labels, &style)?)
    }

    /// Names, colours and shares of the classes that occur, from the number of pixels of each label
    /// ([`LabelMap::counts`]), of one picture or of many together.
    ///
    /// # Errors
    /// If a label that occurs is no class.
    pub fn legend(&self, counts: &[u64; 256]) -> Result<Image> {
        Ok(legend_of(counts, &self.classes.names, &LabelStyle::new(&self.classes.palette))?)
    }

    /// A PNG file of the labels with the classes' colours as its palette: looks like a drawing, reads as numbers. With
    /// `submission`, labels are counted as the benchmark of the set wants them.
    ///
    /// # Errors
    /// If there are too many classes for a byte.
    pub fn encode(&self, found: &Prediction, submission: bool) -> Result<Vec<u8>> {
        let offset = if submission { self.classes.submission_offset } else { 0 };
        let data: Option<Vec<u8>> =
            found.labels.data().iter().map(|label| label.checked_add(offset)).collect();
        let data = data.ok_or_else(|| Error::size("labels", "at most 255 with their offset", "more"))?;
        let mut palette = vec![[0; 3]; usize::from(offset)];
        palette.extend(&self.classes.palette);
        let labels = LabelMap::new(found.labels.width(), found.labels.height(), data)?;
        Ok(encode_indexed(&labels, &palette)?)
    }
}

/// The class of every pixel of a normalised picture, `(1, H, W, 3)` on the CPU; `black` is what a black pixel became.
pub(crate) fn classify(
    model: &EncNet,
    device: &Device,
    picture: &FeatureMap,
    black: [f32; 3],
    view: &View,
) -> Result<Vec<u8>> {
    let logits = |windows: &FeatureMap| {
        let windows = windows.nhwc().to_device(device)?.permute((0, 3, 1, 2))?;
        model.predict(&windows, &Pass::inference())
    };
    match view {
        View::Whole => decide(&logits(picture)?),
        View::Sliding(config) => {
            let scores = config.scores(picture, &black, model.classes(), |windows| {
                Ok(FeatureMap::from_nhwc(logits(windows)?.nhwc().to_device(&Device::Cpu)?)?)
            })?;
            bytes(scores.argmax())
        }
    }
}

/// The class of every pixel of logits `(N, H, W, classes)`, among equals the first.
pub(crate) fn decide(logits: &FeatureMap) -> Result<Vec<u8>> {
    let (.., classes) = logits.dims()?;
    bytes(argmax(&logits.nhwc().flatten_all()?.to_vec1::<f32>()?, classes))
}

/// Classes as labels of a picture.
fn bytes(classes: Vec<u32>) -> Result<Vec<u8>> {
    let byte =
        |class: u32| u8::try_from(class).ok().ok_or_else(|| Error::size("class", "at most 255", class));
    classes.into_iter().map(byte).collect()
}
