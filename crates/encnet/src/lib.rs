#![doc = include_str!("../README.md")]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")
)]

pub mod config;
mod error;

pub use config::{LossConfig, ModelConfig, Preset};
pub use error::{Error, Result};
