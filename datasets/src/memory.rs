//! A set that lies in memory.

use vision_image::Image;

use crate::{Dataset, Error, Fingerprint, Labelled, LabelledSet, Result};

/// Pictures with one class each, all in memory.
#[derive(Debug, Clone)]
pub struct MemorySet {
    name: String,
    images: Vec<Image>,
    labels: Vec<i64>,
    class_names: Vec<String>,
    sample_names: Option<Vec<String>>,
    fingerprint: Fingerprint,
}

impl MemorySet {
    /// A set called `name`. `labels` has one entry per picture: an index into `class_names`, or -1 for
    /// unknown. The fingerprint is made from sizes, pixels and labels.
    ///
    /// # Errors
    /// If the numbers of pictures and labels differ, or a label has no class name.
    pub fn new(
        name: impl Into<String>,
        images: Vec<Image>,
        labels: Vec<i64>,
        class_names: Vec<String>,
    ) -> Result<Self> {
        let name = name.into();
        if images.len() != labels.len() {
            return Err(Error::Set {
                set: name,
                problem: format!("{} pictures but {} labels", images.len(), labels.len()),
            });
        }
        check_labels(&name, &labels, class_names.len())?;
        let mut builder = Fingerprint::builder(&name).labels(&labels);
        for image in &images {
            builder = builder
                .number(u64::from(image.width()))
                .number(u64::from(image.height()))
                .number(u64::from(image.channels()))
                .bytes(image.data());
        }
        let fingerprint = builder.finish(images.len());
        Ok(Self { name, images, labels, class_names, sample_names: None, fingerprint })
    }

    /// Gives every sample a name of its own, instead of the set's name and the number.
    ///
    /// # Errors
    /// If there is not one name per picture.
    pub fn with_sample_names(mut self, names: Vec<String>) -> Result<Self> {
        if names.len() != self.images.len() {
            return Err(Error::Set {
                set: self.name,
                problem: format!("{} pictures but {} sample names", self.images.len(), names.len()),
            });
        }
        self.sample_names = Some(names);
        Ok(self)
    }

    /// The pictures, in order.
    pub fn images(&self) -> &[Image] {
        &self.images
    }
}

/// Refuses labels that are neither -1 nor an index below `classes`.
pub(crate) fn check_labels(set: &str, labels: &[i64], classes: usize) -> Result<()> {
    match labels.iter().position(|&label| label < -1 || label >= classes as i64) {
        None => Ok(()),
        Some(at) => Err(Error::Set {
            set: set.to_owned(),
            problem: format!(
                "sample {at} has label {}, but there are {classes} class names",
                labels.get(at).copied().unwrap_or_default()
            ),
        }),
    }
}

impl Dataset for MemorySet {
    type Sample = Labelled;

    fn len(&self) -> usize {
        self.images.len()
    }

    fn get(&self, index: usize) -> Result<Labelled> {
        match (self.images.get(index), self.labels.get(index)) {
            (Some(image), Some(&label)) => {
                Ok(Labelled { image: image.clone(), label, index, name: self.sample_name(index) })
            }
            _ => Err(Error::Index { set: self.name.clone(), index, len: self.images.len() }),
        }
    }

    fn fingerprint(&self) -> Fingerprint {
        self.fingerprint.clone()
    }

    fn sample_name(&self, index: usize) -> String {
        match self.sample_names.as_ref().and_then(|names| names.get(index)) {
            Some(name) => name.clone(),
            None => format!("{}#{index}", self.name),
        }
    }
}

impl LabelledSet for MemorySet {
    fn labels(&self) -> &[i64] {
        &self.labels
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(value: u8) -> Image {
        Image::new(2, 1, 1, vec![value; 2]).unwrap()
    }

    #[test]
    fn reads_back_what_went_in() {
        let set = MemorySet::new("m", vec![grey(1), grey(2)], vec![0, -1], vec!["a".into()]).unwrap();
        let sample = set.get(1).unwrap();
        assert_eq!((sample.label, sample.index, sample.name.as_str()), (-1, 1, "m#1"));
        assert_eq!(sample.image.data(), [2, 2]);
        assert!(matches!(set.get(2), Err(Error::Index { index: 2, len: 2, .. })));
        let named = set.clone().with_sample_names(vec!["x".into(), "y".into()]).unwrap();
        assert_eq!(named.get(0).unwrap().name, "x");
        assert_eq!(named.fingerprint(), set.fingerprint());
        assert!(set.with_sample_names(vec![]).is_err());
    }

    #[test]
    fn refuses_labels_without_a_class() {
        assert!(MemorySet::new("m", vec![grey(1)], vec![1], vec!["a".into()]).is_err());
        assert!(MemorySet::new("m", vec![grey(1)], vec![], vec![]).is_err());
        let empty = MemorySet::new("m", vec![], vec![], vec![]).unwrap();
        assert!(empty.is_empty());
    }

    #[test]
    fn fingerprint_depends_on_every_part() {
        let of = |v: u8, l: i64| {
            MemorySet::new("m", vec![grey(v)], vec![l], vec!["a".into()]).unwrap().fingerprint()
        };
        assert_eq!(of(1, 0), of(1, 0));
        assert_ne!(of(1, 0), of(2, 0));
        assert_ne!(of(1, 0), of(1, -1));
    }
}
