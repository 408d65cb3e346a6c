//! Boxes of detectors: anchors over a feature map, and offsets of a box from an anchor.
//!
//! Boxes are rows `x1, y1, x2, y2`. What compares boxes (overlap, suppression) is in [`crate::ops`].

mod anchors;
mod box_coder;

pub use anchors::{AnchorGenerator, ratio_cells, scaled_cells};
pub use box_coder::BoxCoder;
