#![doc = include_str!("../README.md")]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")
)]

mod argmax;
pub mod body;
pub mod cifar;
#[cfg(feature = "images")]
pub mod classes;
#[cfg(feature = "images")]
pub mod classify;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "images")]
pub mod codewords;
pub mod config;
pub mod context;
#[cfg(feature = "train")]
pub mod data;
pub mod deep_ten;
pub mod encoding;
mod error;
#[cfg(feature = "train")]
pub mod evaluate;
pub mod head;
pub mod loss;
pub mod model;
#[cfg(feature = "images")]
pub mod predict;
#[cfg(feature = "train")]
pub mod recipe;
pub mod se;
pub mod sliding;
pub mod weights;

pub use config::{LossConfig, ModelConfig, Preset};
pub use context::Context;
pub use encoding::Encoding;
pub use error::{Error, Result};
pub use head::EncHead;
pub use loss::Criterion;
pub use model::{EncNet, Output};
#[cfg(feature = "images")]
pub use predict::{Predictor, View};
#[cfg(feature = "train")]
pub use recipe::EncNetRecipe;
