//! PASCAL VOC 2012: palette pictures whose indices are the classes.

use super::{Job, bad, identity, labels, union};
use crate::Result;
use crate::prepare::canonical::{Draft, Finished, Sample};
use crate::prepare::classes::{Classes, VOC, VOC_EVALUATION};

const ARCHIVE: &str = "VOCtrainval_11-May-2012.tar";
const FOLDER: &str = "VOCdevkit/VOC2012";

pub(super) fn convert(job: Job) -> Result<Finished> {
    let Job { set, sources, dir, progress, .. } = job;
    let tar = sources.get(ARCHIVE)?;
    let table = identity(VOC.len());
    let mut lists = Vec::new();
    for part in ["train", "val", "trainval"] {
        lists.push((part, tar.lines(&format!("{FOLDER}/ImageSets/Segmentation/{part}.txt"))?));
    }
    let ids = union(lists.iter().map(|(_, ids)| ids));
    if ids.is_empty() {
        return Err(bad(tar, FOLDER, "the lists of pictures are empty"));
    }
    let mut draft = Draft::new(set, dir, &Classes::new(VOC, 0, VOC_EVALUATION), progress)?;
    draft.samples(tar.shown(), &ids, |id| {
        let image = tar.read(&format!("{FOLDER}/JPEGImages/{id}.jpg"))?;
        let label = labels(tar, &format!("{FOLDER}/SegmentationClass/{id}.png"), &table)?;
        Ok(Some(Sample { id: id.clone(), image, label: Some(label) }))
    })?;
    for (part, ids) in lists {
        draft.part(tar.shown(), part, ids)?;
    }
    draft.finish()
}
