//! The one error type of this crate.

use crate::dist::CollectiveError;

/// What can go wrong in an operation, a layer or a parameter store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor has the wrong rank or size.
    #[error("{what}: expected shape {expected}, got {got:?}")]
    Shape {
        /// Operation and argument, such as `conv2d: weight`.
        what: String,
        /// The shape asked for, in words or symbols.
        expected: String,
        /// The shape found.
        got: Vec<usize>,
    },
    /// A tensor has an element type the operation does not take.
    #[error("{what}: expected dtype {expected}, got {got:?}")]
    Dtype {
        /// Operation and argument.
        what: String,
        /// The types accepted.
        expected: String,
        /// The type found.
        got: candle_core::DType,
    },
    /// A tensor lies on a device the operation does not run on.
    #[error("{what}: expected a tensor on {expected}, got {got}")]
    Device {
        /// Operation and argument.
        what: String,
        /// The device asked for.
        expected: String,
        /// The device found.
        got: String,
    },
    /// An argument is out of range.
    #[error("{name}: {problem}")]
    Argument {
        /// Operation and argument, such as `max_pool2d: stride`.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A weight file could not be read or does not fit.
    #[error(transparent)]
    Weights(#[from] vision_weights::Error),
    /// Ranks that train together did not come together.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// The tensor library reported an error.
    #[error(transparent)]
    Candle(candle_core::Error),
}

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An [`Error::Argument`] for argument `name`.
    pub fn argument(name: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Argument { name: name.into(), problem: problem.into() }
    }

    /// An [`Error::Shape`] for the tensor `what`.
    pub fn shape(what: impl Into<String>, expected: impl Into<String>, got: &[usize]) -> Self {
        Self::Shape { what: what.into(), expected: expected.into(), got: got.to_vec() }
    }
}

impl From<candle_core::Error> for Error {
    /// What ranks ran into inside `backward` gets its type back.
    fn from(error: candle_core::Error) -> Self {
        match CollectiveError::find(&error) {
            Some(inner) => Self::Collective(inner.clone()),
            None => Self::Candle(error),
        }
    }
}

impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Candle(inner) => inner,
            Error::Collective(inner) => inner.into(),
            other => candle_core::Error::wrap(other),
        }
    }
}
