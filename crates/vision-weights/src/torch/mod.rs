//! The zip archive that `torch.save` writes: `NAME/data.pkl` describes, `NAME/data/KEY` hold the bytes.

mod flatten;
mod input;
mod pickle;
mod rebuild;
mod value;
mod view;

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::path::Path;

use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive, read::ZipReadOptions};

use crate::bytes::Bytes;
use crate::{Array, Error, Result};
use value::Problem;
pub(crate) use view::Entry;

/// `PyTorch` stores records uncompressed. An archive that was packed again may be compressed, but not so well
/// that it stops being weights and starts being a bomb.
const MAX_INFLATION: u64 = 64;

/// The stream that came before the archive: a pickle of this number, then more pickles.
const LEGACY_MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";

/// Whether the bytes start like a stream of `PyTorch` before 1.6.
pub(crate) fn is_legacy(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0x80) && bytes.get(2..).is_some_and(|rest| rest.starts_with(LEGACY_MAGIC))
}

/// An open archive: what it contains is known, its records are read on demand.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    archive: ZipArchive<Cursor<Bytes>>,
    verify_checksums: bool,
    file_len: u64,
    pub(crate) entries: BTreeMap<String, Entry>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) skipped: BTreeMap<String, String>,
}

impl Reader {
    pub(crate) fn parse(bytes: Bytes, path: &Path, verify_checksums: bool) -> Result<Self> {
        let file_len = bytes.as_ref().len() as u64;
        let archive = ZipArchive::new(Cursor::new(bytes)).map_err(|e| zip_error(path, "zip archive", e))?;
        if archive.has_duplicate_names() {
            return Err(Error::format(path, None, "two records of the archive have the same name"));
        }
        let mut reader = Self {
            archive,
            verify_checksums,
            file_len,
            entries: BTreeMap::new(),
            metadata: BTreeMap::new(),
            skipped: BTreeMap::new(),
        };
        let root = reader.root(path)?;
        if let Some(index) = reader.archive.index_for_name(&format!("{root}byteorder"))
            && reader.record(index, path)? != b"little"
        {
            return Err(Error::unsupported(path, "an archive that is not little-endian"));
        }
        let name = format!("{root}data.pkl");
        let index = reader
            .archive
            .index_for_name(&name)
            .ok_or_else(|| Error::format(path, None, format!("record {name} is gone")))?;
        let size = reader.archive.by_index_data(index).map_err(|e| zip_error(path, &name, e))?.size();
        if size > pickle::MAX_LENGTH {
            return Err(Error::unsupported(path, format!("a record {name} of {size} bytes")));
        }
        let described = reader.record(index, path)?;
        reader.describe(&described, &root, path).map_err(|failure| match failure {
            Failure::Pickle(Problem { offset, what }) => {
                Error::format(path, Some(offset as u64), format!("record {name}: {what}"))
            }
            Failure::Other(error) => error,
        })?;
        Ok(reader)
    }

    /// The folder, with its slash, that holds `data.pkl`.
    fn root(&self, path: &Path) -> Result<String> {
        for name in self.archive.file_names() {
            let name = name.map_err(|e| zip_error(path, "name of a record", e))?;
            if let Some(root) = name.strip_suffix("data.pkl")
                && root.strip_suffix('/').is_some_and(|folder| !folder.contains('/'))
            {
                return Ok(root.to_owned());
            }
        }
        Err(Error::unsupported(path, "a zip archive without NAME/data.pkl"))
    }

    fn describe(&mut self, described: &[u8], root: &str, path: &Path) -> std::result::Result<(), Failure> {
        let pickle = pickle::parse(described).map_err(Failure::Pickle)?;
        let contents = flatten::flatten(&pickle).map_err(Failure::Pickle)?;
        let mut used: BTreeMap<usize, u64> = BTreeMap::new();
        for (name, view) in contents.views {
            let record = format!("{root}data/{}", view.key);
            let gone = || Error::format(path, None, format!("`{name}`: record {record} is missing"));
            let index = self.archive.index_for_name(&record).ok_or_else(gone)?;
            let size = self.archive.by_index_data(index).map_err(|e| zip_error(path, &record, e))?.size();
            let entry = Entry::new(view, index, size)
                .map_err(|problem| Error::format(path, None, format!("`{name}`: {problem}")))?;
            used.insert(index, size);
            self.entries.insert(name, entry);
        }
        // Records can overlap in a zip archive, so each one may be small enough and all of them not.
        let total = used.values().fold(0u64, |sum, &size| sum.saturating_add(size));
        if total > self.inflation_limit() {
            let problem = format!("records of {total} bytes in a file of {}", self.file_len);
            return Err(Error::format(path, None, problem).into());
        }
        self.skipped = contents.unsupported;
        self.metadata = contents.metadata;
        Ok(())
    }

    fn inflation_limit(&self) -> u64 {
        self.file_len.saturating_mul(MAX_INFLATION)
    }

    /// Reads one record whole, checking its size and checksum.
    fn record(&self, index: usize, path: &Path) -> Result<Vec<u8>> {
        // Archives share their table of contents; a copy gives this call a reading position of its own.
        let mut archive = self.archive.clone();
        let options = ZipReadOptions::new().ignore_crc32(!self.verify_checksums);
        let record = archive.by_index_with_options(index, options);
        let record = record.map_err(|e| zip_error(path, "record", e))?;
        let name = String::from_utf8_lossy(record.name_raw()).into_owned();
        let (size, packed) = (record.size(), record.compressed_size());
        let stored = record.compression() == CompressionMethod::Stored;
        if packed > self.file_len || (stored && size != packed) || size > self.inflation_limit() {
            let problem = format!("record {name} claims {size} bytes in {packed}");
            return Err(Error::format(path, None, problem));
        }
        let offset = record.data_start();
        let mut bytes = Vec::with_capacity(size.min(self.file_len) as usize);
        record.take(size.saturating_add(1)).read_to_end(&mut bytes).map_err(|problem| {
            let problem = format!("record {name}: {problem}");
            Error::format(path, offset, problem)
        })?;
        if bytes.len() as u64 != size {
            let problem = format!("record {name} has {} bytes instead of {size}", bytes.len());
            return Err(Error::format(path, offset, problem));
        }
        Ok(bytes)
    }

    /// Reads one array. `entry` must be one of this reader's.
    pub(crate) fn read(&self, entry: &Entry, path: &Path) -> Result<Array> {
        let storage = self.record(entry.record, path)?;
        entry.cut_out_of(storage).map_err(|problem| Error::format(path, None, problem))
    }

    /// Reads all arrays, each record once.
    pub(crate) fn read_all(&self, path: &Path) -> Result<BTreeMap<String, Array>> {
        let mut by_record: BTreeMap<usize, Vec<(&String, &Entry)>> = BTreeMap::new();
        let (mut wanted, mut stored) = (0u64, 0u64);
        for (name, entry) in &self.entries {
            let views = by_record.entry(entry.record).or_default();
            if views.is_empty() {
                stored = stored.saturating_add(entry.record_len);
            }
            views.push((name, entry));
            wanted = wanted.saturating_add(entry.byte_len() as u64);
        }
        if wanted > view::repetition_limit(stored) {
            let problem = format!("arrays of {wanted} bytes are views of {stored} stored bytes");
            return Err(Error::format(path, None, problem));
        }
        let mut arrays = BTreeMap::new();
        for (record, views) in by_record {
            let storage = self.record(record, path)?;
            let problem =
                |name: &str, problem: String| Error::format(path, None, format!("`{name}`: {problem}"));
            if let [(name, entry)] = views.as_slice() {
                let array = entry.cut_out_of(storage).map_err(|p| problem(name, p))?;
                arrays.insert((*name).clone(), array);
                continue;
            }
            for (name, entry) in views {
                let array = entry.copy_from(&storage).map_err(|p| problem(name, p))?;
                arrays.insert(name.clone(), array);
            }
        }
        Ok(arrays)
    }
}

enum Failure {
    Pickle(Problem),
    Other(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

fn zip_error(path: &Path, what: &str, error: ZipError) -> Error {
    match error {
        ZipError::UnsupportedArchive(_) | ZipError::CompressionMethodNotSupported(_) => {
            Error::unsupported(path, format!("{what} ({error})"))
        }
        other => Error::format(path, None, format!("{what}: {other}")),
    }
}
