//! Layers: parameters plus an operation.
//!
//! Layers are built from candle's `VarBuilder` and name their parameters as PyTorch does. Those of feature
//! maps take and return [`crate::FeatureMap`]s.

mod batch_norm2d;
mod conv2d;
mod conv_norm;
mod dropout;
mod init;
mod linear;

pub use batch_norm2d::{BatchNorm2d, BatchNormConfig};
pub use conv_norm::ConvNorm;
pub use conv2d::Conv2d;
pub use dropout::Dropout;
pub use init::WeightInit;
pub use linear::Linear;
