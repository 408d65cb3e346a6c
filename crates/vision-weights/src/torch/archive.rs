//! The zip archive that `torch.save` writes since `PyTorch` 1.6: `NAME/data.pkl` describes, `NAME/data/KEY` hold
//! the bytes. Also zip archives that only wrap one weight file, as some were published.

use std::io::{self, Cursor, Read};
use std::path::Path;

use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive, read::ZipReadOptions};

use super::pickle;
use crate::bytes::Bytes;
use crate::{Error, Result};

/// `PyTorch` stores records uncompressed. An archive that was packed again may be compressed, but not so well
/// that it stops being weights and starts being a bomb.
const MAX_INFLATION: u64 = 64;

/// An open zip archive.
#[derive(Debug, Clone)]
pub(super) struct Archive {
    zip: ZipArchive<Cursor<Bytes>>,
    bytes: Bytes,
    verify_checksums: bool,
}

impl Archive {
    pub(super) fn open(bytes: Bytes, path: &Path, verify_checksums: bool) -> Result<Self> {
        let zip =
            ZipArchive::new(Cursor::new(bytes.clone())).map_err(|e| zip_error(path, "zip archive", e))?;
        if zip.has_duplicate_names() {
            return Err(Error::format(path, None, "two records of the archive have the same name"));
        }
        Ok(Self { zip, bytes, verify_checksums })
    }

    /// The folder, with its slash, that holds `data.pkl`.
    pub(super) fn root(&self, path: &Path) -> Result<Option<String>> {
        for name in self.zip.file_names() {
            let name = name.map_err(|e| zip_error(path, "name of a record", e))?;
            if let Some(root) = name.strip_suffix("data.pkl")
                && root.strip_suffix('/').is_some_and(|folder| !folder.contains('/'))
            {
                return Ok(Some(root.to_owned()));
            }
        }
        Ok(None)
    }

    /// The pickle of an archive of `torch.save`.
    pub(super) fn description(&self, root: &str, path: &Path) -> Result<Vec<u8>> {
        if let Some(index) = self.zip.index_for_name(&format!("{root}byteorder"))
            && self.record(index, path)? != b"little"
        {
            return Err(Error::unsupported(path, "an archive that is not little-endian"));
        }
        let name = format!("{root}data.pkl");
        let gone = || Error::format(path, None, format!("record {name} is gone"));
        let index = self.zip.index_for_name(&name).ok_or_else(gone)?;
        let size = self.size(index, &name, path)?;
        if size > pickle::MAX_LENGTH {
            return Err(Error::unsupported(path, format!("a record {name} of {size} bytes")));
        }
        self.record(index, path)
    }

    /// Number and size of a record; `None` when there is none of this name.
    pub(super) fn find(&self, name: &str, path: &Path) -> Result<Option<(usize, u64)>> {
        let Some(index) = self.zip.index_for_name(name) else { return Ok(None) };
        Ok(Some((index, self.size(index, name, path)?)))
    }

    fn size(&self, index: usize, name: &str, path: &Path) -> Result<u64> {
        Ok(self.zip.by_index_data(index).map_err(|e| zip_error(path, name, e))?.size())
    }

    /// Refuses records that are large together: they can overlap in a zip archive, so each one may be small
    /// enough and all of them not.
    pub(super) fn check_total(&self, total: u64, path: &Path) -> Result<()> {
        if total > self.inflation_limit() {
            let problem = format!("records of {total} bytes in a file of {}", self.file_len());
            return Err(Error::format(path, None, problem));
        }
        Ok(())
    }

    fn file_len(&self) -> u64 {
        self.bytes.as_ref().len() as u64
    }

    fn inflation_limit(&self) -> u64 {
        self.file_len().saturating_mul(MAX_INFLATION)
    }

    /// The one weight file that the archive wraps.
    pub(super) fn wrapped(&self, path: &Path) -> Result<Bytes> {
        let mut found = None;
        for (index, name) in self.zip.file_names().enumerate() {
            let name = name.map_err(|e| zip_error(path, "name of a record", e))?;
            if !is_weight_file(&name) {
                continue;
            }
            if let Some((_, first)) = found.replace((index, name.clone().into_owned())) {
                let what = format!("a zip archive of several weight files, {first} and {name} among them,");
                return Err(Error::unsupported(path, what));
            }
        }
        let Some((_, name)) = found else {
            let what = "a zip archive that has neither NAME/data.pkl nor a .pth file";
            return Err(Error::unsupported(path, what));
        };
        let gone = || Error::format(path, None, format!("record {name} is gone"));
        let index = self.zip.index_for_name(&name).ok_or_else(gone)?;
        match self.stored(index, path)? {
            Some(bytes) => Ok(bytes),
            None => Ok(self.record(index, path)?.into()),
        }
    }

    /// The bytes of a record that is not compressed, where they are; `None` when it is.
    fn stored(&self, index: usize, path: &Path) -> Result<Option<Bytes>> {
        self.with_record(index, path, |record, name, size| {
            if record.compression() != CompressionMethod::Stored {
                return Ok(None);
            }
            let start = record.data_start();
            if self.verify_checksums {
                // Reading to the end is what compares the checksum.
                io::copy(record, &mut io::sink())
                    .map_err(|problem| Error::format(path, start, format!("record {name}: {problem}")))?;
            }
            let start = start.and_then(|start| usize::try_from(start).ok());
            let end = start.zip(usize::try_from(size).ok()).and_then(|(start, size)| start.checked_add(size));
            let bytes = start.zip(end).and_then(|(start, end)| self.bytes.slice(start..end));
            let outside =
                || Error::format(path, None, format!("record {name} runs past the end of the file"));
            bytes.ok_or_else(outside).map(Some)
        })
    }

    /// Reads one record whole, checking its size and checksum.
    pub(super) fn record(&self, index: usize, path: &Path) -> Result<Vec<u8>> {
        self.with_record(index, path, |record, name, size| {
            let offset = record.data_start();
            let mut bytes = Vec::with_capacity(size.min(self.file_len()) as usize);
            record.take(size.saturating_add(1)).read_to_end(&mut bytes).map_err(|problem| {
                let problem = format!("record {name}: {problem}");
                Error::format(path, offset, problem)
            })?;
            if bytes.len() as u64 != size {
                let problem = format!("record {name} has {} bytes instead of {size}", bytes.len());
                return Err(Error::format(path, offset, problem));
            }
            Ok(bytes)
        })
    }

    /// Hands a record over once its size is known to be sane.
    fn with_record<T>(
        &self,
        index: usize,
        path: &Path,
        read: impl FnOnce(&mut ZipFile<'_>, &str, u64) -> Result<T>,
    ) -> Result<T> {
        // Archives share their table of contents; a copy gives this call a reading position of its own.
        let mut zip = self.zip.clone();
        let options = ZipReadOptions::new().ignore_crc32(!self.verify_checksums);
        let record = zip.by_index_with_options(index, options);
        let mut record = record.map_err(|e| zip_error(path, "record", e))?;
        let name = String::from_utf8_lossy(record.name_raw()).into_owned();
        let (size, packed) = (record.size(), record.compressed_size());
        let stored = record.compression() == CompressionMethod::Stored;
        if packed > self.file_len() || (stored && size != packed) || size > self.inflation_limit() {
            let problem = format!("record {name} claims {size} bytes in {packed}");
            return Err(Error::format(path, None, problem));
        }
        read(&mut record, &name, size)
    }
}

type ZipFile<'a> = zip::read::ZipFile<'a, Cursor<Bytes>>;

/// Whether a record is what a wrapping archive is about. Archives made on macOS have a shadow of every file.
fn is_weight_file(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let ending = [".pth", ".pt", ".pth.tar"].iter().any(|ending| lower.ends_with(ending));
    ending && !lower.starts_with("__macosx/")
}

fn zip_error(path: &Path, what: &str, error: ZipError) -> Error {
    match error {
        ZipError::UnsupportedArchive(_) | ZipError::CompressionMethodNotSupported(_) => {
            Error::unsupported(path, format!("{what} ({error})"))
        }
        other => Error::format(path, None, format!("{what}: {other}")),
    }
}
