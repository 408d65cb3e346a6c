//! Digests of files.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::dataset::hex;
use crate::{Error, Result};

/// A digest that is being made of a stream of bytes.
pub(super) enum Hasher {
    Md5(Md5),
    Sha1(Sha1),
    Sha256(Sha256),
}

impl Hasher {
    /// For `md5`, `sha1` or `sha256`; `None` for others.
    pub(super) fn new(algorithm: &str) -> Option<Self> {
        match algorithm {
            "md5" => Some(Self::Md5(Md5::new())),
            "sha1" => Some(Self::Sha1(Sha1::new())),
            "sha256" => Some(Self::Sha256(Sha256::new())),
            _ => None,
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Md5(hash) => hash.update(bytes),
            Self::Sha1(hash) => hash.update(bytes),
            Self::Sha256(hash) => hash.update(bytes),
        }
    }

    /// Lower-case hexadecimal digits.
    pub(super) fn finish(self) -> String {
        match self {
            Self::Md5(hash) => hex(&hash.finalize()),
            Self::Sha1(hash) => hex(&hash.finalize()),
            Self::Sha256(hash) => hex(&hash.finalize()),
        }
    }
}

/// Length and digest of a file.
pub(super) fn digest_file(path: &Path, algorithm: &str) -> Result<(u64, String)> {
    let mut hasher = Hasher::new(algorithm).ok_or_else(|| {
        Error::argument("digest", format!("algorithm {algorithm:?}, known are md5, sha1 and sha256"))
    })?;
    let mut file = File::open(path).map_err(|source| Error::io(path, source))?;
    let mut buffer = vec![0u8; 1 << 16];
    let mut length = 0u64;
    loop {
        let read = file.read(&mut buffer).map_err(|source| Error::io(path, source))?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
            return Ok((length, hasher.finish()));
        };
        hasher.update(bytes);
        length += read as u64;
    }
}

/// The SHA-256 of bytes in memory.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Compares the file at `path` with a published digest `algorithm:value`. `named` is the file to name in
/// the error.
pub(super) fn check_digest(path: &Path, digest: &str, named: &Path) -> Result<()> {
    let (algorithm, expected) = digest.split_once(':').unwrap_or(("", digest));
    let (_, found) = digest_file(path, algorithm)?;
    if found.eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    Err(Error::Digest {
        path: named.to_owned(),
        algorithm: algorithm.to_owned(),
        expected: expected.to_owned(),
        found,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        std::fs::write(&path, b"abc").unwrap();
        // The examples of RFC 1321 and FIPS 180.
        assert_eq!(digest_file(&path, "sha1").unwrap().1, "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(digest_file(&path, "md5").unwrap(), (3, "900150983cd24fb0d6963f7d28e17f72".into()));
        let sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        check_digest(&path, &format!("sha256:{}", sha.to_uppercase()), &path).unwrap();
        let wrong = check_digest(&path, "md5:00", &path).unwrap_err().to_string();
        assert!(wrong.contains("abc") && wrong.contains("900150983cd24fb0d6963f7d28e17f72"), "{wrong}");
        assert!(digest_file(&path, "crc").is_err());
    }
}
