//! Pictures named on a command line.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The pictures among `paths`, folders searched with all their subfolders, in the order of their names.
///
/// # Errors
/// If a folder cannot be read or holds no picture.
pub fn pictures(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    fn walk(folder: &Path, found: &mut BTreeSet<PathBuf>) -> Result<()> {
        for entry in fs::read_dir(folder).map_err(|error| Error::io(folder, error))? {
            let path = entry.map_err(|error| Error::io(folder, error))?.path();
            if path.is_dir() {
                walk(&path, found)?;
            } else if path.extension().is_some_and(|extension| {
                ["jpg", "jpeg", "png"].iter().any(|known| extension.eq_ignore_ascii_case(known))
            }) {
                found.insert(path);
            }
        }
        Ok(())
    }
    let mut all = Vec::new();
    for path in paths {
        if path.is_dir() {
            let mut found = BTreeSet::new();
            walk(path, &mut found)?;
            if found.is_empty() {
                return Err(Error::Usage(format!("{}: no .jpg, .jpeg or .png files here", path.display())));
            }
            all.extend(found);
        } else {
            all.push(path.clone());
        }
    }
    Ok(all)
}
