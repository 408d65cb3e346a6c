//! Opens a set by name, for configuration files and command lines.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::context_scenes::NAME as CONTEXT_SCENES;
use super::{ContextScenes, SegmentationFolder, SegmentationSet};
use crate::{Error, Result, catalog};

/// Which set of pictures with a class for every pixel, and which part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentationSpec {
    /// One of [`segmentation_set_names`], or `folder:PATH`.
    pub name: String,
    /// Where the set lies, if not under the data root; for `folder` it is required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Which part, such as `train`, `val`, `trainval`, `trainaug`, `test`.
    pub split: String,
    /// How many samples; only for generated sets, which have a usual number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
    /// Seed of a generated set, 0 unless said otherwise; only for those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

impl SegmentationSpec {
    /// The part `split` of the set `name`, under the data root.
    pub fn new(name: impl Into<String>, split: impl Into<String>) -> Self {
        Self { name: name.into(), path: None, split: split.into(), count: None, seed: None }
    }

    /// The same set, another part.
    #[must_use]
    pub fn with_split(&self, split: impl Into<String>) -> Self {
        Self { split: split.into(), ..self.clone() }
    }
}

/// The names that [`open_segmentation_set`] knows: generated sets, sets of the catalogue, and `folder`.
///
/// # Errors
/// If the embedded catalogue cannot be read, which the tests of this crate rule out.
pub fn segmentation_set_names() -> Result<Vec<String>> {
    let prepared = catalog()?.into_iter().filter(catalog::CatalogEntry::is_segmentation);
    let mut names = vec![CONTEXT_SCENES.to_owned()];
    names.extend(prepared.map(|entry| entry.name).filter(|name| name != CONTEXT_SCENES));
    names.push("folder".to_owned());
    Ok(names)
}

/// Opens a set of pictures with a class for every pixel.
///
/// | name | what | parts |
/// |---|---|---|
/// | `context-scenes` | [`ContextScenes`], made from `spec.seed` | `train` 12,000, `val` 256, `test` 256, or `spec.count` |
/// | a set of the catalogue | prepared in `root/NAME`, or at `spec.path` | the files in its folder `splits` |
/// | `folder` | a [`SegmentationFolder`] at `spec.path`; `folder:PATH` is short for it | what is there |
///
/// A folder in `root` that was arranged like a prepared set opens by its name too.
///
/// ```
/// use vision_datasets::{SegmentationSpec, open_segmentation_set};
///
/// let set = open_segmentation_set(&SegmentationSpec::new("context-scenes", "val"), None)?;
/// assert_eq!((set.len(), set.class_names().len()), (256, 9));
/// println!("{}", set.fingerprint());
/// # Ok::<(), vision_datasets::Error>(())
/// ```
///
/// # Errors
/// If the name is unknown (the message lists the known ones), the set is not where it should be (the message says where
/// that is), it has no such part (the message lists those it has), `count` or `seed` is given for a set that is not
/// generated, or a file of it cannot be read.
pub fn open_segmentation_set(
    spec: &SegmentationSpec,
    root: Option<&Path>,
) -> Result<Box<dyn SegmentationSet>> {
    let SegmentationSpec { name, path, split, count, seed } = spec;
    let problem = |problem: String| Error::Set { set: name.clone(), problem };
    if name == CONTEXT_SCENES {
        if path.is_some() {
            return Err(problem("is generated and lies at no path".to_owned()));
        }
        let count = count.unwrap_or_else(|| ContextScenes::usual_count(split));
        return Ok(Box::new(ContextScenes::new(split, count, seed.unwrap_or(0))?));
    }
    if count.is_some() || seed.is_some() {
        return Err(problem("is not generated and takes neither count nor seed".to_owned()));
    }
    let open = |path: &Path| -> Result<Box<dyn SegmentationSet>> {
        Ok(Box::new(SegmentationFolder::open(path, split)?))
    };
    if let Some(path) = name.strip_prefix("folder:") {
        return open(Path::new(path));
    }
    if name == "folder" {
        let path = path.as_deref();
        return open(
            path.ok_or_else(|| problem("needs a path to a folder of pictures and masks".to_owned()))?,
        );
    }
    let known = segmentation_set_names()?;
    let listed = known.contains(name);
    // Names of folders of one's own are taken too, but none that leads out of the data root.
    let plain = !name.contains(['/', '\\']) && !name.starts_with('.');
    let place = match (path, root) {
        (Some(path), _) => Some(path.clone()),
        (None, Some(root)) if plain => Some(root.join(name)),
        _ => None,
    };
    match place {
        Some(place) if place.is_dir() && (listed || path.is_some() || place.join("splits").is_dir()) => {
            open(&place)
        }
        _ if !listed => Err(Error::UnknownSet { name: name.clone(), known }),
        Some(place) => Err(problem(format!(
            "{} does not exist; prepare the set (cargo xtask data prepare {name})",
            place.display()
        ))),
        None => Err(problem("needs a data folder that it is prepared in".to_owned())),
    }
}
