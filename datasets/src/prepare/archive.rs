//! Archives whose entries are read in any order and from several threads, without unpacking them.
//!
//! Opening one looks at every entry's name, kind and size: what would not be unpacked is an error before
//! anything is made of the archive.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use zip::ZipArchive;
use zip::read::{ZipArchiveMetadata, ZipReadOptions};

use super::unpack::Limits;
use crate::{Error, Result};

/// The most bytes of one entry that is read as a whole: pictures and labels are far smaller.
const MAX_ENTRY: u64 = 1 << 28;

/// A published file and where its entries lie.
pub(super) struct Source {
    /// The file as published, for messages.
    shown: PathBuf,
    /// What is read: the same, or what it was decompressed to.
    path: PathBuf,
    entries: Entries,
}

enum Entries {
    /// A file that is no archive; its one entry has its name.
    Plain,
    /// Offset and length of each entry.
    Tar(BTreeMap<String, (u64, u64)>),
    /// Number and length of each entry.
    Zip(BTreeMap<String, (usize, u64)>, Arc<ZipArchiveMetadata>),
}

/// Counts entries and bytes against the limits.
struct Budget<'a> {
    shown: &'a Path,
    limits: Limits,
    entries: u64,
    bytes: u64,
}

impl Budget<'_> {
    fn refuse(&self, entry: &str, problem: impl Into<String>) -> Error {
        Error::Archive { path: self.shown.to_owned(), entry: entry.to_owned(), problem: problem.into() }
    }

    fn add(&mut self, entry: &str, bytes: u64) -> Result<()> {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        if self.entries > self.limits.entries {
            return Err(self.refuse(entry, format!("more than {} entries", self.limits.entries)));
        }
        if self.bytes > self.limits.bytes {
            let problem = format!("the archive unpacks to more than {} bytes", self.limits.bytes);
            return Err(self.refuse(entry, problem));
        }
        Ok(())
    }

    /// The entry's name without `./`, `None` for the folder itself.
    fn name(&self, name: &str) -> Result<Option<String>> {
        let mut parts = Vec::new();
        for component in Path::new(name).components() {
            match component {
                Component::Normal(part) => parts.push(part.to_string_lossy()),
                Component::CurDir => {}
                Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                    return Err(self.refuse(name, "the path is absolute or leads out of the folder"));
                }
            }
        }
        Ok((!parts.is_empty()).then(|| parts.join("/")))
    }
}

impl Source {
    /// A file that is no archive.
    pub(super) fn plain(path: &Path) -> Self {
        Self { shown: path.to_owned(), path: path.to_owned(), entries: Entries::Plain }
    }

    /// A tar archive without compression at `path`, called `shown` in messages.
    pub(super) fn tar(path: &Path, shown: &Path, limits: Limits) -> Result<Self> {
        let in_archive = |source| Error::io(shown, source);
        let file = File::open(path).map_err(in_archive)?;
        let length = file.metadata().map_err(in_archive)?.len();
        let mut budget = Budget { shown, limits, entries: 0, bytes: 0 };
        let mut found = BTreeMap::new();
        let mut tar = tar::Archive::new(BufReader::new(file));
        for entry in tar.entries_with_seek().map_err(in_archive)? {
            let entry = entry.map_err(in_archive)?;
            let raw = entry.path_bytes();
            let Ok(text) = std::str::from_utf8(&raw) else {
                return Err(budget.refuse(&String::from_utf8_lossy(&raw), "the name is not UTF-8"));
            };
            let kind = entry.header().entry_type();
            if kind.is_pax_global_extensions() {
                continue;
            }
            budget.add(text, entry.size())?;
            if !kind.is_dir() && !kind.is_file() {
                return Err(budget.refuse(text, format!("neither a plain file nor a folder ({kind:?})")));
            }
            let name = budget.name(text)?;
            if kind.is_dir() {
                continue;
            }
            let Some(name) = name else {
                return Err(budget.refuse(text, "the path is empty"));
            };
            let place = (entry.raw_file_position(), entry.size());
            if place.0.checked_add(place.1).is_none_or(|end| end > length) {
                return Err(budget.refuse(text, "the archive ends inside it"));
            }
            if found.insert(name, place).is_some() {
                return Err(budget.refuse(text, "it occurs twice"));
            }
        }
        Ok(Self { shown: shown.to_owned(), path: path.to_owned(), entries: Entries::Tar(found) })
    }

    /// A zip archive.
    pub(super) fn zip(path: &Path, limits: Limits) -> Result<Self> {
        let in_archive = |source| Error::io(path, source);
        let broken = |error: zip::result::ZipError| Error::io(path, error.into());
        let file = BufReader::new(File::open(path).map_err(in_archive)?);
        let zip = ZipArchive::new(file).map_err(broken)?;
        let mut budget = Budget { shown: path, limits, entries: 0, bytes: 0 };
        if zip.has_duplicate_names() {
            return Err(budget.refuse("", "a name occurs twice"));
        }
        let metadata = zip.metadata();
        let mut found = BTreeMap::new();
        for number in 0..metadata.len() {
            let entry = metadata.entry(number).map_err(broken)?;
            let Ok(text) = std::str::from_utf8(entry.name_raw()) else {
                let shown = String::from_utf8_lossy(entry.name_raw()).into_owned();
                return Err(budget.refuse(&shown, "the name is not UTF-8"));
            };
            budget.add(text, entry.size())?;
            // Links, sockets and devices have their kind in the mode, where there is one.
            let kind = entry.unix_mode().map_or(0, |mode| mode & 0o170_000);
            if entry.is_symlink() || !matches!(kind, 0 | 0o100_000 | 0o040_000) {
                return Err(budget.refuse(text, "neither a plain file nor a folder"));
            }
            if entry.encrypted() {
                return Err(budget.refuse(text, "it is encrypted"));
            }
            let name = budget.name(text)?;
            if entry.is_dir() {
                continue;
            }
            let Some(name) = name else {
                return Err(budget.refuse(text, "the path is empty"));
            };
            if found.insert(name, (number, entry.size())).is_some() {
                return Err(budget.refuse(text, "it occurs twice"));
            }
        }
        Ok(Self { shown: path.to_owned(), path: path.to_owned(), entries: Entries::Zip(found, metadata) })
    }

    /// The published file, for messages.
    pub(super) fn shown(&self) -> &Path {
        &self.shown
    }

    /// The names of all files in the folder `prefix` (with `/` at its end) and below, sorted.
    pub(super) fn names<'a>(&'a self, prefix: &'a str) -> Vec<&'a str> {
        match &self.entries {
            Entries::Plain => Vec::new(),
            Entries::Tar(entries) => below(entries, prefix),
            Entries::Zip(entries, _) => below(entries, prefix),
        }
    }

    /// Whether there is a file of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        match &self.entries {
            Entries::Plain => false,
            Entries::Tar(entries) => entries.contains_key(name),
            Entries::Zip(entries, _) => entries.contains_key(name),
        }
    }

    /// Calls `work` with the content of an entry; of a plain file whatever the name.
    pub(super) fn with_reader<T>(
        &self,
        name: &str,
        work: impl FnOnce(&mut dyn Read) -> Result<T>,
    ) -> Result<T> {
        let in_archive = |source| Error::io(&self.shown, source);
        let missing = || Error::MissingEntry { path: self.shown.clone(), entry: name.to_owned() };
        let mut file = BufReader::new(File::open(&self.path).map_err(in_archive)?);
        match &self.entries {
            Entries::Plain => work(&mut file),
            Entries::Tar(entries) => {
                let &(offset, length) = entries.get(name).ok_or_else(missing)?;
                file.seek(SeekFrom::Start(offset)).map_err(in_archive)?;
                work(&mut file.take(length))
            }
            Entries::Zip(entries, metadata) => {
                let &(number, length) = entries.get(name).ok_or_else(missing)?;
                let broken = |error: zip::result::ZipError| self.damaged(name, &error.into());
                let entry = metadata.entry(number).map_err(broken)?;
                let reader = entry.with_reader(&mut file, ZipReadOptions::new()).map_err(broken)?;
                // One byte more than declared, so that an entry which grows is noticed by its length.
                work(&mut reader.take(length.saturating_add(1)))
            }
        }
    }

    /// The content of an entry.
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>> {
        let declared = match &self.entries {
            Entries::Plain => None,
            Entries::Tar(entries) => entries.get(name).map(|&(_, length)| length),
            Entries::Zip(entries, _) => entries.get(name).map(|&(_, length)| length),
        };
        if let Some(length) = declared.filter(|&length| length > MAX_ENTRY) {
            return Err(self.damaged(
                name,
                &io::Error::other(format!("{length} bytes are too many for a picture or a list")),
            ));
        }
        self.with_reader(name, |reader| {
            let mut bytes = Vec::new();
            reader.take(MAX_ENTRY + 1).read_to_end(&mut bytes).map_err(|error| self.damaged(name, &error))?;
            match declared {
                Some(length) if bytes.len() as u64 != length => {
                    let problem = format!("{} bytes, the archive says {length}", bytes.len());
                    Err(self.damaged(name, &io::Error::other(problem)))
                }
                _ => Ok(bytes),
            }
        })
    }

    /// The lines of a text, without spaces around them and without empty ones.
    pub(super) fn lines(&self, name: &str) -> Result<Vec<String>> {
        let bytes = self.read(name)?;
        let text = String::from_utf8(bytes)
            .map_err(|error| self.damaged(name, &io::Error::other(error.to_string())))?;
        Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }

    fn damaged(&self, entry: &str, problem: &io::Error) -> Error {
        Error::annotation(&self.shown, entry, problem.to_string())
    }
}

fn below<'a, T>(entries: &'a BTreeMap<String, T>, prefix: &'a str) -> Vec<&'a str> {
    entries
        .range(prefix.to_owned()..)
        .map(|(name, _)| name.as_str())
        .take_while(|name| name.starts_with(prefix))
        .collect()
}
