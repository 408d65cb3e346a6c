//! Several processes that train together: which rank this one is, how it reaches the others, and starting them.
//!
//! A process learns its rank from whoever started it: `--nproc` of the command line, torchrun, mpirun or Slurm; all
//! of them tell it by environment variables, which [`Place::from_environment`] understands. [`connect`] then makes
//! the [`Collective`](vision_core::dist::Collective) that [`Context::with_collective`](crate::Context::with_collective)
//! takes.

mod connect;
mod environment;
mod processes;

pub use connect::{Transport, connect};
pub use environment::{Launcher, Place};
pub use processes::{Ended, start_local, stop_with_launcher};
