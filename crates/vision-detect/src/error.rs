//! The one error type of this crate.

/// A result with this crate's [`enum@Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong in building, loading or running a detector.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A field of the configuration is out of range or contradicts another.
    #[error("{key}: {problem}")]
    Config {
        /// The field, such as `rpn.nms_thresh`.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A tensor, or a list of them, has the wrong shape or length.
    #[error("{what}: expected {expected}, got {got}")]
    Size {
        /// What was looked at, such as `images: picture 2`.
        what: String,
        /// What was asked for.
        expected: String,
        /// What was found.
        got: String,
    },
    /// A number that must be finite, or at least a number, is not.
    #[error("{what} {index}: {values:?} must be {expected}")]
    NotFinite {
        /// What was looked at, such as `rpn: box`.
        what: String,
        /// Its number.
        index: usize,
        /// What is there.
        values: Vec<f64>,
        /// What was asked for.
        expected: &'static str,
    },
    /// An operation of the core failed.
    #[error(transparent)]
    Core(#[from] vision_core::Error),
    /// A weight file could not be matched.
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

    /// Fails unless there are as many of `what` as of something else.
    pub(crate) fn check_count(what: &str, expected: usize, got: usize) -> Result<()> {
        if expected == got { Ok(()) } else { Err(Self::size(what, expected, got)) }
    }
}

/// Fails unless `value` is at least 1.
pub(crate) fn at_least_one(key: &str, value: usize) -> Result<()> {
    if value == 0 { Err(Error::config(key, "must be at least 1")) } else { Ok(()) }
}

/// Fails if `value` is NaN.
pub(crate) fn a_number(key: &str, value: f64) -> Result<()> {
    if value.is_nan() { Err(Error::config(key, "is NaN")) } else { Ok(()) }
}
