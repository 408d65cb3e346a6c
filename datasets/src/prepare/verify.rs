//! Checks a prepared folder against its manifest and the catalogue.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;
use serde::Serialize;

use super::canonical::count_parts;
use super::digest::digest_file;
use super::manifest::{Manifest, ManifestFile};
use crate::catalog::{CatalogEntry, Layout, find};
use crate::formats::CifarKind;
use crate::open_set::open_fashion_mnist;
use crate::{Dataset as _, Error, Result, formats::Cifar};

/// What [`verify`] found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// The name of the set.
    pub name: String,
    /// How many files were read.
    pub files: usize,
    /// How many bytes they hold.
    pub bytes: u64,
    /// How many samples each part has.
    pub counts: BTreeMap<String, u64>,
    /// What is wrong, one sentence each; empty if nothing is.
    pub problems: Vec<String>,
}

impl VerifyReport {
    /// Whether nothing is wrong.
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Reads every file of the prepared set `name` under `root` again and compares digests and counts with
/// the manifest and the catalogue. What differs is listed in the report.
///
/// # Errors
/// If the set is not in the catalogue, has nothing to prepare, or is not prepared under `root`.
pub fn verify(name: &str, root: &Path) -> Result<VerifyReport> {
    verify_from(&find(name)?, root)
}

/// The same for a set of one's own.
///
/// # Errors
/// As [`verify`].
pub fn verify_from(entry: &CatalogEntry, root: &Path) -> Result<VerifyReport> {
    let dir = root.join(&entry.name);
    let Some(manifest) = Manifest::read(&dir)? else {
        return Err(Error::Set {
            set: entry.name.clone(),
            problem: if entry.embedded {
                "it travels in the library, there is nothing to verify".to_owned()
            } else if entry.generated {
                "it is made from a seed, there is nothing to verify".to_owned()
            } else {
                format!("{} has no manifest.json, the set is not prepared there", dir.display())
            },
        });
    };
    // In order, whatever the threads do.
    let checked: Vec<(u64, Option<String>)> =
        manifest.files.par_iter().map(|file| check_file(&dir, file)).collect();
    let bytes = checked.iter().map(|(bytes, _)| bytes).sum();
    let mut problems: Vec<String> = checked.into_iter().filter_map(|(_, problem)| problem).collect();
    for wanted in &entry.files {
        if !manifest.files.iter().any(|file| file.path == wanted.path) {
            problems.push(format!("{}: not in the manifest", wanted.path));
        }
    }
    let counts = match count(entry, &dir) {
        Ok(counts) => counts,
        Err(error) => {
            problems.push(error.to_string());
            BTreeMap::new()
        }
    };
    for (part, &expected) in &manifest.counts {
        match counts.get(part) {
            Some(&got) if got != expected => {
                problems.push(format!("{part}: {got} samples, expected {expected}"));
            }
            _ => {}
        }
    }
    if let Err(problem) = entry.check_counts(&manifest.counts) {
        problems.push(format!("manifest.json {problem}"));
    }
    Ok(VerifyReport { name: entry.name.clone(), files: manifest.files.len(), bytes, counts, problems })
}

/// How many bytes of a file were read, and what is wrong with it.
fn check_file(dir: &Path, file: &ManifestFile) -> (u64, Option<String>) {
    match digest_file(&dir.join(&file.path), "sha256") {
        Ok((length, _)) if length != file.bytes => {
            (length, Some(format!("{}: {length} bytes, expected {}", file.path, file.bytes)))
        }
        Ok((length, sha256)) if sha256 != file.sha256 => {
            (length, Some(format!("{}: sha256 is {sha256}, expected {}", file.path, file.sha256)))
        }
        Ok((length, _)) => (length, None),
        Err(error) => (0, Some(error.to_string())),
    }
}

/// Opens the parts of the set in `dir` and counts their samples.
pub(super) fn count(entry: &CatalogEntry, dir: &Path) -> Result<BTreeMap<String, u64>> {
    let Some(layout) = entry.layout else {
        return Ok(BTreeMap::new());
    };
    let mut counts = BTreeMap::new();
    for (part, train) in [("train", true), ("test", false)] {
        let len = match layout {
            Layout::Cifar10 => Cifar::open_binary(dir, CifarKind::C10, train)?.len(),
            Layout::Cifar100 => Cifar::open_binary(dir, CifarKind::C100, train)?.len(),
            Layout::FashionMnist => open_fashion_mnist(dir, train)?.len(),
            // All others are for segmentation.
            _ => return count_parts(dir),
        };
        counts.insert(part.to_owned(), len as u64);
    }
    Ok(counts)
}
