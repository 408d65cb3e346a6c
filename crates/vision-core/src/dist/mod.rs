//! Several copies of a program that train one model together.
//!
//! Each copy is a *rank*, numbered from 0; together they are the *world*. All ranks make the same calls in the same
//! order: a [`Collective`] pairs the n-th call of one rank with the n-th call of every other, and checks that they
//! agree in operation, name and size. Sums are added in the order of the ranks, so results are the same on every rank
//! and in every run, bit for bit, whatever the timing.
//!
//! [`Single`] is the world of one rank, [`Threads`] holds a world inside one process, and [`Tcp`] connects processes.
//! Features add `Mpi`, for processes that mpirun starts, and `Nccl`, for processes with a GPU each. All give the same
//! results.
//!
//! What data-parallel training needs on top of a model: [`broadcast_params`] at the start, [`weigh_loss`] before
//! `backward`, [`average_gradients`] after it, and [`crate::nn::BatchNormConfig::collective`] where normalisation is to see
//! the whole batch.
//!
//! Calls block the thread that makes them until the slowest rank has come, so a rank must be a thread or a process of
//! its own. Never make a call inside a closure that runs on rayon's shared pool (`par_iter`, `scope`, `join`): a
//! waiting worker holds up what the rank it waits for needs in order to come.

mod error;
mod frame;
mod gradients;
mod meeting;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(feature = "nccl")]
mod nccl;
mod single;
mod tcp;
mod threads;

use std::fmt::{self, Debug, Display};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

#[cfg(feature = "mpi")]
pub use self::mpi::Mpi;
pub use error::CollectiveError;
pub use gradients::{average_gradients, broadcast_params, weigh_loss};
#[cfg(feature = "nccl")]
pub use nccl::Nccl;
pub use single::Single;
pub use tcp::Tcp;
pub use threads::Threads;

/// Numbers that a collective call reads and replaces.
#[derive(Debug)]
pub enum Values<'a> {
    /// 32-bit floats.
    F32(&'a mut [f32]),
    /// 64-bit floats.
    F64(&'a mut [f64]),
}

impl Values<'_> {
    /// How many numbers there are.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F64(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a collective call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Operation {
    /// [`Collective::all_reduce`].
    AllReduce,
    /// [`Collective::broadcast`] from this rank.
    Broadcast(usize),
    /// [`Collective::all_gather`] and [`Collective::all_gather_bytes`].
    AllGather,
    /// [`Collective::barrier`].
    Barrier,
    /// Coming together at an address, before the first call.
    Connect,
}

impl Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AllReduce => f.write_str("all_reduce"),
            Self::Broadcast(root) => write!(f, "broadcast from rank {root}"),
            Self::AllGather => f.write_str("all_gather"),
            Self::Barrier => f.write_str("barrier"),
            Self::Connect => f.write_str("connect"),
        }
    }
}

/// The connection of one rank with all others.
///
/// Every rank makes the same calls in the same order, from one thread at a time. `name` says what is exchanged; it
/// must be the same on all ranks and appears in errors.
///
/// # Errors
/// All calls fail with [`Error::Collective`] if a rank does not come in time, is gone, or makes another call. A world
/// in which a call has failed stays failed, because its ranks no longer agree on what comes next: every later
/// call of every rank returns the same error.
pub trait Collective: Send + Sync + Debug {
    /// The number of this rank, below [`Collective::world_size`].
    fn rank(&self) -> usize;

    /// How many ranks there are, at least 1.
    fn world_size(&self) -> usize;

    /// Replaces `values`, as many on every rank, by their sums over the ranks, added in the order of the ranks.
    ///
    /// # Errors
    /// As described at the trait.
    fn all_reduce(&self, name: &str, values: Values<'_>) -> Result<()>;

    /// Replaces `values`, as many on every rank, by those of rank `root`.
    ///
    /// # Errors
    /// As described at the trait, and if there is no rank `root`.
    fn broadcast(&self, name: &str, values: Values<'_>, root: usize) -> Result<()>;

    /// The bytes of every rank, in the order of the ranks. Their numbers may differ.
    ///
    /// # Errors
    /// As described at the trait.
    fn all_gather_bytes(&self, name: &str, bytes: &[u8]) -> Result<Vec<Vec<u8>>>;

    /// Waits until every rank has come here.
    ///
    /// # Errors
    /// As described at the trait.
    fn barrier(&self, name: &str) -> Result<()>;

    /// The numbers of every rank, in the order of the ranks. Their counts may differ.
    ///
    /// # Errors
    /// As described at the trait.
    fn all_gather(&self, name: &str, values: &[f64]) -> Result<Vec<Vec<f64>>> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let parts = self.all_gather_bytes(name, &bytes)?;
        Ok(parts
            .iter()
            .map(|part| part.as_chunks::<8>().0.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect())
            .collect())
    }
}

/// Fails unless `root` is a rank.
fn check_root(root: usize, world: usize) -> Result<()> {
    if root < world {
        Ok(())
    } else {
        Err(Error::argument("broadcast: root", format!("{root} is no rank of a world of {world}")))
    }
}

#[cfg(test)]
mod tests;
