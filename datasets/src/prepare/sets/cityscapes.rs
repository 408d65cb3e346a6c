//! Cityscapes: grey pictures with 34 numbers, of which 19 are classes.

use super::{Job, Table, bad, labels};
use crate::Result;
use crate::prepare::canonical::{Draft, Finished, Sample};
use crate::prepare::classes::{Classes, IGNORE};

const LABELS: &str = "gtFine_trainvaltest.zip";
const IMAGES: &str = "leftImg8bit_trainvaltest.zip";

/// Number in the published pictures, name, colour; the position is the class.
const CLASSES: [(u8, &str, [u8; 3]); 19] = [
    (7, "road", [128, 64, 128]),
    (8, "sidewalk", [244, 35, 232]),
    (11, "building", [70, 70, 70]),
    (12, "wall", [102, 102, 156]),
    (13, "fence", [190, 153, 153]),
    (17, "pole", [153, 153, 153]),
    (19, "traffic light", [250, 170, 30]),
    (20, "traffic sign", [220, 220, 0]),
    (21, "vegetation", [107, 142, 35]),
    (22, "terrain", [152, 251, 152]),
    (23, "sky", [70, 130, 180]),
    (24, "person", [220, 20, 60]),
    (25, "rider", [255, 0, 0]),
    (26, "car", [0, 0, 142]),
    (27, "truck", [0, 0, 70]),
    (28, "bus", [0, 60, 100]),
    (31, "train", [0, 80, 100]),
    (32, "motorcycle", [0, 0, 230]),
    (33, "bicycle", [119, 11, 32]),
];
/// The largest number in use.
const LAST: usize = 33;

pub(super) fn convert(job: Job) -> Result<Finished> {
    let Job { set, sources, dir, progress, .. } = job;
    let (annotations, images) = (sources.get(LABELS)?, sources.get(IMAGES)?);
    // 255 is how the number plate, -1, is stored.
    let table: Table = std::array::from_fn(|value| {
        let class = CLASSES.iter().position(|&(number, ..)| usize::from(number) == value);
        match class {
            Some(class) => Some(class as u8),
            None => (value <= LAST || value == usize::from(IGNORE)).then_some(IGNORE),
        }
    });
    let evaluation = "mean IoU over 19 classes; pixels labelled 255 do not count. \
                      Submissions hold the numbers 7 to 33 of the published pictures";
    let classes =
        Classes::new(CLASSES.map(|(_, name, _)| name), 0, evaluation).with_palette(&CLASSES.map(|c| c.2));
    let mut draft = Draft::new(set, dir, &classes, progress)?;
    for part in ["train", "val", "test"] {
        let folder = format!("leftImg8bit/{part}/");
        let mut jobs = Vec::new();
        for name in images.names(&folder) {
            let Some(rest) =
                name.strip_prefix(&folder).and_then(|rest| rest.strip_suffix("_leftImg8bit.png"))
            else {
                return Err(bad(images, name, "is no picture called CITY/…_leftImg8bit.png"));
            };
            jobs.push((name, rest, rest.rsplit('/').next().unwrap_or(rest)));
        }
        if let Some(&(name, ..)) = jobs.first().filter(|_| part != "test") {
            // Both ways: every picture has labels, and every label picture its picture.
            let found = annotations
                .names(&format!("gtFine/{part}/"))
                .into_iter()
                .filter(|name| name.ends_with("_gtFine_labelIds.png"))
                .count();
            if found != jobs.len() {
                return Err(bad(
                    images,
                    name,
                    format!("{} pictures in {part}, {found} label pictures", jobs.len()),
                ));
            }
        }
        let ids = draft.samples(images.shown(), &jobs, |&(name, rest, id)| {
            let label = match part {
                "test" => None,
                _ => Some(labels(annotations, &format!("gtFine/{part}/{rest}_gtFine_labelIds.png"), &table)?),
            };
            Ok(Some(Sample { id: id.to_owned(), image: images.read(name)?, label }))
        })?;
        draft.part(images.shown(), part, ids)?;
    }
    draft.finish()
}
