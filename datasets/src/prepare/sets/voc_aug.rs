//! VOC 2012 and SBD together: the usual 10,582 pictures to train on, none of which is in VOC's `val`.
//!
//! Made of the two prepared sets. Where both have labels, VOC's are taken: they know "does not count".

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::Job;
use crate::prepare::canonical::{Draft, Finished, read_parts};
use crate::prepare::classes::{Classes, VOC, VOC_EVALUATION};
use crate::prepare::manifest::{Manifest, ManifestFile};
use crate::{Error, Result};

pub(super) fn convert(job: Job) -> Result<Finished> {
    let Job { set, root, dir, progress, .. } = job;
    let mut draft = Draft::new(set, dir, &Classes::new(VOC, 0, VOC_EVALUATION), progress)?;
    let (voc, sbd) = (Prepared::read(set, root, "voc2012")?, Prepared::read(set, root, "sbd")?);
    let val: BTreeSet<&String> = voc.part("val")?.iter().collect();
    let mut augmented: BTreeMap<&String, &Prepared> = BTreeMap::new();
    for part in ["train", "val"] {
        augmented.extend(sbd.part(part)?.iter().map(|id| (id, &sbd)));
    }
    augmented.extend(voc.part("train")?.iter().map(|id| (id, &voc)));
    augmented.retain(|id, _| !val.contains(id));
    let mut all = augmented.clone();
    all.extend(val.iter().map(|&id| (id, &voc)));
    draft.say(&format!("{set}: {} pictures of voc2012 and sbd", all.len()));
    for (id, from) in all {
        from.place(id, dir, &mut draft)?;
    }
    let list = |ids: &[String]| ids.to_vec();
    draft.part(&voc.dir, "train", list(voc.part("train")?))?;
    draft.part(&voc.dir, "val", list(voc.part("val")?))?;
    draft.part(&sbd.dir, "trainaug", augmented.into_keys().cloned().collect())?;
    draft.finish()
}

/// A set that is already there.
struct Prepared {
    dir: std::path::PathBuf,
    parts: BTreeMap<String, Vec<String>>,
    files: BTreeMap<String, ManifestFile>,
}

impl Prepared {
    fn read(set: &str, root: &Path, name: &str) -> Result<Self> {
        let dir = root.join(name);
        let Some(manifest) = Manifest::read(&dir)? else {
            return Err(Error::Set {
                set: set.to_owned(),
                problem: format!("is made of {name}, which is not prepared in {}", dir.display()),
            });
        };
        let files = manifest.files.into_iter().map(|file| (file.path.clone(), file)).collect();
        Ok(Self { parts: read_parts(&dir)?, dir, files })
    }

    fn part(&self, name: &str) -> Result<&[String]> {
        self.parts.get(name).map(Vec::as_slice).ok_or_else(|| Error::MissingEntry {
            path: self.dir.clone(),
            entry: format!("splits/{name}.txt"),
        })
    }

    /// Puts the files of a sample into `dir`: a second name for the same file where the file system has
    /// that, a copy otherwise.
    fn place(&self, id: &str, dir: &Path, draft: &mut Draft) -> Result<()> {
        let image = ["jpg", "png"]
            .iter()
            .find_map(|ending| self.files.get(&format!("images/{id}.{ending}")))
            .ok_or_else(|| Error::annotation(&self.dir, id, "the manifest has no picture of it"))?;
        let label = self
            .files
            .get(&format!("labels/{id}.png"))
            .ok_or_else(|| Error::annotation(&self.dir, id, "the manifest has no labels of it"))?;
        for file in [image, label] {
            let (from, to) = (self.dir.join(&file.path), dir.join(&file.path));
            fs::hard_link(&from, &to)
                .or_else(|_| fs::copy(&from, &to).map(drop))
                .map_err(|source| Error::io(from, source))?;
        }
        draft.adopt(id.to_owned(), true, [image.clone(), label.clone()]);
        Ok(())
    }
}
