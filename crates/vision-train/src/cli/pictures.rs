//! Pictures named on a command line.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use vision_image::Image;

use super::CliContext;
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

/// Hands the pictures of a command to `each`, up to `block` of them at a time with their paths.
///
/// As many broken ones as `--skip-broken` allows are left out, which is logged; `doing`, such as "labelling", is what
/// people see of it while it goes.
///
/// # Errors
/// If a picture is missing or broken and no more may be, after those before it; if somebody interrupts; and whatever
/// `each` reports.
pub fn for_pictures(
    cli: &CliContext,
    doing: &str,
    paths: &[PathBuf],
    block: usize,
    mut each: impl FnMut(Vec<&Path>, Vec<Image>) -> Result<()>,
) -> Result<()> {
    let (mut allowed, block) = (cli.common.skip_broken, block.max(1));
    let mut count = cli.ctx.count(doing, paths.len());
    for (number, paths_here) in paths.chunks(block).enumerate() {
        if cli.ctx.interrupted() {
            let done = number * block;
            return Err(Error::Stopped(format!("{doing} stopped after {done} of {} pictures", paths.len())));
        }
        let (names, images, broken) = open_all(paths_here, &mut allowed);
        if !images.is_empty() {
            each(names, images)?;
        }
        if let Some(error) = broken {
            return Err(error.into());
        }
        count.add(paths_here.len());
    }
    Ok(())
}

/// The pictures of `paths` up to the first broken one after `allowed` others, which are left out; and what is wrong with it.
fn open_all<'a>(
    paths: &'a [PathBuf],
    allowed: &mut usize,
) -> (Vec<&'a Path>, Vec<Image>, Option<vision_image::Error>) {
    let (mut names, mut images) = (Vec::with_capacity(paths.len()), Vec::with_capacity(paths.len()));
    for path in paths {
        match vision_image::open(path) {
            Ok(image) => {
                names.push(path.as_path());
                images.push(image);
            }
            Err(error) if *allowed > 0 => {
                *allowed -= 1;
                tracing::warn!("left out: {error}");
            }
            Err(error) => return (names, images, Some(error)),
        }
    }
    (names, images, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_broken_pictures_are_left_out_as_may_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let good = Image::filled(2, 3, &[1, 2, 3]).unwrap();
        good.save(path("good.png")).unwrap();
        fs::write(path("broken.png"), "no picture").unwrap();
        let paths = [path("broken.png"), path("good.png"), path("broken.png"), path("good.png")];
        let mut allowed = 1;
        let (names, images, broken) = open_all(&paths, &mut allowed);
        assert_eq!(names, [path("good.png")]);
        assert_eq!(images[0].data(), good.data());
        let error = broken.unwrap().to_string();
        assert!(error.contains("broken.png"), "{error}");
        let (names, _, broken) = open_all(&paths, &mut 2);
        assert!(names.len() == 2 && broken.is_none());
    }
}
