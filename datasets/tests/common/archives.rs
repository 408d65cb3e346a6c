//! Archives as others publish them, in small.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Cursor, Write as _};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use vision_datasets::catalog::{self, CatalogEntry};
use vision_datasets::prepare::{prepare_from, verify_from};
use vision_datasets::{Manifest, PrepareOptions, Result, VerifyReport};
use vision_image::{Image, LabelMap, decode_labels, encode_jpeg, encode_png};
use zip::write::SimpleFileOptions;

/// Names and contents.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

pub(crate) fn sha256(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in Sha256::digest(bytes) {
        write!(text, "{byte:02x}").unwrap();
    }
    text
}

pub(crate) fn zip(files: &Files) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in files {
        zip.start_file(name.as_str(), SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// The same with a symbolic link.
pub(crate) fn zip_with_link(files: &Files) -> Vec<u8> {
    let plain = Cursor::new(zip(files));
    let mut zip = zip::ZipWriter::new_append(plain).unwrap();
    zip.add_symlink("link", "/etc/passwd", SimpleFileOptions::default()).unwrap();
    zip.finish().unwrap().into_inner()
}

pub(crate) fn tar(files: &Files) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        tar.append(&tar_header(name, bytes.len() as u64, tar::EntryType::Regular), bytes.as_slice()).unwrap();
    }
    tar.into_inner().unwrap()
}

/// A header with its path written as it is, which the tar crate's own checks would refuse.
pub(crate) fn tar_header(path: &str, size: u64, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_size(size);
    header.set_mode(0o644);
    header.set_entry_type(kind);
    header.set_cksum();
    header
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A picture of this size; `shade` makes them differ.
pub(crate) fn jpeg(width: u32, height: u32, shade: u8) -> Vec<u8> {
    encode_jpeg(&Image::filled(width, height, &[shade, 2, 3]).unwrap(), 90).unwrap()
}

/// A grey PNG file.
pub(crate) fn grey(width: u32, height: u32, labels: &[u8]) -> Vec<u8> {
    encode_png(&Image::new(width, height, 1, labels.to_vec()).unwrap()).unwrap()
}

pub(crate) fn fixture(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap()
}

/// The labels that a fixture must become.
pub(crate) fn expected(name: &str) -> BTreeMap<String, LabelMap> {
    let all: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&fixture(name)).unwrap();
    all.into_iter()
        .map(|(id, value)| {
            let size = |key: &str| value[key].as_u64().unwrap() as u32;
            let data =
                value["labels"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u8).collect();
            (id, LabelMap::new(size("width"), size("height"), data).unwrap())
        })
        .collect()
}

/// The digest of a file of a prepared set.
pub(crate) fn digest_of<'a>(manifest: &'a Manifest, path: &str) -> &'a str {
    let file = manifest.files.iter().find(|file| file.path == path);
    file.map_or_else(|| panic!("{path} is not in the manifest"), |file| &file.sha256)
}

/// Archives in a folder, a root, and an entry of the catalogue that fits them.
pub(crate) struct Place {
    dir: tempfile::TempDir,
    pub(crate) entry: CatalogEntry,
    pub(crate) options: PrepareOptions,
}

impl Place {
    /// The set `name` of the catalogue, but with these archives and counts.
    pub(crate) fn new(name: &str, archives: &[(&str, Vec<u8>)], counts: &[(&str, u64)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options =
            PrepareOptions { archives: Some(dir.path().join("archives")), root: dir.path().join("root") };
        let mut place = Self { dir, entry: catalog::find(name).unwrap(), options };
        fs::create_dir(place.archives()).unwrap();
        place.set(name, archives, counts);
        place
    }

    /// Another set, with the same root.
    pub(crate) fn set(&mut self, name: &str, archives: &[(&str, Vec<u8>)], counts: &[(&str, u64)]) {
        self.entry = catalog::find(name).unwrap();
        self.entry.counts = counts.iter().map(|&(part, count)| (part.to_owned(), count)).collect();
        for (file, bytes) in archives {
            fs::write(self.archives().join(file), bytes).unwrap();
            let archive = self.entry.archives.iter_mut().find(|archive| archive.file == *file).unwrap();
            if archive.digest != "unchecked" {
                archive.digest = format!("sha256:{}", sha256(bytes));
            }
        }
    }

    pub(crate) fn archives(&self) -> PathBuf {
        self.dir.path().join("archives")
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.options.root.join(&self.entry.name)
    }

    pub(crate) fn run(&self) -> Result<Manifest> {
        prepare_from(&self.entry, &self.options, &mut |_| {})
    }

    pub(crate) fn verify(&self) -> VerifyReport {
        verify_from(&self.entry, &self.options.root).unwrap()
    }

    /// The error of a run that must leave nothing behind but what was there.
    pub(crate) fn fail(&self) -> String {
        let before = self.left();
        let message = self.run().unwrap_err().to_string();
        assert_eq!(self.left(), before, "{message}");
        message
    }

    /// The names under the root, hidden ones too.
    pub(crate) fn left(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.options.root) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub(crate) fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.folder().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub(crate) fn list(&self, part: &str) -> Vec<String> {
        let text = String::from_utf8(self.read(&format!("splits/{part}.txt"))).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// The labels of a sample: an eight-bit grey picture without a palette.
    pub(crate) fn labels(&self, id: &str) -> LabelMap {
        let bytes = self.read(&format!("labels/{id}.png"));
        // Bit depth and colour type of the header.
        assert_eq!(bytes[24..26], [8, 0], "{id}");
        decode_labels(&bytes).unwrap()
    }

    pub(crate) fn classes(&self) -> serde_json::Value {
        serde_json::from_slice(&self.read("classes.json")).unwrap()
    }
}
