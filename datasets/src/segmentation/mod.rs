//! Pictures with a class for every pixel.

mod classes;
mod contamination;
mod context_scenes;
mod folder;
mod layout;
mod mask;
mod open;

pub use classes::SegmentationClasses;
pub use contamination::Contamination;
pub use context_scenes::ContextScenes;
pub use folder::SegmentationFolder;
pub use open::{SegmentationSpec, open_segmentation_set, segmentation_set_names};

use vision_image::{Image, LabelMap};

use crate::Dataset;

/// The label of pixels that belong to no class: they count neither in training nor in evaluation. It is 255 in memory
/// and in files, which leaves 255 for classes, numbered from 0.
pub const IGNORE_LABEL: u8 = 255;

/// One picture and the class of each of its pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segmented {
    /// The picture, RGB.
    pub image: Image,
    /// A class per pixel, an index into [`SegmentationSet::class_names`] or [`IGNORE_LABEL`](crate::IGNORE_LABEL); of the same size
    /// as the picture. All ignored where the set has no labels for it (see [`SegmentationSet::has_labels`]).
    pub labels: LabelMap,
    /// The number of the sample in the set it was read from.
    pub index: usize,
    /// The picture's path, or the set's name and the number as in `context-scenes#7`.
    pub name: String,
}

/// A set of pictures with a class for every pixel.
pub trait SegmentationSet: Dataset<Sample = Segmented> {
    /// The name of the set.
    fn name(&self) -> &str;

    /// The names of the classes, by label; at most 255.
    fn class_names(&self) -> &[String];

    /// The colour in which each class is drawn, by label.
    fn palette(&self) -> &[[u8; 3]];

    /// The label of pixels that count neither in training nor in evaluation.
    fn ignore(&self) -> u8 {
        IGNORE_LABEL
    }

    /// What is added to a label in files that are handed in to be evaluated elsewhere.
    fn submission_offset(&self) -> u8 {
        0
    }

    /// How the set is usually evaluated, in the words of whoever prepared it; `None` if nothing is said.
    fn evaluation(&self) -> Option<&str> {
        None
    }

    /// Whether sample `index` has labels. Only pictures of a `test` part may have none.
    fn has_labels(&self, index: usize) -> bool {
        index < self.len()
    }

    /// What to call the file of sample `index` in a submission: its name without folder of the part and ending.
    fn sample_id(&self, index: usize) -> String {
        format!("{index:06}")
    }
}

/// Forwards to what a pointer points at.
macro_rules! forward {
    ($pointer:ty) => {
        impl<D: SegmentationSet + ?Sized> SegmentationSet for $pointer {
            fn name(&self) -> &str {
                (**self).name()
            }
            fn class_names(&self) -> &[String] {
                (**self).class_names()
            }
            fn palette(&self) -> &[[u8; 3]] {
                (**self).palette()
            }
            fn ignore(&self) -> u8 {
                (**self).ignore()
            }
            fn submission_offset(&self) -> u8 {
                (**self).submission_offset()
            }
            fn evaluation(&self) -> Option<&str> {
                (**self).evaluation()
            }
            fn has_labels(&self, index: usize) -> bool {
                (**self).has_labels(index)
            }
            fn sample_id(&self, index: usize) -> String {
                (**self).sample_id(index)
            }
        }
    };
}

forward!(Box<D>);
forward!(std::sync::Arc<D>);
