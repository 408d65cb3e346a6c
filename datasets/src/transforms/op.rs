//! Any picture operation, for configuration files.

use serde::{Deserialize, Serialize};
use vision_image::Image;

use super::{
    CenterCrop, ColorJitter, ImageTransform, PadTo, RandomCrop, RandomGrayscale, RandomHorizontalFlip,
    RandomResizedCrop, Resize, ResizeShortSide, ToRgb,
};
use crate::{Error, Result, SampleRng, Transform};

/// One picture operation. In a configuration file, `op` names it and the other keys are its fields:
/// `{ op = "random_horizontal_flip", p = 0.5 }`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ImageOp {
    /// A random part of the picture, resized.
    RandomResizedCrop(RandomResizedCrop),
    /// Random brightness, contrast, saturation and hue.
    ColorJitter(ColorJitter),
    /// Grey, sometimes.
    RandomGrayscale(RandomGrayscale),
    /// Mirrored, sometimes.
    RandomHorizontalFlip(RandomHorizontalFlip),
    /// A random part of the picture, as it is.
    RandomCrop(RandomCrop),
    /// To an exact size.
    Resize(Resize),
    /// To a length of the shorter side.
    ResizeShortSide(ResizeShortSide),
    /// The middle part.
    CenterCrop(CenterCrop),
    /// Into the middle of a larger picture.
    PadTo(PadTo),
    /// To three channels.
    ToRgb(ToRgb),
}

impl ImageOp {
    fn inner(&self) -> &dyn ImageTransform {
        match self {
            Self::RandomResizedCrop(op) => op,
            Self::ColorJitter(op) => op,
            Self::RandomGrayscale(op) => op,
            Self::RandomHorizontalFlip(op) => op,
            Self::RandomCrop(op) => op,
            Self::Resize(op) => op,
            Self::ResizeShortSide(op) => op,
            Self::CenterCrop(op) => op,
            Self::PadTo(op) => op,
            Self::ToRgb(op) => op,
        }
    }

    /// The name under which configuration files know the operation.
    pub fn name(&self) -> &'static str {
        match self {
            Self::RandomResizedCrop(_) => "random_resized_crop",
            Self::ColorJitter(_) => "color_jitter",
            Self::RandomGrayscale(_) => "random_grayscale",
            Self::RandomHorizontalFlip(_) => "random_horizontal_flip",
            Self::RandomCrop(_) => "random_crop",
            Self::Resize(_) => "resize",
            Self::ResizeShortSide(_) => "resize_short_side",
            Self::CenterCrop(_) => "center_crop",
            Self::PadTo(_) => "pad_to",
            Self::ToRgb(_) => "to_rgb",
        }
    }

    /// What is wrong with the settings, one sentence each; empty if nothing is.
    pub fn problems(&self) -> Vec<String> {
        self.inner().problems()
    }

    /// The width and height of every result, where the operation fixes them.
    pub(super) fn output_size(&self) -> Option<[u32; 2]> {
        match self {
            Self::RandomResizedCrop(op) => Some(op.size),
            Self::RandomCrop(op) => Some([op.width, op.height]),
            Self::Resize(op) => Some([op.width, op.height]),
            Self::CenterCrop(op) => Some([op.width, op.height]),
            _ => None,
        }
    }
}

impl ImageTransform for ImageOp {
    fn transform(&self, image: Image, rng: &mut SampleRng) -> Result<Image> {
        self.inner().transform(image, rng)
    }

    fn problems(&self) -> Vec<String> {
        self.inner().problems()
    }
}

/// Operations one after another.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Compose {
    /// The operations, first to last.
    pub ops: Vec<ImageOp>,
}

impl Compose {
    /// What is wrong with the settings: one sentence each that starts with the number and the name of the
    /// operation, as in `0 (random_grayscale): p: 2, must be between 0 and 1`.
    pub fn problems(&self) -> Vec<String> {
        let of = |(at, op): (usize, &ImageOp)| {
            let name = op.name();
            op.problems().into_iter().map(move |problem| format!("{at} ({name}): {problem}"))
        };
        self.ops.iter().enumerate().flat_map(of).collect()
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// If there is anything in [`problems`](Self::problems); all of it is in the message.
    pub fn validate(&self) -> Result<()> {
        let problems = self.problems();
        if problems.is_empty() { Ok(()) } else { Err(Error::argument("transforms", problems.join("; "))) }
    }
}

impl Transform<Image> for Compose {
    type Out = Image;

    fn apply(&self, sample: Image, rng: &mut SampleRng) -> Result<Image> {
        self.ops.iter().try_fold(sample, |image, op| op.transform(image, rng))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize, Serialize, PartialEq, Debug)]
    struct Holder {
        ops: Compose,
    }

    #[test]
    fn every_op_survives_toml_under_its_name() {
        let text = r#"
            ops = [
                { op = "random_resized_crop", size = [32, 32], scale = [0.2, 1.0], filter = "bicubic" },
                { op = "color_jitter", brightness = 0.4, hue = 0.1 },
                { op = "random_grayscale", p = 0.2 },
                { op = "random_horizontal_flip" },
                { op = "random_crop", width = 3, height = 4 },
                { op = "resize", width = 3, height = 4 },
                { op = "resize_short_side", size = 256 },
                { op = "center_crop", width = 224, height = 224 },
                { op = "pad_to", width = 32, height = 32 },
                { op = "to_rgb" },
            ]
        "#;
        let holder: Holder = toml::from_str(text).unwrap();
        holder.ops.validate().unwrap();
        let again = toml::to_string(&holder).unwrap();
        for op in &holder.ops.ops {
            assert!(again.contains(&format!("op = \"{}\"", op.name())), "{again}");
        }
        assert_eq!(toml::from_str::<Holder>(&again).unwrap(), holder);
    }

    #[test]
    fn unknown_names_and_fields_are_refused() {
        for (text, word) in [
            ("ops = [{ op = \"blur\" }]", "random_grayscale"),
            ("ops = [{ op = \"random_grayscale\", q = 1.0 }]", "q"),
            ("ops = [{ op = \"to_rgb\", q = 1.0 }]", "q"),
            ("ops = [{ op = \"resize\", width = 1 }]", "height"),
            ("ops = [{ op = \"resize\", width = 1, height = 1, filter = \"box\" }]", "bilinear"),
        ] {
            let message = toml::from_str::<Holder>(text).unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        }
    }

    #[test]
    fn validate_lists_everything_that_is_wrong() {
        let ops = vec![
            ImageOp::RandomGrayscale(RandomGrayscale { p: 2.0 }),
            ImageOp::ToRgb(ToRgb {}),
            ImageOp::CenterCrop(CenterCrop { width: 0, height: 1 }),
        ];
        let message = Compose { ops }.validate().unwrap_err().to_string();
        assert!(message.contains("0 (random_grayscale): p: 2"), "{message}");
        assert!(message.contains("2 (center_crop): width, height: 0x1"), "{message}");
    }
}
