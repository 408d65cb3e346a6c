//! A folder of pictures and masks.

use std::collections::BTreeMap;
use std::path::Path;

use vision_image::LabelMap;

use super::layout::{Layout, Pair};
use super::mask::read_mask;
use super::{Contamination, IGNORE_LABEL, SegmentationClasses, SegmentationSet, Segmented};
use crate::{Dataset, Error, Fingerprint, Result};

/// Parts that are reported on.
const HELD_OUT: [&str; 2] = ["val", "test"];

/// Pictures (JPEG, PNG) and masks (PNG) of the same name in a folder with a file of classes.
///
/// The folder is arranged in one of these ways; masks may be called `labels`, `masks` or `annotations`:
///
/// ```text
/// images/ID.jpg  labels/ID.png  splits/train.txt    a part is a file with an ID per line; what `prepare` makes
/// images/train/ID.jpg  labels/train/ID.png          a part is a folder of both
/// images/ID.jpg  labels/ID.png                      no parts: the part is called `all`
/// train/ID.jpg  trainannot/ID.png                   as CamVid is published; also train_labels, train_masks
/// ```
///
/// Folders may have folders in them; an ID is the path below the folder of pictures, with `/` and without ending.
/// The order is that of the list, or that of the IDs.
///
/// Beside them lies a file of classes (see [`SegmentationClasses::read`]). In a mask, grey levels and palette indices
/// are values: the number of the class in that file, or 255 for pixels that are ignored; other colours are looked up
/// in it. Pictures are turned as Exif asks, so a mask lies over what viewers show.
///
/// Opening reads the folders, lists and classes, but no picture, except where pictures of a part to train on and one
/// to report on have files of one length: those are compared, see [`contamination`](Self::contamination). The
/// fingerprint covers IDs, lengths of files and classes, not pixels.
///
/// ```
/// use vision_datasets::{Dataset, SegmentationFolder, SegmentationSet};
/// use vision_image::{Image, LabelMap, encode_indexed};
///
/// let root = tempfile::tempdir()?;
/// for folder in ["images", "labels", "splits"] {
///     std::fs::create_dir(root.path().join(folder))?;
/// }
/// Image::filled(4, 3, &[90, 120, 200])?.save(root.path().join("images/a.jpg"))?;
/// let mask = LabelMap::new(4, 3, vec![0, 0, 1, 2, 0, 0, 1, 2, 0, 0, 1, 2])?;
/// std::fs::write(root.path().join("labels/a.png"), encode_indexed(&mask, &[[0; 3]; 3])?)?;
/// std::fs::write(root.path().join("splits/train.txt"), "a\n")?;
/// std::fs::write(root.path().join("classes.txt"), "sky\nroad\nvoid\n")?;
///
/// let set = SegmentationFolder::open(root.path(), "train")?;
/// assert_eq!((set.len(), set.class_names().len()), (1, 2));
/// assert_eq!(set.get(0)?.labels.data()[..4], [0, 0, 1, 255]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct SegmentationFolder {
    name: String,
    part: String,
    classes: SegmentationClasses,
    pairs: Vec<Pair>,
    contamination: BTreeMap<String, Contamination>,
    fingerprint: Fingerprint,
}

impl SegmentationFolder {
    /// Opens a part of the set at `root`. The set is named after the folder.
    ///
    /// # Errors
    /// If the folder is in none of the arrangements, has no such part (the message lists those it has), a list names a
    /// picture that is not there, a picture outside `test` has no mask, or the file of classes cannot be used.
    pub fn open(root: impl AsRef<Path>, part: &str) -> Result<Self> {
        let root = root.as_ref();
        let classes = SegmentationClasses::read(root)?;
        let layout = Layout::of(root)?;
        let pairs = layout.pairs(part)?;
        let name = match root.file_name() {
            Some(name) => name.to_string_lossy().into_owned(),
            None => root.display().to_string(),
        };
        let mut contamination = BTreeMap::new();
        if !HELD_OUT.contains(&part) {
            for held_out in HELD_OUT.into_iter().filter(|held_out| layout.names().contains(held_out)) {
                let found = Contamination::between(&pairs, &layout.pairs(held_out)?)?;
                if !found.is_empty() {
                    tracing::warn!(
                        set = name,
                        part,
                        held_out,
                        ids = found.ids.len(),
                        files = found.files.len(),
                        "{part} shares pictures with {held_out}: scores on {held_out} after training on it say little"
                    );
                }
                contamination.insert(held_out.to_owned(), found);
            }
        }
        let without = pairs.iter().filter(|pair| pair.mask.is_none()).count();
        if without > 0 && without < pairs.len() {
            tracing::warn!(set = name, part, without, of = pairs.len(), "some pictures have no masks");
        }
        let fingerprint = fingerprint(&name, part, &classes, &pairs);
        Ok(Self { name, part: part.to_owned(), classes, pairs, contamination, fingerprint })
    }

    /// The parts that the folder has.
    ///
    /// # Errors
    /// If the folder is in none of the arrangements.
    pub fn parts(root: impl AsRef<Path>) -> Result<Vec<String>> {
        Ok(Layout::of(root.as_ref())?.names().into_iter().map(str::to_owned).collect())
    }

    /// The part that was opened.
    pub fn part(&self) -> &str {
        &self.part
    }

    /// The classes and what stands for them in masks.
    pub fn classes(&self) -> &SegmentationClasses {
        &self.classes
    }

    /// What this part shares with each of `val` and `test`, where the folder has them. Empty if this is one of those.
    /// Whatever is shared was also logged as a warning when the set was opened.
    pub fn contamination(&self) -> &BTreeMap<String, Contamination> {
        &self.contamination
    }

    /// What this part, trained on, and another set, reported on, share.
    ///
    /// # Errors
    /// If a picture cannot be read.
    pub fn contamination_with(&self, held_out: &Self) -> Result<Contamination> {
        Contamination::between(&self.pairs, &held_out.pairs)
    }

    fn labels(&self, pair: &Pair, picture_size: [u32; 2]) -> Result<LabelMap> {
        let [width, height] = picture_size;
        let Some((mask, _)) = &pair.mask else {
            let ignored = vec![IGNORE_LABEL; width as usize * height as usize];
            return Ok(LabelMap::new(width, height, ignored)?);
        };
        let labels = read_mask(mask, &self.classes)?;
        let mask_size = [labels.width(), labels.height()];
        if mask_size == picture_size {
            return Ok(labels);
        }
        let turned = mask_size == [height, width];
        Err(Error::MaskSize {
            picture: pair.picture.clone(),
            picture_size,
            mask: mask.clone(),
            mask_size,
            hint: if turned { "; does its Exif data turn it?" } else { "" },
        })
    }
}

fn fingerprint(name: &str, part: &str, classes: &SegmentationClasses, pairs: &[Pair]) -> Fingerprint {
    let mut builder = Fingerprint::builder(name).bytes(part.as_bytes());
    for class in classes.names() {
        builder = builder.bytes(class.as_bytes());
    }
    for pair in pairs {
        let mask = pair.mask.as_ref().map_or(u64::MAX, |(_, bytes)| *bytes);
        builder = builder.bytes(pair.id.as_bytes()).number(pair.bytes).number(mask);
    }
    builder.finish(pairs.len())
}

impl Dataset for SegmentationFolder {
    type Sample = Segmented;

    fn len(&self) -> usize {
        self.pairs.len()
    }

    fn get(&self, index: usize) -> Result<Segmented> {
        let Some(pair) = self.pairs.get(index) else {
            return Err(Error::Index { set: self.name.clone(), index, len: self.len() });
        };
        let path = &pair.picture;
        let bytes = std::fs::read(path).map_err(|source| Error::io(path, source))?;
        let image =
            vision_image::decode(&bytes).map_err(|source| Error::Picture { path: path.clone(), source })?;
        let labels = self.labels(pair, [image.width(), image.height()])?;
        Ok(Segmented { image, labels, index, name: path.display().to_string() })
    }

    fn fingerprint(&self) -> Fingerprint {
        self.fingerprint.clone()
    }

    fn sample_name(&self, index: usize) -> String {
        match self.pairs.get(index) {
            Some(pair) => pair.picture.display().to_string(),
            None => format!("{}#{index}", self.name),
        }
    }
}

impl SegmentationSet for SegmentationFolder {
    fn name(&self) -> &str {
        &self.name
    }

    fn class_names(&self) -> &[String] {
        self.classes.names()
    }

    fn palette(&self) -> &[[u8; 3]] {
        self.classes.palette()
    }

    fn submission_offset(&self) -> u8 {
        self.classes.submission_offset()
    }

    fn evaluation(&self) -> Option<&str> {
        Some(self.classes.evaluation()).filter(|evaluation| !evaluation.is_empty())
    }

    fn has_labels(&self, index: usize) -> bool {
        self.pairs.get(index).is_some_and(|pair| pair.mask.is_some())
    }

    fn sample_id(&self, index: usize) -> String {
        self.pairs.get(index).map(|pair| pair.id.clone()).unwrap_or_default()
    }
}
