//! Folders of pictures, and the ways to open a set by name.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;

use vision_datasets::formats::ImageFolder;
use vision_datasets::{Dataset, Error, LabelledSet, SetSpec, Split, open_set, set_names};
use vision_image::Image;

fn picture(path: &Path, width: u32, value: u8) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let image = Image::filled(width, 2, &[value, value, value]).unwrap();
    let png = vision_image::encode_png(&image).unwrap();
    fs::write(path, png).unwrap();
}

#[test]
fn classes_then_files_are_sorted() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for (path, value) in
        [("dog/b.png", 1), ("dog/A.PNG", 2), ("cat/z.png", 3), ("cat/sub/a.png", 4), ("Zebra/10.png", 5)]
    {
        picture(&root.join(path), u32::from(value), value);
    }
    fs::write(root.join("cat/notes.txt"), "not a picture").unwrap();
    fs::write(root.join("stray.png"), "not in a class").unwrap();
    let set = ImageFolder::open(root).unwrap();
    assert_eq!(set.classes(), ["Zebra", "cat", "dog"]);
    assert_eq!(set.labels(), [0, 1, 1, 2, 2]);
    let names: Vec<String> = set
        .paths()
        .iter()
        .map(|path| path.strip_prefix(root).unwrap().display().to_string().replace('\\', "/"))
        .collect();
    assert_eq!(names, ["Zebra/10.png", "cat/z.png", "cat/sub/a.png", "dog/A.PNG", "dog/b.png"]);
    let sample = set.get(2).unwrap();
    assert_eq!((sample.image.width(), sample.image.pixel(0, 0)), (4, Some(&[4, 4, 4][..])));
    assert_eq!((sample.label, sample.index), (1, 2));
    assert!(sample.name.ends_with("a.png") && set.sample_name(2) == sample.name);
    assert!(set.get(5).is_err());

    let before = set.fingerprint();
    assert_eq!(ImageFolder::open(root).unwrap().fingerprint(), before);
    fs::rename(root.join("dog/b.png"), root.join("dog/c.png")).unwrap();
    assert_ne!(ImageFolder::open(root).unwrap().fingerprint(), before);
}

#[test]
fn says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    assert!(matches!(ImageFolder::open(root), Err(Error::NoClasses { .. })));
    assert!(matches!(ImageFolder::open(root.join("missing")), Err(Error::Io { .. })));
    fs::create_dir(root.join("empty")).unwrap();
    let error = ImageFolder::open(root).unwrap_err();
    assert!(matches!(&error, Error::EmptyClass { folder } if folder.ends_with("empty")), "{error}");
    fs::write(root.join("empty/broken.jpg"), b"\xff\xd8 and no more").unwrap();
    let set = ImageFolder::open(root).unwrap();
    let error = set.get(0).unwrap_err();
    assert!(matches!(&error, Error::Picture { .. }) && error.to_string().contains("broken.jpg"), "{error}");
    fs::remove_file(root.join("empty/broken.jpg")).unwrap();
    assert!(set.get(0).unwrap_err().to_string().contains("broken.jpg"));
}

#[test]
fn folders_are_split_by_their_folders() {
    let dir = tempfile::tempdir().unwrap();
    let open = |root: &Path, split| {
        let spec = SetSpec { name: "folder".into(), path: Some(root.to_owned()), split };
        open_set(&spec, None).map(|set| set.get(0).unwrap().image.data()[0])
    };
    let plain = dir.path().join("plain");
    picture(&plain.join("a/1.png"), 1, 1);
    for split in [Split::Train, Split::Val, Split::Test] {
        assert_eq!(open(&plain, split).unwrap(), 1);
        let spec = SetSpec::new(format!("folder:{}", plain.display()), split);
        assert_eq!(open_set(&spec, None).unwrap().len(), 1);
    }
    let two = dir.path().join("two");
    picture(&two.join("train/a/1.png"), 1, 2);
    assert!(open(&two, Split::Test).unwrap_err().to_string().contains("test or val"));
    picture(&two.join("val/a/1.png"), 1, 3);
    assert_eq!(open(&two, Split::Train).unwrap(), 2);
    assert_eq!((open(&two, Split::Val).unwrap(), open(&two, Split::Test).unwrap()), (3, 3));
    picture(&two.join("test/a/1.png"), 1, 4);
    assert_eq!((open(&two, Split::Val).unwrap(), open(&two, Split::Test).unwrap()), (3, 4));
}

#[test]
fn names_are_checked() {
    let refused = |spec: &SetSpec, root: Option<&Path>| match open_set(spec, root) {
        Ok(set) => set.name().to_owned(),
        Err(error) => error.to_string(),
    };
    let message = refused(&SetSpec::new("imagenet", Split::Train), None);
    for name in set_names() {
        assert!(message.contains(name), "{message}");
    }
    assert!(refused(&SetSpec::new("cifar10", Split::Train), None).contains("data folder"));
    let message = refused(&SetSpec::new("cifar10", Split::Train), Some(Path::new("no-such-root")));
    assert!(message.contains("no-such-root") && message.contains("prepare"), "{message}");
    assert!(refused(&SetSpec::new("folder", Split::Train), None).contains("path"));
    let spec: SetSpec = toml::from_str("name = \"cifar10\"\nsplit = \"test\"").unwrap();
    assert_eq!(spec, SetSpec::new("cifar10", Split::Train).with_split(Split::Test));
}

#[test]
fn published_files_open_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::create_dir_all(root.join("cifar100")).unwrap();
    fs::write(root.join("cifar100/test.bin"), vec![0; 3074 * 2]).unwrap();
    let set = open_set(&SetSpec::new("cifar100", Split::Val), Some(root)).unwrap();
    assert_eq!((set.len(), set.name()), (2, "cifar100"));
    fs::create_dir_all(root.join("fashion-mnist")).unwrap();
    let images = [&[0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1][..], &[9]].concat();
    fs::write(root.join("fashion-mnist/t10k-images-idx3-ubyte"), images).unwrap();
    fs::write(root.join("fashion-mnist/t10k-labels-idx1-ubyte"), [0, 0, 8, 1, 0, 0, 0, 1, 7]).unwrap();
    let set = open_set(&SetSpec::new("fashion-mnist", Split::Test), Some(root)).unwrap();
    assert_eq!((set.labels(), set.class_names()[7].as_str()), (&[7][..], "Sneaker"));
    assert!(open_set(&SetSpec::new("fashion-mnist", Split::Train), Some(root)).is_err());
}
