//! The two traits that data passes through, and how a set is identified.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Result, SampleRng};

/// A set of samples that can be read in any order, from any thread.
///
/// There is no randomness here: the same index gives the same sample every time. Randomness belongs to
/// a [`Transform`].
pub trait Dataset: Send + Sync {
    /// What [`get`](Self::get) returns.
    type Sample: Send;

    /// How many samples there are.
    fn len(&self) -> usize;

    /// Reads sample number `index`, which is below [`len`](Self::len).
    ///
    /// # Errors
    /// If there is no such sample, or it cannot be read; the message names it.
    fn get(&self, index: usize) -> Result<Self::Sample>;

    /// Identifies the set: equal fingerprints mean the same samples in the same order. Checkpoints and
    /// reports carry it.
    fn fingerprint(&self) -> Fingerprint;

    /// What to call sample `index` in messages: its path, or the set's name and the number.
    fn sample_name(&self, index: usize) -> String {
        format!("#{index}")
    }

    /// Whether there are no samples.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Turns one sample into another form; all randomness comes from `rng`.
pub trait Transform<S>: Send + Sync {
    /// What comes out.
    type Out: Send;

    /// Transforms `sample`.
    ///
    /// # Errors
    /// If the sample cannot be transformed, for instance because the picture is too small.
    fn apply(&self, sample: S, rng: &mut SampleRng) -> Result<Self::Out>;
}

/// Which part of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// What a model learns from.
    Train,
    /// What choices are made on. Sets without such a part give their test part.
    Val,
    /// What is reported.
    Test,
}

impl std::fmt::Display for Split {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::Test => "test",
        })
    }
}

/// Identity of a set: `name:sha256-16hex:count`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// Starts hashing the content of the set called `name`.
    #[must_use]
    pub fn builder(name: &str) -> FingerprintBuilder {
        FingerprintBuilder { name: name.to_owned(), hash: Sha256::new() }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Collects what identifies a set. Every field is hashed with its length, so neighbouring fields
/// cannot run into each other.
#[derive(Debug, Clone)]
pub struct FingerprintBuilder {
    name: String,
    hash: Sha256,
}

impl FingerprintBuilder {
    /// Adds a field of bytes.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.hash.update((bytes.len() as u64).to_le_bytes());
        self.hash.update(bytes);
        self
    }

    /// Adds a number.
    #[must_use]
    pub fn number(mut self, number: u64) -> Self {
        self.hash.update(number.to_le_bytes());
        self
    }

    /// Adds class labels.
    #[must_use]
    pub fn labels(mut self, labels: &[i64]) -> Self {
        self.hash.update((labels.len() as u64).to_le_bytes());
        for label in labels {
            self.hash.update(label.to_le_bytes());
        }
        self
    }

    /// Ends with the number of samples.
    #[must_use]
    pub fn finish(self, count: usize) -> Fingerprint {
        let digest = hex(&self.hash.finalize());
        let short = digest.get(..16).unwrap_or(&digest);
        Fingerprint(format!("{}:{short}:{count}", self.name))
    }
}

/// Lower-case hexadecimal digits of `bytes`.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprint_has_name_digest_and_count() {
        let a = Fingerprint::builder("set").bytes(b"ab").bytes(b"c").finish(3);
        let b = Fingerprint::builder("set").bytes(b"a").bytes(b"bc").finish(3);
        assert_ne!(a, b);
        let parts: Vec<&str> = a.as_str().split(':').collect();
        assert_eq!((parts[0], parts[1].len(), parts[2]), ("set", 16, "3"));
        assert_eq!(a.to_string(), a.as_str());
    }

    #[test]
    fn split_names() {
        assert_eq!(Split::Val.to_string(), "val");
        assert_eq!(serde_json::to_string(&Split::Train).unwrap(), "\"train\"");
    }
}
