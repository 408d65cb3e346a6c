#![doc = include_str!("../README.md")]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")
)]

pub mod catalog;
mod dataset;
mod error;
pub mod formats;
mod labelled;
mod loader;
mod memory;
mod open_set;
pub mod overlap;
pub mod prepare;
mod rng;
mod sampler;
#[cfg(feature = "samples")]
pub mod samples;
mod segmentation;
mod subset;
pub mod transforms;

pub use catalog::catalog;
pub use dataset::{Dataset, Fingerprint, FingerprintBuilder, Split, Transform};
pub use error::{Error, Result};
pub use labelled::{Labelled, LabelledSet};
pub use loader::{Loader, LoaderConfig, LoaderIter};
pub use memory::MemorySet;
pub use open_set::{DataRoot, SetSpec, open_set, set_names};
pub use prepare::{Manifest, PrepareOptions, VerifyReport, prepare, verify};
pub use rng::SampleRng;
pub use sampler::{RandomSampler, Sampler, SequentialSampler};
pub use segmentation::{
    Contamination, ContextScenes, IGNORE_LABEL, SegmentationClasses, SegmentationFolder, SegmentationSet,
    SegmentationSpec, Segmented, open_segmentation_set, segmentation_set_names,
};
pub use subset::Subset;
