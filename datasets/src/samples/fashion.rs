//! The test part of Fashion-MNIST.

use std::path::Path;

use super::embedded;
use crate::formats::idx::{FASHION_MNIST_CLASSES, IdxArray, IdxDataset};
use crate::{Dataset, MemorySet, Result, Split};

const IMAGES: &[u8] = embedded!("fashion-mnist-10k/t10k-images-idx3-ubyte.gz");
const LABELS: &[u8] = embedded!("fashion-mnist-10k/t10k-labels-idx1-ubyte.gz");

/// How many pictures, from the first one, are for training.
const TRAIN: usize = 8000;

/// The 10,000 test pictures of Fashion-MNIST, grey 28x28, in ten classes of 1,000. This library splits
/// them: the first 8,000 are [`Split::Train`], the other 2,000 [`Split::Test`]. There is no validation
/// part of its own; [`Split::Val`] gives the test part.
///
/// Results on this split are not results on Fashion-MNIST, whose training part is another 60,000
/// pictures.
///
/// # Errors
/// If the embedded files are damaged.
pub fn fashion_mnist(split: Split) -> Result<MemorySet> {
    let (images_path, labels_path) = (
        Path::new("samples/fashion-mnist-10k/t10k-images-idx3-ubyte.gz"),
        Path::new("samples/fashion-mnist-10k/t10k-labels-idx1-ubyte.gz"),
    );
    let images = IdxArray::read(IMAGES, images_path)?;
    let labels = IdxArray::read(LABELS, labels_path)?;
    let all = IdxDataset::from_arrays("fashion-mnist-10k", images, images_path, &labels, labels_path)?;
    let range = match split {
        Split::Train => 0..TRAIN,
        Split::Val | Split::Test => TRAIN..all.len(),
    };
    let mut images = Vec::with_capacity(range.len());
    let mut labels = Vec::with_capacity(range.len());
    let mut names = Vec::with_capacity(range.len());
    for index in range {
        let sample = all.get(index)?;
        images.push(sample.image);
        labels.push(sample.label);
        names.push(sample.name);
    }
    let class_names = FASHION_MNIST_CLASSES.map(str::to_owned).to_vec();
    MemorySet::new("fashion-mnist-10k", images, labels, class_names)?.with_sample_names(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LabelledSet;

    #[test]
    fn two_parts_of_ten_balanced_classes() {
        let train = fashion_mnist(Split::Train).unwrap();
        let test = fashion_mnist(Split::Test).unwrap();
        assert_eq!((train.len(), test.len()), (8000, 2000));
        let mut counts = [0; 10];
        for &label in train.labels().iter().chain(test.labels()) {
            counts[label as usize] += 1;
        }
        assert_eq!(counts, [1000; 10]);
        assert_ne!(train.fingerprint(), test.fingerprint());
        assert_eq!(fashion_mnist(Split::Val).unwrap().fingerprint(), test.fingerprint());
    }

    #[test]
    fn samples_keep_their_number_in_the_published_file() {
        let test = fashion_mnist(Split::Test).unwrap();
        let sample = test.get(5).unwrap();
        assert_eq!((sample.name.as_str(), sample.index), ("fashion-mnist-10k#8005", 5));
        assert_eq!((sample.image.width(), sample.image.height(), sample.image.channels()), (28, 28, 1));
        let first = fashion_mnist(Split::Train).unwrap().get(0).unwrap();
        assert_eq!(FASHION_MNIST_CLASSES[first.label as usize], "Ankle boot");
    }
}
