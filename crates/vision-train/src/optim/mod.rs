//! Optimisers.

mod clip;
pub mod sgd;

pub use clip::{clip_grad_norm, grad_norm};
pub use sgd::{Sgd, SgdConfig};
