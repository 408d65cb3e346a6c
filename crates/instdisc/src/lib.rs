#![doc = include_str!("../README.md")]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")
)]

// There is no `tests/learning.rs`: the sample configurations and their `[expect]` are that test, and
// `cargo xtask demo instdisc` runs them.

pub mod bank;
#[cfg(feature = "cli")]
pub mod cli;
pub mod config;
#[cfg(feature = "train")]
pub mod data;
mod error;
#[cfg(feature = "train")]
pub mod evaluate;
pub mod index;
pub mod loss;
pub mod model;
#[cfg(feature = "images")]
pub mod predict;
#[cfg(feature = "train")]
pub mod recipe;
pub mod sampler;
pub mod weights;

pub use bank::MemoryBank;
pub use error::{Error, Result};
pub use index::FlatIndex;
pub use loss::Criterion;
pub use model::InstDisc;
#[cfg(feature = "images")]
pub use predict::Embedder;
