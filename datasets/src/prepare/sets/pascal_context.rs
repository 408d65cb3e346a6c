//! PASCAL-Context with 59 classes: pictures of VOC 2010, masks in one JSON file of runs.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use vision_image::LabelMap;

use super::json::{Mask, key, number, parse};
use super::{Job, bad};
use crate::Result;
use crate::prepare::canonical::{Draft, Finished, Sample, stem};
use crate::prepare::classes::{Classes, IGNORE};

const PICTURES: &str = "VOCtrainval_03-May-2010.tar";
const MASKS: &str = "trainval_merged.json";
const FOLDER: &str = "VOCdevkit/VOC2010/JPEGImages";

/// Category in the JSON file and name; the position is the class. What has no category is background.
const CLASSES: [(u16, &str); 59] = [
    (2, "aeroplane"),
    (9, "bag"),
    (18, "bed"),
    (19, "bedclothes"),
    (22, "bench"),
    (23, "bicycle"),
    (25, "bird"),
    (31, "boat"),
    (33, "book"),
    (34, "bottle"),
    (44, "building"),
    (45, "bus"),
    (46, "cabinet"),
    (59, "car"),
    (65, "cat"),
    (68, "ceiling"),
    (72, "chair"),
    (80, "cloth"),
    (85, "computer"),
    (98, "cow"),
    (104, "cup"),
    (105, "curtain"),
    (113, "dog"),
    (115, "door"),
    (144, "fence"),
    (158, "floor"),
    (159, "flower"),
    (162, "food"),
    (187, "grass"),
    (189, "ground"),
    (207, "horse"),
    (220, "keyboard"),
    (232, "light"),
    (258, "motorbike"),
    (259, "mountain"),
    (260, "mouse"),
    (284, "person"),
    (295, "plate"),
    (296, "platform"),
    (308, "pottedplant"),
    (324, "road"),
    (326, "rock"),
    (347, "sheep"),
    (349, "shelves"),
    (354, "sidewalk"),
    (355, "sign"),
    (360, "sky"),
    (366, "snow"),
    (368, "sofa"),
    (397, "table"),
    (415, "track"),
    (416, "train"),
    (420, "tree"),
    (424, "truck"),
    (427, "tvmonitor"),
    (440, "wall"),
    (445, "water"),
    (454, "window"),
    (458, "wood"),
];

/// Pictures for training and validation: of the paper, and of today's JSON file.
const OF_THE_PAPER: [usize; 2] = [4998, 5105];
const OF_TODAY: [usize; 2] = [4996, 5104];

#[derive(Deserialize)]
struct Root {
    images: Vec<Picture>,
    categories: Vec<Category>,
    annos_segmentation: Vec<Annotation>,
}

#[derive(Deserialize)]
struct Picture {
    #[serde(deserialize_with = "key")]
    image_id: String,
    file_name: String,
    phase: String,
    height: u32,
    width: u32,
}

#[derive(Deserialize)]
struct Category {
    #[serde(deserialize_with = "number")]
    category_id: u64,
    name: String,
}

#[derive(Deserialize)]
struct Annotation {
    #[serde(deserialize_with = "key")]
    image_id: String,
    #[serde(deserialize_with = "number")]
    category_id: u64,
    segmentation: Mask,
}

pub(super) fn convert(job: Job) -> Result<Finished> {
    let Job { set, sources, dir, progress, .. } = job;
    let (tar, json) = (sources.get(PICTURES)?, sources.get(MASKS)?);
    progress(&format!("reading {}", json.shown().display()));
    let root: Root = parse(json, MASKS)?;
    let names: BTreeMap<u64, &str> =
        root.categories.iter().map(|category| (category.category_id, category.name.as_str())).collect();
    for (id, name) in CLASSES {
        let found = names.get(&u64::from(id)).copied().unwrap_or("nothing");
        if plain(found) != name {
            return Err(bad(json, "categories", format!("category {id} is {found}, expected {name}")));
        }
    }
    let ids: BTreeSet<&str> = root.images.iter().map(|picture| picture.image_id.as_str()).collect();
    if ids.len() != root.images.len() {
        return Err(bad(json, "images", "an image_id occurs twice"));
    }
    let mut masks: BTreeMap<String, Vec<(u16, Mask)>> = BTreeMap::new();
    for Annotation { image_id, category_id, segmentation } in root.annos_segmentation {
        let sample = format!("annotation of image {image_id}");
        if !ids.contains(image_id.as_str()) {
            return Err(bad(json, &sample, "there is no such image"));
        }
        match u16::try_from(category_id).ok().filter(|&id| id > 0 && names.contains_key(&u64::from(id))) {
            Some(category) => masks.entry(image_id).or_default().push((category, segmentation)),
            None => return Err(bad(json, &sample, format!("there is no category {category_id}"))),
        }
    }

    let classes = Classes::new(
        CLASSES.map(|(_, name)| name),
        1,
        "mean IoU over 59 classes; the background, labelled 255, does not count",
    );
    let mut draft = Draft::new(set, dir, &classes, progress)?;
    let mut counts = [0; 2];
    for (part, count) in ["train", "val"].into_iter().zip(&mut counts) {
        let mut pictures: Vec<&Picture> =
            root.images.iter().filter(|picture| picture.phase == part).collect();
        pictures.sort_by(|a, b| a.file_name.cmp(&b.file_name));
        let made = draft.samples(json.shown(), &pictures, |picture| {
            let id = stem(&picture.file_name).to_owned();
            let of_picture = masks.get(&picture.image_id).map_or(&[][..], Vec::as_slice);
            let label = paint(picture, of_picture).map_err(|problem| bad(json, &id, problem))?;
            let image = tar.read(&format!("{FOLDER}/{}", picture.file_name))?;
            Ok(Some(Sample { id, image, label: Some(label) }))
        })?;
        *count = made.len();
        draft.part(json.shown(), part, made)?;
    }
    let skipped = root.images.len() - counts.iter().sum::<usize>();
    if skipped > 0 {
        draft.note(format!("{skipped} pictures of other phases are left out"));
    }
    let which = match counts {
        OF_THE_PAPER => "the lists are those of the paper, 4998 and 5105 pictures",
        OF_TODAY => {
            "the lists are those of today's annotation file, 4996 and 5104 pictures; the paper had 4998 and 5105"
        }
        _ => {
            "the lists are neither those of the paper, 4998 and 5105 pictures, nor those of today, 4996 and 5104"
        }
    };
    draft.say(&format!("{set}: {which}"));
    draft.note(which);
    draft.finish()
}

/// Names differ in case and in what is between words.
fn plain(name: &str) -> String {
    name.chars().filter(|character| character.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Later masks cover earlier ones. Only what can be seen in the end must be one of the classes.
fn paint(picture: &Picture, masks: &[(u16, Mask)]) -> std::result::Result<LabelMap, String> {
    let pixels = u64::from(picture.width) * u64::from(picture.height);
    if pixels > vision_image::MAX_PIXELS {
        return Err(format!("a picture of {} x {} pixels", picture.width, picture.height));
    }
    let mut painted = vec![0u16; pixels as usize];
    for (category, mask) in masks {
        mask.each(picture.width, picture.height, |at| {
            if let Some(pixel) = painted.get_mut(at) {
                *pixel = *category;
            }
        })?;
    }
    let mut labels = Vec::with_capacity(painted.len());
    for category in painted {
        labels.push(match CLASSES.binary_search_by_key(&category, |&(id, _)| id) {
            Ok(class) => class as u8,
            Err(_) if category == 0 => IGNORE,
            Err(_) => return Err(format!("category {category} is none of the 59")),
        });
    }
    LabelMap::new(picture.width, picture.height, labels).map_err(|error| error.to_string())
}
