//! What `torch.save` wrote over the years: a zip archive, before that a stream of pickles and raw bytes, before
//! that a tar archive. Each has one pickle that describes tensors, and pieces of memory that they are views of.

mod archive;
mod flatten;
mod input;
mod pickle;
mod rebuild;
mod stream;
mod stream_format;
mod tar_format;
mod value;
mod view;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use crate::bytes::Bytes;
use crate::file::Format;
use crate::{Array, Error, Result};
use archive::Archive;
use value::{Key, Pickle, Problem};
pub(crate) use view::Entry;

/// Which of the formats the bytes start like.
pub(crate) fn detect(bytes: &[u8]) -> Option<Format> {
    if bytes.starts_with(b"PK\x03\x04") {
        Some(Format::TorchZip)
    } else if stream_format::looks_like(bytes) {
        Some(Format::TorchStream)
    } else if tar_format::looks_like(bytes) {
        Some(Format::TorchTar)
    } else {
        None
    }
}

/// An open file: what it contains is known, its stored pieces are read on demand.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    pub(crate) format: Format,
    pieces: Pieces,
    pub(crate) entries: BTreeMap<String, Entry>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) skipped: BTreeMap<String, String>,
}

/// The memory that tensors are views of, by number.
#[derive(Debug, Clone)]
enum Pieces {
    Records(Archive),
    Ranges(Bytes, Vec<Range<usize>>),
}

/// A pickle, and how errors say where it is.
struct Description<'p, 'a> {
    pickle: &'p Pickle<'a>,
    /// Such as `record NAME/data.pkl`.
    name: &'p str,
    /// Where the pickle begins in the file or in what `name` says.
    start: u64,
}

impl Reader {
    /// `format` is what [`detect`] found.
    pub(crate) fn parse(bytes: Bytes, format: Format, path: &Path, verify_checksums: bool) -> Result<Self> {
        match format {
            Format::TorchStream => stream_format::parse(&bytes, path),
            Format::TorchTar => tar_format::parse(&bytes, path),
            _ => Self::parse_zip(bytes, path, verify_checksums),
        }
    }

    fn parse_zip(bytes: Bytes, path: &Path, verify_checksums: bool) -> Result<Self> {
        let archive = Archive::open(bytes, path, verify_checksums)?;
        if let Some(root) = archive.root(path)? {
            return Self::parse_records(&archive, &root, path);
        }
        let bytes = archive.wrapped(path)?;
        match detect(bytes.as_ref()) {
            Some(Format::TorchZip) => {
                let archive = Archive::open(bytes, path, verify_checksums)?;
                let root = archive.root(path)?;
                let deeper =
                    || Error::unsupported(path, "a zip archive in a zip archive without NAME/data.pkl");
                Self::parse_records(&archive, &root.ok_or_else(deeper)?, path)
            }
            Some(format) => Self::parse(bytes, format, path, verify_checksums),
            None => Err(Error::format(path, None, "the file in the zip archive is no PyTorch file")),
        }
    }

    fn parse_records(archive: &Archive, root: &str, path: &Path) -> Result<Self> {
        let described = archive.description(root, path)?;
        let name = format!("record {root}data.pkl");
        let pickle = pickle::parse(&described, &rebuild::persistent)
            .map_err(|problem| located(problem, &name, 0, path))?;
        let mut used: BTreeMap<usize, u64> = BTreeMap::new();
        let mut reader = Self::new(Format::TorchZip, Pieces::Records(archive.clone()));
        let description = Description { pickle: &pickle, name: &name, start: 0 };
        reader.describe(&description, path, |key| {
            let record = format!("{root}data/{key}");
            let found = archive.find(&record, path)?;
            if let Some((index, size)) = found {
                used.insert(index, size);
            }
            found.ok_or_else(|| Error::format(path, None, format!("record {record} is missing")))
        })?;
        archive.check_total(used.values().fold(0u64, |sum, &size| sum.saturating_add(size)), path)?;
        Ok(reader)
    }

    fn new(format: Format, pieces: Pieces) -> Self {
        Self { format, pieces, entries: BTreeMap::new(), metadata: BTreeMap::new(), skipped: BTreeMap::new() }
    }

    /// Takes over what a pickle describes. `find` gives number and length of a stored piece.
    fn describe(
        &mut self,
        description: &Description<'_, '_>,
        path: &Path,
        mut find: impl FnMut(Key<'_>) -> Result<(usize, u64)>,
    ) -> Result<()> {
        let contents = flatten::flatten(description.pickle)
            .map_err(|problem| located(problem, description.name, description.start, path))?;
        for (name, view) in contents.views {
            let (piece, len) = find(view.key).map_err(|error| named(error, &name))?;
            let entry = Entry::new(view, piece, len)
                .map_err(|problem| Error::format(path, None, format!("`{name}`: {problem}")))?;
            self.entries.insert(name, entry);
        }
        self.skipped = contents.unsupported;
        self.metadata = contents.metadata;
        Ok(())
    }

    /// Reads one array. `entry` must be one of this reader's.
    pub(crate) fn read(&self, entry: &Entry, path: &Path) -> Result<Array> {
        let array = match &self.pieces {
            Pieces::Records(archive) => entry.cut_out_of(archive.record(entry.record, path)?),
            Pieces::Ranges(bytes, ranges) => entry.copy_from(piece(bytes, ranges, entry.record)),
        };
        array.map_err(|problem| Error::format(path, None, problem))
    }

    /// Reads all arrays, each stored piece once.
    pub(crate) fn read_all(&self, path: &Path) -> Result<BTreeMap<String, Array>> {
        let mut by_piece: BTreeMap<usize, Vec<(&String, &Entry)>> = BTreeMap::new();
        let (mut wanted, mut stored) = (0u64, 0u64);
        for (name, entry) in &self.entries {
            let views = by_piece.entry(entry.record).or_default();
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
        for (number, views) in by_piece {
            let problem =
                |name: &str, problem: String| Error::format(path, None, format!("`{name}`: {problem}"));
            let owned;
            let storage = match &self.pieces {
                Pieces::Ranges(bytes, ranges) => piece(bytes, ranges, number),
                Pieces::Records(archive) => {
                    let record = archive.record(number, path)?;
                    if let [(name, entry)] = views.as_slice() {
                        let array = entry.cut_out_of(record).map_err(|p| problem(name, p))?;
                        arrays.insert((*name).clone(), array);
                        continue;
                    }
                    owned = record;
                    owned.as_slice()
                }
            };
            for (name, entry) in views {
                let array = entry.copy_from(storage).map_err(|p| problem(name, p))?;
                arrays.insert(name.clone(), array);
            }
        }
        Ok(arrays)
    }
}

/// A stored piece that lies in the file as it is. Were it not there, reading a view of it would fail.
fn piece<'b>(bytes: &'b Bytes, ranges: &[Range<usize>], number: usize) -> &'b [u8] {
    let range = ranges.get(number).cloned().unwrap_or_default();
    bytes.as_ref().get(range).unwrap_or_default()
}

fn located(problem: Problem, name: &str, start: u64, path: &Path) -> Error {
    let Problem { offset, what } = problem;
    Error::format(path, Some(start.saturating_add(offset as u64)), format!("{name}: {what}"))
}

/// The error, with the array that it befell.
fn named(error: Error, name: &str) -> Error {
    match error {
        Error::Format { path, offset, problem } => {
            Error::Format { path, offset, problem: format!("`{name}`: {problem}") }
        }
        other => other,
    }
}
