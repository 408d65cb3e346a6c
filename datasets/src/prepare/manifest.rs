//! What a prepared folder says about itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::unpack::below;
use crate::{Error, Result};

/// The file name of the manifest in a prepared folder.
pub const MANIFEST: &str = "manifest.json";

/// The version this crate writes. Version 1 had no overlaps and notes.
pub(super) const FORMAT: u32 = 2;

/// What a prepared folder holds; its `manifest.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this form, 1 or 2.
    pub format: u32,
    /// The name of the set.
    pub name: String,
    /// How many samples each part has.
    pub counts: BTreeMap<String, u64>,
    /// The published files it was made from, and their digests.
    pub archives: BTreeMap<String, String>,
    /// Parts that share samples, as `TRAIN/HELD_OUT`, and how many.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub overlaps: BTreeMap<String, u64>,
    /// What users of the set should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
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
        if !(1..=FORMAT).contains(&manifest.format) {
            return Err(bad(format!("format {}, this version reads 1 to {FORMAT}", manifest.format)));
        }
        match manifest.files.iter().find(|file| below(dir, Path::new(&file.path)).is_none()) {
            Some(file) => Err(bad(format!("{:?} is no path below the folder", file.path))),
            None => Ok(Some(manifest)),
        }
    }

    /// With one line per file: large sets have hundreds of thousands.
    pub(super) fn to_json(&self) -> Result<String> {
        let bad = |error: serde_json::Error| Error::Manifest {
            what: MANIFEST.to_owned(),
            problem: error.to_string(),
        };
        let head = Self { files: Vec::new(), ..self.clone() };
        let mut text = serde_json::to_string_pretty(&head).map_err(bad)?;
        let Some(at) = text.rfind("[]") else {
            return Ok(text);
        };
        let lines = self
            .files
            .iter()
            .map(serde_json::to_string)
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(bad)?;
        text.replace_range(at..at + 2, &format!("[\n    {}\n  ]", lines.join(",\n    ")));
        text.push('\n');
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_file_and_older_forms_are_read() {
        let file = |path: &str| ManifestFile { path: path.into(), bytes: 7, sha256: "ab".into() };
        let manifest = Manifest {
            format: FORMAT,
            name: "few".into(),
            counts: BTreeMap::from([("train".into(), 1)]),
            archives: BTreeMap::new(),
            overlaps: BTreeMap::from([("trainval/val".into(), 3)]),
            notes: vec!["none [] here".into()],
            files: vec![file("a"), file("b/c")],
        };
        let dir = tempfile::tempdir().unwrap();
        let write = |text: &str| fs::write(dir.path().join(MANIFEST), text).unwrap();
        let text = manifest.to_json().unwrap();
        assert_eq!(text.lines().filter(|line| line.contains("sha256")).count(), 2);
        write(&text);
        assert_eq!(Manifest::read(dir.path()).unwrap().unwrap(), manifest);
        let empty = Manifest { files: vec![], ..manifest };
        write(&empty.to_json().unwrap());
        assert_eq!(Manifest::read(dir.path()).unwrap().unwrap(), empty);
        write(r#"{"format":1,"name":"old","counts":{"train":2},"archives":{},"files":[]}"#);
        assert_eq!(Manifest::read(dir.path()).unwrap().unwrap().format, 1);
        for text in [r#"{"format":3,"name":"x","counts":{},"archives":{},"files":[]}"#, "{"] {
            write(text);
            assert!(Manifest::read(dir.path()).is_err());
        }
    }
}
