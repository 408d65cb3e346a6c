//! Small real pictures that travel inside the library (feature `samples`, about 11 MB).
//!
//! | function | what | licence |
//! | --- | --- | --- |
//! | [`fashion_mnist`] | 10,000 pictures of clothes, grey 28x28, 10 classes, split 8,000 / 2,000 | MIT |
//! | [`digits`] | 1,797 handwritten digits, grey 8x8, 10 classes, split 1,437 / 360 | CC-BY-4.0 |
//! | [`emoji32`] | 1,911 symbols, each drawn by two vendors, RGBA 32x32 | Apache-2.0, CC-BY-4.0, MIT |
//! | [`photos_cc0`] | nine photographs of at most 512 pixels | CC0 or public domain |
//! | [`walk_clip`] | 115 frames of 284x160 from a fixed camera | BSD-3-Clause |
//!
//! The files lie in `datasets/samples` with their licences and the script that made them from public
//! packages. Nothing here touches the disk or a network.
//!
//! ```
//! use vision_datasets::{Dataset, LabelledSet, Split, samples};
//!
//! let test = samples::fashion_mnist(Split::Test)?;
//! let sample = test.get(0)?;
//! println!("{} is a {}", sample.name, test.class_names()[sample.label as usize]);
//!
//! let emoji = samples::emoji32()?;
//! println!("{} twice: {} pixels wide", emoji.symbols[0].name, emoji.google[0].width());
//! # Ok::<(), vision_datasets::Error>(())
//! ```

use std::path::Path;

use crate::formats::idx::{IdxArray, IdxDataset};
use crate::{Dataset, MemorySet, Result, Split};

mod clip;
mod digits;
mod emoji;
mod fashion;
mod photos;

pub use clip::walk_clip;
pub use digits::digits;
pub use emoji::{EmojiSet, Symbol, emoji32};
pub use fashion::fashion_mnist;
pub use photos::photos_cc0;

/// The bytes of a file below `datasets/samples`.
macro_rules! embedded {
    ($path:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/samples/", $path)).as_slice()
    };
}
use embedded;

/// Two IDX files, of which the first pictures are for training and the others for tests.
struct Embedded {
    name: &'static str,
    /// Content, and path for messages.
    images: (&'static [u8], &'static str),
    labels: (&'static [u8], &'static str),
    class_names: &'static [&'static str],
    /// How many pictures, from the first one, are for training.
    train: usize,
}

impl Embedded {
    fn part(&self, split: Split) -> Result<MemorySet> {
        let (images_path, labels_path) = (Path::new(self.images.1), Path::new(self.labels.1));
        let images = IdxArray::read(self.images.0, images_path)?;
        let labels = IdxArray::read(self.labels.0, labels_path)?;
        let all = IdxDataset::from_arrays(self.name, images, images_path, &labels, labels_path)?;
        let range = match split {
            Split::Train => 0..self.train,
            Split::Val | Split::Test => self.train..all.len(),
        };
        let (mut images, mut labels, mut names) = (Vec::new(), Vec::new(), Vec::new());
        for index in range {
            let sample = all.get(index)?;
            images.push(sample.image);
            labels.push(sample.label);
            names.push(sample.name);
        }
        let class_names = self.class_names.iter().map(|&name| name.to_owned()).collect();
        MemorySet::new(self.name, images, labels, class_names)?.with_sample_names(names)
    }
}

#[cfg(test)]
mod tests {
    use crate::dataset::hex;
    use sha2::{Digest, Sha256};

    /// Results measured on these files are only comparable while the files stay the same.
    #[test]
    fn files_are_the_committed_ones() {
        let digests = [
            (
                embedded!("fashion-mnist-10k/t10k-images-idx3-ubyte.gz"),
                "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
            ),
            (
                embedded!("fashion-mnist-10k/t10k-labels-idx1-ubyte.gz"),
                "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
            ),
            (
                embedded!("digits/images-idx3-ubyte"),
                "d224a90b51e21e5d1332d34effc46c3a7d6244906f07c292c24213770d11ca7b",
            ),
            (
                embedded!("digits/labels-idx1-ubyte"),
                "ce71631c1f31ce56fa54f31d1d498fafacff59b001e6c30c4a5e29508aa277ad",
            ),
            (
                embedded!("emoji32/google.png"),
                "e1789a7daf70d57bb09507fb1a59bf42b58accd8fd2ed4610a58f82780bb0ef5",
            ),
            (
                embedded!("emoji32/twitter.png"),
                "fa7293c30b811e19d6d3bad0ef88242f0dac45a20fe218089e80330ca6d603ae",
            ),
            (
                embedded!("emoji32/index.tsv"),
                "cf3bd2e9c2c1e774991819877ebee34f037dc1d6708bbb8330032bee686df5a3",
            ),
            (
                embedded!("walk-clip/frames.tar"),
                "c45a23d4e96ae20fcc5d6c726167a2cbf7ab83c35d3857295a7aad11ab68b788",
            ),
        ];
        for (bytes, want) in digests {
            assert_eq!(hex(&Sha256::digest(bytes)), want);
        }
    }
}
