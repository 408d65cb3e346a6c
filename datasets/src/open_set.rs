//! Opens a set by name, for configuration files and command lines.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::formats::idx::FASHION_MNIST_CLASSES;
use crate::formats::{Cifar, CifarKind, IdxDataset, ImageFolder};
use crate::{Error, LabelledSet, Result, Split};

/// Where prepared sets lie.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataRoot {
    /// The folder that holds one folder per prepared set; not needed for sets that travel in the library.
    pub dir: Option<PathBuf>,
}

/// Which set, and which part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetSpec {
    /// One of [`set_names`], or `folder:PATH`.
    pub name: String,
    /// Where the set lies, if not under the data root: for `folder` the folder (required), for
    /// `cifar10`, `cifar100` and `fashion-mnist` a folder with the published files, or for the CIFAR sets
    /// the published binary archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Which part.
    pub split: Split,
}

impl SetSpec {
    /// The part `split` of the set `name`, under the data root.
    pub fn new(name: impl Into<String>, split: Split) -> Self {
        Self { name: name.into(), path: None, split }
    }

    /// The same set, another part.
    #[must_use]
    pub fn with_split(&self, split: Split) -> Self {
        Self { split, ..self.clone() }
    }
}

const NAMES: [&str; 7] =
    ["fashion-mnist-10k", "digits", "emoji32", "cifar10", "cifar100", "fashion-mnist", "folder"];

/// The names that [`open_set`] knows.
pub fn set_names() -> &'static [&'static str] {
    &NAMES
}

/// Opens a set of pictures with one class each.
///
/// | name | what | parts |
/// |---|---|---|
/// | `fashion-mnist-10k` | 28x28 grey, travels in the library (feature `samples`) | 8,000 / 2,000 |
/// | `digits` | handwritten, 8x8 grey, travel in the library (feature `samples`) | 1,437 / 360 |
/// | `emoji32` | the same symbols drawn by two vendors on white, named as in `twitter/1F600`, labelled by category (feature `samples`) | Twitter's 1,911 / Google's 1,911 |
/// | `cifar10`, `cifar100` | under `root/NAME`, or at `spec.path` | 50,000 / 10,000 |
/// | `fashion-mnist` | under `root/NAME`, or at `spec.path` | 60,000 / 10,000 |
/// | `folder` | an [`ImageFolder`] at `spec.path`; `folder:PATH` is short for it | see below |
///
/// `val` is the test part of the sets with two parts. A folder with a `train`, `val` or `test` folder in
/// it is split by them: `train` is read from `train`, `val` from `val` or else `test`, and `test` from
/// `test` or else `val`. Without any of the three, the folder itself is the set, whatever the part.
///
/// # Errors
/// If the name is unknown (the message lists the known ones), the set is not where it should be (the
/// message says where that is), it has no such part, or a file of it cannot be read.
pub fn open_set(spec: &SetSpec, root: Option<&Path>) -> Result<Box<dyn LabelledSet>> {
    let train = spec.split == Split::Train;
    if let Some(path) = spec.name.strip_prefix("folder:") {
        return Ok(Box::new(open_folder(Path::new(path), spec.split)?));
    }
    match spec.name.as_str() {
        "fashion-mnist-10k" => embedded_fashion_mnist(spec.split),
        "digits" => embedded_digits(spec.split),
        "emoji32" => embedded_emoji(spec.split),
        "cifar10" => Ok(Box::new(Cifar::open_binary(place(spec, root)?, CifarKind::C10, train)?)),
        "cifar100" => Ok(Box::new(Cifar::open_binary(place(spec, root)?, CifarKind::C100, train)?)),
        "fashion-mnist" => Ok(Box::new(open_fashion_mnist(&place(spec, root)?, train)?)),
        "folder" => {
            let path = spec.path.as_deref().ok_or_else(|| Error::Set {
                set: "folder".to_owned(),
                problem: "needs a path to a folder with one folder of pictures per class".to_owned(),
            })?;
            Ok(Box::new(open_folder(path, spec.split)?))
        }
        _ => Err(Error::UnknownSet {
            name: spec.name.clone(),
            known: NAMES.iter().map(|&name| name.to_owned()).collect(),
        }),
    }
}

/// The path of a set that lies outside the library.
fn place(spec: &SetSpec, root: Option<&Path>) -> Result<PathBuf> {
    let set = &spec.name;
    let problem = |problem: String| Error::Set { set: set.clone(), problem };
    let path = match (&spec.path, root) {
        (Some(path), _) => path.clone(),
        (None, Some(root)) => root.join(set),
        (None, None) => return Err(problem("needs a data folder that it is prepared in".to_owned())),
    };
    if !path.exists() {
        let shown = path.display();
        return Err(problem(format!(
            "{shown} does not exist; prepare the set (cargo xtask data prepare {set})"
        )));
    }
    Ok(path)
}

/// The four files of Fashion-MNIST in `dir`, each plain or with `.gz`.
pub(crate) fn open_fashion_mnist(dir: &Path, train: bool) -> Result<IdxDataset> {
    let part = if train { "train" } else { "t10k" };
    let find = |rest: &str| {
        let plain = dir.join(format!("{part}-{rest}"));
        let compressed = dir.join(format!("{part}-{rest}.gz"));
        if !plain.exists() && compressed.exists() { compressed } else { plain }
    };
    IdxDataset::open(find("images-idx3-ubyte"), find("labels-idx1-ubyte"))?
        .named("fashion-mnist", &FASHION_MNIST_CLASSES)
}

fn open_folder(path: &Path, split: Split) -> Result<ImageFolder> {
    let has = |name: &str| path.join(name).is_dir();
    let wanted: &[&str] = match split {
        Split::Train => &["train"],
        Split::Val => &["val", "test"],
        Split::Test => &["test", "val"],
    };
    if let Some(name) = wanted.iter().find(|&&name| has(name)) {
        return ImageFolder::open(path.join(name));
    }
    if ["train", "val", "test"].into_iter().any(has) {
        return Err(Error::Set {
            set: format!("folder {}", path.display()),
            problem: format!("has no {} folder", wanted.join(" or ")),
        });
    }
    ImageFolder::open(path)
}

#[cfg(not(feature = "samples"))]
fn not_built_in(set: &str) -> Error {
    Error::Set {
        set: set.to_owned(),
        problem: "travels in the library, but the feature `samples` of vision-datasets is off".to_owned(),
    }
}

#[cfg(feature = "samples")]
fn embedded_fashion_mnist(split: Split) -> Result<Box<dyn LabelledSet>> {
    Ok(Box::new(crate::samples::fashion_mnist(split)?))
}

#[cfg(not(feature = "samples"))]
fn embedded_fashion_mnist(_split: Split) -> Result<Box<dyn LabelledSet>> {
    Err(not_built_in("fashion-mnist-10k"))
}

#[cfg(feature = "samples")]
fn embedded_digits(split: Split) -> Result<Box<dyn LabelledSet>> {
    Ok(Box::new(crate::samples::digits(split)?))
}

#[cfg(not(feature = "samples"))]
fn embedded_digits(_split: Split) -> Result<Box<dyn LabelledSet>> {
    Err(not_built_in("digits"))
}

#[cfg(feature = "samples")]
fn embedded_emoji(split: Split) -> Result<Box<dyn LabelledSet>> {
    let emoji = crate::samples::emoji32()?;
    let classes: std::collections::BTreeSet<&str> =
        emoji.symbols.iter().map(|symbol| symbol.category.as_str()).collect();
    let (mut images, mut labels, mut names) = (Vec::new(), Vec::new(), Vec::new());
    // Another vendor's drawings to ask about than to learn from: no picture can find itself.
    let (vendor, drawings) = match split {
        Split::Train => ("twitter", &emoji.twitter),
        Split::Val | Split::Test => ("google", &emoji.google),
    };
    for (drawing, symbol) in drawings.iter().zip(&emoji.symbols) {
        images.push(drawing.over([255; 3]));
        let label = classes.iter().position(|&class| class == symbol.category);
        labels.push(label.map_or(-1, |label| label as i64));
        names.push(format!("{vendor}/{}", symbol.unified));
    }
    let classes = classes.into_iter().map(str::to_owned).collect();
    let set = crate::MemorySet::new("emoji32", images, labels, classes)?.with_sample_names(names)?;
    Ok(Box::new(set))
}

#[cfg(not(feature = "samples"))]
fn embedded_emoji(_split: Split) -> Result<Box<dyn LabelledSet>> {
    Err(not_built_in("emoji32"))
}
