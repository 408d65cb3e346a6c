//! What a detector does with the pooled map of a region: scores of classes and offsets of boxes.

mod two_fc;

pub use two_fc::{FastRcnnPredictor, TwoFcHead};
