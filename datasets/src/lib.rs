#![doc = include_str!("../README.md")]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")
)]

mod dataset;
mod error;
mod labelled;
mod memory;
mod rng;
mod sampler;
#[cfg(feature = "samples")]
pub mod samples;
mod subset;

pub use dataset::{Dataset, Fingerprint, FingerprintBuilder, Split, Transform};
pub use error::{Error, Result};
pub use labelled::{Labelled, LabelledSet};
pub use memory::MemorySet;
pub use rng::SampleRng;
pub use sampler::{RandomSampler, Sampler, SequentialSampler};
pub use subset::Subset;
