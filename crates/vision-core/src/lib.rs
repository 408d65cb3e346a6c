#![doc = include_str!("../README.md")]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")
)]

pub mod backbones;
pub mod boxes;
pub mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
pub mod dist;
mod error;
mod map;
pub mod nn;
pub mod ops;
pub mod params;
mod pass;
pub mod rng;
#[cfg(feature = "testing")]
pub mod testing;

pub use error::{Error, Result};
pub use map::FeatureMap;
pub use pass::Pass;
