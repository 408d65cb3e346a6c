//! The one layout that every segmentation set is converted to.
//!
//! ```text
//! images/ID.jpg or ID.png   as published, but never with a turn that readers would apply to it alone
//! labels/ID.png             grey, 8 bits: the class, 255 where a pixel does not count
//! splits/PART.txt           one ID per line
//! classes.json              names, colours, how results are scored
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rayon::prelude::*;
use vision_image::{Format, LabelMap, Probe, encode_png};

use super::classes::{Classes, IGNORE};
use super::digest::sha256;
use super::exif::upright;
use super::manifest::ManifestFile;
use crate::overlap::overlaps;
use crate::{Error, Result};

/// Samples that are converted between two looks at the clock.
const CHUNK: usize = 256;
/// How often progress is reported.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// One picture and its labels.
pub(super) struct Sample {
    /// The file name in the set, without ending.
    pub(super) id: String,
    /// The picture file as published.
    pub(super) image: Vec<u8>,
    /// The class of every pixel, or 255; `None` for a picture without labels.
    pub(super) label: Option<LabelMap>,
}

/// A set that is being written.
pub(super) struct Draft<'a> {
    set: &'a str,
    folder: Folder<'a>,
    progress: &'a mut dyn FnMut(&str),
    files: Vec<ManifestFile>,
    /// Every sample, and whether it has labels.
    samples: BTreeMap<String, bool>,
    parts: BTreeMap<String, Vec<String>>,
    notes: Vec<String>,
}

/// What has been written.
pub(super) struct Finished {
    pub(super) files: Vec<ManifestFile>,
    pub(super) counts: BTreeMap<String, u64>,
    pub(super) overlaps: BTreeMap<String, u64>,
    pub(super) notes: Vec<String>,
}

impl<'a> Draft<'a> {
    /// An empty set in `dir`, which exists.
    pub(super) fn new(
        set: &'a str,
        dir: &'a Path,
        classes: &Classes,
        progress: &'a mut dyn FnMut(&str),
    ) -> Result<Self> {
        for folder in ["images", "labels", "splits"] {
            let path = dir.join(folder);
            fs::create_dir(&path).map_err(|source| Error::io(path, source))?;
        }
        let mut draft = Self {
            set,
            folder: Folder { dir, classes: classes.names.len() },
            progress,
            files: Vec::new(),
            samples: BTreeMap::new(),
            parts: BTreeMap::new(),
            notes: Vec::new(),
        };
        let file = draft.folder.write("classes.json", classes.to_json()?.as_bytes())?;
        draft.files.push(file);
        Ok(draft)
    }

    /// Reports a step.
    pub(super) fn say(&mut self, line: &str) {
        (self.progress)(line);
    }

    /// Adds a sentence to the manifest.
    pub(super) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Makes a sample of each job, on all processors, and writes it; jobs that `make` answers with `None`
    /// are left out. `shown` is the file to name in errors. Returns the IDs of what was written, in the
    /// order of the jobs.
    pub(super) fn samples<J: Sync>(
        &mut self,
        shown: &Path,
        jobs: &[J],
        make: impl Fn(&J) -> Result<Option<Sample>> + Sync,
    ) -> Result<Vec<String>> {
        let folder = self.folder;
        let start = Instant::now();
        let (mut reported, mut done) = (start, 0);
        let mut ids = Vec::new();
        for chunk in jobs.chunks(CHUNK) {
            // Collected in order, so that the first error is the same one whatever the threads do.
            let made: Vec<Result<Option<Written>>> = chunk
                .par_iter()
                .map(|job| make(job)?.map(|sample| folder.write_sample(shown, sample)).transpose())
                .collect();
            for written in made {
                if let Some(written) = written? {
                    self.files.extend(written.files);
                    self.samples.insert(written.id.clone(), written.labelled);
                    ids.push(written.id);
                }
            }
            done += chunk.len();
            if reported.elapsed() >= REPORT_EVERY || done == jobs.len() {
                reported = Instant::now();
                let rate = done as f64 / start.elapsed().as_secs_f64().max(1e-3);
                let (set, total) = (self.set, jobs.len());
                (self.progress)(&format!("{set}: {done} of {total} pictures, {rate:.0} a second"));
            }
        }
        Ok(ids)
    }

    /// Records a sample whose files were put in place by other means.
    pub(super) fn adopt(
        &mut self,
        id: String,
        labelled: bool,
        files: impl IntoIterator<Item = ManifestFile>,
    ) {
        self.samples.insert(id, labelled);
        self.files.extend(files);
    }

    /// Adds a part. `shown` is the file to name in errors.
    pub(super) fn part(&mut self, shown: &Path, name: &str, ids: Vec<String>) -> Result<()> {
        let mut seen = BTreeSet::new();
        for id in &ids {
            let problem = match self.samples.get(id) {
                None => format!("{name} lists it, but there is no picture"),
                Some(false) if name != "test" => format!("{name} lists it, but it has no labels"),
                Some(_) if !seen.insert(id) => format!("{name} lists it twice"),
                Some(_) => continue,
            };
            return Err(Error::annotation(shown, id, problem));
        }
        let text: String = ids.iter().flat_map(|id| [id.as_str(), "\n"]).collect();
        let file = self.folder.write(&format!("splits/{name}.txt"), text.as_bytes())?;
        self.files.push(file);
        self.parts.insert(name.to_owned(), ids);
        Ok(())
    }

    /// Waits until everything is on disk.
    pub(super) fn finish(mut self) -> Result<Finished> {
        self.say("waiting for the disk");
        // Each on its own after all were written: by then most of it is on disk.
        let dir = self.folder.dir;
        self.files.par_iter().try_for_each(|file| {
            let path = dir.join(&file.path);
            File::open(&path).and_then(|file| file.sync_all()).map_err(|source| Error::io(path, source))
        })?;
        let parts = self.parts.iter().map(|(name, ids)| (name.as_str(), ids.as_slice()));
        let mut shared = BTreeMap::new();
        for overlap in overlaps(self.set, parts) {
            let line = format!(
                "{}: {} contains {} of {} samples of {}; do not report {} of a training on {}",
                self.set,
                overlap.train,
                overlap.ids.len(),
                self.parts.get(&overlap.held_out).map_or(0, Vec::len),
                overlap.held_out,
                overlap.held_out,
                overlap.train,
            );
            (self.progress)(&line);
            shared.insert(format!("{}/{}", overlap.train, overlap.held_out), overlap.ids.len() as u64);
        }
        self.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Finished {
            files: self.files,
            counts: self.parts.iter().map(|(name, ids)| (name.clone(), ids.len() as u64)).collect(),
            overlaps: shared,
            notes: self.notes,
        })
    }
}

/// Where files go; shared by all threads.
#[derive(Clone, Copy)]
struct Folder<'a> {
    dir: &'a Path,
    classes: usize,
}

impl Folder<'_> {
    fn write_sample(&self, shown: &Path, sample: Sample) -> Result<Written> {
        let Sample { id, image, label } = sample;
        let bad = |problem: String| Error::annotation(shown, &id, problem);
        check_id(&id).map_err(bad)?;
        let probe = vision_image::probe(&image).map_err(|error| bad(error.to_string()))?;
        // Labels lie over the picture as it is stored, so nobody may turn it on the way.
        let image = if probe.turned { upright(&image).map_err(bad)? } else { image };
        let mut files = Vec::new();
        let labelled = label.is_some();
        if let Some(label) = label {
            let (width, height) = (label.width(), label.height());
            if (width, height) != (probe.width, probe.height) {
                let Probe { width: w, height: h, .. } = probe;
                return Err(bad(format!("labels of {width} x {height} pixels for a picture of {w} x {h}")));
            }
            let strange = |&&value: &&u8| value != IGNORE && usize::from(value) >= self.classes;
            if let Some(value) = label.data().iter().find(strange) {
                return Err(bad(format!("class {value}, there are {}", self.classes)));
            }
            let png = encode_png(&label.into_gray()).map_err(|error| bad(error.to_string()))?;
            files.push(self.write(&format!("labels/{id}.png"), &png)?);
        }
        let ending = if probe.format == Format::Png { "png" } else { "jpg" };
        files.push(self.write(&format!("images/{id}.{ending}"), &image)?);
        Ok(Written { id, labelled, files })
    }

    fn write(&self, path: &str, bytes: &[u8]) -> Result<ManifestFile> {
        let target = self.dir.join(path);
        File::create_new(&target)
            .and_then(|mut file| file.write_all(bytes))
            .map_err(|source| Error::io(target, source))?;
        Ok(ManifestFile { path: path.to_owned(), bytes: bytes.len() as u64, sha256: sha256(bytes) })
    }
}

struct Written {
    id: String,
    labelled: bool,
    files: Vec<ManifestFile>,
}

/// IDs become file names, and they come from archives.
fn check_id(id: &str) -> std::result::Result<(), String> {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    if id.is_empty() || id.len() > 200 || id.starts_with('.') || !id.chars().all(plain) {
        return Err("the name is not made of letters, digits, - _ and .".to_owned());
    }
    Ok(())
}

/// The last part of a path, without its ending.
pub(super) fn stem(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

/// The parts of a set in this layout and their IDs.
pub(super) fn read_parts(dir: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    let folder = dir.join("splits");
    let in_folder = |source| Error::io(&folder, source);
    let mut parts = BTreeMap::new();
    for entry in fs::read_dir(&folder).map_err(in_folder)? {
        let path = entry.map_err(in_folder)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".txt"));
        if let Some(name) = name {
            let text = fs::read_to_string(&path).map_err(|source| Error::io(&path, source))?;
            let ids: Vec<String> = text.lines().map(str::to_owned).collect();
            if let Some(id) = ids.iter().find(|id| check_id(id).is_err()) {
                return Err(Error::annotation(&path, id, "is no file name"));
            }
            parts.insert(name.to_owned(), ids);
        }
    }
    Ok(parts)
}

/// The picture of a sample in a set of this layout, if it is there.
pub(super) fn picture(dir: &Path, id: &str) -> Option<PathBuf> {
    ["jpg", "png"].iter().map(|ending| dir.join(format!("images/{id}.{ending}"))).find(|path| path.is_file())
}

/// How many samples each part has. Every listed sample must be there.
pub(super) fn count_parts(dir: &Path) -> Result<BTreeMap<String, u64>> {
    let mut counts = BTreeMap::new();
    for (part, ids) in read_parts(dir)? {
        let list = || dir.join(format!("splits/{part}.txt"));
        for id in &ids {
            if picture(dir, id).is_none() {
                return Err(Error::annotation(list(), id, "is listed, but there is no picture"));
            }
            if part != "test" && !dir.join(format!("labels/{id}.png")).is_file() {
                return Err(Error::annotation(list(), id, "is listed, but there are no labels"));
            }
        }
        counts.insert(part, ids.len() as u64);
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_archives_do_not_become_paths() {
        for id in ["", ".", "..", ".hidden", "a/b", "a\\b", "../x", "a b", "a\n"] {
            assert!(check_id(id).is_err(), "{id:?}");
        }
        assert!(check_id("2007_000032").is_ok() && check_id("ADE_train_00000001").is_ok());
        assert_eq!((stem("a/b/c.d.png"), stem("c")), ("c.d", "c"));
    }
}
