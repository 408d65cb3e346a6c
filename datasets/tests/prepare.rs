//! From archives to a folder, without trusting the archives.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use vision_datasets::catalog::{self, CatalogEntry};
use vision_datasets::prepare::{prepare_from, verify_from};
use vision_datasets::{Error, Manifest, PrepareOptions, prepare, verify};

const RECORD: usize = 3074;

fn sha256(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in Sha256::digest(bytes) {
        write!(text, "{byte:02x}").unwrap();
    }
    text
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A header with its path written as it is, which the tar crate's own checks would refuse.
fn header(path: &str, size: u64, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_size(size);
    header.set_mode(0o644);
    header.set_entry_type(kind);
    header.set_cksum();
    header
}

type Entry<'a> = (&'a str, &'a [u8], tar::EntryType);

fn tar_gz(entries: &[Entry]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, data, kind) in entries {
        tar.append(&header(path, data.len() as u64, *kind), *data).unwrap();
    }
    gzip(&tar.into_inner().unwrap())
}

/// A set in the layout of CIFAR-100 with 3 training and 2 test pictures.
fn entry(archive: &[u8]) -> CatalogEntry {
    let text = format!(
        r#"
        [[set]]
        name = "tiny"
        title = "Tiny"
        licence = "none"
        homepage = "https://example.org/tiny"
        counts = {{ train = 3, test = 2 }}
        layout = "cifar100"
        max_bytes = 40000
        max_entries = 10
        archives = [{{ file = "tiny.tar.gz", kind = "tar_gz", digest = "sha256:{}" }}]
        files = [
            {{ path = "train.bin", from = "tiny/train.bin", bytes = {} }},
            {{ path = "test.bin", from = "tiny/test.bin", bytes = {} }},
        ]
        "#,
        sha256(archive),
        3 * RECORD,
        2 * RECORD
    );
    catalog::parse(&text).unwrap().remove(0)
}

struct Place {
    _dir: tempfile::TempDir,
    options: PrepareOptions,
}

impl Place {
    fn new(archive: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let archives = dir.path().join("archives");
        fs::create_dir(&archives).unwrap();
        fs::write(archives.join("tiny.tar.gz"), archive).unwrap();
        let options = PrepareOptions { archives: Some(archives), root: dir.path().join("root") };
        Self { _dir: dir, options }
    }

    fn run(&self, entry: &CatalogEntry) -> vision_datasets::Result<Manifest> {
        prepare_from(entry, &self.options, &mut |_| {})
    }

    fn root(&self) -> &Path {
        &self.options.root
    }

    /// The names under the root, hidden ones too.
    fn left(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.root()) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

const FILE: tar::EntryType = tar::EntryType::Regular;

fn good() -> Vec<u8> {
    let (train, test) = ([7u8; 3 * RECORD], [8u8; 2 * RECORD]);
    tar_gz(&[
        ("./", &[], tar::EntryType::Directory),
        ("tiny/", &[], tar::EntryType::Directory),
        ("tiny/test.bin", &test, FILE),
        ("tiny/train.bin", &train, FILE),
        ("tiny/readme.html", b"hello", FILE),
    ])
}

#[test]
fn prepares_once_and_verifies() {
    let archive = good();
    let entry = entry(&archive);
    let place = Place::new(&archive);
    let mut lines = Vec::new();
    let manifest = prepare_from(&entry, &place.options, &mut |line| lines.push(line.to_owned())).unwrap();
    assert!(lines.iter().any(|line| line.contains("tiny.tar.gz")), "{lines:?}");
    assert_eq!(place.left(), ["tiny"]);
    let folder = place.root().join("tiny");
    let mut names: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["manifest.json", "test.bin", "train.bin"]);
    assert_eq!((manifest.counts["train"], manifest.counts["test"]), (3, 2));
    assert_eq!(manifest.files[1].sha256, sha256(&[7; 3 * RECORD]));
    assert_eq!(Manifest::read(&folder).unwrap().unwrap(), manifest);

    // A second run needs no archives and changes nothing.
    let text = fs::read(folder.join("manifest.json")).unwrap();
    let modified = fs::metadata(folder.join("train.bin")).unwrap().modified().unwrap();
    let without = PrepareOptions { archives: None, root: place.root().to_owned() };
    assert_eq!(prepare_from(&entry, &without, &mut |_| {}).unwrap(), manifest);
    assert_eq!(fs::read(folder.join("manifest.json")).unwrap(), text);
    assert_eq!(fs::metadata(folder.join("train.bin")).unwrap().modified().unwrap(), modified);

    let report = verify_from(&entry, place.root()).unwrap();
    assert!(report.is_ok(), "{report:?}");
    assert_eq!((report.files, report.bytes), (2, 5 * RECORD as u64));

    let mut damaged = vec![7u8; 3 * RECORD];
    damaged[2] ^= 1;
    fs::write(folder.join("train.bin"), damaged).unwrap();
    let report = verify_from(&entry, place.root()).unwrap();
    assert!(report.problems.iter().any(|problem| problem.contains("train.bin: sha256")), "{report:?}");
    fs::write(folder.join("train.bin"), [7; RECORD]).unwrap();
    let report = verify_from(&entry, place.root()).unwrap();
    assert!(report.problems.iter().any(|problem| problem.contains("train: 1 samples")), "{report:?}");
    assert!(matches!(place.run(&entry), Err(Error::Length { .. })));
    fs::remove_file(folder.join("train.bin")).unwrap();
    assert!(!verify_from(&entry, place.root()).unwrap().is_ok());
}

#[test]
fn hostile_archives_leave_nothing() {
    let (train, test) = ([7u8; 3 * RECORD], [8u8; 2 * RECORD]);
    let big = vec![0u8; 50_000];
    let full: [Entry; 2] = [("tiny/train.bin", &train, FILE), ("tiny/test.bin", &test, FILE)];
    let with = |entry| tar_gz(&[full[0], full[1], entry]);
    let many: Vec<String> = (0..11).map(|number| format!("{number}")).collect();
    let many: Vec<Entry> = many.iter().map(|name| (name.as_str(), &b""[..], FILE)).collect();
    let cases = [
        (with(("../evil", b"x", FILE)), "leads out"),
        (with(("tiny/../../evil", b"x", FILE)), "leads out"),
        (with(("/evil", b"x", FILE)), "absolute"),
        (with(("tiny/link", b"", tar::EntryType::Symlink)), "neither a plain file"),
        (with(("tiny/link", b"", tar::EntryType::Link)), "neither a plain file"),
        (with(("tiny/fifo", b"", tar::EntryType::Fifo)), "neither a plain file"),
        (with(("tiny/big", &big, FILE)), "more than 40000 bytes"),
        (with(("tiny/train.bin", &train, FILE)), "train.bin"),
        (tar_gz(&many), "more than 10 entries"),
        (gzip(&[]), "train.bin is not in"),
        (tar_gz(&full[..1]), "test.bin is not in"),
        (tar_gz(&[("tiny/train.bin", &train[1..], FILE), full[1]]), "expected 9222"),
        (good()[..200].to_vec(), "tiny.tar.gz"),
        (b"no archive at all".to_vec(), "tiny.tar.gz"),
    ];
    for (archive, word) in cases {
        let place = Place::new(&archive);
        let message = place.run(&entry(&archive)).unwrap_err().to_string();
        assert!(message.contains(word), "{word}: {message}");
        assert!(place.left().is_empty(), "{word}: {:?}", place.left());
        assert!(!place.root().parent().unwrap().join("evil").exists());
    }
}

#[test]
fn labels_out_of_range_are_found_before_the_set_appears() {
    let archive =
        tar_gz(&[("tiny/train.bin", &[200; 3 * RECORD], FILE), ("tiny/test.bin", &[8; 2 * RECORD], FILE)]);
    let place = Place::new(&archive);
    assert!(matches!(place.run(&entry(&archive)), Err(Error::Format { .. })));
    assert!(place.left().is_empty());
}

#[test]
fn the_wrong_archive_is_refused_before_it_is_opened() {
    let place = Place::new(b"something else");
    let error = place.run(&entry(&good())).unwrap_err();
    assert!(matches!(&error, Error::Digest { algorithm, .. } if algorithm == "sha256"), "{error}");
    assert!(error.to_string().contains("tiny.tar.gz") && place.left().is_empty());
}

#[test]
fn a_missing_archive_is_named_with_its_place() {
    let archive = good();
    let place = Place::new(&archive);
    let archives = place.options.archives.clone().unwrap();
    fs::remove_file(archives.join("tiny.tar.gz")).unwrap();
    let message = place.run(&entry(&archive)).unwrap_err().to_string();
    for word in ["tiny.tar.gz", "https://example.org/tiny", &archives.display().to_string(), "sha256:"] {
        assert!(message.contains(word), "{message}");
    }
    let none = PrepareOptions { archives: None, root: place.root().to_owned() };
    assert!(prepare_from(&entry(&archive), &none, &mut |_| {}).is_err());
    let message = prepare("fashion-mnist", &none, &mut |_| {}).unwrap_err().to_string();
    assert!(message.contains("train-images-idx3-ubyte.gz") && message.contains("t10k-labels"), "{message}");
}

#[test]
fn a_folder_of_others_is_left_alone() {
    let archive = good();
    let place = Place::new(&archive);
    let folder = place.root().join("tiny");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("mine.txt"), "mine").unwrap();
    let message = place.run(&entry(&archive)).unwrap_err().to_string();
    assert!(message.contains("move it away"), "{message}");
    assert_eq!(fs::read_to_string(folder.join("mine.txt")).unwrap(), "mine");
    assert!(verify_from(&entry(&archive), place.root()).is_err());
    fs::write(folder.join("manifest.json"), "{}").unwrap();
    assert!(matches!(place.run(&entry(&archive)), Err(Error::Manifest { .. })));
    let evil = r#"{"format":1,"name":"tiny","counts":{},"archives":{},
        "files":[{"path":"../../x","bytes":1,"sha256":""}]}"#;
    fs::write(folder.join("manifest.json"), evil).unwrap();
    assert!(place.run(&entry(&archive)).unwrap_err().to_string().contains("../../x"));
}

#[test]
fn gzip_files_are_checked_by_content() {
    let dir = tempfile::tempdir().unwrap();
    let images = [&[0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1][..], &[9, 8]].concat();
    let labels = vec![0, 0, 8, 1, 0, 0, 0, 2, 3, 4];
    let mut text = String::from(
        "[[set]]\nname = \"few\"\ntitle = \"\"\nlicence = \"\"\nhomepage = \"\"\nlayout = \"fashion_mnist\"\n\
         counts = { train = 2, test = 2 }\nmax_bytes = 1000\nmax_entries = 4\n",
    );
    let mut tables = String::new();
    for part in ["train", "t10k"] {
        for (kind, bytes) in [("images-idx3-ubyte", &images), ("labels-idx1-ubyte", &labels)] {
            let name = format!("{part}-{kind}");
            fs::write(dir.path().join(format!("{name}.gz")), gzip(bytes)).unwrap();
            let digest = sha256(bytes);
            write!(
                tables,
                "[[set.archives]]\nfile = \"{name}.gz\"\nkind = \"gz\"\ndigest = \"sha256:{digest}\"\n\
                 digest_of = \"content\"\n[[set.files]]\npath = \"{name}\"\nfrom = \"{name}\"\nbytes = {}\n",
                bytes.len()
            )
            .unwrap();
        }
    }
    text += &tables;
    let mut entry = catalog::parse(&text).unwrap().remove(0);
    let options = PrepareOptions { archives: Some(dir.path().to_owned()), root: dir.path().join("root") };
    let manifest = prepare_from(&entry, &options, &mut |_| {}).unwrap();
    assert_eq!((manifest.counts["train"], manifest.files.len()), (2, 4));

    // The same name, other content; and a bomb.
    entry.name = "other".into();
    fs::write(dir.path().join("train-labels-idx1-ubyte.gz"), gzip(&[0, 0, 8, 1, 0, 0, 0, 2, 3, 5])).unwrap();
    let error = prepare_from(&entry, &options, &mut |_| {}).unwrap_err();
    assert!(matches!(&error, Error::Digest { path, .. } if path.ends_with("train-labels-idx1-ubyte.gz")));
    fs::write(dir.path().join("train-labels-idx1-ubyte.gz"), gzip(&vec![0; 1 << 20])).unwrap();
    let message = prepare_from(&entry, &options, &mut |_| {}).unwrap_err().to_string();
    assert!(message.contains("more than the catalogue allows"), "{message}");
    assert!(!options.root.join("other").exists());
}

#[test]
fn sets_in_the_library_need_no_preparation() {
    let options = PrepareOptions { archives: None, root: "root".into() };
    let message = prepare("emoji32", &options, &mut |_| {}).unwrap_err().to_string();
    assert!(message.contains("nothing to prepare"), "{message}");
    assert!(verify("emoji32", Path::new("root")).unwrap_err().to_string().contains("nothing to verify"));
    assert!(matches!(prepare("imagenet", &options, &mut |_| {}), Err(Error::UnknownSet { .. })));
}
