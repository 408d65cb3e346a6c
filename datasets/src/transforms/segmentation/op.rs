//! Any operation on a picture and its labels, for configuration files.

use serde::{Deserialize, Serialize};

use super::{PadRightBottom, PairTransform, RandomBlur, RandomFactor, RandomRotation, RandomSide};
use crate::transforms::{CenterCrop, RandomCrop, RandomHorizontalFlip, ResizeShortSide};
use crate::{Error, Result, SampleRng, Segmented, Transform};

/// One operation on a picture and its labels. In a configuration file, `op` names it and the other keys are its fields:
/// `{ op = "random_side", side = "long", range = [260, 1040] }`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
#[non_exhaustive]
pub enum SegmentationOp {
    /// Mirrored, sometimes.
    RandomHorizontalFlip(RandomHorizontalFlip),
    /// To a random length of one side.
    RandomSide(RandomSide),
    /// By a random factor.
    RandomFactor(RandomFactor),
    /// Turned by a random angle.
    RandomRotation(RandomRotation),
    /// Blurred, sometimes.
    RandomBlur(RandomBlur),
    /// With columns on the right and rows at the bottom.
    PadRightBottom(PadRightBottom),
    /// A part at a random place.
    RandomCrop(RandomCrop),
    /// To a length of the shorter side; the filter is that of the picture.
    ResizeShortSide(ResizeShortSide),
    /// The middle part; what lies outside is black and ignored.
    CenterCrop(CenterCrop),
}

impl SegmentationOp {
    fn inner(&self) -> &dyn PairTransform {
        match self {
            Self::RandomHorizontalFlip(op) => op,
            Self::RandomSide(op) => op,
            Self::RandomFactor(op) => op,
            Self::RandomRotation(op) => op,
            Self::RandomBlur(op) => op,
            Self::PadRightBottom(op) => op,
            Self::RandomCrop(op) => op,
            Self::ResizeShortSide(op) => op,
            Self::CenterCrop(op) => op,
        }
    }

    /// The name under which configuration files know the operation.
    pub fn name(&self) -> &'static str {
        match self {
            Self::RandomHorizontalFlip(_) => "random_horizontal_flip",
            Self::RandomSide(_) => "random_side",
            Self::RandomFactor(_) => "random_factor",
            Self::RandomRotation(_) => "random_rotation",
            Self::RandomBlur(_) => "random_blur",
            Self::PadRightBottom(_) => "pad_right_bottom",
            Self::RandomCrop(_) => "random_crop",
            Self::ResizeShortSide(_) => "resize_short_side",
            Self::CenterCrop(_) => "center_crop",
        }
    }

    /// What is wrong with the settings, one sentence each; empty if nothing is.
    pub fn problems(&self) -> Vec<String> {
        self.inner().problems()
    }

    /// The width and height of every result, given those before the operation where they are known.
    pub(super) fn output_size(&self, before: Option<[u32; 2]>) -> Option<[u32; 2]> {
        match self {
            Self::RandomCrop(op) => Some([op.width, op.height]),
            Self::CenterCrop(op) => Some([op.width, op.height]),
            Self::PadRightBottom(op) => before.map(|[w, h]| [w.max(op.width), h.max(op.height)]),
            Self::RandomHorizontalFlip(_) | Self::RandomRotation(_) | Self::RandomBlur(_) => before,
            Self::RandomSide(_) | Self::RandomFactor(_) | Self::ResizeShortSide(_) => None,
        }
    }
}

impl Transform<Segmented> for SegmentationOp {
    type Out = Segmented;

    fn apply(&self, sample: Segmented, rng: &mut SampleRng) -> Result<Segmented> {
        let Segmented { image, labels, index, name } = sample;
        let sizes = [[image.width(), image.height()], [labels.width(), labels.height()]];
        if let [[w, h], [lw, lh]] = sizes
            && sizes[0] != sizes[1]
        {
            let problem = format!("{lw}x{lh} labels for a picture of {w}x{h} pixels");
            return Err(Error::argument("labels", problem));
        }
        let (image, labels) = self.inner().transform(image, labels, rng)?;
        Ok(Segmented { image, labels, index, name })
    }
}
