//! The test part of Fashion-MNIST.

use super::{Embedded, embedded};
use crate::formats::idx::FASHION_MNIST_CLASSES;
use crate::{MemorySet, Result, Split};

const FASHION_MNIST: Embedded = Embedded {
    name: "fashion-mnist-10k",
    images: (
        embedded!("fashion-mnist-10k/t10k-images-idx3-ubyte.gz"),
        "samples/fashion-mnist-10k/t10k-images-idx3-ubyte.gz",
    ),
    labels: (
        embedded!("fashion-mnist-10k/t10k-labels-idx1-ubyte.gz"),
        "samples/fashion-mnist-10k/t10k-labels-idx1-ubyte.gz",
    ),
    class_names: &FASHION_MNIST_CLASSES,
    train: 8000,
};

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
    FASHION_MNIST.part(split)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dataset, LabelledSet};

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
