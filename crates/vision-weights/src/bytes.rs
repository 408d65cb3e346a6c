//! The bytes of a weight file, mapped or owned.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use crate::{Error, Result};

/// Shared, immutable bytes. Cloning copies a pointer.
#[derive(Debug, Clone)]
pub(crate) struct Bytes(Arc<Inner>);

#[derive(Debug)]
enum Inner {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl Bytes {
    /// Maps a file into memory, so that only what is read is loaded.
    pub(crate) fn map(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|source| Error::io(path, source))?;
        let length = file.metadata().map_err(|source| Error::io(path, source))?.len();
        if length == 0 {
            // A mapping cannot be empty on every system.
            return Ok(Self::from(Vec::new()));
        }
        Ok(Self(Arc::new(Inner::Mapped(map_file(&file, path)?))))
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Inner::Owned(bytes)))
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        match &*self.0 {
            Inner::Mapped(map) => map,
            Inner::Owned(bytes) => bytes,
        }
    }
}

#[allow(unsafe_code, reason = "the one memory-mapping function of this crate")]
fn map_file(file: &File, path: &Path) -> Result<Mmap> {
    // SAFETY: the map is read-only, has the length of the file at this moment, and every access goes through
    // a bounds-checked slice of it. What it relies on is that nobody truncates or rewrites the file in place
    // while it is open; files of this crate are replaced by renaming, which leaves open maps alone.
    let map = unsafe { Mmap::map(file) };
    map.map_err(|source| Error::io(path, source))
}
