//! The one error type of this crate.

#[cfg(feature = "images")]
use std::path::PathBuf;

/// A result with this crate's [`enum@Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong in building, running, training or loading a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A field of the configuration is out of range or contradicts another.
    #[error("{key}: {problem}")]
    Config {
        /// The field, such as `context.codes`.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An array or tensor has the wrong size.
    #[error("{what}: expected {expected}, got {got}")]
    Size {
        /// What was looked at, such as `pictures`.
        what: String,
        /// What was asked for.
        expected: String,
        /// What was found.
        got: String,
    },
    /// A label is neither a class nor the ignored one.
    #[error(
        "labels: {label} at position {position} is neither one of {classes} classes nor {ignore}, the ignored label"
    )]
    Label {
        /// The label.
        label: i64,
        /// Where it is, in row-major order.
        position: usize,
        /// Number of classes.
        classes: usize,
        /// The label that is ignored.
        ignore: i64,
    },
    /// A number in a weight file is NaN or infinite.
    #[error("`{name}`: element {position} is {value}, not a finite number")]
    NotFinite {
        /// The array, by its canonical name.
        name: String,
        /// Its first such element, in row-major order.
        position: usize,
        /// What is there.
        value: f64,
    },
    /// A weight file does not hold what it should.
    #[cfg(feature = "images")]
    #[error("{path}: {problem}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Somebody asked to stop.
    #[cfg(feature = "train")]
    #[error("interrupted")]
    Interrupted,
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
    /// An operation of the core failed.
    #[error(transparent)]
    Core(#[from] vision_core::Error),
    /// A weight file could not be read, written or matched.
    #[error(transparent)]
    Weights(#[from] vision_weights::Error),
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

    #[cfg(feature = "images")]
    pub(crate) fn file(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::File { path: path.into(), problem: problem.into() }
    }
}
