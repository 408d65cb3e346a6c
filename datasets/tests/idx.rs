//! IDX files, good and bad.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use vision_datasets::formats::{IdxArray, IdxDataset};
use vision_datasets::{Dataset, Error, LabelledSet};

fn idx(dims: &[u32], data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, dims.len() as u8];
    for dim in dims {
        bytes.extend(dim.to_be_bytes());
    }
    bytes.extend(data);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn read(bytes: &[u8]) -> vision_datasets::Result<IdxArray> {
    IdxArray::read(bytes, Path::new("some-file"))
}

#[test]
fn reads_pictures_and_labels() {
    let dir = tempfile::tempdir().unwrap();
    let (images, labels) = (dir.path().join("pictures"), dir.path().join("labels.gz"));
    std::fs::write(&images, idx(&[2, 1, 3], &[1, 2, 3, 4, 5, 6])).unwrap();
    std::fs::write(&labels, gzip(&idx(&[2], &[1, 0]))).unwrap();
    let set = IdxDataset::open(&images, &labels).unwrap();
    assert_eq!((set.len(), set.size(), set.labels(), set.name()), (2, [3, 1], &[1, 0][..], "pictures"));
    assert_eq!(set.class_names(), ["0", "1"]);
    let sample = set.get(1).unwrap();
    assert_eq!((sample.image.width(), sample.image.height(), sample.image.channels()), (3, 1, 1));
    assert_eq!((sample.image.data(), sample.label, sample.name.as_str()), (&[4, 5, 6][..], 0, "pictures#1"));
    assert!(set.get(2).is_err());
    let before = set.fingerprint();
    let named = set.clone().named("mine", &["a", "b"]).unwrap();
    assert_eq!((named.name(), named.class_names()[1].as_str()), ("mine", "b"));
    assert_ne!(named.fingerprint(), before);
    assert!(set.named("mine", &["a"]).is_err());
}

#[test]
fn empty_sets_are_sets() {
    let array = |dims: &[u32]| read(&idx(dims, &[])).unwrap();
    let path = Path::new("x");
    let set = IdxDataset::from_arrays("none", array(&[0, 28, 28]), path, &array(&[0]), path).unwrap();
    assert!(set.is_empty() && set.class_names().is_empty());
}

#[test]
fn says_what_is_wrong_and_where() {
    let mut long = idx(&[2, 2], &[1, 2, 3, 4]);
    long.push(5);
    let mut cut = gzip(&idx(&[100], &(0..100).collect::<Vec<u8>>()));
    cut.truncate(cut.len() - 20);
    let cases: [(Vec<u8>, u64, &str); 9] = [
        (vec![], 0, "header"),
        (vec![0, 0, 8], 0, "header"),
        (vec![1, 0, 8, 1], 0, "starts with"),
        (vec![0, 0, 0x0d, 1, 0, 0, 0, 0], 2, "0x0d"),
        (vec![0, 0, 8, 0], 3, "0 dimensions"),
        (vec![0, 0, 8, 2, 0, 0, 0, 1, 0], 8, "dimension"),
        (idx(&[2, 2], &[1, 2, 3]), 15, "after 3 of 4"),
        (long, 16, "goes on after 4"),
        (idx(&[u32::MAX; 4], &[]), 4, "do not fit"),
    ];
    for (bytes, at, word) in cases {
        let error = read(&bytes).unwrap_err();
        let message = error.to_string();
        assert!(matches!(&error, Error::Format { offset, .. } if *offset == at), "{message}");
        assert!(message.contains(word) && message.contains("some-file"), "{message}");
    }
    assert!(matches!(read(&cut), Err(Error::Format { .. })));
    // A header that promises 4 GB does not make the reader ask for them.
    assert!(matches!(read(&idx(&[u32::MAX], &[1])), Err(Error::Format { offset: 9, .. })));
    assert!(matches!(IdxArray::open("no/such/file"), Err(Error::Io { .. })));
}

#[test]
fn pictures_and_labels_must_fit_together() {
    let path = Path::new("labels-file");
    let array = |dims: &[u32], data: &[u8]| read(&idx(dims, data)).unwrap();
    let open =
        |images, labels| IdxDataset::from_arrays("x", images, Path::new("pictures-file"), &labels, path);
    let two = || array(&[2, 1, 1], &[1, 2]);
    let message = open(two(), array(&[3], &[0, 0, 0])).unwrap_err().to_string();
    assert!(message.contains("3 labels") && message.contains("2 pictures"), "{message}");
    assert!(
        open(array(&[2], &[0, 0]), array(&[2], &[0, 0])).unwrap_err().to_string().contains("pictures-file")
    );
    assert!(open(two(), array(&[1, 2], &[0, 0])).unwrap_err().to_string().contains("labels-file"));
    assert!(open(array(&[2, 0, 5], &[]), array(&[2], &[0, 0])).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// A damaged file gives an array or a typed error, never a panic or a wrong length.
    #[test]
    fn mutations_do_not_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        truncate in any::<bool>(),
        compressed in any::<bool>(),
    ) {
        let good = idx(&[3, 2, 2], &(0..12).collect::<Vec<u8>>());
        let mut bytes = if compressed { gzip(&good) } else { good };
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= value;
        }
        if truncate {
            bytes.truncate(cut.index(bytes.len()));
        }
        match read(&bytes) {
            Ok(array) => {
                let size: u64 = array.dims.iter().map(|&dim| u64::from(dim)).product();
                prop_assert_eq!(size, array.data.len() as u64);
            }
            Err(error) => prop_assert!(matches!(error, Error::Format { .. }), "{}", error),
        }
    }
}
