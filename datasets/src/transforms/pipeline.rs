//! From a sample to numbers, in one transform.

use serde::{Deserialize, Serialize};
use vision_image::Image;

use super::{Compose, ImageOp, Pixels, ToPixels};
use crate::{Error, Labelled, Result, SampleRng, Transform};

/// Picture operations, then normalisation. Describes a whole augmentation in a configuration file.
///
/// The operations get the picture with the channels it was stored with; the numbers are always RGB.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pipeline {
    /// The operations, first to last.
    pub ops: Compose,
    /// The normalisation.
    pub normalise: ToPixels,
}

impl Pipeline {
    /// Operations `ops`, then `normalise`.
    ///
    /// # Errors
    /// If a setting is out of range; see [`validate`](Self::validate).
    pub fn new(ops: Vec<ImageOp>, normalise: ToPixels) -> Result<Self> {
        let pipeline = Self { ops: Compose { ops }, normalise };
        pipeline.validate()?;
        Ok(pipeline)
    }

    /// What is wrong with the settings, one sentence each; empty if nothing is.
    pub fn problems(&self) -> Vec<String> {
        let ops = self.ops.problems().into_iter().map(|problem| format!("ops: {problem}"));
        let normalise = self.normalise.problems().into_iter().map(|problem| format!("normalise: {problem}"));
        ops.chain(normalise).collect()
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// If there is anything in [`problems`](Self::problems); all of it is in the message.
    pub fn validate(&self) -> Result<()> {
        let problems = self.problems();
        if problems.is_empty() { Ok(()) } else { Err(Error::argument("pipeline", problems.join("; "))) }
    }

    /// Width and height of every result, if an operation fixes them whatever the picture's size. Sets of
    /// mixed sizes can only be put into batches then.
    pub fn output_size(&self) -> Option<[u32; 2]> {
        // Padding and mirroring after the last operation that fixes the size may enlarge it.
        self.ops.ops.iter().fold(None, |size, op| match (op.output_size(), op, size) {
            (Some(fixed), ..) => Some(fixed),
            (None, ImageOp::PadTo(pad), Some([w, h])) => Some([w.max(pad.width), h.max(pad.height)]),
            (None, ImageOp::ResizeShortSide(_), _) => None,
            (None, _, size) => size,
        })
    }

    /// The numbers of one picture.
    ///
    /// # Errors
    /// If an operation fails.
    pub fn pixels(&self, image: Image, rng: &mut SampleRng) -> Result<Pixels> {
        self.normalise.convert(&self.ops.apply(image, rng)?)
    }
}

/// One sample as numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelledPixels {
    /// The picture.
    pub pixels: Pixels,
    /// The class; -1 if unknown.
    pub label: i64,
    /// The number of the sample in its set.
    pub index: usize,
    /// What to call the sample in messages.
    pub name: String,
}

impl Transform<Image> for Pipeline {
    type Out = Pixels;

    fn apply(&self, sample: Image, rng: &mut SampleRng) -> Result<Pixels> {
        self.pixels(sample, rng)
    }
}

impl Transform<Labelled> for Pipeline {
    type Out = LabelledPixels;

    fn apply(&self, sample: Labelled, rng: &mut SampleRng) -> Result<LabelledPixels> {
        let Labelled { image, label, index, name } = sample;
        Ok(LabelledPixels { pixels: self.pixels(image, rng)?, label, index, name })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ColorJitter, PadTo, RandomResizedCrop, ResizeShortSide};
    use super::*;

    #[test]
    fn same_key_same_numbers() {
        let pipeline: Pipeline = toml::from_str(
            r#"
            ops = [
                { op = "random_resized_crop", size = [8, 8], scale = [0.2, 1.0] },
                { op = "color_jitter", brightness = 0.4, contrast = 0.4, saturation = 0.4, hue = 0.4 },
                { op = "random_grayscale", p = 0.2 },
            ]
            normalise = { mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5] }
            "#,
        )
        .unwrap();
        pipeline.validate().unwrap();
        let image = Image::new(16, 12, 1, (0..192).map(|v| v as u8).collect()).unwrap();
        let of = |index| {
            let sample = Labelled { image: image.clone(), label: 3, index: 5, name: "s#5".into() };
            pipeline.apply(sample, &mut SampleRng::new(0, 1, index)).unwrap()
        };
        assert_eq!(of(0), of(0));
        assert_ne!(of(0).pixels, of(1).pixels);
        assert_eq!((of(0).label, of(0).index, of(0).pixels.data.len()), (3, 5, 192));
        assert!(of(0).pixels.data.iter().all(|v| (-1.0..=1.0).contains(v)));
    }

    #[test]
    fn knows_when_sizes_are_fixed() {
        let crop = ImageOp::RandomResizedCrop(RandomResizedCrop { size: [8, 9], ..Default::default() });
        let pad = ImageOp::PadTo(PadTo { width: 10, height: 4, color: [0; 3] });
        let short =
            ImageOp::ResizeShortSide(ResizeShortSide { size: 4, filter: vision_image::Filter::Bilinear });
        let size = |ops| Pipeline::new(ops, ToPixels::CIFAR10).unwrap().output_size();
        assert_eq!(size(vec![]), None);
        assert_eq!(size(vec![pad.clone()]), None);
        assert_eq!(size(vec![crop.clone(), pad]), Some([10, 9]));
        assert_eq!(size(vec![crop, short]), None);
    }

    #[test]
    fn new_refuses_what_validate_refuses() {
        let bad = ImageOp::ColorJitter(ColorJitter { hue: 1.0, ..Default::default() });
        let message = Pipeline::new(vec![bad], ToPixels::CIFAR10).unwrap_err().to_string();
        assert!(message.contains("ops: 0 (color_jitter): hue: 1"), "{message}");
        assert!(matches!(
            Pipeline::new(vec![], ToPixels { mean: [0.0; 3], std: [0.0; 3] }),
            Err(Error::Argument { .. })
        ));
    }
}
