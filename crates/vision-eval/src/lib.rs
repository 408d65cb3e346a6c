#![doc = include_str!("../README.md")]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::print_stdout,
        reason = "tests may stop on the first surprise"
    )
)]

pub mod classification;
pub mod coco;
mod error;
pub mod knn;
pub mod retrieval;
pub mod rle;
pub mod segmentation;
mod value;

pub use error::{Error, Result};
pub use value::{Unit, Value};

/// The label of a sample whose class is not known. Such samples are never counted.
pub const UNKNOWN: i64 = -1;
