//! Weights of torchvision's detectors.

use vision_core::params::ParamStore;
use vision_weights::{KeyMap, LoadReport, StateDict};

use crate::error::Result;

/// The rules from torchvision's names to ours.
///
/// They are the same but for files older than torchvision 0.13, such as the published ones, in which a convolution of
/// pyramid or proposals is not yet part of a block, and for the counters of batch normalisation that is not frozen, which
/// are dropped.
///
/// # Errors
/// Never; the rules are checked when they are made.
pub fn key_map() -> Result<KeyMap> {
    let map = KeyMap::new().drop_suffix("num_batches_tracked");
    Ok(map.table([
        ("backbone.fpn.inner_blocks.*.weight", "backbone.fpn.inner_blocks.*.0.weight"),
        ("backbone.fpn.inner_blocks.*.bias", "backbone.fpn.inner_blocks.*.0.bias"),
        ("backbone.fpn.layer_blocks.*.weight", "backbone.fpn.layer_blocks.*.0.weight"),
        ("backbone.fpn.layer_blocks.*.bias", "backbone.fpn.layer_blocks.*.0.bias"),
        ("rpn.head.conv.weight", "rpn.head.conv.0.0.weight"),
        ("rpn.head.conv.bias", "rpn.head.conv.0.0.bias"),
    ])?)
}

/// Loads torchvision's `state` into the parameters of a [`crate::FasterRcnn`]. Nothing is forgiven: see
/// [`LoadReport::check`].
///
/// ```no_run
/// use candle_core::{DType, Device};
/// use vision_core::{params::ParamStore, rng::Key};
/// use vision_detect::{FasterRcnn, FasterRcnnConfig, weights};
/// # fn main() -> vision_detect::Result<()> {
/// let params = ParamStore::new(Key::new(0), DType::F32, &Device::Cpu);
/// // Parameters that will not be trained are kept in the order that inference reads.
/// params.freeze("")?;
/// let detector = FasterRcnn::new(&FasterRcnnConfig::coco_v1(), params.var_builder())?;
/// let file = vision_weights::open("fasterrcnn_resnet50_fpn_coco-258fb6c6.pth")?;
/// weights::load(&params, file.state_dict()?)?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// If the parameters do not match the file.
pub fn load(params: &ParamStore, state: StateDict) -> Result<LoadReport> {
    let report = params.load(&key_map()?.apply(state)?)?;
    report.check()?;
    Ok(report)
}
