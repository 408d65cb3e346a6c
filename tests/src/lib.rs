#![doc = include_str!("../README.md")]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests"))]

mod args;
mod case;
mod compare;
mod registry;
mod runner;

pub use args::Args;
pub use case::{Case, Outputs};
pub use compare::{Deviation, Tolerance};
pub use registry::{Op, find, ops};
pub use runner::{CaseResult, Options, Status, find_cases, run_case, run_paths};

/// The folder of the committed cases.
pub const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/golden");
