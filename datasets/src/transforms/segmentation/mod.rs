//! Changes of a picture together with its labels.

mod geometry;
mod op;
mod pipeline;
mod preset;
mod scale;
#[cfg(test)]
mod tests;

pub use geometry::{PadRightBottom, RandomBlur, RandomRotation};
pub use op::SegmentationOp;
pub use pipeline::{SegmentationPipeline, SegmentedPixels};
pub use preset::{SegmentationPreset, TrainSizes};
pub use scale::{RandomFactor, RandomSide, Side};

use vision_image::{Filter, Image, LabelMap, resize};

use crate::{IGNORE_LABEL, Result, SampleRng};

/// An operation on a picture and its labels, which are of one size before and after.
trait PairTransform {
    /// Changes both, drawing what is random from `rng`.
    fn transform(&self, image: Image, labels: LabelMap, rng: &mut SampleRng) -> Result<(Image, LabelMap)>;

    /// What is wrong with the settings, one sentence each that starts with the field's name.
    fn problems(&self) -> Vec<String>;
}

/// What becomes of labels when pixels move: always the nearest one, so no label arises that was not there.
fn moved(labels: LabelMap, change: impl FnOnce(Image) -> vision_image::Result<Image>) -> Result<LabelMap> {
    Ok(LabelMap::from_gray(change(labels.into_gray())?)?)
}

/// Both in another size: the picture filtered as Pillow's bilinear, the labels by nearest sample.
fn resize_pair(image: &Image, labels: LabelMap, [width, height]: [u32; 2]) -> Result<(Image, LabelMap)> {
    let image = resize(image, width, height, Filter::Bilinear)?;
    Ok((image, moved(labels, |labels| resize(&labels, width, height, Filter::Nearest))?))
}

/// The samples of a colour in the channels of `image`.
fn fill(image: &Image, [r, g, b]: [u8; 3]) -> Result<Vec<u8>> {
    Ok(match image.channels() {
        1 => Image::filled(1, 1, &[r, g, b])?.to_gray().into_data(),
        4 => vec![r, g, b, 255],
        _ => vec![r, g, b],
    })
}

/// The label of what lies outside a picture, unless said otherwise.
fn ignored() -> u8 {
    IGNORE_LABEL
}

/// An even choice of `low..=high`.
fn choose(rng: &mut SampleRng, [low, high]: [u32; 2]) -> u32 {
    // At most 2^32 numbers, so the sum is at most `high`.
    low + rng.below_u64(u64::from(high.saturating_sub(low)) + 1) as u32
}
