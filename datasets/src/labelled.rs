//! Pictures with one class each.

use vision_image::Image;

use crate::Dataset;

/// One picture and its class.
#[derive(Debug, Clone)]
pub struct Labelled {
    /// The picture, with the channels it was stored with.
    pub image: Image,
    /// The class, an index into [`LabelledSet::class_names`]; -1 if unknown.
    pub label: i64,
    /// The number of the sample in the set it was read from.
    pub index: usize,
    /// The file's path, or the set's name and the number as in `cifar10#7`.
    pub name: String,
}

/// A set of pictures with one class each, all labels known without reading a picture.
pub trait LabelledSet: Dataset<Sample = Labelled> {
    /// The class of every sample, in order; -1 where unknown.
    fn labels(&self) -> &[i64];

    /// The names of the classes, by label.
    fn class_names(&self) -> &[String];

    /// The name of the set.
    fn name(&self) -> &str;
}

impl<D: Dataset + ?Sized> Dataset for Box<D> {
    type Sample = D::Sample;
    fn len(&self) -> usize {
        (**self).len()
    }
    fn get(&self, index: usize) -> crate::Result<Self::Sample> {
        (**self).get(index)
    }
    fn fingerprint(&self) -> crate::Fingerprint {
        (**self).fingerprint()
    }
    fn sample_name(&self, index: usize) -> String {
        (**self).sample_name(index)
    }
}

impl<D: LabelledSet + ?Sized> LabelledSet for Box<D> {
    fn labels(&self) -> &[i64] {
        (**self).labels()
    }
    fn class_names(&self) -> &[String] {
        (**self).class_names()
    }
    fn name(&self) -> &str {
        (**self).name()
    }
}

impl<D: Dataset + ?Sized> Dataset for std::sync::Arc<D> {
    type Sample = D::Sample;
    fn len(&self) -> usize {
        (**self).len()
    }
    fn get(&self, index: usize) -> crate::Result<Self::Sample> {
        (**self).get(index)
    }
    fn fingerprint(&self) -> crate::Fingerprint {
        (**self).fingerprint()
    }
    fn sample_name(&self, index: usize) -> String {
        (**self).sample_name(index)
    }
}

impl<D: LabelledSet + ?Sized> LabelledSet for std::sync::Arc<D> {
    fn labels(&self) -> &[i64] {
        (**self).labels()
    }
    fn class_names(&self) -> &[String] {
        (**self).class_names()
    }
    fn name(&self) -> &str {
        (**self).name()
    }
}
