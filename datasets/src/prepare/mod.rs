//! Turns published archives into a folder that can be read, once.
//!
//! A prepared set is the folder `ROOT/NAME` with the files the catalogue lists and a `manifest.json`. It
//! appears all at once: everything is made in a temporary folder beside it, checked, and renamed. So an
//! interrupted run leaves no half of a set, at most a folder `.NAME.….partial` that can be deleted.
//!
//! Sets for segmentation are converted on the way, all to the same layout:
//!
//! ```text
//! images/ID.jpg or ID.png   as published
//! labels/ID.png             grey, 8 bits: the class from 0, 255 where a pixel does not count
//! splits/PART.txt           one ID per line: train, val, …; pictures of `test` may have no labels
//! classes.json              {"classes", "palette", "ignore", "submission_offset", "evaluation"}
//! ```

mod archive;
mod canonical;
mod classes;
mod digest;
mod exif;
mod manifest;
mod segmentation;
mod sets;
mod unpack;
mod verify;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

pub use manifest::{MANIFEST, Manifest, ManifestFile};
pub use verify::{VerifyReport, verify, verify_from};

use self::digest::{check_digest, digest_file};
use self::unpack::Limits;
use crate::catalog::{Archive, ArchiveKind, CatalogEntry, DigestOf, find};
use crate::{Error, Result};

/// Where archives come from and prepared sets go to.
#[derive(Debug, Clone)]
pub struct PrepareOptions {
    /// The folder with the archives, as published and under their published names. Not needed for a set
    /// that is already prepared.
    pub archives: Option<PathBuf>,
    /// The folder that holds all prepared sets; made if it is missing.
    pub root: PathBuf,
}

/// Prepares the set `name` of the catalogue: checks the digests of its archives, unpacks them, and puts
/// the result under `options.root`. A set that is already there is left as it is. `progress` gets a line
/// for every step.
///
/// # Errors
/// If the set is unknown or has nothing to prepare, an archive is missing (the message says which file to
/// put where), is not the published one, or holds links, paths that lead elsewhere or more than the
/// catalogue allows; if the result does not have the counts of the catalogue; or a file cannot be written.
pub fn prepare(name: &str, options: &PrepareOptions, progress: &mut dyn FnMut(&str)) -> Result<Manifest> {
    prepare_from(&find(name)?, options, progress)
}

/// The same for a set of one's own, described as in the catalogue.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_from(
    entry: &CatalogEntry,
    options: &PrepareOptions,
    progress: &mut dyn FnMut(&str),
) -> Result<Manifest> {
    let problem = |problem: String| Error::Set { set: entry.name.clone(), problem };
    if entry.embedded {
        return Err(problem("it travels in the library, there is nothing to prepare".to_owned()));
    }
    if entry.generated {
        return Err(problem("it is made from a seed, there is nothing to prepare".to_owned()));
    }
    let target = options.root.join(&entry.name);
    if let Some(manifest) = existing(entry, &target)? {
        progress(&format!("{} is already prepared", target.display()));
        return Ok(manifest);
    }
    let archives = find_archives(entry, options.archives.as_deref())?;
    fs::create_dir_all(&options.root).map_err(|source| Error::io(&options.root, source))?;
    name_leftovers(entry, &options.root, progress)?;
    let temporary = tempfile::Builder::new()
        .prefix(&format!(".{}.", entry.name))
        .suffix(".partial")
        .tempdir_in(&options.root)
        .map_err(|source| Error::io(&options.root, source))?;

    let unpacked = temporary.path().join("unpacked");
    let ready = temporary.path().join("ready");
    for folder in [&unpacked, &ready] {
        fs::create_dir(folder).map_err(|source| Error::io(folder, source))?;
    }
    let manifest = match entry.layout {
        Some(layout) if layout.is_segmentation() => {
            let place = segmentation::Place { root: &options.root, unpacked: &unpacked, ready: &ready };
            segmentation::make(entry, layout, &archives, &place, progress)?
        }
        _ => make_listed(entry, &archives, &unpacked, &ready, progress)?,
    };
    entry.check_counts(&manifest.counts).map_err(problem)?;
    write_synced(&ready.join(MANIFEST), manifest.to_json()?.as_bytes())?;
    if let Err(source) = fs::rename(&ready, &target) {
        // Another run may have been faster.
        return existing(entry, &target)?.ok_or_else(|| Error::io(&target, source));
    }
    progress(&format!("{} is ready", target.display()));
    Ok(manifest)
}

/// Unpacks everything and takes the files that the catalogue lists.
fn make_listed(
    entry: &CatalogEntry,
    archives: &[(&Archive, PathBuf)],
    unpacked: &Path,
    ready: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<Manifest> {
    for (archive, path) in archives {
        progress(&format!("checking and unpacking {}", path.display()));
        unpack_checked(entry, archive, path, unpacked)?;
    }
    progress("checking the files");
    let files = collect(entry, unpacked, ready)?;
    Ok(Manifest {
        format: manifest::FORMAT,
        name: entry.name.clone(),
        counts: verify::count(entry, ready)?,
        archives: archives
            .iter()
            .map(|(archive, _)| (archive.file.clone(), archive.digest.clone()))
            .collect(),
        overlaps: BTreeMap::new(),
        notes: entry.notes.clone(),
        files,
    })
}

/// Names folders that an interrupted run has left, which take space and are never used again.
fn name_leftovers(entry: &CatalogEntry, root: &Path, progress: &mut dyn FnMut(&str)) -> Result<()> {
    let mut found = Vec::new();
    for item in fs::read_dir(root).map_err(|source| Error::io(root, source))? {
        let path = item.map_err(|source| Error::io(root, source))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let rest = name.strip_prefix('.').and_then(|name| name.strip_prefix(&entry.name));
        if rest.is_some_and(|rest| rest.starts_with('.') && rest.ends_with(".partial")) {
            found.push(path);
        }
    }
    found.sort();
    for path in found {
        progress(&format!(
            "{} is from a run that was interrupted or is still going on; delete it in the first case",
            path.display()
        ));
    }
    Ok(())
}

/// The manifest of a set that is already prepared in `target`, or `None` if nothing is there.
fn existing(entry: &CatalogEntry, target: &Path) -> Result<Option<Manifest>> {
    let problem = |problem: String| Error::Set { set: entry.name.clone(), problem };
    if !target.try_exists().map_err(|source| Error::io(target, source))? {
        return Ok(None);
    }
    let Some(manifest) = Manifest::read(target)? else {
        let shown = target.display();
        return Err(problem(format!("{shown} exists but was not made by prepare; move it away")));
    };
    if manifest.name != entry.name {
        return Err(problem(format!("{} holds {:?}", target.display(), manifest.name)));
    }
    // Lengths are cheap to check; `verify` reads the content.
    for file in &manifest.files {
        let path = target.join(&file.path);
        let got = fs::metadata(&path).map_err(|source| Error::io(&path, source))?.len();
        if got != file.bytes {
            return Err(Error::Length { path, expected: format!("{} (manifest.json)", file.bytes), got });
        }
    }
    Ok(Some(manifest))
}

/// The paths of all archives. One error names all that are missing.
fn find_archives<'a>(entry: &'a CatalogEntry, folder: Option<&Path>) -> Result<Vec<(&'a Archive, PathBuf)>> {
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for archive in &entry.archives {
        match folder.map(|folder| folder.join(&archive.file)).filter(|path| path.is_file()) {
            Some(path) => found.push((archive, path)),
            None if archive.optional_part.is_some() => {}
            None => missing.push(format!("{} ({})", archive.file, archive.digest)),
        }
    }
    if missing.is_empty() {
        return Ok(found);
    }
    let place = match folder {
        Some(folder) => format!("into {}", folder.display()),
        None => "into one folder and name that folder as the archives folder".to_owned(),
    };
    let problem = format!("put {} from {} {place}", missing.join(", "), entry.homepage);
    Err(Error::Set { set: entry.name.clone(), problem })
}

fn unpack_checked(entry: &CatalogEntry, archive: &Archive, path: &Path, unpacked: &Path) -> Result<()> {
    let limits = Limits { bytes: entry.max_bytes, entries: entry.max_entries };
    // Nothing is unpacked from a file that is not the published one, where its own digest is published.
    if archive.digest_of == DigestOf::File {
        check_digest(path, &archive.digest, path)?;
    }
    match archive.kind {
        ArchiveKind::TarGz => unpack::tar_gz(path, unpacked, limits),
        // The catalogue has these for segmentation only, and says so when it is read.
        ArchiveKind::Tar | ArchiveKind::Zip | ArchiveKind::Plain => {
            Err(Error::argument("kind", format!("{} cannot be unpacked for this layout", archive.file)))
        }
        ArchiveKind::Gz => {
            let name = archive.file.strip_suffix(".gz").unwrap_or(&archive.file);
            let target = unpack::below(unpacked, Path::new(name))
                .ok_or_else(|| Error::argument("file", format!("{name:?} is no file name")))?;
            unpack::gz(path, &target, limits)?;
            if archive.digest_of == DigestOf::Content {
                check_digest(&target, &archive.digest, path)?;
            }
            Ok(())
        }
    }
}

/// Moves the files that the catalogue lists from `unpacked` to `ready` and describes them.
fn collect(entry: &CatalogEntry, unpacked: &Path, ready: &Path) -> Result<Vec<ManifestFile>> {
    let mut files = BTreeMap::new();
    for file in &entry.files {
        let outside = || Error::argument("files", format!("{:?} leads out of the folder", file.path));
        let from = unpack::below(unpacked, Path::new(&file.from)).ok_or_else(outside)?;
        let to = unpack::below(ready, Path::new(&file.path)).ok_or_else(outside)?;
        if !from.is_file() {
            let problem = format!("{} is not in its archives", file.from);
            return Err(Error::Set { set: entry.name.clone(), problem });
        }
        let (bytes, sha256) = digest_file(&from, "sha256")?;
        if bytes != file.bytes {
            let expected = format!("{} (catalogue)", file.bytes);
            return Err(Error::Length { path: PathBuf::from(&file.from), expected, got: bytes });
        }
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(|source| Error::io(parent, source))?;
        }
        fs::rename(&from, &to).map_err(|source| Error::io(&to, source))?;
        files.insert(file.path.clone(), ManifestFile { path: file.path.clone(), bytes, sha256 });
    }
    Ok(files.into_values().collect())
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let io = |source| Error::io(path, source);
    let mut file = File::create_new(path).map_err(io)?;
    std::io::Write::write_all(&mut file, bytes).map_err(io)?;
    file.sync_all().map_err(io)
}
