//! What can go wrong between a file on disk and a batch in memory.

use std::path::PathBuf;

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Everything this crate can fail with. Messages name the file, folder, sample or field.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading or writing a file failed.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file does not follow its format.
    #[error("{path}, byte {offset}: {problem}", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Where in the (decompressed) file the problem was seen.
        offset: u64,
        /// What was found and what was expected.
        problem: String,
    },
    /// A file has the wrong length.
    #[error("{path}: {got} bytes, expected {expected}", path = path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// The lengths that would have been accepted, in words.
        expected: String,
        /// The length found, in bytes.
        got: u64,
    },
    /// A class folder holds no picture.
    #[error("class folder {folder} holds no picture (looked for .jpg, .jpeg, .png)", folder = folder.display())]
    EmptyClass {
        /// The folder.
        folder: PathBuf,
    },
    /// A folder of classes has no class folder in it.
    #[error("{folder} has no class folders in it", folder = folder.display())]
    NoClasses {
        /// The folder.
        folder: PathBuf,
    },
    /// A picture file could not be read.
    #[error("{path}: {source}", path = path.display())]
    Picture {
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        source: vision_image::Error,
    },
    /// A picture has no mask.
    #[error("{picture}: there is no mask {mask}", picture = picture.display(), mask = mask.display())]
    MissingMask {
        /// The picture.
        picture: PathBuf,
        /// Where its mask should be.
        mask: PathBuf,
    },
    /// A mask is not as large as its picture.
    #[error(
        "{mask}: {} x {} pixels, but its picture {picture} has {} x {}{hint}",
        mask_size[0], mask_size[1], picture_size[0], picture_size[1],
        mask = mask.display(), picture = picture.display()
    )]
    MaskSize {
        /// The picture.
        picture: PathBuf,
        /// Its width and height.
        picture_size: [u32; 2],
        /// The mask.
        mask: PathBuf,
        /// Its width and height.
        mask_size: [u32; 2],
        /// What may be the reason, or nothing.
        hint: &'static str,
    },
    /// A pixel of a mask stands for no class.
    #[error("{path}, pixel ({x}, {y}): {problem}", path = path.display())]
    Label {
        /// The mask.
        path: PathBuf,
        /// The column.
        x: usize,
        /// The row.
        y: usize,
        /// What was found and what would have been right.
        problem: String,
    },
    /// An operation on a picture in memory failed.
    #[error(transparent)]
    Image(#[from] vision_image::Error),
    /// A sample was asked for that the set does not have.
    #[error("{set} has {len} samples, there is no number {index}")]
    Index {
        /// The set.
        set: String,
        /// The number asked for.
        index: usize,
        /// How many samples there are.
        len: usize,
    },
    /// Reading or transforming one sample failed.
    #[error("sample {name} (number {index}): {source}")]
    Sample {
        /// The sample's name: its path, or set and number.
        name: String,
        /// Its number in the set.
        index: usize,
        /// The cause.
        #[source]
        source: Box<Error>,
    },
    /// More samples were broken than the loader may skip.
    #[error("{found} broken samples, at most {allowed} may be skipped; the last one: {source}")]
    TooManyBroken {
        /// Distinct broken samples met so far.
        found: usize,
        /// How many were allowed.
        allowed: usize,
        /// The sample that went over the limit.
        #[source]
        source: Box<Error>,
    },
    /// Code called by the loader panicked.
    #[error("{what} panicked: {message}")]
    Panic {
        /// The sample or batch being worked on.
        what: String,
        /// The panic message.
        message: String,
    },
    /// No set of this name is known.
    #[error("unknown data set {name:?}; known are {}", known.join(", "))]
    UnknownSet {
        /// The name asked for.
        name: String,
        /// The names that would have been accepted.
        known: Vec<String>,
    },
    /// A set cannot be opened the way it was asked for.
    #[error("data set {set}: {problem}")]
    Set {
        /// The set.
        set: String,
        /// What is missing, and what to do about it.
        problem: String,
    },
    /// An argument is out of its range.
    #[error("{name}: {problem}")]
    Argument {
        /// The argument or field.
        name: String,
        /// What it was and what is allowed.
        problem: String,
    },
    /// A file is not the one the catalogue describes.
    #[error("{path}: {algorithm} is {found}, the catalogue has {expected}", path = path.display())]
    Digest {
        /// The file.
        path: PathBuf,
        /// `md5`, `sha1` or `sha256`.
        algorithm: String,
        /// The published digest.
        expected: String,
        /// The digest of the file.
        found: String,
    },
    /// An archive holds something that is not unpacked.
    #[error("{path}: entry {entry:?} refused: {problem}", path = path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// The entry's name in the archive.
        entry: String,
        /// Why it was refused.
        problem: String,
    },
    /// An archive lacks something that the set is made from.
    #[error("{path}: there is no {entry:?} in it", path = path.display())]
    MissingEntry {
        /// The archive.
        path: PathBuf,
        /// The name looked for.
        entry: String,
    },
    /// Labels that do not fit the classes, the picture or their own format.
    #[error("{path}, {sample}: {problem}", path = path.display())]
    Annotation {
        /// The archive or file that the labels come from.
        path: PathBuf,
        /// The sample, or the entry of the archive.
        sample: String,
        /// What was found and what was expected.
        problem: String,
    },
    /// The catalogue or a manifest cannot be read.
    #[error("{what}: {problem}")]
    Manifest {
        /// The file.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl Error {
    /// An [`Error::Io`] for `path`.
    pub(crate) fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    /// An [`Error::Annotation`].
    pub(crate) fn annotation(
        path: impl Into<PathBuf>,
        sample: impl Into<String>,
        problem: impl Into<String>,
    ) -> Self {
        Self::Annotation { path: path.into(), sample: sample.into(), problem: problem.into() }
    }

    /// An [`Error::Argument`].
    pub(crate) fn argument(name: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Argument { name: name.into(), problem: problem.into() }
    }
}
