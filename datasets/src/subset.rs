//! Some samples of another set.

use crate::{Dataset, Error, Fingerprint, Labelled, LabelledSet, Result};

/// The samples of a set named by a list of indices, in the order of the list.
///
/// [`Labelled::index`] counts within the subset, so it can serve as a row number; the name stays that of
/// the original.
#[derive(Debug, Clone)]
pub struct Subset<D> {
    inner: D,
    indices: Vec<usize>,
    labels: Vec<i64>,
    name: String,
    fingerprint: Fingerprint,
}

impl<D: LabelledSet> Subset<D> {
    /// The samples `indices` of `inner`. An index may occur more than once.
    ///
    /// # Errors
    /// If an index is not below the length of `inner`.
    pub fn new(inner: D, indices: Vec<usize>) -> Result<Self> {
        let all = inner.labels();
        let mut labels = Vec::with_capacity(indices.len());
        let mut builder = Fingerprint::builder(inner.name()).bytes(inner.fingerprint().as_str().as_bytes());
        for &index in &indices {
            let label = all.get(index).ok_or_else(|| Error::Index {
                set: inner.name().to_owned(),
                index,
                len: inner.len(),
            })?;
            labels.push(*label);
            builder = builder.number(index as u64);
        }
        let fingerprint = builder.finish(indices.len());
        let name = inner.name().to_owned();
        Ok(Self { inner, indices, labels, name, fingerprint })
    }

    /// The indices into the original set.
    pub fn indices(&self) -> &[usize] {
        &self.indices
    }

    /// The original set.
    pub fn inner(&self) -> &D {
        &self.inner
    }
}

impl<D: LabelledSet> Dataset for Subset<D> {
    type Sample = Labelled;

    fn len(&self) -> usize {
        self.indices.len()
    }

    fn get(&self, index: usize) -> Result<Labelled> {
        let original = *self.indices.get(index).ok_or_else(|| Error::Index {
            set: self.name.clone(),
            index,
            len: self.indices.len(),
        })?;
        let mut sample = self.inner.get(original)?;
        sample.index = index;
        Ok(sample)
    }

    fn fingerprint(&self) -> Fingerprint {
        self.fingerprint.clone()
    }

    fn sample_name(&self, index: usize) -> String {
        match self.indices.get(index) {
            Some(&original) => self.inner.sample_name(original),
            None => format!("{}#{index}", self.name),
        }
    }
}

impl<D: LabelledSet> LabelledSet for Subset<D> {
    fn labels(&self) -> &[i64] {
        &self.labels
    }

    fn class_names(&self) -> &[String] {
        self.inner.class_names()
    }

    fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemorySet;
    use vision_image::Image;

    #[test]
    fn counts_within_itself_and_keeps_names() {
        let images = (0..4).map(|v| Image::new(1, 1, 1, vec![v]).unwrap()).collect();
        let set = MemorySet::new("m", images, vec![0, 1, 0, 1], vec!["a".into(), "b".into()]).unwrap();
        let whole = set.fingerprint();
        let part = Subset::new(set.clone(), vec![3, 0]).unwrap();
        assert_eq!(part.labels(), [1, 0]);
        let sample = part.get(0).unwrap();
        assert_eq!((sample.index, sample.name.as_str(), sample.image.data()), (0, "m#3", &[3u8][..]));
        assert_eq!(part.sample_name(1), "m#0");
        assert_ne!(part.fingerprint(), whole);
        assert_ne!(part.fingerprint(), Subset::new(set.clone(), vec![0, 3]).unwrap().fingerprint());
        assert!(part.get(2).is_err());
        assert!(Subset::new(set, vec![4]).is_err());
    }
}
