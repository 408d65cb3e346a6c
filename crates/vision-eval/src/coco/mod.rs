//! Detection of objects, by boxes or masks, as COCO measures it: the twelve numbers of pycocotools' `COCOeval`.
//!
//! Of each image and category the 100 best detections are matched with the ground truths, best first, at ten overlaps
//! from 0.5 to 0.95: each takes the truth with the largest overlap that is still free. All images' detections of a
//! category, in the order of their scores, then give precision at 101 recalls; the mean is its average precision (AP), the
//! final recall its average recall (AR). Equal scores keep the order of their image's number, then the order they came in.
//!
//! Truths that are a crowd or outside the range of areas are ignored: they need not be found, and what matches one is
//! neither right nor wrong; so is what matches nothing and is itself outside the range. A crowd may be matched any number
//! of times, by the share of the detection that lies in it.
//!
//! ```
//! use vision_eval::coco::{CocoEval, Detection, Overlap, Truth};
//!
//! let mut metric = CocoEval::new(Overlap::Boxes);
//! // Left, top, width, height, and which kind of object.
//! let truths = [Truth::new([10.0, 20.0, 30.0, 40.0], 17), Truth::new([100.0, 20.0, 50.0, 50.0], 17)];
//! let found = Detection { bbox: [11.0, 20.0, 30.0, 40.0], score: 0.9, category: 17, mask: None };
//! metric.update(139, &truths, &[found])?;
//!
//! let summary = metric.summary();
//! assert_eq!(summary.get("ar_100").map(|recall| format!("{recall:.2}")).as_deref(), Some("0.45"));
//! assert_eq!(summary.get("ap_large"), None);
//! # Ok::<(), vision_eval::Error>(())
//! ```

mod matching;
mod summary;

use std::collections::{BTreeMap, BTreeSet};

pub use summary::{Category, STATS, Summary};

use crate::rle::Rle;
use crate::{Error, Result, Value};
use matching::Piece;

/// What overlap is measured between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Overlap {
    /// Boxes (`bbox`).
    Boxes,
    /// Masks (`segm`); every truth and detection needs one, of the size of its image.
    Masks,
}

/// An object in an image, as annotated.
#[derive(Debug, Clone, PartialEq)]
pub struct Truth {
    /// Left, top, width, height, in pixels.
    pub bbox: [f64; 4],
    /// Which kind of object.
    pub category: u64,
    /// Many objects as one: not to be found, and not wrong when found.
    pub crowd: bool,
    /// Pixels of the object, which decide between small, medium and large. COCO takes those of its mask, also where boxes
    /// are compared.
    pub area: f64,
    /// Its pixels.
    pub mask: Option<Rle>,
}

impl Truth {
    /// A single object as large as its box, without a mask.
    pub fn new(bbox: [f64; 4], category: u64) -> Self {
        Self { bbox, category, crowd: false, area: bbox[2] * bbox[3], mask: None }
    }
}

/// An object in an image, as found.
#[derive(Debug, Clone, PartialEq)]
pub struct Detection {
    /// Left, top, width, height, in pixels. Masks, where they are compared, have boxes of their own.
    pub bbox: [f64; 4],
    /// The more, the surer.
    pub score: f64,
    /// Which kind of object.
    pub category: u64,
    /// Its pixels.
    pub mask: Option<Rle>,
}

/// The truths and detections of one image, each with its place in the caller's list.
#[derive(Default)]
struct Part<'a> {
    truths: Vec<(usize, &'a Truth)>,
    detections: Vec<(usize, &'a Detection)>,
}

/// Fails with the field and what is wrong with it unless a box and the number that comes with it make sense.
fn numbers(bbox: &[f64; 4], number: (&'static str, f64)) -> std::result::Result<(), (&'static str, String)> {
    let [x, y, w, h] = *bbox;
    for (field, number) in [("x", x), ("y", y), ("width", w), ("height", h), number] {
        if !number.is_finite() {
            return Err((field, format!("is {number}")));
        }
    }
    for (field, number) in [("width", w), ("height", h)] {
        if number < 0.0 {
            return Err((field, format!("is {number}, below 0")));
        }
    }
    if !((x + w).is_finite() && (y + h).is_finite() && (w * h).is_finite()) {
        return Err(("bbox", format!("{bbox:?} is too large")));
    }
    Ok(())
}

/// Average precision and recall over images with ids. Ids and categories are any numbers, as in the files of COCO.
///
/// What an image says is worked out when it is counted; about 25 bytes per detection are kept, and neither boxes nor masks.
#[derive(Debug, Clone, PartialEq)]
pub struct CocoEval {
    overlap: Overlap,
    /// For each category, what each image says about it; ordered, so that the order of updates and merges is no matter.
    pieces: BTreeMap<u64, BTreeMap<u64, Piece>>,
    images: BTreeSet<u64>,
}

impl CocoEval {
    /// An empty metric.
    pub fn new(overlap: Overlap) -> Self {
        Self { overlap, pieces: BTreeMap::new(), images: BTreeSet::new() }
    }

    /// Counts an image, all of whose truths and detections must be given, also when it has none. If there is an error
    /// nothing is counted.
    ///
    /// # Errors
    /// [`Error::Image`] when the image was counted before; [`Error::Annotation`], which names the truth or detection and
    /// its field, for numbers that are not finite, sizes and areas below 0, and where masks are compared for a missing
    /// mask or one of another size than the others of the image.
    pub fn update(&mut self, image: u64, truths: &[Truth], detections: &[Detection]) -> Result<()> {
        let part = Part {
            truths: truths.iter().enumerate().collect(),
            detections: detections.iter().enumerate().collect(),
        };
        self.check(image, &part)?;
        self.add(image, &part)
    }

    /// Counts many images whose truths and detections come as lists with the image of each, as in the files of COCO. If
    /// there is an error nothing is counted.
    ///
    /// # Errors
    /// As [`CocoEval::update`], and [`Error::Annotation`] for a truth or detection of an image that is not in `images`.
    pub fn update_lists(
        &mut self,
        images: &[u64],
        truths: &[(u64, Truth)],
        detections: &[(u64, Detection)],
    ) -> Result<()> {
        let mut parts: BTreeMap<u64, Part<'_>> = BTreeMap::new();
        for &image in images {
            if parts.insert(image, Part::default()).is_some() {
                return Err(Error::Image { image, problem: "is in the list twice" });
            }
        }
        let unknown = |image: u64, what: &'static str, index: usize| {
            let problem = "is not in the list of images".to_owned();
            Error::Annotation { image, what, index, field: "image", problem }
        };
        for (index, (image, truth)) in truths.iter().enumerate() {
            let part = parts.get_mut(image).ok_or_else(|| unknown(*image, "truth", index))?;
            part.truths.push((index, truth));
        }
        for (index, (image, detection)) in detections.iter().enumerate() {
            let part = parts.get_mut(image).ok_or_else(|| unknown(*image, "detection", index))?;
            part.detections.push((index, detection));
        }
        for (image, part) in &parts {
            self.check(*image, part)?;
        }
        for (image, part) in &parts {
            self.add(*image, part)?;
        }
        Ok(())
    }

    /// Fails unless the image is new and all its numbers make sense.
    fn check(&self, image: u64, part: &Part<'_>) -> Result<()> {
        if self.images.contains(&image) {
            return Err(Error::Image { image, problem: "was counted before" });
        }
        let mut size = None;
        let mut one = |bbox: &[f64; 4], number: (&'static str, f64), mask: Option<&Rle>| {
            numbers(bbox, number)?;
            match (self.overlap, mask) {
                (Overlap::Boxes, _) => Ok(()),
                (Overlap::Masks, None) => Err(("mask", "is missing".to_owned())),
                (Overlap::Masks, Some(mask)) => {
                    let [height, width] = *size.get_or_insert([mask.height(), mask.width()]);
                    if [mask.height(), mask.width()] == [height, width] {
                        return Ok(());
                    }
                    let (h, w) = (mask.height(), mask.width());
                    Err(("mask", format!("is of {h} x {w} pixels, others are of {height} x {width}")))
                }
            }
        };
        let named = |what: &'static str, index: usize| {
            move |(field, problem)| Error::Annotation { image, what, index, field, problem }
        };
        for &(index, truth) in &part.truths {
            let area = ("area", truth.area);
            one(&truth.bbox, area, truth.mask.as_ref()).map_err(named("truth", index))?;
            if truth.area < 0.0 {
                return Err(named("truth", index)(("area", format!("is {}, below 0", truth.area))));
            }
        }
        for &(index, found) in &part.detections {
            let score = ("score", found.score);
            one(&found.bbox, score, found.mask.as_ref()).map_err(named("detection", index))?;
        }
        Ok(())
    }

    /// Counts an image that was checked.
    fn add(&mut self, image: u64, part: &Part<'_>) -> Result<()> {
        let mut categories: BTreeMap<u64, (Vec<&Truth>, Vec<&Detection>)> = BTreeMap::new();
        for (_, truth) in &part.truths {
            categories.entry(truth.category).or_default().0.push(truth);
        }
        for (_, detection) in &part.detections {
            categories.entry(detection.category).or_default().1.push(detection);
        }
        let mut pieces = Vec::with_capacity(categories.len());
        for (category, (truths, detections)) in &categories {
            pieces.push((*category, matching::piece(self.overlap, truths, detections)?));
        }
        for (category, piece) in pieces {
            self.pieces.entry(category).or_default().insert(image, piece);
        }
        self.images.insert(image);
        Ok(())
    }

    /// Adds the images that another one counted.
    ///
    /// # Errors
    /// [`Error::Merge`] when it compares other things, [`Error::Image`] when both counted an image.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if self.overlap != other.overlap {
            return Err(Error::Merge { what: "what is compared, boxes or masks," });
        }
        if let Some(&image) = other.images.intersection(&self.images).next() {
            return Err(Error::Image { image, problem: "was counted by both" });
        }
        self.images.extend(&other.images);
        for (category, pieces) in &other.pieces {
            let ours = self.pieces.entry(*category).or_default();
            ours.extend(pieces.iter().map(|(image, piece)| (*image, piece.clone())));
        }
        Ok(())
    }

    /// Images counted.
    pub fn images(&self) -> usize {
        self.images.len()
    }

    /// The twelve numbers, named as in [`STATS`]; shares of which more is better, with the number of truths that count. What
    /// has no truths is 0 with a count of 0, where pycocotools says -1; [`Summary::stats`] has it that way.
    pub fn compute(&self) -> Vec<Value> {
        self.summary().values()
    }

    /// The twelve numbers, together and of each category.
    pub fn summary(&self) -> Summary {
        summary::summarise(self.images.len(), &self.pieces)
    }
}

#[cfg(test)]
mod tests;
