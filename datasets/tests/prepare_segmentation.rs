//! From the published forms of segmentation sets to one layout.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "common/archives.rs"]
mod archives;

use std::fmt::Write as _;
use std::fs;

use archives::{Files, Place, digest_of, grey, jpeg, tar, zip};
use vision_datasets::{Error, prepare};
use vision_image::{LabelMap, encode_indexed};

const ADE: &str = "ADEChallengeData2016.zip";

fn ade_files() -> Files {
    let mut table = String::from("Idx\tRatio\tTrain\tVal\tStuff\tName\n");
    for class in 1..=150 {
        write!(table, "{class}\t0.1\t5\t6\t0\tname {class}, other\r\n").unwrap();
    }
    let mut files = Files::from([("ADEChallengeData2016/objectInfo150.txt".into(), table.into_bytes())]);
    for (part, folder, number, labels) in [
        ("train", "training", 1, [0u8, 1, 2, 150, 0, 7]),
        ("train", "training", 2, [3; 6]),
        ("val", "validation", 1, [150; 6]),
    ] {
        let name = format!("ADE_{part}_{number:08}");
        files.insert(format!("ADEChallengeData2016/images/{folder}/{name}.jpg"), jpeg(3, 2, number));
        files.insert(format!("ADEChallengeData2016/annotations/{folder}/{name}.png"), grey(3, 2, &labels));
    }
    files
}

const ADE_COUNTS: [(&str, u64); 4] = [("train", 2), ("val", 1), ("trainval", 3), ("test", 1)];

#[test]
fn ade20k() {
    let mut place = Place::new("ade20k", &[(ADE, zip(&ade_files()))], &ADE_COUNTS);
    let manifest = place.run().unwrap();
    assert_eq!((manifest.counts.len(), manifest.counts["trainval"]), (3, 3));
    assert_eq!(place.labels("ADE_train_00000001").data(), [255, 0, 1, 149, 255, 6]);
    assert_eq!(place.labels("ADE_val_00000001").data(), [149; 6]);
    assert_eq!(place.read("images/ADE_train_00000002.jpg"), jpeg(3, 2, 2));
    assert_eq!(place.list("train"), ["ADE_train_00000001", "ADE_train_00000002"]);
    assert_eq!(place.read("splits/val.txt"), b"ADE_val_00000001\n");
    let classes = place.classes();
    assert_eq!(classes["classes"][149], "name 150");
    assert_eq!(classes["palette"][0], serde_json::json!([120, 120, 120]));
    assert_eq!((&classes["ignore"], &classes["submission_offset"]), (&255.into(), &1.into()));
    // trainval contains val, and the manifest says so.
    assert_eq!(manifest.overlaps["trainval/val"], 1);
    let report = place.verify();
    assert!(report.is_ok(), "{report:?}");
    assert_eq!(report.files, 3 + 3 + 3 + 1);

    // Again: nothing changes. Damage: verify names the file.
    let text = place.read("manifest.json");
    assert_eq!(place.run().unwrap(), manifest);
    assert_eq!(place.read("manifest.json"), text);
    fs::write(place.folder().join("labels/ADE_val_00000001.png"), grey(3, 2, &[148; 6])).unwrap();
    assert!(place.verify().problems.iter().any(|problem| problem.contains("ADE_val_00000001.png")));

    // The same bytes, whatever the number of threads.
    for threads in [1, 3] {
        fs::remove_dir_all(place.folder()).unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(pool.install(|| place.run()).unwrap(), manifest);
    }

    // With the pictures to test on.
    let test = Files::from([
        ("release_test/testing/ADE_test_00000001.jpg".into(), jpeg(5, 5, 9)),
        ("release_test/list.txt".into(), b"ADE_test_00000001.jpg\n".to_vec()),
    ]);
    fs::remove_dir_all(place.folder()).unwrap();
    place.set("ade20k", &[(ADE, zip(&ade_files())), ("release_test.zip", zip(&test))], &ADE_COUNTS);
    let manifest = place.run().unwrap();
    assert_eq!((manifest.counts["test"], manifest.files.len()), (1, 12));
    assert!(place.verify().is_ok() && !place.folder().join("labels/ADE_test_00000001.png").exists());
}

#[test]
fn broken_ade20k_leaves_nothing() {
    let image = "ADEChallengeData2016/images/training/ADE_train_00000001.jpg";
    let label = "ADEChallengeData2016/annotations/training/ADE_train_00000001.png";
    let with = |name: &str, bytes: Option<Vec<u8>>| {
        let mut files = ade_files();
        match bytes {
            Some(bytes) => drop(files.insert(name.into(), bytes)),
            None => drop(files.remove(name)),
        }
        zip(&files)
    };
    let good = zip(&ade_files());
    let cases = [
        (with(image, None), "there is no \"ADEChallengeData2016/images/training/ADE_train_00000001.jpg\""),
        (with(label, None), "has no labels"),
        (with(label, Some(grey(3, 2, &[151; 6]))), "label 151 has no class"),
        (with(label, Some(grey(2, 3, &[1; 6]))), "labels of 2 x 3 pixels for a picture of 3 x 2"),
        (with(label, Some(b"no picture".to_vec())), "annotations/training/ADE_train_00000001.png"),
        (with(label, Some(jpeg(3, 2, 1))), "JPEG"),
        (with(image, Some(b"GIF89a".to_vec())), "ADE_train_00000001"),
        (with("ADEChallengeData2016/objectInfo150.txt", None), "objectInfo150.txt"),
        (with("ADEChallengeData2016/objectInfo150.txt", Some(b"Idx\tName\n2\tx".to_vec())), "class 1"),
        (with("../evil", Some(b"x".to_vec())), "leads out of the folder"),
        (with("ADEChallengeData2016/../../evil", Some(b"x".to_vec())), "leads out of the folder"),
        (with("/evil", Some(b"x".to_vec())), "absolute"),
        (good[..good.len() / 2].to_vec(), ADE),
        (b"no archive".to_vec(), ADE),
    ];
    for (archive, word) in cases {
        let place = Place::new("ade20k", &[(ADE, archive)], &ADE_COUNTS);
        let message = place.fail();
        assert!(message.contains(word), "{word}: {message}");
        assert!(message.contains(ADE), "{word}: {message}");
    }
    let link = archives::zip_with_link(&ade_files());
    assert!(Place::new("ade20k", &[(ADE, link)], &ADE_COUNTS).fail().contains("neither a plain file"));
    // An entry that holds more than the list of entries says.
    let mut lying = zip(&ade_files());
    let at = lying.windows(4).position(|bytes| bytes == b"PK\x01\x02").unwrap();
    lying[at + 24..at + 28].copy_from_slice(&3u32.to_le_bytes());
    let message = Place::new("ade20k", &[(ADE, lying)], &ADE_COUNTS).fail();
    assert!(message.contains("annotations/training/ADE_train_00000001.png"), "{message}");
    // A file that is not the published one is not even opened.
    let place = Place::new("ade20k", &[(ADE, zip(&ade_files()))], &ADE_COUNTS);
    fs::write(place.archives().join(ADE), with(label, None)).unwrap();
    assert!(matches!(place.run(), Err(Error::Digest { .. })));
    assert!(place.left().is_empty());
    // The catalogue's own digest, SHA-1.
    let mut place = Place::new("ade20k", &[(ADE, zip(&ade_files()))], &ADE_COUNTS);
    place.entry = vision_datasets::catalog::find("ade20k").unwrap();
    let error = place.run().unwrap_err();
    assert!(matches!(&error, Error::Digest { algorithm, .. } if algorithm == "sha1"), "{error}");
    assert!(
        error.to_string().contains("219e1696abb36c8ba3a3afe7fb2f4b4606a897c7") && place.left().is_empty()
    );
    // Other counts than the catalogue's.
    let place = Place::new("ade20k", &[(ADE, zip(&ade_files()))], &[("train", 3), ("val", 1)]);
    assert!(place.fail().contains("samples, the catalogue says"));
    // More than the catalogue allows.
    let mut place = Place::new("ade20k", &[(ADE, zip(&ade_files()))], &ADE_COUNTS);
    place.entry.max_bytes = 1000;
    assert!(place.fail().contains("more than 1000 bytes"));
    (place.entry.max_bytes, place.entry.max_entries) = (1 << 20, 3);
    assert!(place.fail().contains("more than 3 entries"));
}

#[test]
fn every_truncation_of_a_zip_is_an_error() {
    let good = zip(&ade_files());
    let mut place = Place::new("ade20k", &[(ADE, good.clone())], &ADE_COUNTS);
    for end in (0..good.len()).step_by(97).chain([good.len() - 1]) {
        place.set("ade20k", &[(ADE, good[..end].to_vec())], &ADE_COUNTS);
        assert!(place.run().is_err(), "{end}");
        assert!(place.left().is_empty());
    }
}

const VOC: &str = "VOCtrainval_11-May-2012.tar";
const VOC_COUNTS: [(&str, u64); 3] = [("train", 2), ("val", 1), ("trainval", 3)];

/// Two pictures to train on, one to validate with, and one without labels.
fn voc_files() -> Files {
    let mut files = Files::new();
    let palette: Vec<[u8; 3]> = (0..=255).map(|v| [v, 255 - v, 7]).collect();
    for (id, labels) in [
        ("2007_000032", [0u8, 1, 255, 20, 20, 5]),
        ("2008_000002", [15; 6]),
        ("2008_000008", [0, 0, 0, 2, 2, 255]),
    ] {
        let map = LabelMap::new(2, 3, labels.to_vec()).unwrap();
        files.insert(format!("VOCdevkit/VOC2012/JPEGImages/{id}.jpg"), jpeg(2, 3, labels[0]));
        files.insert(
            format!("VOCdevkit/VOC2012/SegmentationClass/{id}.png"),
            encode_indexed(&map, &palette).unwrap(),
        );
    }
    files.insert("VOCdevkit/VOC2012/JPEGImages/2012_004331.jpg".into(), jpeg(9, 9, 1));
    for (part, text) in [
        ("train", "2007_000032\n2008_000002\n"),
        ("val", "2008_000008\n"),
        ("trainval", "2007_000032\r\n2008_000002\r\n2008_000008\r\n\n"),
    ] {
        files.insert(format!("VOCdevkit/VOC2012/ImageSets/Segmentation/{part}.txt"), text.into());
    }
    files
}

#[test]
fn voc2012() {
    let place = Place::new("voc2012", &[(VOC, tar(&voc_files()))], &VOC_COUNTS);
    let manifest = place.run().unwrap();
    assert_eq!(place.labels("2007_000032").data(), [0, 1, 255, 20, 20, 5]);
    assert_eq!(
        digest_of(&manifest, "labels/2007_000032.png"),
        "b89536aa54028494ec4b84aab93b1f5f16fe5a8f20c429d54345f7c420a1ddeb"
    );
    assert_eq!(place.list("trainval"), ["2007_000032", "2008_000002", "2008_000008"]);
    assert_eq!(place.classes()["palette"][15], serde_json::json!([192, 128, 128]));
    assert_eq!(place.classes()["submission_offset"], 0);
    assert!(!place.folder().join("images/2012_004331.jpg").exists());
    assert_eq!(manifest.overlaps["trainval/val"], 1);
    assert!(manifest.notes[0].contains("trainval contains val"));
    assert!(place.verify().is_ok());
}

#[test]
fn broken_voc2012_leaves_nothing() {
    let with = |name: &str, bytes: &[u8]| {
        let mut files = voc_files();
        files.insert(format!("VOCdevkit/VOC2012/{name}"), bytes.to_vec());
        tar(&files)
    };
    let good = tar(&voc_files());
    let raw = |name: &str, kind| {
        let mut tar = tar::Builder::new(Vec::new());
        tar.append(&archives::tar_header(name, 0, kind), &b""[..]).unwrap();
        [&tar.into_inner().unwrap()[..512], &good].concat()
    };
    let cases = [
        (with("SegmentationClass/2008_000002.png", &grey(2, 3, &[21; 6])), "label 21 has no class"),
        (with("ImageSets/Segmentation/val.txt", b"2008_000009"), "2008_000009.jpg"),
        (with("ImageSets/Segmentation/val.txt", b"../../2008_000008"), "2008_000008"),
        (with("ImageSets/Segmentation/val.txt", b"2008_000008\n2008_000008"), "lists it twice"),
        (raw("../evil", tar::EntryType::Regular), "leads out of the folder"),
        (raw("/evil", tar::EntryType::Regular), "absolute"),
        (raw("link", tar::EntryType::Symlink), "neither a plain file"),
        (raw("link", tar::EntryType::Link), "neither a plain file"),
        (good[..good.len() - 3000].to_vec(), VOC),
        (good[..700].to_vec(), VOC),
        (vec![], VOC),
    ];
    for (archive, word) in cases {
        let place = Place::new("voc2012", &[(VOC, archive)], &VOC_COUNTS);
        let message = place.fail();
        assert!(message.contains(word) && message.contains(VOC), "{word}: {message}");
    }
    // What an interrupted run has left is named and left alone.
    let place = Place::new("voc2012", &[(VOC, good)], &VOC_COUNTS);
    let left = place.options.root.join(".voc2012.AbC123.partial");
    fs::create_dir_all(left.join("ready")).unwrap();
    let mut lines = Vec::new();
    prepare::prepare_from(&place.entry, &place.options, &mut |line| lines.push(line.to_owned())).unwrap();
    assert!(lines.iter().any(|line| line.contains(".voc2012.AbC123.partial")), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("3 of 3 pictures")), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("trainval contains 1 of 1 samples of val")), "{lines:?}");
    assert_eq!(place.left(), [".voc2012.AbC123.partial", "voc2012"]);
}

#[test]
fn pictures_that_ask_to_be_turned_stay_as_stored() {
    let plain = jpeg(2, 3, 1);
    let exif = b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let mut files = voc_files();
    let turned = [&plain[..2], exif, &plain[2..]].concat();
    files.insert("VOCdevkit/VOC2012/JPEGImages/2007_000032.jpg".into(), turned);
    let place = Place::new("voc2012", &[(VOC, tar(&files))], &VOC_COUNTS);
    place.run().unwrap();
    assert_eq!(place.read("images/2007_000032.jpg"), plain);
}

const CITY: [&str; 2] = ["gtFine_trainvaltest.zip", "leftImg8bit_trainvaltest.zip"];
const CITY_COUNTS: [(&str, u64); 3] = [("train", 1), ("val", 1), ("test", 1)];

fn city_files(labels: &[u8]) -> [Files; 2] {
    let (mut fine, mut images) = (Files::new(), Files::new());
    for (part, city) in [("train", "aachen"), ("val", "munster"), ("test", "bonn")] {
        let id = format!("{city}_000000_000019");
        fine.insert(format!("gtFine/{part}/{city}/{id}_gtFine_labelIds.png"), grey(6, 1, labels));
        fine.insert(format!("gtFine/{part}/{city}/{id}_gtFine_polygons.json"), b"{}".to_vec());
        let image = vision_image::Image::filled(6, 1, &[1, 2, 3]).unwrap();
        images.insert(
            format!("leftImg8bit/{part}/{city}/{id}_leftImg8bit.png"),
            vision_image::encode_png(&image).unwrap(),
        );
    }
    [fine, images]
}

#[test]
fn cityscapes() {
    let [fine, images] = city_files(&[7, 33, 0, 255, 29, 19]);
    let archives = [(CITY[0], zip(&fine)), (CITY[1], zip(&images))];
    let place = Place::new("cityscapes", &archives, &CITY_COUNTS);
    let manifest = place.run().unwrap();
    assert_eq!(place.labels("aachen_000000_000019").data(), [0, 18, 255, 255, 255, 6]);
    assert_eq!(place.list("test"), ["bonn_000000_000019"]);
    assert!(!place.folder().join("labels/bonn_000000_000019.png").exists());
    assert!(place.folder().join("images/aachen_000000_000019.png").exists());
    assert!(manifest.archives[CITY[0]].contains(&archives::sha256(&archives[0].1)));
    assert!(manifest.archives[CITY[0]].contains("unchecked") && place.verify().is_ok());

    let [strange, _] = city_files(&[34; 6]);
    let place = Place::new("cityscapes", &[(CITY[0], zip(&strange)), (CITY[1], zip(&images))], &CITY_COUNTS);
    assert!(place.fail().contains("label 34 has no class"));
    let mut fewer = fine.clone();
    fewer.retain(|name, _| !name.contains("munster"));
    let place = Place::new("cityscapes", &[(CITY[0], zip(&fewer)), (CITY[1], zip(&images))], &CITY_COUNTS);
    assert!(place.fail().contains("1 pictures in val, 0 label pictures"));
    // Without a digest, damage is found by the archive's own sums.
    let mut damaged = zip(&images);
    let name = b"aachen_000000_000019_leftImg8bit.png";
    let at = damaged.windows(name.len()).position(|bytes| bytes == name).unwrap();
    damaged[at + name.len() + 20] ^= 0xff;
    let place = Place::new("cityscapes", &[(CITY[0], zip(&fine)), (CITY[1], damaged)], &CITY_COUNTS);
    assert!(place.fail().contains("leftImg8bit"));
}
