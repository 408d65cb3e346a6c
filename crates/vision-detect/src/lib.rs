#![doc = include_str!("../README.md")]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")
)]

mod candidates;
mod conv;
pub mod detector;
mod error;
pub mod fpn;
pub mod heads;
pub mod postprocess;
pub mod roi_pooler;
pub mod rpn;
pub mod transform;
pub mod weights;

pub use detector::{FasterRcnn, FasterRcnnConfig};
pub use error::{Error, Result};
pub use fpn::FeaturePyramidNetwork;
pub use postprocess::{Detections, PostprocessConfig, postprocess};
pub use roi_pooler::{RoiPooler, RoiPoolerConfig};
pub use rpn::{Proposals, RegionProposalNetwork, RpnConfig};
pub use transform::{ImageBatch, Transform, TransformConfig};
