//! SBD, the Semantic Boundaries Dataset: labels of VOC's classes for 11,355 pictures of VOC 2011, as
//! MATLAB files.

use super::{Job, bad, identity, mapped, mat, union};
use crate::Result;
use crate::overlap::overlap;
use crate::prepare::canonical::{Draft, Finished, Sample, read_parts};
use crate::prepare::classes::{Classes, VOC, VOC_EVALUATION};

const ARCHIVE: &str = "benchmark.tgz";
const FOLDER: &str = "benchmark_RELEASE/dataset";

pub(super) fn convert(job: Job) -> Result<Finished> {
    let Job { set, sources, root, dir, progress } = job;
    let tar = sources.get(ARCHIVE)?;
    let table = identity(VOC.len());
    let mut lists = Vec::new();
    for part in ["train", "val"] {
        lists.push((part, tar.lines(&format!("{FOLDER}/{part}.txt"))?));
    }
    let ids = union(lists.iter().map(|(_, ids)| ids));
    if ids.is_empty() {
        return Err(bad(tar, FOLDER, "the lists of pictures are empty"));
    }
    lists.push(("trainval", ids.clone()));
    let mut draft = Draft::new(set, dir, &Classes::new(VOC, 0, VOC_EVALUATION), progress)?;
    draft.samples(tar.shown(), &ids, |id| {
        let image = tar.read(&format!("{FOLDER}/img/{id}.jpg"))?;
        let name = format!("{FOLDER}/cls/{id}.mat");
        let map = mat::segmentation(&tar.read(&name)?)
            .map_err(|problem| bad(tar, &name, format!("byte {}: {}", problem.offset, problem.text)))?;
        let label =
            mapped(map, &table).map_err(|value| bad(tar, &name, format!("label {value} has no class")))?;
        Ok(Some(Sample { id: id.clone(), image, label: Some(label) }))
    })?;
    // VOC's val is what others report on; its list is there if VOC is prepared.
    let voc = root.join("voc2012");
    if let Some(val) =
        voc.is_dir().then(|| read_parts(&voc)).transpose()?.and_then(|mut parts| parts.remove("val"))
    {
        for (part, ids) in &lists {
            if let Some(found) = overlap(set, (*part, ids.as_slice()), ("val of voc2012", val.as_slice())) {
                let line = format!(
                    "{part} contains {} of the {} pictures of val of voc2012",
                    found.ids.len(),
                    val.len()
                );
                draft.say(&format!("{set}: {line}"));
                draft.note(line);
            }
        }
    }
    for (part, ids) in lists {
        draft.part(tar.shown(), part, ids)?;
    }
    draft.finish()
}
