//! What is known about each data set: where it comes from, its digests, its licence, what it holds.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// One data set of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogEntry {
    /// The name that [`open_set`](crate::open_set) and [`prepare`](crate::prepare()) know it by.
    pub name: String,
    /// What it is, in one line.
    pub title: String,
    /// The licence, as stated by those who publish it.
    pub licence: String,
    /// The page that describes it and where its archives are found.
    pub homepage: String,
    /// The papers of this workspace that use it.
    #[serde(default)]
    pub papers: Vec<String>,
    /// How many classes its labels have, if it has labels.
    #[serde(default)]
    pub classes: Option<usize>,
    /// How many samples each part has once the set is ready. Of sets for segmentation, a part that is
    /// missing here is not checked.
    pub counts: BTreeMap<String, u64>,
    /// Other counts that are right too, where what is published has changed.
    #[serde(default)]
    pub other_counts: Vec<BTreeMap<String, u64>>,
    /// What users of the set should know; goes into its manifest.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Whether it travels inside the library (feature `samples`); then there is nothing to prepare.
    #[serde(default)]
    pub embedded: bool,
    /// Whether it is made from a seed when it is opened; then there is nothing to prepare.
    #[serde(default)]
    pub generated: bool,
    /// How the prepared folder is read; absent for embedded and generated sets.
    #[serde(default)]
    pub layout: Option<Layout>,
    /// Prepared sets that this one is made from.
    #[serde(default)]
    pub needs: Vec<String>,
    /// The files as published.
    #[serde(default)]
    pub archives: Vec<Archive>,
    /// What the prepared folder holds; empty for sets that are converted (see [`Layout::is_segmentation`]).
    #[serde(default)]
    pub files: Vec<PreparedFile>,
    /// An archive that unpacks to more bytes than this is refused.
    #[serde(default)]
    pub max_bytes: u64,
    /// An archive with more entries than this is refused.
    #[serde(default)]
    pub max_entries: u64,
}

/// How a prepared folder is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Layout {
    /// The binary files of CIFAR-10.
    Cifar10,
    /// The binary files of CIFAR-100.
    Cifar100,
    /// The four IDX files of Fashion-MNIST.
    FashionMnist,
    /// Segmentation, made from ADE20K in the form of `SceneParse150`.
    Ade20k,
    /// Segmentation, made from PASCAL VOC 2012.
    Voc2012,
    /// Segmentation, made from PASCAL-Context with 59 classes.
    PascalContext,
    /// Segmentation, made from SBD.
    Sbd,
    /// Segmentation, made from the prepared sets `voc2012` and `sbd`.
    VocAug,
    /// Segmentation, made from COCO 2017 with the classes of VOC.
    CocoVoc21,
    /// Segmentation, made from Cityscapes with 19 classes.
    Cityscapes,
}

impl Layout {
    /// Whether the set is converted to the layout of all segmentation sets: `images`, `labels` (grey PNG,
    /// 255 does not count), `splits` and `classes.json`.
    pub fn is_segmentation(self) -> bool {
        !matches!(self, Self::Cifar10 | Self::Cifar100 | Self::FashionMnist)
    }
}

/// A file as published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Archive {
    /// Its file name.
    pub file: String,
    /// What it is.
    pub kind: ArchiveKind,
    /// The published digest as `algorithm:value`, the algorithm `md5`, `sha1` or `sha256`, the value in
    /// hexadecimal digits; or `unchecked` where none is published, and then the manifest says which file it
    /// was.
    pub digest: String,
    /// The part that it is for, if one can do without; then it may be missing.
    #[serde(default)]
    pub optional_part: Option<String>,
    /// What the digest is of.
    #[serde(default)]
    pub digest_of: DigestOf,
}

/// The form of a published file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ArchiveKind {
    /// A tar archive, compressed with gzip.
    TarGz,
    /// A tar archive without compression.
    Tar,
    /// A zip archive.
    Zip,
    /// A file that is no archive.
    Plain,
    /// One file, compressed with gzip; it unpacks to its name without `.gz`.
    Gz,
}

/// What a digest is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DigestOf {
    /// The file as published.
    #[default]
    File,
    /// What it unpacks to; only for [`ArchiveKind::Gz`].
    Content,
}

/// A file of the prepared folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreparedFile {
    /// Its path in the prepared folder, with `/`.
    pub path: String,
    /// Its path in what the archives unpack to, with `/`.
    pub from: String,
    /// Its length in bytes.
    pub bytes: u64,
}

/// The digest of files for which none is published.
pub(crate) const UNCHECKED: &str = "unchecked";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Catalog {
    set: Vec<CatalogEntry>,
}

/// Every data set this library knows, in the order of the catalogue.
///
/// # Errors
/// If the embedded catalogue cannot be read, which the tests of this crate rule out.
pub fn catalog() -> Result<Vec<CatalogEntry>> {
    parse(include_str!("../catalog.toml"))
}

/// Reads a catalogue of one's own, in the form of this crate's `catalog.toml`.
///
/// # Errors
/// If the text is no TOML of that form, a name occurs twice, or an entry lacks what its kind needs.
pub fn parse(text: &str) -> Result<Vec<CatalogEntry>> {
    let bad = |problem: String| Error::Manifest { what: "catalogue".to_owned(), problem };
    let catalog: Catalog = toml::from_str(text).map_err(|error| bad(error.to_string()))?;
    let mut names = BTreeSet::new();
    for entry in &catalog.set {
        if !names.insert(entry.name.as_str()) {
            return Err(bad(format!("{} occurs twice", entry.name)));
        }
        entry.check().map_err(|problem| bad(format!("{}: {problem}", entry.name)))?;
    }
    Ok(catalog.set)
}

/// The entry called `name`.
///
/// # Errors
/// If there is none; the message lists the names.
pub fn find(name: &str) -> Result<CatalogEntry> {
    let entries = catalog()?;
    match entries.iter().find(|entry| entry.name == name) {
        Some(entry) => Ok(entry.clone()),
        None => Err(Error::UnknownSet {
            name: name.to_owned(),
            known: entries.into_iter().map(|entry| entry.name).collect(),
        }),
    }
}

impl CatalogEntry {
    /// Whether [`open_segmentation_set`](crate::open_segmentation_set) opens it.
    pub fn is_segmentation(&self) -> bool {
        self.generated || self.layout.is_some_and(Layout::is_segmentation)
    }

    fn check(&self) -> std::result::Result<(), String> {
        let plain = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
        if self.name.is_empty() || self.name.starts_with('.') || !self.name.chars().all(plain) {
            return Err("a name is made of letters, digits, - _ and .".to_owned());
        }
        if self.embedded || self.generated {
            return Ok(());
        }
        let Some(layout) = self.layout else {
            return Err("needs layout, or embedded = true, or generated = true".to_owned());
        };
        if (self.archives.is_empty() && self.needs.is_empty())
            || layout.is_segmentation() != self.files.is_empty()
        {
            return Err("needs archives, and files unless it is for segmentation".to_owned());
        }
        if !self.archives.is_empty() && (self.max_bytes == 0 || self.max_entries == 0) {
            return Err("needs max_bytes and max_entries".to_owned());
        }
        for archive in &self.archives {
            match archive.digest.split_once(':') {
                Some(("md5", value)) if value.len() == 32 => {}
                Some(("sha1", value)) if value.len() == 40 => {}
                Some(("sha256", value)) if value.len() == 64 => {}
                None if archive.digest == UNCHECKED && layout.is_segmentation() => {}
                _ => return Err(format!("{}: digest is no md5:…, sha1:… or sha256:…", archive.file)),
            }
            if matches!(archive.kind, ArchiveKind::Tar | ArchiveKind::Zip | ArchiveKind::Plain)
                && !layout.is_segmentation()
            {
                return Err(format!("{}: of this kind only for segmentation", archive.file));
            }
            if archive.kind == ArchiveKind::Gz && layout.is_segmentation() {
                return Err(format!("{}: kind = \"gz\" is not for segmentation", archive.file));
            }
            if archive.digest_of == DigestOf::Content && archive.kind != ArchiveKind::Gz {
                return Err(format!("{}: digest_of = \"content\" is for kind = \"gz\"", archive.file));
            }
        }
        Ok(())
    }
}

impl CatalogEntry {
    /// Whether a prepared set has the right numbers of samples; the error says what differs.
    pub(crate) fn check_counts(&self, found: &BTreeMap<String, u64>) -> std::result::Result<(), String> {
        let segmentation = self.layout.is_some_and(Layout::is_segmentation);
        let optional =
            |part: &String| self.archives.iter().any(|archive| archive.optional_part.as_ref() == Some(part));
        let right = |wanted: &BTreeMap<String, u64>| {
            let present = wanted.iter().all(|(part, count)| match found.get(part) {
                Some(found) => found == count,
                None => optional(part),
            });
            present && (segmentation || found.len() == wanted.len())
        };
        if std::iter::once(&self.counts).chain(&self.other_counts).any(right) {
            return Ok(());
        }
        Err(format!("has {found:?} samples, the catalogue says {:?}", self.counts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_catalogue_is_sound() {
        let entries = catalog().unwrap();
        let names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
        let want = [
            "fashion-mnist-10k",
            "digits",
            "emoji32",
            "photos-cc0",
            "walk-clip",
            "cifar10",
            "cifar100",
            "fashion-mnist",
            "context-scenes",
            "ade20k",
            "voc2012",
            "pascal-context",
            "sbd",
            "voc2012-aug",
            "coco-voc21",
            "cityscapes",
        ];
        assert_eq!(names, want);
        for entry in &entries {
            let total: u64 = entry.files.iter().map(|file| file.bytes).sum();
            assert!(total <= entry.max_bytes);
            assert!(entry.homepage.starts_with("https://") && !entry.licence.is_empty());
        }
        assert_eq!(find("cifar10").unwrap().counts["train"], 50_000);
    }

    #[test]
    fn unknown_names_list_the_known_ones() {
        let message = find("cifar11").unwrap_err().to_string();
        assert!(message.contains("cifar11") && message.contains("cifar100"), "{message}");
    }

    #[test]
    fn unsound_entries_are_refused() {
        let head = "[[set]]\nname = \"x\"\ntitle = \"\"\nlicence = \"\"\nhomepage = \"\"\ncounts = {}\n";
        for (more, word) in [
            ("", "needs layout"),
            ("colour = 1\n", "colour"),
            (
                "embedded = true\n[[set]]\nname = \"x\"\ntitle = \"\"\nlicence = \"\"\nhomepage = \"\"\ncounts = {}\nembedded = true\n",
                "twice",
            ),
        ] {
            let message = parse(&format!("{head}{more}")).unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        }
        assert!(parse(&format!("{head}embedded = true\n").replace("\"x\"", "\"../x\"")).is_err());
    }
}
