//! Sets whose labels are runs, outlines or MATLAB files: against the programs they were made with.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "common/archives.rs"]
mod archives;

use archives::{Files, Place, digest_of, expected, fixture, grey, gzip, jpeg, tar, zip};
use serde_json::Value;
use vision_image::{LabelMap, encode_indexed};

const CONTEXT: [&str; 2] = ["VOCtrainval_03-May-2010.tar", "trainval_merged.json"];
const CONTEXT_COUNTS: [(&str, u64); 2] = [("train", 1), ("val", 2)];

/// Pictures as large as these labels.
fn pictures(labels: &str, name: impl Fn(&str) -> String) -> Files {
    expected(labels).iter().map(|(id, map)| (name(id), jpeg(map.width(), map.height(), 9))).collect()
}

fn context_pictures() -> Files {
    pictures("pascal_context_labels.json", |id| format!("VOCdevkit/VOC2010/JPEGImages/{id}.jpg"))
}

fn context(json: Vec<u8>) -> Place {
    let archives = [(CONTEXT[0], tar(&context_pictures())), (CONTEXT[1], json)];
    Place::new("pascal-context", &archives, &CONTEXT_COUNTS)
}

#[test]
fn pascal_context() {
    let place = context(fixture("pascal_context.json"));
    let manifest = place.run().unwrap();
    for (id, map) in expected("pascal_context_labels.json") {
        if id != "2008_000099" {
            assert_eq!(place.labels(&id).data(), map.data(), "{id}");
        }
    }
    assert_eq!(
        digest_of(&manifest, "labels/2008_000007.png"),
        "a5971b264fb0e5d3d1f5389cdf96f44f1cd4c36da26d421cbe73d4056ab9dc70"
    );
    assert_eq!(place.list("val"), ["2008_000007", "2008_000023"]);
    assert_eq!(place.classes()["submission_offset"], 1);
    assert_eq!(place.classes()["classes"][58], "wood");
    // Submissions add 1, and so do the colours.
    assert_eq!(place.classes()["palette"][0], serde_json::json!([128, 0, 0]));
    assert!(manifest.notes.iter().any(|note| note.contains("neither those of the paper")), "{manifest:?}");
    assert!(manifest.notes.iter().any(|note| note.contains("1 pictures of other phases")), "{manifest:?}");
    assert!(place.verify().is_ok());
}

#[test]
fn broken_pascal_context_leaves_nothing() {
    let change = |work: &dyn Fn(&mut Value)| {
        let mut json: Value = serde_json::from_slice(&fixture("pascal_context.json")).unwrap();
        work(&mut json);
        serde_json::to_vec(&json).unwrap()
    };
    let cases: [(Vec<u8>, &str); 9] = [
        (change(&|json| json["annos_segmentation"][1]["category_id"] = 4321.into()), "no category 4321"),
        (change(&|json| json["annos_segmentation"][1]["image_id"] = 7.into()), "no such image"),
        // Category 1 exists, but is none of the 59, and can be seen.
        (change(&|json| json["annos_segmentation"][4]["category_id"] = 1.into()), "none of the 59"),
        (change(&|json| json["categories"][3]["name"] = "tent".into()), "category 19 is tent"),
        (change(&|json| json["images"][0]["file_name"] = "2008_000003.jpg".into()), "2008_000003.jpg"),
        (change(&|json| json["images"][0]["file_name"] = "../evil.jpg".into()), "evil"),
        (change(&|json| json["images"][1]["height"] = 20.into()), "a mask of"),
        (change(&|json| json["annos_segmentation"][1]["segmentation"]["counts"] = "zz".into()), "2008_00000"),
        (fixture("pascal_context.json")[..3000].to_vec(), "trainval_merged.json"),
    ];
    for (json, word) in cases {
        let message = context(json).fail();
        assert!(message.contains(word), "{word}: {message}");
    }
}

const COCO: [&str; 3] = ["train2017.zip", "val2017.zip", "annotations_trainval2017.zip"];

fn coco(train: Vec<u8>) -> Place {
    let files = |part: &str, json: &[u8]| {
        let json: Value = serde_json::from_slice(json).unwrap();
        let mut files = Files::new();
        for image in json["images"].as_array().unwrap() {
            let size = |key: &str| image[key].as_u64().unwrap() as u32;
            let name = image["file_name"].as_str().unwrap();
            files.insert(format!("{part}2017/{name}"), jpeg(size("width"), size("height"), 3));
        }
        zip(&files)
    };
    let val = fixture("coco_val.json");
    let (train_pictures, val_pictures) = (files("train", &fixture("coco_train.json")), files("val", &val));
    let annotations = Files::from([
        ("annotations/instances_train2017.json".into(), train),
        ("annotations/instances_val2017.json".into(), val),
    ]);
    let archives = [(COCO[0], train_pictures), (COCO[1], val_pictures), (COCO[2], zip(&annotations))];
    Place::new("coco-voc21", &archives, &[])
}

#[test]
fn coco_with_the_classes_of_voc() {
    let place = coco(fixture("coco_train.json"));
    let manifest = place.run().unwrap();
    for part in ["train", "val"] {
        let expected = expected(&format!("coco_{part}_labels.json"));
        assert_eq!(place.list(part), expected.keys().cloned().collect::<Vec<_>>());
        for (id, map) in expected {
            assert_eq!(place.labels(&id).data(), map.data(), "{id}");
        }
    }
    assert_eq!(
        digest_of(&manifest, "labels/000000000009.png"),
        "2fec7e97fbb41571fb7336a56c2b357f30889b0d3678b797493fa99c2b1bf18a"
    );
    assert_eq!((manifest.counts["train"], manifest.counts["val"]), (2, 1));
    assert_eq!(place.classes()["classes"][20], "tvmonitor");
    assert!(place.verify().is_ok() && manifest.overlaps.is_empty());
}

#[test]
fn broken_coco_leaves_nothing() {
    let change = |work: &dyn Fn(&mut Value)| {
        let mut json: Value = serde_json::from_slice(&fixture("coco_train.json")).unwrap();
        work(&mut json);
        serde_json::to_vec(&json).unwrap()
    };
    let cases: [(Vec<u8>, &str); 8] = [
        (change(&|json| json["annotations"][0]["category_id"] = 91.into()), "category 91, which is unknown"),
        (change(&|json| json["annotations"][0]["image_id"] = 8.into()), "image 8, which is unknown"),
        (change(&|json| json["categories"][0]["name"] = "human".into()), "category 1 is human"),
        (change(&|json| json["images"][0]["file_name"] = "000000000008.jpg".into()), "000000000008.jpg"),
        // A picture that would be left out must be there all the same.
        (change(&|json| json["images"][1]["file_name"] = "000000000008.jpg".into()), "000000000008.jpg"),
        (change(&|json| json["images"][0]["width"] = 65.into()), "000000000009"),
        (
            change(&|json| {
                json["annotations"][0]["segmentation"][0] = serde_json::json!([1, 2, 3, 4, 5, 6, 7]);
            }),
            "000000000009",
        ),
        (b"{}".to_vec(), "instances_train2017.json"),
    ];
    for (json, word) in cases {
        let message = coco(json).fail();
        assert!(message.contains(word), "{word}: {message}");
    }
}

const SBD: &str = "benchmark.tgz";
const SBD_COUNTS: [(&str, u64); 3] = [("train", 2), ("val", 1), ("trainval", 3)];

fn sbd_files() -> Files {
    let mut files = pictures("sbd_labels.json", |id| format!("benchmark_RELEASE/dataset/img/{id}.jpg"));
    for id in expected("sbd_labels.json").keys() {
        files.insert(format!("benchmark_RELEASE/dataset/cls/{id}.mat"), fixture(&format!("{id}.mat")));
    }
    for (part, text) in [("train", "2008_000002\n2008_000015\n"), ("val", "2008_000008\n")] {
        files.insert(format!("benchmark_RELEASE/dataset/{part}.txt"), text.into());
    }
    files
}

#[test]
fn sbd_and_what_it_shares_with_voc() {
    let archive = || (SBD, gzip(&tar(&sbd_files())));
    let mut place = Place::new("sbd", &[archive()], &SBD_COUNTS);
    let alone = place.run().unwrap();
    for (id, map) in expected("sbd_labels.json") {
        assert_eq!(place.labels(&id).data(), map.data(), "{id}");
    }
    assert_eq!(
        digest_of(&alone, "labels/2008_000015.png"),
        "64fbb299f96bcb3cc13bb4618b071481a625eebf3431e75a24236ceec4e5cd38"
    );
    assert_eq!(place.list("trainval").len(), 3);
    assert!(alone.notes[0].contains("val of VOC 2012") && place.verify().is_ok());
    std::fs::remove_dir_all(place.folder()).unwrap();

    // The combined set needs both.
    place.set("voc2012-aug", &[], &[("train", 1), ("val", 1), ("trainaug", 3)]);
    assert!(place.fail().contains("voc2012, which is not prepared"));

    // VOC with labels of its own for 2008_000002, and 2008_000008 in its val.
    let mut files = Files::new();
    let sizes = expected("sbd_labels.json");
    for id in ["2007_000001", "2008_000002", "2008_000008"] {
        let (width, height) = sizes.get(id).map_or((2, 2), |map| (map.width(), map.height()));
        let labels = LabelMap::new(width, height, vec![7; (width * height) as usize]).unwrap();
        files.insert(format!("VOCdevkit/VOC2012/JPEGImages/{id}.jpg"), jpeg(width, height, 9));
        files.insert(
            format!("VOCdevkit/VOC2012/SegmentationClass/{id}.png"),
            encode_indexed(&labels, &[[1; 3]; 21]).unwrap(),
        );
    }
    for (part, text) in [
        ("train", "2007_000001\n2008_000002"),
        ("val", "2008_000008"),
        ("trainval", "2007_000001\n2008_000002\n2008_000008"),
    ] {
        files.insert(format!("VOCdevkit/VOC2012/ImageSets/Segmentation/{part}.txt"), text.into());
    }
    let counts = [("train", 2), ("val", 1), ("trainval", 3)];
    place.set("voc2012", &[("VOCtrainval_11-May-2012.tar", tar(&files))], &counts);
    place.run().unwrap();
    place.set("sbd", &[archive()], &SBD_COUNTS);
    let beside = place.run().unwrap();
    assert!(
        beside.notes.iter().any(|note| note == "val contains 1 of the 1 pictures of val of voc2012"),
        "{beside:?}"
    );

    place.set("voc2012-aug", &[], &[("train", 2), ("val", 1), ("trainaug", 3)]);
    let manifest = place.run().unwrap();
    assert_eq!(place.list("trainaug"), ["2007_000001", "2008_000002", "2008_000015"]);
    assert!(manifest.overlaps.is_empty(), "{manifest:?}");
    assert_eq!(place.labels("2008_000002").data()[0], 7, "labels of VOC win");
    assert_eq!(place.labels("2008_000015").data(), sizes["2008_000015"].data());
    assert!(manifest.archives["sbd/manifest.json"].starts_with("sha256:") && place.verify().is_ok());
}

#[test]
fn broken_sbd_leaves_nothing() {
    let with = |name: &str, bytes: &[u8]| {
        let mut files = sbd_files();
        files.insert(format!("benchmark_RELEASE/dataset/{name}"), bytes.to_vec());
        gzip(&tar(&files))
    };
    let mut strange = fixture("2008_000015.mat");
    // The values of the uncompressed file: 5 x 3 bytes of classes 0, 1, 15 and 20.
    let at = strange.windows(8).position(|bytes| bytes == [2, 0, 0, 0, 15, 0, 0, 0]).unwrap();
    strange[at + 8] = 21;
    let good = gzip(&tar(&sbd_files()));
    let cases = [
        (with("cls/2008_000002.mat", &fixture("2008_000002.mat")[..400]), "2008_000002.mat"),
        (with("cls/2008_000002.mat", &grey(2, 2, &[1; 4])), "2008_000002.mat"),
        (with("cls/2008_000015.mat", &strange), "label 21 has no class"),
        (with("img/2008_000015.jpg", &jpeg(5, 3, 1)), "labels of 3 x 5 pixels for a picture of 5 x 3"),
        (with("val.txt", b"2008_000009"), "2008_000009"),
        (with("train.txt", b""), "lists"),
        (good[..good.len() / 2].to_vec(), SBD),
    ];
    for (archive, word) in cases {
        let place = Place::new("sbd", &[(SBD, archive)], &SBD_COUNTS);
        if word == "lists" {
            // An empty list is no error of the archive, but its count is one of the set.
            assert!(place.fail().contains("samples, the catalogue says"));
            continue;
        }
        let message = place.fail();
        assert!(message.contains(word), "{word}: {message}");
    }
}
