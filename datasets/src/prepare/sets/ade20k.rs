//! ADE20K as `SceneParse150`: grey pictures, 0 for everything else, 1 to 150 for the classes.

use std::path::Path;

use super::{Job, Table, bad, labels};
use crate::prepare::archive::Source;
use crate::prepare::canonical::{Draft, Finished, Sample, stem};
use crate::prepare::classes::{Classes, IGNORE, ade20k_palette};
use crate::{Error, Result};

const ARCHIVE: &str = "ADEChallengeData2016.zip";
const TEST_ARCHIVE: &str = "release_test.zip";
const FOLDER: &str = "ADEChallengeData2016";
const CLASSES: usize = 150;

pub(super) fn convert(job: Job) -> Result<Finished> {
    let Job { set, sources, dir, progress, .. } = job;
    let zip = sources.get(ARCHIVE)?;
    let classes = Classes::new(
        class_names(zip)?,
        1,
        "mean IoU over 150 classes; pixels labelled 255, in none of them, do not count",
    )
    .with_palette(&ade20k_palette());
    let table: Table = std::array::from_fn(|value| match value {
        0 => Some(IGNORE),
        value if value <= CLASSES => Some((value - 1) as u8),
        _ => None,
    });
    let mut draft = Draft::new(set, dir, &classes, progress)?;
    let mut all = Vec::new();
    for (part, folder) in [("train", "training"), ("val", "validation")] {
        let (images, annotations) =
            (format!("{FOLDER}/images/{folder}/"), format!("{FOLDER}/annotations/{folder}/"));
        let ids: Vec<String> =
            zip.names(&annotations).into_iter().map(|name| stem(name).to_owned()).collect();
        if let Some(name) = zip.names(&images).iter().find(|name| {
            let label = format!("{annotations}{}.png", stem(name));
            !zip.has(&label)
        }) {
            return Err(bad(zip, name, "has no labels"));
        }
        let ids = draft.samples(zip.shown(), &ids, |id| {
            let image = zip.read(&format!("{images}{id}.jpg"))?;
            let label = labels(zip, &format!("{annotations}{id}.png"), &table)?;
            Ok(Some(Sample { id: id.clone(), image, label: Some(label) }))
        })?;
        all.extend(ids.iter().cloned());
        draft.part(zip.shown(), part, ids)?;
    }
    draft.part(zip.shown(), "trainval", all)?;
    if let Some(test) = sources.optional(TEST_ARCHIVE) {
        let mut names = test.names("release_test/testing/");
        names.retain(|name| Path::new(name).extension().is_some_and(|ending| ending == "jpg"));
        let ids = draft.samples(test.shown(), &names, |name| {
            Ok(Some(Sample { id: stem(name).to_owned(), image: test.read(name)?, label: None }))
        })?;
        draft.part(test.shown(), "test", ids)?;
    }
    draft.finish()
}

/// The first of each class's names in the table that comes with the pictures.
fn class_names(zip: &Source) -> Result<Vec<String>> {
    let name = format!("{FOLDER}/objectInfo150.txt");
    let wrong = |problem: String| -> Error { bad(zip, &name, problem) };
    let mut names = Vec::new();
    // A line of headings, then number, three shares and the names.
    for line in zip.lines(&name)?.iter().skip(1) {
        let mut columns = line.split('\t').map(str::trim);
        let number = columns.next().and_then(|number| number.parse::<usize>().ok());
        if number != Some(names.len() + 1) {
            return Err(wrong(format!("expected the row of class {}, found {line:?}", names.len() + 1)));
        }
        let first = columns.next_back().and_then(|words| words.split(',').next()).unwrap_or("").trim();
        if first.is_empty() {
            return Err(wrong(format!("no name in {line:?}")));
        }
        names.push(first.to_owned());
    }
    if names.len() == CLASSES {
        Ok(names)
    } else {
        Err(wrong(format!("{} classes, expected 150", names.len())))
    }
}
