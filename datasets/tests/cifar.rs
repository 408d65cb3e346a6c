//! CIFAR files, good and bad.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use vision_datasets::formats::{Cifar, CifarKind};
use vision_datasets::{Dataset, Error, LabelledSet};

/// A record whose red plane counts up and whose green and blue planes are constant.
fn record(labels: &[u8], green: u8, blue: u8) -> Vec<u8> {
    let mut bytes = labels.to_vec();
    bytes.extend((0..1024u32).map(|at| at as u8));
    bytes.extend([green; 1024]);
    bytes.extend([blue; 1024]);
    bytes
}

fn write_c10(dir: &Path) {
    for batch in 1..=5u8 {
        let bytes = [record(&[batch], 10 * batch, 1), record(&[0], 10 * batch, 2)].concat();
        std::fs::write(dir.join(format!("data_batch_{batch}.bin")), bytes).unwrap();
    }
    std::fs::write(dir.join("test_batch.bin"), record(&[9], 7, 8)).unwrap();
}

#[test]
fn reads_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    write_c10(dir.path());
    let train = Cifar::open_binary(dir.path(), CifarKind::C10, true).unwrap();
    assert_eq!(train.labels(), [1, 0, 2, 0, 3, 0, 4, 0, 5, 0]);
    assert_eq!((train.class_names()[0].as_str(), train.class_names()[9].as_str()), ("airplane", "truck"));
    let sample = train.get(4).unwrap();
    assert_eq!((sample.label, sample.index, sample.name.as_str()), (3, 4, "cifar10#4"));
    assert_eq!((sample.image.width(), sample.image.height()), (32, 32));
    assert_eq!(sample.image.pixel(5, 2), Some(&[69, 30, 1][..]));
    let test = Cifar::open_binary(dir.path(), CifarKind::C10, false).unwrap();
    assert_eq!((test.len(), test.labels()), (1, &[9][..]));
    assert_ne!(test.fingerprint(), train.fingerprint());
    assert!(test.get(1).is_err() && test.get(usize::MAX).is_err());
    assert!(test.coarse_labels().is_empty());
}

#[test]
fn reads_fine_and_coarse_labels() {
    let bytes = [record(&[19, 99], 1, 2), record(&[0, 42], 1, 2)].concat();
    let set = Cifar::from_bytes(&bytes, CifarKind::C100, Path::new("train.bin")).unwrap();
    assert_eq!((set.labels(), set.coarse_labels()), (&[99, 42][..], &[19, 0][..]));
    assert_eq!((set.class_names().len(), set.class_names()[99].as_str()), (100, "worm"));
    assert!(set.class_names().is_sorted());
    assert_eq!(set.get(1).unwrap().image.pixel(31, 31), Some(&[255, 1, 2][..]));
}

#[test]
fn reads_the_archive_without_unpacking() {
    let dir = tempfile::tempdir().unwrap();
    write_c10(dir.path());
    for compressed in [false, true] {
        let path = dir.path().join("archive");
        let file = std::fs::File::create(&path).unwrap();
        let sink: Box<dyn std::io::Write> =
            if compressed { Box::new(GzEncoder::new(file, Compression::fast())) } else { Box::new(file) };
        let mut tar = tar::Builder::new(sink);
        // Not in order, as in the published archive.
        for name in
            ["data_batch_3", "data_batch_1", "test_batch", "data_batch_2", "data_batch_5", "data_batch_4"]
        {
            let name = format!("{name}.bin");
            tar.append_path_with_name(dir.path().join(&name), format!("cifar-10-batches-bin/{name}"))
                .unwrap();
        }
        drop(tar.into_inner().unwrap());
        let from_archive = Cifar::open_binary(&path, CifarKind::C10, true).unwrap();
        let from_folder = Cifar::open_binary(dir.path(), CifarKind::C10, true).unwrap();
        assert_eq!(from_archive.fingerprint(), from_folder.fingerprint());
        let message = Cifar::open_binary(&path, CifarKind::C100, true).unwrap_err().to_string();
        assert!(message.contains("train.bin"), "{message}");
    }
}

#[test]
fn says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    write_c10(dir.path());
    let third = dir.path().join("data_batch_3.bin");
    std::fs::write(&third, vec![0; 3072]).unwrap();
    let error = Cifar::open_binary(dir.path(), CifarKind::C10, true).unwrap_err();
    assert!(matches!(&error, Error::Length { got: 3072, .. }));
    let message = error.to_string();
    assert!(message.contains("data_batch_3.bin") && message.contains("multiple of 3073"), "{message}");
    std::fs::write(&third, []).unwrap();
    assert!(matches!(Cifar::open_binary(dir.path(), CifarKind::C10, true), Err(Error::Length { .. })));
    std::fs::remove_file(&third).unwrap();
    let message = Cifar::open_binary(dir.path(), CifarKind::C10, true).unwrap_err().to_string();
    assert!(message.contains("data_batch_3.bin"), "{message}");
    let bytes = [record(&[0], 0, 0), record(&[10], 0, 0)].concat();
    let error = Cifar::from_bytes(&bytes, CifarKind::C10, Path::new("x.bin")).unwrap_err();
    assert!(matches!(error, Error::Format { offset: 3073, .. }), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn mutations_do_not_panic(
        at in 0usize..3073 * 2,
        value in any::<u8>(),
        length in 0usize..3073 * 2 + 1,
        cut in any::<bool>(),
        kind in prop_oneof![Just(CifarKind::C10), Just(CifarKind::C100)],
    ) {
        let mut bytes = [record(&[3], 1, 2), record(&[4], 3, 4)].concat();
        // Half of the changes hit a label.
        let at = if at % 2 == 0 { at / 3073 * 3073 } else { at };
        bytes[at] = value;
        if cut {
            bytes.truncate(length);
        }
        match Cifar::from_bytes(&bytes, kind, Path::new("x.bin")) {
            Ok(set) => {
                prop_assert_eq!(set.len() * kind.record(), bytes.len());
                for index in 0..set.len() {
                    prop_assert!((set.get(index).unwrap().label as usize) < set.class_names().len());
                }
            }
            Err(error) => {
                prop_assert!(matches!(error, Error::Length { .. } | Error::Format { .. }), "{}", error);
            }
        }
    }
}
