//! Opening a file of any known format.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::bytes::Bytes;
use crate::safetensors_format::Reader as SafetensorsReader;
use crate::torch::Reader as TorchReader;
use crate::{Array, Dtype, Error, Result, StateDict, safetensors_format, torch};

/// What kind of file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// safetensors.
    Safetensors,
    /// The zip archive that `torch.save` writes since `PyTorch` 1.6 (`.pth`, `.pt`).
    TorchZip,
    /// The stream of pickles and raw bytes that `torch.save` wrote before (`.pth`, `.pth.tar`).
    TorchStream,
    /// The tar archive that `torch.save` wrote in `PyTorch` 0.1.
    TorchTar,
}

/// How to open a file.
#[derive(Debug, Clone, Copy)]
pub struct OpenOptions {
    verify_checksums: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { verify_checksums: true }
    }
}

impl OpenOptions {
    /// The defaults of [`open`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether records of a zip archive must have the checksum that the archive states (default: yes).
    /// `PyTorch` can be told to write none (`torch.serialization.set_crc32_options(False)`); such files need
    /// `false`.
    #[must_use]
    pub fn verify_checksums(mut self, verify: bool) -> Self {
        self.verify_checksums = verify;
        self
    }

    /// Opens the file at `path`, see [`open`].
    ///
    /// # Errors
    /// Those of [`open`].
    pub fn open(&self, path: impl AsRef<Path>) -> Result<WeightFile> {
        let path = path.as_ref();
        self.parse(Bytes::map(path)?, path)
    }

    /// Opens a file that is in memory already. Errors call it `<memory>`.
    ///
    /// # Errors
    /// Those of [`open`], but for [`Error::Io`].
    pub fn from_bytes(&self, bytes: Vec<u8>) -> Result<WeightFile> {
        self.parse(bytes.into(), Path::new("<memory>"))
    }

    fn parse(self, bytes: Bytes, path: &Path) -> Result<WeightFile> {
        let start = bytes.as_ref();
        let content = if start.is_empty() {
            return Err(Error::format(path, Some(0), "the file is empty"));
        } else if let Some(format) = torch::detect(start) {
            Content::Torch(TorchReader::parse(bytes, format, path, self.verify_checksums)?)
        } else if safetensors_format::looks_like(start) {
            Content::Safetensors(SafetensorsReader::parse(bytes, path)?)
        } else {
            return Err(Error::format(path, Some(0), "neither safetensors nor a file of torch.save"));
        };
        Ok(WeightFile { path: path.to_path_buf(), content })
    }
}

/// Opens a weight file. Its content, not its name, decides which format it is: one of [`Format`], or a zip archive
/// that wraps one file of `torch.save`.
///
/// The file is mapped into memory and only its table of contents is read; arrays are read when asked for.
/// Nothing in it is ever executed. It must not be changed in place while it is open.
///
/// # Errors
/// [`Error::Io`] when it cannot be opened, [`Error::Format`] when it is damaged or no weight file,
/// [`Error::Unsupported`] for formats this crate does not read.
pub fn open(path: impl AsRef<Path>) -> Result<WeightFile> {
    OpenOptions::default().open(path)
}

/// An open weight file: names, types and shapes at hand, arrays on demand.
#[derive(Debug, Clone)]
pub struct WeightFile {
    path: PathBuf,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    Safetensors(SafetensorsReader),
    Torch(TorchReader),
}

impl WeightFile {
    /// Which format the file has. Of a zip archive that wraps a weight file: the format of that file.
    pub fn format(&self) -> Format {
        match &self.content {
            Content::Safetensors(_) => Format::Safetensors,
            Content::Torch(reader) => reader.format,
        }
    }

    /// The path the file was opened at, or `<memory>`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of the arrays, in order. Values nested in a `PyTorch` checkpoint are named by the keys that
    /// lead to them, joined by dots (`state_dict.conv1.weight`, `optimizer.state.0.momentum_buffer`); a
    /// checkpoint that is a single tensor calls it `tensor`.
    pub fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match &self.content {
            Content::Safetensors(reader) => Box::new(reader.entries.keys().map(String::as_str)),
            Content::Torch(reader) => Box::new(reader.entries.keys().map(String::as_str)),
        }
    }

    /// Element type and shape of an array; `None` when there is none of this name.
    pub fn info(&self, name: &str) -> Option<(Dtype, &[usize])> {
        match &self.content {
            Content::Safetensors(reader) => reader.entries.get(name).map(|e| (e.dtype, e.shape.as_slice())),
            Content::Torch(reader) => reader.entries.get(name).map(|e| (e.dtype, e.shape.as_slice())),
        }
    }

    /// The shape of every array, as [`LoadReport::compare`](crate::LoadReport::compare) wants them.
    pub fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        self.names()
            .filter_map(|name| self.info(name).map(|(_, shape)| (name.to_owned(), shape.to_vec())))
            .collect()
    }

    /// Reads one array.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none of this name, [`Error::Unsupported`] when it is one of
    /// [`WeightFile::skipped`], [`Error::Format`] when its bytes are damaged.
    pub fn read(&self, name: &str) -> Result<Array> {
        let array = match &self.content {
            Content::Safetensors(reader) => {
                reader.entries.get(name).map(|entry| reader.read(entry, &self.path))
            }
            Content::Torch(reader) => reader.entries.get(name).map(|entry| reader.read(entry, &self.path)),
        };
        array.unwrap_or_else(|| {
            Err(match self.skipped().get(name) {
                Some(what) => Error::unsupported(&self.path, format!("`{name}`: {what}")),
                None => Error::NotFound { path: self.path.clone(), name: name.to_owned() },
            })
        })
    }

    /// Free text of a safetensors header, or the numbers, booleans and short strings of a `PyTorch` checkpoint
    /// (`epoch`, `arch`), named like the arrays.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        match &self.content {
            Content::Safetensors(reader) => &reader.metadata,
            Content::Torch(reader) => &reader.metadata,
        }
    }

    /// Arrays that are in the file but of a kind this crate does not read (8-bit floats, complex numbers,
    /// quantised storages), with what they are. They are not among [`WeightFile::names`].
    pub fn skipped(&self) -> &BTreeMap<String, String> {
        match &self.content {
            Content::Safetensors(reader) => &reader.skipped,
            Content::Torch(reader) => &reader.skipped,
        }
    }

    /// Reads everything. Storages that several arrays share are read once but copied for each.
    ///
    /// # Errors
    /// [`Error::Format`] when an array is damaged or the arrays repeat so much of one storage that together
    /// they are far larger than the file.
    pub fn state_dict(&self) -> Result<StateDict> {
        let tensors = match &self.content {
            Content::Safetensors(reader) => {
                let read = |(name, entry): (&String, _)| Ok((name.clone(), reader.read(entry, &self.path)?));
                reader.entries.iter().map(read).collect::<Result<_>>()?
            }
            Content::Torch(reader) => reader.read_all(&self.path)?,
        };
        Ok(StateDict { tensors, metadata: self.metadata().clone() })
    }
}
