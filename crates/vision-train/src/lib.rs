#![doc = include_str!("../README.md")]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")
)]

mod batch;
pub mod checkpoint;
#[cfg(feature = "cli")]
pub mod cli;
pub mod config;
mod context;
mod error;
pub mod launch;
pub mod optim;
mod recipe;
pub mod report;
mod run_folder;
pub mod schedule;
pub mod sinks;
pub mod system;
mod tensor;
mod trainer;

pub use batch::LabelledBatch;
pub use config::{NonFinite, RunConfig};
pub use context::Context;
pub use error::{Error, Problem, Result};
pub use recipe::{Loaders, Losses, ParamGroup, Plot, Recipe, RecipeConfig, Scalar, Step};
pub use report::{Picture, Report, Series, Table};
pub use run_folder::RunFolder;
pub use schedule::Schedule;
pub use tensor::{to_tensor, to_tensor_nhwc};
pub use trainer::{Outcome, Trainer};
