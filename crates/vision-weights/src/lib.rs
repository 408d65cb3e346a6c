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

mod array;
mod atomic;
mod bytes;
mod dtype;
mod error;
mod file;
#[cfg(feature = "hub")]
pub mod hub;
mod keymap;
mod pattern;
mod report;
mod safetensors_format;
mod source;
mod state_dict;
mod torch;

pub use array::Array;
pub use atomic::atomic_write;
pub use dtype::Dtype;
pub use error::{Error, Result};
pub use file::{Format, OpenOptions, WeightFile, open};
pub use keymap::KeyMap;
pub use report::{LoadReport, Mismatch};
pub use source::{HubFile, Source};
pub use state_dict::StateDict;
