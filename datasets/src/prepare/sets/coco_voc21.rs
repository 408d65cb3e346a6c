//! COCO 2017 with the classes of VOC, to train on before VOC.
//!
//! The 20 categories that VOC has too; all other objects are background. Masks are painted in the order of
//! the file, and the first one keeps a pixel. Pictures with few pixels of these classes are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use vision_image::LabelMap;

use super::json::{Mask, parse};
use super::{Job, bad};
use crate::Result;
use crate::prepare::archive::Source;
use crate::prepare::canonical::{Draft, Finished, Sample, stem};
use crate::prepare::classes::{Classes, VOC, VOC_EVALUATION};

const ANNOTATIONS: &str = "annotations_trainval2017.zip";

/// COCO's category and its name there; the position is the class of VOC.
const CATEGORIES: [(u64, &str); 21] = [
    (0, ""),
    (5, "airplane"),
    (2, "bicycle"),
    (16, "bird"),
    (9, "boat"),
    (44, "bottle"),
    (6, "bus"),
    (3, "car"),
    (17, "cat"),
    (62, "chair"),
    (21, "cow"),
    (67, "dining table"),
    (18, "dog"),
    (19, "horse"),
    (4, "motorcycle"),
    (1, "person"),
    (64, "potted plant"),
    (20, "sheep"),
    (63, "couch"),
    (7, "train"),
    (72, "tv"),
];

/// A picture is kept if more pixels than this are not background.
const MIN_FOREGROUND: usize = 1000;

#[derive(Deserialize)]
struct Root {
    images: Vec<Picture>,
    categories: Vec<Category>,
    #[serde(deserialize_with = "wanted")]
    annotations: Wanted,
}

#[derive(Deserialize)]
struct Picture {
    id: u64,
    file_name: String,
    height: u32,
    width: u32,
}

#[derive(Deserialize)]
struct Category {
    id: u64,
    name: String,
}

#[derive(Deserialize)]
struct Annotation {
    image_id: u64,
    category_id: u64,
    segmentation: Mask,
}

/// The masks of each picture with their classes of VOC, in the order of the file.
#[derive(Default)]
struct Wanted {
    masks: BTreeMap<u64, Vec<(u8, Mask)>>,
    /// Every category that occurs, with one picture it occurs in.
    categories: BTreeMap<u64, u64>,
    pictures: BTreeSet<u64>,
}

/// Keeps only masks of VOC's classes while the file is read: the others are half of it.
fn wanted<'de, D: Deserializer<'de>>(input: D) -> std::result::Result<Wanted, D::Error> {
    struct Filter;
    impl<'de> Visitor<'de> for Filter {
        type Value = Wanted;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of annotations")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Wanted, A::Error> {
            let mut wanted = Wanted::default();
            while let Some(annotation) = list.next_element::<Annotation>()? {
                let Annotation { image_id, category_id, segmentation } = annotation;
                wanted.categories.entry(category_id).or_insert(image_id);
                wanted.pictures.insert(image_id);
                if let Some(class) = class(category_id) {
                    wanted.masks.entry(image_id).or_default().push((class, segmentation));
                }
            }
            Ok(wanted)
        }
    }
    input.deserialize_seq(Filter)
}

/// The class of VOC for a category of COCO.
fn class(category: u64) -> Option<u8> {
    CATEGORIES.iter().skip(1).position(|&(id, _)| id == category).map(|at| at as u8 + 1)
}

pub(super) fn convert(job: Job) -> Result<Finished> {
    let Job { set, sources, dir, progress, .. } = job;
    let annotations = sources.get(ANNOTATIONS)?;
    let classes = Classes::new(VOC, 0, VOC_EVALUATION);
    let mut draft = Draft::new(set, dir, &classes, progress)?;
    for part in ["train", "val"] {
        let images = sources.get(&format!("{part}2017.zip"))?;
        let name = format!("annotations/instances_{part}2017.json");
        draft.say(&format!("{set}: reading {name}"));
        let mut root: Root = parse(annotations, &name)?;
        check(annotations, &name, &root)?;
        root.images.sort_by(|a, b| a.file_name.cmp(&b.file_name));
        let ids = draft.samples(annotations.shown(), &root.images, |picture| {
            // A name that is a path would be read from another folder.
            let entry = format!("{part}2017/{}", picture.file_name);
            let id = stem(&picture.file_name).to_owned();
            let Some(masks) = root.annotations.masks.get(&picture.id) else {
                return if images.has(&entry) { Ok(None) } else { images.read(&entry).map(|_| None) };
            };
            let label = paint(picture, masks).map_err(|problem| bad(annotations, &id, problem))?;
            let image = images.read(&entry)?;
            Ok(label.map(|label| Sample { id, image, label: Some(label) }))
        })?;
        draft.say(&format!("{set}: {} of {} pictures of {part} are kept", ids.len(), root.images.len()));
        draft.part(annotations.shown(), part, ids)?;
    }
    draft.note("pictures with at most 1000 pixels of VOC's classes are left out");
    draft.finish()
}

/// The categories are those that are expected, and annotations belong to categories and pictures.
fn check(source: &Source, name: &str, root: &Root) -> Result<()> {
    let names: BTreeMap<u64, &str> =
        root.categories.iter().map(|category| (category.id, category.name.as_str())).collect();
    for (id, expected) in CATEGORIES.iter().skip(1) {
        let found = names.get(id).copied().unwrap_or("nothing");
        if found != *expected {
            return Err(bad(source, name, format!("category {id} is {found}, expected {expected}")));
        }
    }
    if let Some((category, image)) =
        root.annotations.categories.iter().find(|(id, _)| !names.contains_key(id))
    {
        return Err(bad(
            source,
            name,
            format!("image {image} has an object of category {category}, which is unknown"),
        ));
    }
    let ids: BTreeSet<u64> = root.images.iter().map(|picture| picture.id).collect();
    if ids.len() != root.images.len() {
        return Err(bad(source, name, "an image id occurs twice"));
    }
    match root.annotations.pictures.difference(&ids).next() {
        Some(image) => Err(bad(source, name, format!("objects of image {image}, which is unknown"))),
        None => Ok(()),
    }
}

/// The first mask keeps a pixel. `None` if too little is covered.
fn paint(picture: &Picture, masks: &[(u8, Mask)]) -> std::result::Result<Option<LabelMap>, String> {
    let pixels = u64::from(picture.width) * u64::from(picture.height);
    if pixels > vision_image::MAX_PIXELS {
        return Err(format!("a picture of {} x {} pixels", picture.width, picture.height));
    }
    let mut labels = vec![0; pixels as usize];
    for (class, mask) in masks {
        mask.each(picture.width, picture.height, |at| {
            if let Some(pixel) = labels.get_mut(at).filter(|pixel| **pixel == 0) {
                *pixel = *class;
            }
        })?;
    }
    if labels.iter().filter(|&&label| label != 0).count() <= MIN_FOREGROUND {
        return Ok(None);
    }
    LabelMap::new(picture.width, picture.height, labels).map(Some).map_err(|error| error.to_string())
}
