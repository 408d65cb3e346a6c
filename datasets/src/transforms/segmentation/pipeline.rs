//! From a picture and its labels to numbers, in one transform.

use serde::{Deserialize, Serialize};
use vision_image::LabelMap;

use super::SegmentationOp;
use crate::transforms::{Pixels, ToPixels};
use crate::{Error, Result, SampleRng, Segmented, Transform};

/// Operations on a picture and its labels, then normalisation of the picture. Describes a whole augmentation in a
/// configuration file.
///
/// Without operations it only normalises, which is what pictures of any size get that are evaluated whole.
///
/// ```
/// use vision_datasets::transforms::{SegmentationPipeline, SegmentationPreset, TrainSizes};
/// use vision_datasets::{ContextScenes, Dataset, SampleRng, Transform};
///
/// let sizes = TrainSizes { base: 64, crop: 48, ..TrainSizes::default() };
/// let pipeline = SegmentationPreset::V1.train(&sizes)?;
/// let sample = ContextScenes::new("train", 8, 0)?.get(3)?;
/// let numbers = pipeline.apply(sample, &mut SampleRng::new(0, 0, 3))?;
/// assert_eq!((numbers.pixels.width, numbers.labels.height()), (48, 48));
///
/// // The same thing as text.
/// let text: SegmentationPipeline = toml::from_str(r#"
///     ops = [
///         { op = "random_horizontal_flip" },
///         { op = "random_side", side = "long", range = [32, 128] },
///         { op = "pad_right_bottom", width = 48, height = 48 },
///         { op = "random_crop", width = 48, height = 48 },
///     ]
/// "#)?;
/// assert_eq!(text, pipeline);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SegmentationPipeline {
    /// The operations, first to last.
    pub ops: Vec<SegmentationOp>,
    /// The normalisation.
    pub normalise: ToPixels,
}

/// One sample as numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct SegmentedPixels {
    /// The picture.
    pub pixels: Pixels,
    /// Its labels, of the same size.
    pub labels: LabelMap,
    /// The number of the sample in its set.
    pub index: usize,
    /// What to call the sample in messages.
    pub name: String,
}

impl SegmentationPipeline {
    /// Operations `ops`, then `normalise`.
    ///
    /// # Errors
    /// If a setting is out of range; see [`validate`](Self::validate).
    pub fn new(ops: Vec<SegmentationOp>, normalise: ToPixels) -> Result<Self> {
        let pipeline = Self { ops, normalise };
        pipeline.validate()?;
        Ok(pipeline)
    }

    /// What is wrong with the settings: one sentence each that names the operation, as in
    /// `ops: 0 (random_blur): p: 2, must be between 0 and 1`.
    pub fn problems(&self) -> Vec<String> {
        let of = |(at, op): (usize, &SegmentationOp)| {
            let name = op.name();
            op.problems().into_iter().map(move |problem| format!("ops: {at} ({name}): {problem}"))
        };
        let normalise = self.normalise.problems().into_iter().map(|problem| format!("normalise: {problem}"));
        self.ops.iter().enumerate().flat_map(of).chain(normalise).collect()
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// If there is anything in [`problems`](Self::problems); all of it is in the message.
    pub fn validate(&self) -> Result<()> {
        let problems = self.problems();
        if problems.is_empty() { Ok(()) } else { Err(Error::argument("pipeline", problems.join("; "))) }
    }

    /// Width and height of every result, if an operation fixes them whatever the picture's size. Sets of mixed sizes
    /// can only be put into batches then.
    pub fn output_size(&self) -> Option<[u32; 2]> {
        self.ops.iter().fold(None, |size, op| op.output_size(size))
    }

    /// The operations without the normalisation: what a person can look at.
    ///
    /// # Errors
    /// If an operation fails.
    pub fn augment(&self, sample: Segmented, rng: &mut SampleRng) -> Result<Segmented> {
        self.ops.iter().try_fold(sample, |sample, op| op.apply(sample, rng))
    }
}

impl Transform<Segmented> for SegmentationPipeline {
    type Out = SegmentedPixels;

    fn apply(&self, sample: Segmented, rng: &mut SampleRng) -> Result<SegmentedPixels> {
        let Segmented { image, labels, index, name } = self.augment(sample, rng)?;
        Ok(SegmentedPixels { pixels: self.normalise.convert(&image)?, labels, index, name })
    }
}
