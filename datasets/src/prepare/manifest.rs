//! What a prepared folder says about itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::unpack::below;
use crate::{Error, Result};

/// The file name of the manifest in a prepared folder.
pub const MANIFEST: &str = "manifest.json";

/// The version this crate writes.
pub(super) const FORMAT: u32 = 1;

/// What a prepared folder holds; its `manifest.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this form, 1.
    pub format: u32,
    /// The name of the set.
    pub name: String,
    /// How many samples each part has.
    pub counts: BTreeMap<String, u64>,
    /// The published files it was made from, and their digests.
    pub archives: BTreeMap<String, String>,
    /// The files, sorted by path.
    pub files: Vec<ManifestFile>,
}

/// One file of a prepared folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestFile {
    /// Its path in the folder, with `/`.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256, in hexadecimal digits.
    pub sha256: String,
}

impl Manifest {
    /// Reads the manifest of the prepared folder `dir`; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be read, is of another version, or names files outside `dir`.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(MANIFEST);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::io(path, source)),
        };
        let bad = |problem: String| Error::Manifest { what: path.display().to_string(), problem };
        let manifest: Self = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
        if manifest.format != FORMAT {
            return Err(bad(format!("format {}, this version reads {FORMAT}", manifest.format)));
        }
        match manifest.files.iter().find(|file| below(dir, Path::new(&file.path)).is_none()) {
            Some(file) => Err(bad(format!("{:?} is no path below the folder", file.path))),
            None => Ok(Some(manifest)),
        }
    }

    pub(super) fn to_json(&self) -> Result<String> {
        serde_json::to_string_pretty(self)
            .map(|text| text + "\n")
            .map_err(|error| Error::Manifest { what: MANIFEST.to_owned(), problem: error.to_string() })
    }
}
