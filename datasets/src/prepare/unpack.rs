//! Unpacks archives without trusting them.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Component, Path, PathBuf};

use flate2::bufread::{GzDecoder, MultiGzDecoder};

use crate::{Error, Result};

/// How much an archive may unpack to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) bytes: u64,
    pub(super) entries: u64,
}

/// Tar pads every entry to 512 bytes, has a header of 512 for each, and may have long names in between.
pub(super) const TAR_OVERHEAD_PER_ENTRY: u64 = 8 << 10;
/// The end of an archive may be padded to any block size in use.
pub(super) const TAR_OVERHEAD: u64 = 1 << 20;

/// Fails instead of ending when more than `left` bytes come: a bomb is not a short file.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| {
            io::Error::new(io::ErrorKind::FileTooLarge, "unpacks to more than the catalogue allows")
        })?;
        Ok(read)
    }
}

/// Joins `path` below `folder`. `None` if it is absolute, leaves the folder, or is empty.
pub(super) fn below(folder: &Path, path: &Path) -> Option<PathBuf> {
    let mut joined = folder.to_owned();
    let mut any = false;
    for component in path.components() {
        match component {
            Component::Normal(part) => {
                joined.push(part);
                any = true;
            }
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    any.then_some(joined)
}

/// Unpacks a tar archive compressed with gzip into `folder`. Only plain files and folders are taken;
/// anything else, and any path that leads out of `folder`, is an error.
pub(super) fn tar_gz(archive: &Path, folder: &Path, limits: Limits) -> Result<()> {
    let in_archive = |source| Error::io(archive, source);
    let file = BufReader::new(File::open(archive).map_err(in_archive)?);
    let left = limits
        .entries
        .saturating_mul(TAR_OVERHEAD_PER_ENTRY)
        .saturating_add(limits.bytes)
        .saturating_add(TAR_OVERHEAD);
    let mut tar = tar::Archive::new(Bounded { inner: GzDecoder::new(file), left });
    let (mut bytes, mut entries) = (0u64, 0u64);
    for entry in tar.entries().map_err(in_archive)? {
        let mut entry = entry.map_err(in_archive)?;
        let path = entry.path().map_err(in_archive)?.into_owned();
        let refuse = |problem: String| Error::Archive {
            path: archive.to_owned(),
            entry: path.display().to_string(),
            problem,
        };
        entries += 1;
        if entries > limits.entries {
            return Err(refuse(format!("more than {} entries", limits.entries)));
        }
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            continue;
        }
        if !kind.is_dir() && !kind.is_file() {
            return Err(refuse(format!("neither a plain file nor a folder ({kind:?})")));
        }
        let Some(target) = below(folder, &path) else {
            // `./` itself is an entry of many archives.
            if kind.is_dir() && path.components().all(|part| part == Component::CurDir) {
                continue;
            }
            return Err(refuse("the path is absolute, empty or leads out of the folder".to_owned()));
        };
        if kind.is_dir() {
            fs::create_dir_all(&target).map_err(|source| Error::io(&target, source))?;
            continue;
        }
        bytes = bytes.saturating_add(entry.size());
        if bytes > limits.bytes {
            return Err(refuse(format!("the archive unpacks to more than {} bytes", limits.bytes)));
        }
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(|source| Error::io(parent, source))?;
        }
        write_new(&mut entry, &target, archive)?;
    }
    Ok(())
}

/// Unpacks one file compressed with gzip to `target`.
pub(super) fn gz(archive: &Path, target: &Path, limits: Limits) -> Result<()> {
    let file = BufReader::new(File::open(archive).map_err(|source| Error::io(archive, source))?);
    write_new(&mut Bounded { inner: MultiGzDecoder::new(file), left: limits.bytes }, target, archive)
}

/// Copies `source` into a new file and waits until it is on disk. An entry that occurs twice is an error.
fn write_new(source: &mut impl Read, target: &Path, archive: &Path) -> Result<()> {
    let in_target = |source| Error::io(target, source);
    let mut file = File::create_new(target).map_err(in_target)?;
    let mut buffer = vec![0u8; 1 << 16];
    loop {
        // Apart from each other, so that the message names the file that failed.
        let read = match source.read(&mut buffer) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::io(archive, error)),
        };
        match buffer.get(..read) {
            Some(bytes) if !bytes.is_empty() => io::Write::write_all(&mut file, bytes).map_err(in_target)?,
            _ => return file.sync_all().map_err(in_target),
        }
    }
}
