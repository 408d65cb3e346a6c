//! Handwritten digits, very small.

use super::{Embedded, embedded};
use crate::{MemorySet, Result, Split};

const DIGITS: Embedded = Embedded {
    name: "digits",
    images: (embedded!("digits/images-idx3-ubyte"), "samples/digits/images-idx3-ubyte"),
    labels: (embedded!("digits/labels-idx1-ubyte"), "samples/digits/labels-idx1-ubyte"),
    class_names: &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
    train: 1437,
};

/// The 1,797 handwritten digits that scikit-learn carries, grey 8x8. This library splits them: the first 1,437 are
/// [`Split::Train`], the other 360 [`Split::Test`]. There is no validation part of its own; [`Split::Val`] gives the test
/// part.
///
/// They are the test part of a published set whose training part is another 3,823 digits.
///
/// # Errors
/// If the embedded files are damaged.
pub fn digits(split: Split) -> Result<MemorySet> {
    DIGITS.part(split)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dataset, LabelledSet};

    #[test]
    fn two_parts_of_ten_classes() {
        let (train, test) = (digits(Split::Train).unwrap(), digits(Split::Test).unwrap());
        assert_eq!((train.len(), test.len()), (1437, 360));
        for set in [&train, &test] {
            assert!((0..10).all(|digit| set.labels().iter().filter(|&&label| label == digit).count() > 30));
        }
        assert_eq!(digits(Split::Val).unwrap().fingerprint(), test.fingerprint());
        let sample = test.get(0).unwrap();
        assert_eq!(
            (sample.name.as_str(), sample.image.width(), sample.image.height()),
            ("digits#1437", 8, 8)
        );
        // The first picture of the set, a zero: dark in the middle.
        let zero = train.get(0).unwrap();
        assert_eq!((zero.label, &zero.image.data()[..8]), (0, &[0, 0, 80, 207, 143, 16, 0, 0][..]));
    }
}
