//! CIFAR-10 and CIFAR-100 in their binary form.
//!
//! A file is a row of records without a header: the label (CIFAR-100: the coarse, then the fine label),
//! one byte each, and 3072 bytes of a 32x32 picture: all red values row by row, then green, then blue.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::GzDecoder;
use vision_image::Image;

use super::cifar_classes::{CIFAR10_CLASSES, CIFAR100_CLASSES};
use crate::{Dataset, Error, Fingerprint, Labelled, LabelledSet, Result};

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;
const PIXELS: usize = 3 * PLANE;
/// The largest file of either set, 50,000 records of CIFAR-100; what one archive entry may hold.
const MAX_ENTRY: u64 = 50_000 * 3074;

/// Which of the two sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CifarKind {
    /// Ten classes.
    C10,
    /// A hundred classes (the fine labels) in twenty groups (the coarse labels).
    C100,
}

impl CifarKind {
    /// Bytes of one record.
    pub fn record(self) -> usize {
        self.label_bytes() + PIXELS
    }

    fn label_bytes(self) -> usize {
        match self {
            Self::C10 => 1,
            Self::C100 => 2,
        }
    }

    /// `cifar10` or `cifar100`.
    pub fn name(self) -> &'static str {
        match self {
            Self::C10 => "cifar10",
            Self::C100 => "cifar100",
        }
    }

    /// The class names by (fine) label.
    pub fn class_names(self) -> &'static [&'static str] {
        match self {
            Self::C10 => &CIFAR10_CLASSES,
            Self::C100 => &CIFAR100_CLASSES,
        }
    }

    /// The files of the training or the test part, in the order of the samples.
    pub fn files(self, train: bool) -> &'static [&'static str] {
        match (self, train) {
            (Self::C10, true) => &[
                "data_batch_1.bin",
                "data_batch_2.bin",
                "data_batch_3.bin",
                "data_batch_4.bin",
                "data_batch_5.bin",
            ],
            (Self::C10, false) => &["test_batch.bin"],
            (Self::C100, true) => &["train.bin"],
            (Self::C100, false) => &["test.bin"],
        }
    }
}

/// One part of CIFAR-10 or CIFAR-100, in memory (154 MB for a training part).
#[derive(Debug, Clone)]
pub struct Cifar {
    kind: CifarKind,
    pixels: Vec<u8>,
    labels: Vec<i64>,
    coarse: Vec<i64>,
    class_names: Vec<String>,
    fingerprint: Fingerprint,
}

impl Cifar {
    /// Reads the training or the test part from a folder with the binary files in it, or from the
    /// published archive (`.tar` or `.tar.gz`), which is not unpacked.
    ///
    /// # Errors
    /// If a file is missing, its length is no multiple of the record length, or a label is out of range.
    pub fn open_binary(path: impl AsRef<Path>, kind: CifarKind, train: bool) -> Result<Self> {
        let path = path.as_ref();
        let names = kind.files(train);
        let metadata = std::fs::metadata(path).map_err(|source| Error::io(path, source))?;
        let mut parts = Parts { kind, pixels: Vec::new(), labels: Vec::new(), coarse: Vec::new() };
        if metadata.is_dir() {
            for name in names {
                let file = path.join(name);
                let bytes = std::fs::read(&file).map_err(|source| Error::io(&file, source))?;
                parts.add(&bytes, &file)?;
            }
        } else {
            for (name, bytes) in read_archive(path, names)? {
                parts.add(&bytes, &path.join(name))?;
            }
        }
        Ok(parts.finish())
    }

    /// Reads records from memory; `path` is only used in messages.
    ///
    /// # Errors
    /// As [`open_binary`](Self::open_binary).
    pub fn from_bytes(bytes: &[u8], kind: CifarKind, path: &Path) -> Result<Self> {
        let mut parts = Parts { kind, pixels: Vec::new(), labels: Vec::new(), coarse: Vec::new() };
        parts.add(bytes, path)?;
        Ok(parts.finish())
    }

    /// The groups of CIFAR-100 by sample, 0 to 19; empty for CIFAR-10.
    pub fn coarse_labels(&self) -> &[i64] {
        &self.coarse
    }
}

struct Parts {
    kind: CifarKind,
    pixels: Vec<u8>,
    labels: Vec<i64>,
    coarse: Vec<i64>,
}

impl Parts {
    fn add(&mut self, bytes: &[u8], path: &Path) -> Result<()> {
        let record = self.kind.record();
        if bytes.is_empty() || !bytes.len().is_multiple_of(record) {
            return Err(Error::Length {
                path: path.to_owned(),
                expected: format!(
                    "a multiple of {record} (the record length of {}), not 0",
                    self.kind.name()
                ),
                got: bytes.len() as u64,
            });
        }
        let label_bytes = self.kind.label_bytes();
        let limits: &[u8] = match self.kind {
            CifarKind::C10 => &[10],
            CifarKind::C100 => &[20, 100],
        };
        for (at, record_bytes) in bytes.chunks_exact(record).enumerate() {
            let (labels, pixels) = record_bytes.split_at(label_bytes);
            for (which, (&label, &limit)) in labels.iter().zip(limits).enumerate() {
                if label >= limit {
                    return Err(Error::Format {
                        path: path.to_owned(),
                        offset: (at * record + which) as u64,
                        problem: format!("label {label}, must be below {limit}"),
                    });
                }
            }
            if let [coarse, _] = labels {
                self.coarse.push(i64::from(*coarse));
            }
            self.labels.extend(labels.last().map(|&label| i64::from(label)));
            self.pixels.extend_from_slice(pixels);
        }
        Ok(())
    }

    fn finish(self) -> Cifar {
        let fingerprint = Fingerprint::builder(self.kind.name())
            .labels(&self.labels)
            .bytes(&self.pixels)
            .finish(self.labels.len());
        Cifar {
            kind: self.kind,
            pixels: self.pixels,
            labels: self.labels,
            coarse: self.coarse,
            class_names: self.kind.class_names().iter().map(|&name| name.to_owned()).collect(),
            fingerprint,
        }
    }
}

/// The entries of a tar archive whose file names are `names`, in the order of `names`.
fn read_archive(path: &Path, names: &'static [&'static str]) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let io = |source| Error::io(path, source);
    let mut file = BufReader::new(File::open(path).map_err(io)?);
    let gzip = file.fill_buf().map_err(io)?.starts_with(&[0x1f, 0x8b]);
    let source: Box<dyn Read> = if gzip { Box::new(GzDecoder::new(file)) } else { Box::new(file) };
    let mut found: Vec<(&'static str, Vec<u8>)> = Vec::new();
    for entry in tar::Archive::new(source).entries().map_err(io)? {
        let mut entry = entry.map_err(io)?;
        let entry_path: PathBuf = entry.path().map_err(io)?.into_owned();
        let Some(&name) = names.iter().find(|&&name| entry_path.file_name().is_some_and(|file| file == name))
        else {
            continue;
        };
        let refuse = |problem: String| Error::Archive {
            path: path.to_owned(),
            entry: entry_path.display().to_string(),
            problem,
        };
        if !entry.header().entry_type().is_file() {
            return Err(refuse("not a plain file".to_owned()));
        }
        if entry.size() > MAX_ENTRY {
            return Err(refuse(format!("{} bytes, the set has at most {MAX_ENTRY}", entry.size())));
        }
        if found.iter().any(|(other, _)| *other == name) {
            return Err(refuse("the archive has two files of this name".to_owned()));
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(io)?;
        found.push((name, bytes));
    }
    for name in names {
        if !found.iter().any(|(other, _)| other == name) {
            return Err(Error::Archive {
                path: path.to_owned(),
                entry: (*name).to_owned(),
                problem: "not in the archive; the binary version of the set is needed".to_owned(),
            });
        }
    }
    found.sort_by_key(|(name, _)| names.iter().position(|other| other == name));
    Ok(found)
}

impl Dataset for Cifar {
    type Sample = Labelled;

    fn len(&self) -> usize {
        self.labels.len()
    }

    fn get(&self, index: usize) -> Result<Labelled> {
        let planes =
            index.checked_mul(PIXELS).and_then(|from| self.pixels.get(from..from.checked_add(PIXELS)?));
        let (Some(planes), Some(&label)) = (planes, self.labels.get(index)) else {
            return Err(Error::Index { set: self.kind.name().to_owned(), index, len: self.len() });
        };
        let (red, rest) = planes.split_at(PLANE);
        let (green, blue) = rest.split_at(PLANE);
        let mut data = Vec::with_capacity(PIXELS);
        for ((&r, &g), &b) in red.iter().zip(green).zip(blue) {
            data.extend_from_slice(&[r, g, b]);
        }
        let image = Image::new(SIDE as u32, SIDE as u32, 3, data)?;
        Ok(Labelled { image, label, index, name: self.sample_name(index) })
    }

    fn fingerprint(&self) -> Fingerprint {
        self.fingerprint.clone()
    }

    fn sample_name(&self, index: usize) -> String {
        format!("{}#{index}", self.kind.name())
    }
}

impl LabelledSet for Cifar {
    fn labels(&self) -> &[i64] {
        &self.labels
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn name(&self) -> &str {
        self.kind.name()
    }
}
