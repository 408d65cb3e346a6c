//! The published forms of segmentation sets, one file each.

mod ade20k;
mod cityscapes;
mod coco_voc21;
mod json;
mod mat;
mod pascal_context;
mod sbd;
mod voc2012;
mod voc_aug;

use std::collections::BTreeSet;
use std::path::Path;

use vision_image::{LabelMap, decode_labels};

use super::archive::Source;
use super::canonical::Finished;
use super::classes::IGNORE;
use crate::catalog::Layout;
use crate::{Error, Result};

/// What a set is made from and where it is written to.
pub(super) struct Job<'a> {
    /// The name of the set.
    pub(super) set: &'a str,
    /// Its archives.
    pub(super) sources: Sources<'a>,
    /// The folder with the other prepared sets.
    pub(super) root: &'a Path,
    /// The folder to fill, empty.
    pub(super) dir: &'a Path,
    pub(super) progress: &'a mut dyn FnMut(&str),
}

/// The archives of a set, by their published names.
pub(super) struct Sources<'a>(pub(super) Vec<(&'a str, Source)>);

impl Sources<'_> {
    /// The archive called `file`, which the catalogue requires.
    fn get(&self, file: &str) -> Result<&Source> {
        self.optional(file).ok_or_else(|| Error::Manifest {
            what: "catalogue".to_owned(),
            problem: format!("this layout needs an archive called {file}"),
        })
    }

    /// The archive called `file`, if the user has it.
    fn optional(&self, file: &str) -> Option<&Source> {
        self.0.iter().find(|(name, _)| *name == file).map(|(_, source)| source)
    }
}

/// Converts the set to the canonical layout.
pub(super) fn convert(layout: Layout, job: Job) -> Result<Finished> {
    match layout {
        Layout::Ade20k => ade20k::convert(job),
        Layout::Voc2012 => voc2012::convert(job),
        Layout::PascalContext => pascal_context::convert(job),
        Layout::Sbd => sbd::convert(job),
        Layout::VocAug => voc_aug::convert(job),
        Layout::CocoVoc21 => coco_voc21::convert(job),
        Layout::Cityscapes => cityscapes::convert(job),
        Layout::Cifar10 | Layout::Cifar100 | Layout::FashionMnist => {
            Err(Error::Set { set: job.set.to_owned(), problem: "is no segmentation set".to_owned() })
        }
    }
}

/// The error for labels that are not as they should be.
fn bad(source: &Source, sample: &str, problem: impl Into<String>) -> Error {
    Error::annotation(source.shown(), sample, problem)
}

/// What becomes of each value of a label picture; `None` for values that must not occur.
type Table = [Option<u8>; 256];

/// Reads a label picture and gives every value its class.
fn labels(source: &Source, name: &str, table: &Table) -> Result<LabelMap> {
    let bytes = source.read(name)?;
    let map = decode_labels(&bytes).map_err(|error| bad(source, name, error.to_string()))?;
    mapped(map, table).map_err(|value| bad(source, name, format!("label {value} has no class")))
}

/// The same labels with every value replaced; the first value without a class is the error.
fn mapped(mut map: LabelMap, table: &Table) -> std::result::Result<LabelMap, u8> {
    for value in map.data_mut() {
        match table.get(usize::from(*value)).copied().flatten() {
            Some(class) => *value = class,
            None => return Err(*value),
        }
    }
    Ok(map)
}

/// The table by which classes below `classes` and 255 stay as they are.
fn identity(classes: usize) -> Table {
    std::array::from_fn(|value| {
        let value = value as u8;
        (usize::from(value) < classes || value == IGNORE).then_some(value)
    })
}

/// All IDs of several lists, sorted, each once.
fn union<'a>(lists: impl IntoIterator<Item = &'a Vec<String>>) -> Vec<String> {
    let ids: BTreeSet<&String> = lists.into_iter().flatten().collect();
    ids.into_iter().cloned().collect()
}
