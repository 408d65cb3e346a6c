//! Checks for tests: compare tensors, compare gradients with finite differences.

mod close;
mod gradcheck;

pub use close::{Mismatch, assert_close};
pub use gradcheck::gradcheck;
