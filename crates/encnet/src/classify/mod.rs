//! Pictures of one class each: training, measuring and using the networks for CIFAR ([`crate::cifar`], paper §4.4).
//!
//! The program is `encnet-classify`, with the verbs of `encnet`.

#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "train")]
pub mod config;
#[cfg(feature = "train")]
pub mod data;
#[cfg(feature = "train")]
pub mod evaluate;
mod predict;
#[cfg(feature = "train")]
mod recipe;

pub use predict::{Classifier, Guess};
#[cfg(feature = "train")]
pub use recipe::ClassifyRecipe;
