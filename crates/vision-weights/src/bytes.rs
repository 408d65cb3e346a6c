//! The bytes of a weight file, mapped or owned.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use crate::{Error, Result};

/// Shared, immutable bytes, or a part of them. Cloning copies a pointer.
#[derive(Debug, Clone)]
pub(crate) struct Bytes {
    whole: Arc<Inner>,
    part: Range<usize>,
}

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
        let map = map_file(&file, path)?;
        let part = 0..map.len();
        Ok(Self { whole: Arc::new(Inner::Mapped(map)), part })
    }

    /// A part of these bytes, without copying; `None` when they do not reach that far.
    pub(crate) fn slice(&self, range: Range<usize>) -> Option<Self> {
        let start = self.part.start.checked_add(range.start)?;
        let end = self.part.start.checked_add(range.end)?;
        let fits = start <= end && end <= self.part.end;
        fits.then(|| Self { whole: Arc::clone(&self.whole), part: start..end })
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        let part = 0..bytes.len();
        Self { whole: Arc::new(Inner::Owned(bytes)), part }
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        let whole: &[u8] = match &*self.whole {
            Inner::Mapped(map) => map,
            Inner::Owned(bytes) => bytes,
        };
        // Both constructors keep the part inside the whole.
        whole.get(self.part.clone()).unwrap_or_default()
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
