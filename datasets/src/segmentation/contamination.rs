//! Pictures that are both learnt from and reported on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::layout::Pair;
use crate::{Error, Result};

/// A file, and its SHA-256 once it is known.
type Seen<'a> = (&'a Path, Option<[u8; 32]>);

/// What two parts share. Scores on pictures that were trained on say little.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Contamination {
    /// The IDs that occur in both parts, sorted. Where each part has its own folder, these may be different pictures.
    pub ids: Vec<String>,
    /// Pictures of the first part whose file is, byte for byte, that of a picture of the second part, with the path of
    /// that one.
    pub files: Vec<(PathBuf, PathBuf)>,
}

impl Contamination {
    /// Whether the parts share nothing.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.files.is_empty()
    }

    /// What `train` and `held_out` share. Only files of equal length are read.
    pub(super) fn between(train: &[Pair], held_out: &[Pair]) -> Result<Self> {
        let mut by_id = BTreeMap::new();
        let mut by_length: BTreeMap<u64, Vec<Seen<'_>>> = BTreeMap::new();
        for pair in held_out {
            by_id.insert(pair.id.as_str(), pair);
            by_length.entry(pair.bytes).or_default().push((&pair.picture, None));
        }
        let mut found = Self::default();
        for pair in train {
            if by_id.remove(pair.id.as_str()).is_some() {
                found.ids.push(pair.id.clone());
            }
            let mut digest = None;
            for (path, known) in by_length.get_mut(&pair.bytes).into_iter().flatten() {
                let same = *path == pair.picture || {
                    let ours = digest.map_or_else(|| sha256(&pair.picture), Ok)?;
                    let theirs = known.map_or_else(|| sha256(path), Ok)?;
                    (digest, *known) = (Some(ours), Some(theirs));
                    ours == theirs
                };
                if same {
                    found.files.push((pair.picture.clone(), path.to_path_buf()));
                }
            }
        }
        found.ids.sort();
        Ok(found)
    }
}

fn sha256(path: &Path) -> Result<[u8; 32]> {
    let bytes = std::fs::read(path).map_err(|source| Error::io(path, source))?;
    Ok(Sha256::digest(bytes).into())
}
