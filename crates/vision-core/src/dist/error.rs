//! Why ranks did not come together.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Operation;

/// Why a call of a [`super::Collective`] failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum CollectiveError {
    /// Some ranks did not come in time.
    #[error("rank {rank} waited {timeout:?} in {operation} of `{tensor}` for {}", ranks(waited_for))]
    Timeout {
        /// The first rank whose patience ended.
        rank: usize,
        /// What it did.
        operation: Operation,
        /// The name of what was to be exchanged.
        tensor: String,
        /// The ranks that had not come.
        waited_for: Vec<usize>,
        /// How long it waited.
        timeout: Duration,
    },
    /// Some ranks can no longer come: they returned or panicked.
    #[error("rank {rank} waits in {operation} of `{tensor}` for {}, gone{}",
        ranks(gone), if *panicked { " in a panic" } else { "" })]
    Gone {
        /// The rank that waited.
        rank: usize,
        /// What it did.
        operation: Operation,
        /// The name of what was to be exchanged.
        tensor: String,
        /// The ranks that are gone.
        gone: Vec<usize>,
        /// Whether one of them panicked.
        panicked: bool,
    },
    /// Two ranks met in different calls.
    #[error("rank {rank} is in {call}, but rank {other} in {other_call}")]
    Mismatch {
        /// The rank that came later.
        rank: usize,
        /// What it does: operation, name, size and element type.
        call: String,
        /// A rank that was there already.
        other: usize,
        /// What that one does.
        other_call: String,
    },
    /// Ranks are or would be connected wrongly: an address that cannot be used, two ranks of one number, ranks that
    /// disagree on how many they are, or a message that is none.
    #[error("rank {rank}: {problem}")]
    Connection {
        /// The rank that found it.
        rank: usize,
        /// What is wrong.
        problem: String,
    },
}

/// `rank 1` or `ranks 1, 3`.
fn ranks(ranks: &[usize]) -> String {
    let list: Vec<String> = ranks.iter().map(ToString::to_string).collect();
    format!("rank{} {}", if ranks.len() == 1 { "" } else { "s" }, list.join(", "))
}

impl CollectiveError {
    /// The error inside one of the tensor library, put there by `From<CollectiveError>`.
    ///
    /// What fails inside `backward` comes back as the tensor library's error. Converting that into
    /// [`crate::Error`] does this already.
    pub fn find(error: &candle_core::Error) -> Option<&Self> {
        match error {
            candle_core::Error::WrappedContext { wrapped, .. } => {
                wrapped.downcast_ref::<Carried>().map(|carried| &carried.0)
            }
            candle_core::Error::WithBacktrace { inner, .. }
            | candle_core::Error::Context { inner, .. }
            | candle_core::Error::WithPath { inner, .. } => Self::find(inner),
            _ => None,
        }
    }
}

impl From<CollectiveError> for candle_core::Error {
    fn from(error: CollectiveError) -> Self {
        // The one form that the tensor library gives back with its type.
        Self::WrappedContext {
            wrapped: Box::new(Carried(error)),
            context: "in a tensor operation".to_owned(),
        }
    }
}

/// The tensor library shows what it wraps with `Debug`.
#[derive(thiserror::Error)]
#[error(transparent)]
struct Carried(CollectiveError);

impl std::fmt::Debug for Carried {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}
