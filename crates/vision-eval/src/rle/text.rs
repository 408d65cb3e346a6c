//! The counts of a mask as a string, the "compressed" form of COCO.
//!
//! From the fourth count on the difference to the one two before is stored, which is small where an object's height
//! changes slowly. A number takes five bits per letter, the lowest first; a sixth says that more follow, and the highest
//! bit of the last letter is the sign. Letters start at `0`.

use super::{Rle, pixels};
use crate::{Error, Result};

/// Five-bit groups that a difference of two 32-bit counts takes at most; more would only repeat its sign.
const MOST_LETTERS: u32 = 7;

impl Rle {
    /// A mask from its compressed counts.
    ///
    /// # Errors
    /// [`Error::Argument`] for `size`, as [`Rle::from_counts`]; for `counts` if the text has other letters, ends within a
    /// number, holds an impossible count, or does not add up to the number of pixels.
    pub fn from_text(height: u32, width: u32, text: &str) -> Result<Self> {
        pixels(height, width)?;
        let problem = |at: usize, problem: &str| {
            Err(Error::Argument { name: "counts", problem: format!("letter {at}: {problem}") })
        };
        let mut counts: Vec<u32> = Vec::new();
        let (mut value, mut letters) = (0_i64, 0);
        for (at, &letter) in text.as_bytes().iter().enumerate() {
            let Some(bits) = letter.checked_sub(48).filter(|bits| *bits < 64) else {
                return problem(at, "it is not one of `0` to `o`");
            };
            if letters == MOST_LETTERS {
                return problem(at, "the number is too long");
            }
            value |= i64::from(bits & 0x1f) << (5 * letters);
            letters += 1;
            if bits & 0x20 != 0 {
                continue;
            }
            if bits & 0x10 != 0 {
                value |= -1 << (5 * letters);
            }
            if counts.len() > 2 {
                value += i64::from(counts[counts.len() - 2]);
            }
            match u32::try_from(value) {
                Ok(count) => counts.push(count),
                Err(_) => return problem(at, &format!("the count {value} is impossible")),
            }
            (value, letters) = (0, 0);
        }
        if letters > 0 {
            return problem(text.len(), "the text ends within a number");
        }
        Self::from_counts(height, width, counts)
    }

    /// The compressed counts, letter for letter those of pycocotools.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for (index, &count) in self.counts().iter().enumerate() {
            let before = if index > 2 { self.counts()[index - 2] } else { 0 };
            let mut value = i64::from(count) - i64::from(before);
            loop {
                let bits = (value & 0x1f) as u8;
                value >>= 5;
                let more = if bits & 0x10 != 0 { value != -1 } else { value != 0 };
                text.push(char::from(48 + bits + if more { 0x20 } else { 0 }));
                if !more {
                    break;
                }
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn error(height: u32, width: u32, text: &str) -> String {
        Rle::from_text(height, width, text).unwrap_err().to_string()
    }

    #[test]
    fn damaged_text_is_an_error() {
        assert!(error(2, 3, "2/1").contains("letter 1: it is not one of"));
        assert!(error(2, 3, "2p1").contains("letter 1: it is not one of"));
        assert!(error(2, 3, "2é").contains("letter 1"));
        assert!(error(2, 3, "2R").contains("ends within a number"));
        assert!(error(2, 3, "PPPPPPPPPPPPPPPP0").contains("too long"));
        assert!(error(2, 3, "2O").contains("the count -1 is impossible"));
        assert!(error(2, 3, "23").contains("add up to 5"));
        assert!(error(2, 3, "").contains("add up to 0"));
        assert!(error(0, 3, "").contains("size"));
    }

    #[test]
    fn differences_may_be_negative_and_long() {
        let counts = vec![0, 1, 99_999_990, 3, 5, 1];
        let rle = Rle::from_counts(10_000, 10_000, counts).unwrap();
        assert_eq!(Rle::from_text(10_000, 10_000, &rle.to_text()).unwrap(), rle);
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "[0-o]{0,40}", height in 0..40_u32, width in 0..40_u32) {
            if let Ok(rle) = Rle::from_text(height, width, &text) {
                prop_assert_eq!(Rle::from_text(height, width, &rle.to_text()).unwrap(), rle);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(text in ".{0,20}") {
            let _ = Rle::from_text(3, 3, &text);
        }
    }
}
