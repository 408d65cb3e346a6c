#![doc = include_str!("../README.md")]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")
)]

// This crate is the model. What belongs to pictures, data, training and the command line is in other tiers, which it does
// not have: `predict.rs`, `data.rs`, `recipe.rs`, `evaluate.rs`, `cli.rs`, `encnet.rs`, `paper.toml`, `sample.toml`.

pub mod body;
pub mod cifar;
pub mod config;
pub mod context;
pub mod deep_ten;
pub mod encoding;
mod error;
pub mod head;
pub mod loss;
pub mod model;
pub mod se;
pub mod weights;

pub use config::{LossConfig, ModelConfig, Preset};
pub use context::Context;
pub use encoding::Encoding;
pub use error::{Error, Result};
pub use head::EncHead;
pub use loss::Criterion;
pub use model::{EncNet, Output};
