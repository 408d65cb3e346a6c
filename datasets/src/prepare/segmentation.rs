//! From the published archives of a segmentation set to the canonical layout.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::archive::Source;
use super::digest::{check_digest, digest_file};
use super::manifest::{FORMAT, MANIFEST, Manifest};
use super::sets::{Job, Sources, convert};
use super::unpack::{Limits, TAR_OVERHEAD, TAR_OVERHEAD_PER_ENTRY, gz};
use crate::catalog::{Archive, ArchiveKind, CatalogEntry, Layout, UNCHECKED};
use crate::{Error, Result};

/// The folders of a preparation.
pub(super) struct Place<'a> {
    /// Holds all prepared sets.
    pub(super) root: &'a Path,
    /// For what has to be decompressed as a whole; deleted at the end.
    pub(super) unpacked: &'a Path,
    /// Becomes the set.
    pub(super) ready: &'a Path,
}

/// Checks all digests, opens the archives, and converts.
pub(super) fn make(
    entry: &CatalogEntry,
    layout: Layout,
    archives: &[(&Archive, PathBuf)],
    place: &Place,
    progress: &mut dyn FnMut(&str),
) -> Result<Manifest> {
    let mut digests = BTreeMap::new();
    for (archive, path) in archives {
        progress(&format!("checking {}", path.display()));
        let digest = if archive.digest == UNCHECKED {
            // Recorded, so that two preparations can be told apart.
            format!("sha256:{} ({UNCHECKED})", digest_file(path, "sha256")?.1)
        } else {
            check_digest(path, &archive.digest, path)?;
            archive.digest.clone()
        };
        digests.insert(archive.file.clone(), digest);
    }
    for name in &entry.needs {
        let manifest = place.root.join(name).join(MANIFEST);
        if !manifest.is_file() {
            let problem = format!("is made of {name}, which is not prepared in {}", place.root.display());
            return Err(Error::Set { set: entry.name.clone(), problem });
        }
        digests
            .insert(format!("{name}/{MANIFEST}"), format!("sha256:{}", digest_file(&manifest, "sha256")?.1));
    }
    let mut sources = Vec::new();
    for (archive, path) in archives {
        progress(&format!("opening {}", path.display()));
        sources.push((archive.file.as_str(), open(entry, archive, path, place.unpacked)?));
    }
    let job =
        Job { set: &entry.name, sources: Sources(sources), root: place.root, dir: place.ready, progress };
    let finished = convert(layout, job)?;
    let mut notes = entry.notes.clone();
    notes.extend(finished.notes);
    Ok(Manifest {
        format: FORMAT,
        name: entry.name.clone(),
        counts: finished.counts,
        archives: digests,
        overlaps: finished.overlaps,
        notes,
        files: finished.files,
    })
}

fn open(entry: &CatalogEntry, archive: &Archive, path: &Path, unpacked: &Path) -> Result<Source> {
    let limits = Limits { bytes: entry.max_bytes, entries: entry.max_entries };
    match archive.kind {
        ArchiveKind::Plain => Ok(Source::plain(path)),
        ArchiveKind::Tar => Source::tar(path, path, limits),
        ArchiveKind::Zip => Source::zip(path, limits),
        ArchiveKind::TarGz => {
            // Entries are read in any order, which a compressed stream does not allow.
            let bytes = limits
                .entries
                .saturating_mul(TAR_OVERHEAD_PER_ENTRY)
                .saturating_add(limits.bytes)
                .saturating_add(TAR_OVERHEAD);
            let tar = unpacked.join("archive.tar");
            gz(path, &tar, Limits { bytes, ..limits })?;
            Source::tar(&tar, path, limits)
        }
        ArchiveKind::Gz => Err(Error::argument("kind", format!("{} is no archive", archive.file))),
    }
}
