//! Folders of pictures and masks, good and bad.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use proptest::prelude::*;
use vision_datasets::{
    Dataset, IGNORE_LABEL, Loader, LoaderConfig, RandomSampler, SegmentationFolder, SegmentationSet,
    SegmentationSpec, open_segmentation_set, segmentation_set_names,
};
use vision_image::{Image, LabelMap, encode_indexed, encode_png};

/// A picture of 4x3 pixels in one colour.
fn picture(path: &Path, value: u8) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    Image::filled(4, 3, &[value, 10, 20]).unwrap().save(path).unwrap();
}

/// A mask of 4x3 pixels: `value` everywhere but for 255 in the first pixel.
fn mask(path: &Path, value: u8) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut data = vec![value; 12];
    data[0] = 255;
    let labels = Image::new(4, 3, 1, data).unwrap();
    std::fs::write(path, encode_png(&labels).unwrap()).unwrap();
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// What `prepare` makes: two pictures to train on, one to validate on, one without labels.
fn prepared(root: &Path) {
    for (value, id) in (0u8..).zip(["a", "b", "c", "d"]) {
        picture(&root.join(format!("images/{id}.{}", if id == "b" { "png" } else { "jpg" })), 50 * value);
        if id != "d" {
            mask(&root.join(format!("labels/{id}.png")), value);
        }
    }
    for (part, ids) in [("train", "b\na\n"), ("val", "c\n"), ("trainval", "a\nb\nc\n"), ("test", "d\n")] {
        write(&root.join(format!("splits/{part}.txt")), ids);
    }
    write(
        &root.join("classes.json"),
        r#"{"classes":["sky","road","car"],"palette":[[1,1,1],[2,2,2],[3,3,3]],"ignore":255,"submission_offset":1,"evaluation":"mIoU"}"#,
    );
}

fn error(root: &Path, part: &str) -> String {
    match SegmentationFolder::open(root, part) {
        Err(error) => error.to_string(),
        Ok(set) => (0..set.len()).find_map(|index| set.get(index).err()).unwrap().to_string(),
    }
}

#[test]
fn a_prepared_set() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("streets");
    prepared(&dir);
    let train = SegmentationFolder::open(&dir, "train").unwrap();
    assert_eq!((train.len(), train.name(), train.part()), (2, "streets", "train"));
    assert_eq!((train.sample_id(0), train.sample_id(1)), ("b".to_owned(), "a".to_owned()));
    assert_eq!((train.submission_offset(), train.evaluation(), train.ignore()), (1, Some("mIoU"), 255));
    assert_eq!(
        (train.class_names(), train.palette()[2]),
        (&["sky", "road", "car"].map(String::from)[..], [3; 3])
    );
    let sample = train.get(0).unwrap();
    assert_eq!(
        (sample.index, sample.image.channels(), sample.image.pixel(3, 2)),
        (0, 3, Some(&[50, 10, 20][..]))
    );
    assert_eq!((sample.labels.label(0, 0), sample.labels.label(1, 0)), (Some(IGNORE_LABEL), Some(1)));
    assert!(sample.name.ends_with("b.png") && train.sample_name(0) == sample.name);
    assert!(train.contamination().values().all(vision_datasets::Contamination::is_empty));
    assert_eq!(train.contamination().len(), 2);
    assert!(train.get(2).is_err() && train.sample_name(2) == "streets#2");

    let test = SegmentationFolder::open(&dir, "test").unwrap();
    assert!(!test.has_labels(0) && train.has_labels(1) && !train.has_labels(2));
    assert_eq!(test.get(0).unwrap().labels.counts()[255], 12);

    let trainval = SegmentationFolder::open(&dir, "trainval").unwrap();
    assert_eq!(
        (&trainval.contamination()["val"].ids[..], trainval.contamination()["val"].files.len()),
        (&["c".to_owned()][..], 1)
    );
    let val = SegmentationFolder::open(&dir, "val").unwrap();
    assert!(val.contamination().is_empty());
    assert!(!trainval.contamination_with(&val).unwrap().is_empty());
    assert!(train.contamination_with(&val).unwrap().is_empty());
    let different: std::collections::BTreeSet<_> =
        [&train, &test, &trainval, &val].map(Dataset::fingerprint).into_iter().collect();
    assert_eq!(different.len(), 4);
    assert_eq!(SegmentationFolder::parts(&dir).unwrap(), ["test", "train", "trainval", "val"]);

    // By name, under the data root.
    let spec = SegmentationSpec::new("streets", "val");
    assert_eq!(open_segmentation_set(&spec, Some(root.path())).unwrap().fingerprint(), val.fingerprint());
    let at = SegmentationSpec { path: Some(dir.clone()), ..spec.with_split("train") };
    assert_eq!(open_segmentation_set(&at, None).unwrap().len(), 2);
    let short = SegmentationSpec::new(format!("folder:{}", dir.display()), "train");
    assert_eq!(open_segmentation_set(&short, None).unwrap().len(), 2);
}

#[test]
fn other_arrangements() {
    for (train, masks) in [
        ("images/train", "labels/train"),
        ("images/train", "masks/train"),
        ("train", "trainannot"),
        ("train", "train_labels"),
    ] {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        picture(&root.join(train).join("x.jpg"), 1);
        picture(&root.join(train).join("town/y.png"), 2);
        mask(&root.join(masks).join("x.png"), 0);
        mask(&root.join(masks).join("town/y.png"), 2);
        picture(&root.join(train.replace("train", "test")).join("z.jpg"), 3);
        write(&root.join("classes.txt"), "sky\nroad\nvoid\n");
        let set = SegmentationFolder::open(root, "train").unwrap();
        assert_eq!((set.len(), set.sample_id(0), set.sample_id(1)), (2, "town/y".to_owned(), "x".to_owned()));
        assert_eq!(set.get(0).unwrap().labels.counts()[255], 12);
        assert_eq!(set.class_names().len(), 2);
        let test = SegmentationFolder::open(root, "test").unwrap();
        assert!(!test.has_labels(0));
        assert!(
            error(root, "val").contains("has no part \"val\", it has test, train"),
            "{}",
            error(root, "val")
        );
    }
    let root = tempfile::tempdir().unwrap();
    picture(&root.path().join("images/x.jpg"), 1);
    mask(&root.path().join("annotations/x.png"), 0);
    write(&root.path().join("classes.csv"), "name,r,g,b\nsky,1,2,3\n");
    assert_eq!(SegmentationFolder::open(root.path(), "all").unwrap().len(), 1);
    assert!(error(root.path(), "train").contains("it has all"));
}

#[test]
fn masks_in_palettes_and_colours() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    write(&root.join("classes.txt"), "sky 10 20 30\nvoid 0 0 0\nroad 40 50 60\n");
    for id in ["index", "color"] {
        picture(&root.join(format!("images/{id}.jpg")), 1);
    }
    let labels = LabelMap::new(4, 3, vec![2, 1, 0, 255, 2, 2, 2, 2, 0, 0, 0, 0]).unwrap();
    let palette: Vec<[u8; 3]> = (0..=255).map(|v| [255 - v, v, 7]).collect();
    std::fs::create_dir(root.join("labels")).unwrap();
    std::fs::write(root.join("labels/index.png"), encode_indexed(&labels, &palette).unwrap()).unwrap();
    let colors: Vec<u8> = labels
        .data()
        .iter()
        .flat_map(|v| match v {
            0 => [10, 20, 30],
            2 => [40, 50, 60],
            _ => [0, 0, 0],
        })
        .collect();
    Image::new(4, 3, 3, colors.clone()).unwrap().save(root.join("labels/color.png")).unwrap();
    let set = SegmentationFolder::open(root, "all").unwrap();
    let want = [1, 255, 0, 255, 1, 1, 1, 1, 0, 0, 0, 0];
    assert_eq!(set.get(0).unwrap().labels.data(), want);
    assert_eq!(set.get(1).unwrap().labels.data(), want);

    let mut strange = colors;
    strange[3 * 6 + 1] = 51;
    Image::new(4, 3, 3, strange).unwrap().save(root.join("labels/color.png")).unwrap();
    let message = error(root, "all");
    assert!(message.contains("color.png, pixel (2, 1): colour [40, 51, 60]"), "{message}");
    write(&root.join("classes.txt"), "sky\nvoid\nroad\n");
    assert!(error(root, "all").contains("the file of classes has none"));
}

#[test]
fn errors_name_the_file() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    prepared(dir);
    // A value outside the classes.
    mask(&dir.join("labels/a.png"), 3);
    let message = error(dir, "train");
    assert!(message.contains("a.png, pixel (1, 0): value 3") && message.contains("0 to 2"), "{message}");
    // Another size, and one that a quarter turn would explain.
    for (width, height, word) in [(5, 3, "5 x 3 pixels"), (3, 4, "Exif")] {
        let other = Image::filled(width, height, &[0]).unwrap();
        other.save(dir.join("labels/a.png")).unwrap();
        let message = error(dir, "train");
        for word in ["labels/a.png", "images/a.jpg", "4 x 3", word] {
            assert!(message.contains(word), "{message}");
        }
    }
    // Sixteen bits.
    std::fs::write(dir.join("labels/a.png"), b"no picture").unwrap();
    assert!(error(dir, "train").contains("labels/a.png"));
    std::fs::remove_file(dir.join("labels/a.png")).unwrap();
    let message = error(dir, "train");
    assert!(
        message.contains("images/a.jpg: there is no mask") && message.contains("labels/a.png"),
        "{message}"
    );
    // Lists.
    for (list, word) in [
        ("a\nx\n", "line 2: there is no picture \"x\""),
        ("b\nb\n", "listed twice"),
        ("\n", "no pictures"),
        ("../images/b\n", "there is no picture"),
    ] {
        write(&dir.join("splits/train.txt"), list);
        let message = error(dir, "train");
        assert!(message.contains(word) && message.contains("train.txt"), "{message}");
    }
    picture(&dir.join("images/b.jpg"), 9);
    assert!(error(dir, "val").contains("the same name"));
    // Arrangements.
    std::fs::create_dir(dir.join("masks")).unwrap();
    assert!(error(dir, "val").contains("labels and masks"));
    for folder in ["labels", "masks"] {
        std::fs::remove_dir_all(dir.join(folder)).unwrap();
    }
    assert!(error(dir, "val").contains("none of labels, masks, annotations"));
    std::fs::remove_dir_all(dir.join("images")).unwrap();
    assert!(error(dir, "val").contains("trainannot"));
    std::fs::remove_file(dir.join("classes.json")).unwrap();
    assert!(error(dir, "val").contains("classes.csv"));
    assert!(error(&dir.join("nothing"), "val").contains("nothing"));
}

#[test]
fn shared_pictures_are_found_by_name_and_by_content() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    write(&root.join("classes.txt"), "sky\n");
    for (part, id, value) in
        [("train", "1", 1), ("train", "2", 2), ("train", "3", 3), ("val", "1", 7), ("val", "9", 2)]
    {
        picture(&root.join(format!("images/{part}/{id}.png")), value);
        mask(&root.join(format!("labels/{part}/{id}.png")), 0);
    }
    let train = SegmentationFolder::open(root, "train").unwrap();
    let found = &train.contamination()["val"];
    assert_eq!(found.ids, ["1"]);
    let (ours, theirs) = &found.files[0];
    assert_eq!(found.files.len(), 1);
    assert!(ours.ends_with("train/2.png") && theirs.ends_with("val/9.png"));
    assert!(serde_json::to_string(found).unwrap().contains("val/9.png"));
}

#[test]
fn names() {
    let names = segmentation_set_names().unwrap();
    assert!(names.contains(&"context-scenes".to_owned()) && names.contains(&"folder".to_owned()));
    assert!(!names.contains(&"cifar10".to_owned()));
    let message = |spec: &SegmentationSpec, root: Option<&Path>| {
        open_segmentation_set(spec, root).err().unwrap().to_string()
    };
    let root = tempfile::tempdir().unwrap();
    for name in ["nothing", "../x", "cifar10", "."] {
        let message = message(&SegmentationSpec::new(name, "train"), Some(root.path()));
        assert!(message.contains(name) && message.contains("context-scenes, "), "{message}");
    }
    assert!(message(&SegmentationSpec::new("folder", "train"), None).contains("needs a path"));
    assert!(
        message(&SegmentationSpec::new("context-scenes", "trainaug"), None).contains("train, val and test")
    );
    let counted =
        SegmentationSpec { count: Some(3), seed: Some(9), ..SegmentationSpec::new("context-scenes", "val") };
    assert_eq!(open_segmentation_set(&counted, None).unwrap().len(), 3);
    let counted = SegmentationSpec { name: "folder:x".into(), ..counted };
    assert!(message(&counted, None).contains("neither count nor seed"));
    let text = "name = \"context-scenes\"\nsplit = \"train\"\nseed = 4\n";
    let spec: SegmentationSpec = toml::from_str(text).unwrap();
    assert_eq!(toml::to_string(&spec).unwrap(), text);
    assert!(toml::from_str::<SegmentationSpec>("name = \"x\"\nsplit = \"train\"\npart = 1").is_err());
}

#[test]
fn batches_do_not_depend_on_workers() {
    use std::sync::Arc;
    use vision_datasets::transforms::{SegmentationPreset, SegmentedPixels, TrainSizes};
    let set = open_segmentation_set(
        &SegmentationSpec { count: Some(12), ..SegmentationSpec::new("context-scenes", "train") },
        None,
    )
    .unwrap();
    let set: Arc<dyn SegmentationSet> = set.into();
    let sizes = TrainSizes { base: 52, crop: 48, ..TrainSizes::default() };
    let pipeline = Arc::new(SegmentationPreset::V042.train(&sizes).unwrap());
    let run = |workers| -> Vec<(Vec<f32>, Vec<u8>)> {
        let collate = |samples: Vec<SegmentedPixels>| {
            Ok(samples.into_iter().fold((Vec::new(), Vec::new()), |(mut pixels, mut labels), sample| {
                pixels.extend(sample.pixels.data);
                labels.extend(sample.labels.into_data());
                (pixels, labels)
            }))
        };
        let loader = Loader::new(
            Arc::new(set.clone()),
            pipeline.clone(),
            Arc::new(collate),
            Arc::new(RandomSampler::new(12, 5, 0, true).unwrap()),
            LoaderConfig { workers, seed: 3, ..LoaderConfig::default() },
        );
        loader.epoch(2, 0).collect::<Result<_, _>>().unwrap()
    };
    let alone = run(0);
    assert_eq!((alone.len(), alone[0].0.len(), alone[0].1.len()), (2, 5 * 3 * 48 * 48, 5 * 48 * 48));
    assert_eq!(run(3), alone);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A damaged mask or file of classes is an error or another mask, never a panic.
    #[test]
    fn damage_is_no_panic(at in 0usize..10_000, value: u8, which in 0usize..3, cut: bool) {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        picture(&root.join("images/x.png"), 1);
        std::fs::create_dir(root.join("labels")).unwrap();
        let labels = LabelMap::new(4, 3, vec![0, 1, 2, 255, 0, 1, 2, 0, 1, 2, 0, 1]).unwrap();
        std::fs::write(root.join("labels/x.png"), encode_indexed(&labels, &[[3; 3]; 256]).unwrap()).unwrap();
        write(&root.join("classes.json"), r#"{"classes":["a","b","c"],"palette":[[1,2,3],[4,5,6],[7,8,9]]}"#);
        let path = root.join(["labels/x.png", "classes.json", "images/x.png"][which]);
        let mut bytes = std::fs::read(&path).unwrap();
        let at = at % bytes.len();
        if cut {
            bytes.truncate(at);
        } else {
            bytes[at] = value;
        }
        std::fs::write(&path, bytes).unwrap();
        if let Ok(set) = SegmentationFolder::open(root, "all")
            && let Ok(sample) = set.get(0)
        {
            let classes = set.class_names().len();
            prop_assert!(sample.labels.data().iter().all(|&l| l == 255 || usize::from(l) < classes));
        }
    }
}
