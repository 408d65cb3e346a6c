//! The augmentations of EncNet, by the version of the authors' code that has them.

use serde::{Deserialize, Serialize};
use vision_image::Filter;

use super::{
    PadRightBottom, RandomBlur, RandomFactor, RandomRotation, RandomSide, SegmentationOp,
    SegmentationPipeline, Side,
};
use crate::transforms::{CenterCrop, RandomCrop, RandomHorizontalFlip, ResizeShortSide, ToPixels};
use crate::{Error, IGNORE_LABEL, Result};

/// Which version of EncNet's augmentation.
///
/// | | scale | turned | blurred |
/// |---|---|---|---|
/// | `paper` | both sides by 0.5 to 2 | ±10° | no |
/// | `v042` (0.4.x) | short side, 0.5 to 2 times `base` | ±10° | radius up to 1, every second time |
/// | `v050` | short side, 0.5 to 2 times `base` | no | radius up to 1, every second time |
/// | `v1` (1.0 and later) | long side, 0.5 to 2 times `base` | no | no |
///
/// All mirror every second time first and end with padding on the right and at the bottom, a random crop, and the blur.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SegmentationPreset {
    /// As the paper says.
    Paper,
    /// Versions 0.4.x of the code.
    V042,
    /// Version 0.5.0 of the code.
    V050,
    /// Versions from 1.0 on.
    #[default]
    V1,
}

/// The numbers of an augmentation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainSizes {
    /// The side that the scale is relative to, in pixels.
    pub base: u32,
    /// Width and height of what is trained on, in pixels.
    pub crop: u32,
    /// The smallest and largest scale. Version 1.0 of the code goes to 2.5 on ADE20K.
    pub scale: [f64; 2],
    /// The label of what lies outside the picture after padding and turning. Ignored unless said otherwise; the
    /// authors' code gives 0, which on VOC and COCO trains the surroundings as background.
    pub outside: u8,
}

impl Default for TrainSizes {
    /// 520 and 480, as for all sets but ADE20K with ResNet-101 (640 and 576); 0.5 to 2.
    fn default() -> Self {
        Self { base: 520, crop: 480, scale: [0.5, 2.0], outside: IGNORE_LABEL }
    }
}

impl SegmentationPreset {
    /// The augmentation for training: every result is `crop` x `crop`, normalised with the usual statistics of
    /// ImageNet.
    ///
    /// # Errors
    /// If a size is 0 or the scales are not in order.
    pub fn train(self, sizes: &TrainSizes) -> Result<SegmentationPipeline> {
        let TrainSizes { base, crop, scale: [low, high], outside } = *sizes;
        if !(low > 0.0 && low <= high && high.is_finite()) {
            return Err(Error::argument("scale", format!("[{low}, {high}], must be 0 < low <= high")));
        }
        // Rounded down, as the authors do; a float out of range becomes the nearest number.
        let side = |side| {
            let range = [low, high].map(|scale| (f64::from(base) * scale) as u32);
            SegmentationOp::RandomSide(RandomSide { side, range })
        };
        let mut ops = vec![SegmentationOp::RandomHorizontalFlip(RandomHorizontalFlip { p: 0.5 })];
        ops.push(match self {
            Self::Paper => SegmentationOp::RandomFactor(RandomFactor { range: [low, high] }),
            Self::V042 | Self::V050 => side(Side::Short),
            Self::V1 => side(Side::Long),
        });
        if matches!(self, Self::Paper | Self::V042) {
            let rotation = RandomRotation { label: outside, ..RandomRotation::default() };
            ops.push(SegmentationOp::RandomRotation(rotation));
        }
        let pad = PadRightBottom { width: crop, height: crop, color: [0; 3], label: outside };
        ops.push(SegmentationOp::PadRightBottom(pad));
        ops.push(SegmentationOp::RandomCrop(RandomCrop { width: crop, height: crop }));
        if matches!(self, Self::V042 | Self::V050) {
            ops.push(SegmentationOp::RandomBlur(RandomBlur::default()));
        }
        SegmentationPipeline::new(ops, ToPixels::IMAGENET)
    }

    /// What the authors' code validates on while it trains: the short side becomes `crop` (the long one is rounded
    /// down), then the middle `crop` x `crop` pixels. The same in all versions; for monitoring, as most of the
    /// border is never looked at.
    ///
    /// # Errors
    /// If `crop` is 0.
    pub fn val(crop: u32) -> Result<SegmentationPipeline> {
        let ops = vec![
            SegmentationOp::ResizeShortSide(ResizeShortSide { size: crop, filter: Filter::Bilinear }),
            SegmentationOp::CenterCrop(CenterCrop { width: crop, height: crop }),
        ];
        SegmentationPipeline::new(ops, ToPixels::IMAGENET)
    }

    /// What results are reported on, the code's `testval`: pictures as they are, normalised.
    pub fn testval() -> SegmentationPipeline {
        SegmentationPipeline::default()
    }
}
