//! The error type of this crate.

use std::path::PathBuf;

use crate::codec::Format;

/// `Result` with this crate's [`enum@Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can go wrong here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading or writing a file failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A picture file could not be decoded or encoded; `source` says why.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the same operation on bytes.
        source: Box<Error>,
    },
    /// The bytes are neither a JPEG nor a PNG file, or a file name ends in neither.
    #[error("not a picture this crate reads or writes (JPEG, PNG): {problem}")]
    UnknownFormat {
        /// What was found instead.
        problem: String,
    },
    /// The file ends before its picture does.
    #[error("truncated {format} file: {problem}")]
    Truncated {
        /// The format.
        format: Format,
        /// Where the data stopped.
        problem: String,
    },
    /// The file contradicts its format.
    #[error("corrupt {format} file: {problem}")]
    Corrupt {
        /// The format.
        format: Format,
        /// What is wrong.
        problem: String,
    },
    /// The file is valid, but uses a part of the format that is not supported, such as arithmetic coding.
    #[error("unsupported {format} file: {problem}")]
    Unsupported {
        /// The format.
        format: Format,
        /// The part.
        problem: String,
    },
    /// A picture has more pixels than allowed.
    #[error("a picture of {width} x {height} pixels exceeds the limit of {limit} pixels")]
    TooLarge {
        /// Columns.
        width: u64,
        /// Rows.
        height: u64,
        /// The limit, in pixels.
        limit: u64,
    },
    /// A picture cannot be written in this format.
    #[error("cannot encode a {format} file: {problem}")]
    Encode {
        /// The format.
        format: Format,
        /// What is wrong.
        problem: String,
    },
    /// Sizes, channels or buffer lengths do not fit together.
    #[error("{what}: expected {expected}, got {got}")]
    Shape {
        /// Which thing.
        what: &'static str,
        /// What would have been right.
        expected: String,
        /// What was given.
        got: String,
    },
    /// An argument is out of its range.
    #[error("argument `{name}`: {problem}")]
    Argument {
        /// Name of the argument.
        name: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl Error {
    /// Wraps an error so that its message names the file.
    pub(crate) fn in_file(self, path: &std::path::Path) -> Self {
        Self::File { path: path.to_path_buf(), source: Box::new(self) }
    }

    pub(crate) fn argument(name: &'static str, problem: impl Into<String>) -> Self {
        Self::Argument { name, problem: problem.into() }
    }
}
