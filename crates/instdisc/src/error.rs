//! The one error type of this crate.

use std::path::PathBuf;

/// A result with this crate's [`enum@Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong in training, evaluating or searching.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A field of the configuration is out of range or contradicts another.
    #[error("{key}: {problem}")]
    Config {
        /// The field, such as `loss.temperature`.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An array or tensor has the wrong size.
    #[error("{what}: expected {expected}, got {got}")]
    Size {
        /// What was looked at, such as `bank rows`.
        what: String,
        /// What was asked for.
        expected: String,
        /// What was found.
        got: String,
    },
    /// A feature holds NaN or infinity, or is all zeros.
    #[error("{what}: row {row} is not finite or has length zero")]
    BadRow {
        /// The matrix the row belongs to.
        what: String,
        /// The row.
        row: usize,
    },
    /// A bank or index file does not hold what it should.
    #[error("{path}: {problem}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A bank, index or checkpoint belongs to other data.
    #[error("made from data {found}, but this run uses {expected}")]
    Fingerprint {
        /// Fingerprint of the data in use.
        expected: String,
        /// Fingerprint stored in the file.
        found: String,
    },
    /// An operation of the core failed.
    #[error(transparent)]
    Core(#[from] vision_core::Error),
    /// A weight file could not be read, written or matched.
    #[error(transparent)]
    Weights(#[from] vision_weights::Error),
    /// A picture could not be read or drawn.
    #[cfg(feature = "images")]
    #[error(transparent)]
    Image(#[from] vision_image::Error),
    /// A data set could not be read.
    #[cfg(feature = "train")]
    #[error(transparent)]
    Data(#[from] vision_datasets::Error),
    /// A metric was given impossible numbers.
    #[cfg(feature = "train")]
    #[error(transparent)]
    Eval(#[from] vision_eval::Error),
    /// The tensor library reported an error.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl Error {
    pub(crate) fn config(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Config { key: key.into(), problem: problem.into() }
    }

    pub(crate) fn size(
        what: impl Into<String>,
        expected: impl std::fmt::Display,
        got: impl std::fmt::Display,
    ) -> Self {
        Self::Size { what: what.into(), expected: expected.to_string(), got: got.to_string() }
    }

    pub(crate) fn file(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::File { path: path.into(), problem: problem.into() }
    }
}
