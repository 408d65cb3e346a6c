//! The one error type of the crate.

use std::path::{Path, PathBuf};

use crate::{Dtype, LoadReport};

/// What can go wrong when weights are read, written, renamed or compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to open, read or write a file.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// The bytes are not what the format promises: damaged, cut short, or made up.
    #[error("{}{}: {problem}", path.display(), at(*offset))]
    Format {
        /// The file, or `<memory>`.
        path: PathBuf,
        /// Where in the file, or in the record that `problem` names, in bytes; `None` when no single place
        /// is to blame.
        offset: Option<u64>,
        /// What is wrong there.
        problem: String,
    },
    /// The file is sound but holds something this crate does not read.
    #[error("{}: {what} is not supported", path.display())]
    Unsupported {
        /// The file, or `<memory>`.
        path: PathBuf,
        /// What was met.
        what: String,
    },
    /// No array of this name exists.
    #[error("{}: no array is called `{name}`", path.display())]
    NotFound {
        /// The file, or `<memory>`.
        path: PathBuf,
        /// The name asked for.
        name: String,
    },
    /// The number of bytes or elements does not fit the shape.
    #[error("{what}: shape {shape:?} needs {expected} {unit}, got {got}")]
    Length {
        /// What was built: an array's name or `array`.
        what: String,
        /// The shape asked for.
        shape: Vec<usize>,
        /// The number needed.
        expected: usize,
        /// The number given.
        got: usize,
        /// What is counted: `bytes` or `elements`.
        unit: &'static str,
    },
    /// The shape has more elements than memory can address.
    #[error("shape {shape:?} has more elements than this machine can address")]
    TooLarge {
        /// The shape.
        shape: Vec<usize>,
    },
    /// The element type cannot be read as the type asked for without losing its meaning.
    #[error("an array of {got} cannot be read as {wanted}")]
    Dtype {
        /// The type asked for.
        wanted: Dtype,
        /// The type of the array.
        got: Dtype,
    },
    /// An element does not fit the type asked for.
    #[error("element {index} is {value}, which is no {wanted}")]
    Value {
        /// Flat index of the element.
        index: usize,
        /// The element, as text.
        value: String,
        /// The type asked for.
        wanted: Dtype,
    },
    /// A name cannot be stored.
    #[error("`{name}` cannot name an array: {problem}")]
    Name {
        /// The name.
        name: String,
        /// Why not.
        problem: &'static str,
    },
    /// Two arrays were mapped to one name.
    #[error("`{first}` and `{second}` would both be called `{name}`")]
    Collision {
        /// The name both would have.
        name: String,
        /// The name the first array came with.
        first: String,
        /// The name the second array came with.
        second: String,
    },
    /// A text is no address of a file on a hub.
    #[error("{address}: {problem}")]
    Address {
        /// The text.
        address: String,
        /// Why not.
        problem: &'static str,
    },
    /// A rule of a [`KeyMap`](crate::KeyMap) cannot be used like this.
    #[error("the rule {rule}: {problem}")]
    Rule {
        /// The rule.
        rule: String,
        /// Why not.
        problem: &'static str,
    },
    /// A file of a hub is not in the cache, and the caller forbade to ask for it.
    #[cfg(feature = "hub")]
    #[error("{file} is not in the cache {}, and `offline` forbids to ask for it", cache.display())]
    NotCached {
        /// The file's address.
        file: String,
        /// The folder of the cache.
        cache: PathBuf,
    },
    /// There is no home folder to keep the cache of a hub in.
    #[cfg(feature = "hub")]
    #[error("no home folder is known to keep the cache of the hub in; name a folder in `cache_dir`")]
    NoHome,
    /// A hub could not be reached, or fell silent.
    #[cfg(feature = "hub")]
    #[error("{url}: {source} ({attempts} attempts)")]
    Connection {
        /// The address that was asked.
        url: String,
        /// How often.
        attempts: u32,
        /// What happened last.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A hub refused.
    #[cfg(feature = "hub")]
    #[error("{url}: status {status}: {reason}")]
    Status {
        /// The address that was asked.
        url: String,
        /// The status of HTTP.
        status: u16,
        /// What the hub says about it, or what it usually means.
        reason: String,
    },
    /// A server answered what a hub does not answer.
    #[cfg(feature = "hub")]
    #[error("{url}: not the answer of a hub: {problem}")]
    Answer {
        /// The address that was asked.
        url: String,
        /// What is wrong.
        problem: String,
    },
    /// A hub sent less than it announced.
    #[cfg(feature = "hub")]
    #[error("{url}: {got} of {expected} bytes arrived")]
    Incomplete {
        /// The address that was asked.
        url: String,
        /// Bytes announced.
        expected: u64,
        /// Bytes that arrived.
        got: u64,
    },
    /// What arrived is not what the hub announced.
    #[cfg(feature = "hub")]
    #[error("{file}: the SHA-256 is {got}, the hub states {expected}")]
    Digest {
        /// The file's address.
        file: String,
        /// The digest stated.
        expected: String,
        /// The digest of what arrived.
        got: String,
    },
    /// Names or shapes of a file and a model differ, and the caller did not accept that.
    #[error("the weights do not fit the model: {0}")]
    Mismatched(Box<LoadReport>),
}

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), source }
    }

    pub(crate) fn format(path: &Path, offset: Option<u64>, problem: impl Into<String>) -> Self {
        Self::Format { path: path.to_path_buf(), offset, problem: problem.into() }
    }

    pub(crate) fn unsupported(path: &Path, what: impl Into<String>) -> Self {
        Self::Unsupported { path: path.to_path_buf(), what: what.into() }
    }
}

fn at(offset: Option<u64>) -> String {
    offset.map_or_else(String::new, |offset| format!(", byte {offset}"))
}
