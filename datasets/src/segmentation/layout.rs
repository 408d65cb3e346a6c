//! How folders of pictures and masks are arranged.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::formats::image_folder::EXTENSIONS;
use crate::{Error, Result};

/// Folders within folders are followed this deep; more is a loop of links.
const MAX_DEPTH: usize = 32;

/// The part of a folder that has no parts.
const ALL: &str = "all";

/// The part whose pictures may lack masks.
const TEST: &str = "test";

/// Names for the folder of masks beside `images`.
const MASKS: [&str; 3] = ["labels", "masks", "annotations"];

/// What the folder of masks adds to the name of the folder of pictures beside it.
const SUFFIXES: [&str; 3] = ["annot", "_labels", "_masks"];

/// One picture and its mask.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    /// Path below the folder of pictures, with `/` and without ending.
    pub(super) id: String,
    pub(super) picture: PathBuf,
    /// Length of the picture's file.
    pub(super) bytes: u64,
    /// The mask and the length of its file.
    pub(super) mask: Option<(PathBuf, u64)>,
}

/// A folder of pictures and the folder of their masks, listed.
struct Folders {
    pictures: PathBuf,
    masks: PathBuf,
}

enum Parts {
    /// One folder of pictures; each part is a file that lists some.
    Listed { folders: Folders, lists: BTreeMap<String, PathBuf> },
    /// Each part has its own folders.
    Apart(BTreeMap<String, Folders>),
}

/// The arrangement found below a folder.
pub(super) struct Layout {
    root: PathBuf,
    parts: Parts,
}

impl Layout {
    /// Looks at the folders below `root`.
    pub(super) fn of(root: &Path) -> Result<Self> {
        let parts =
            if root.join("images").is_dir() { beside_images(root)? } else { beside_each_other(root)? };
        Ok(Self { root: root.to_owned(), parts })
    }

    /// The names of the parts, sorted.
    pub(super) fn names(&self) -> Vec<&str> {
        match &self.parts {
            Parts::Listed { lists, .. } => lists.keys().map(String::as_str).collect(),
            Parts::Apart(folders) => folders.keys().map(String::as_str).collect(),
        }
    }

    /// The pictures of a part: in the order of its list, or sorted by ID.
    pub(super) fn pairs(&self, part: &str) -> Result<Vec<Pair>> {
        let unknown = || Error::Set {
            set: self.root.display().to_string(),
            problem: format!("has no part {part:?}, it has {}", self.names().join(", ")),
        };
        let (folders, list) = match &self.parts {
            Parts::Listed { folders, lists } => (folders, Some(lists.get(part).ok_or_else(unknown)?)),
            Parts::Apart(folders) => (folders.get(part).ok_or_else(unknown)?, None),
        };
        let pictures = files_below(&folders.pictures, &EXTENSIONS)?;
        let masks =
            if folders.masks.is_dir() { files_below(&folders.masks, &["png"])? } else { BTreeMap::new() };
        let chosen: Vec<(&String, &PathBuf)> = match list {
            None => pictures.iter().collect(),
            Some(list) => listed(list, &folders.pictures, &pictures)?,
        };
        if chosen.is_empty() {
            let place = list.unwrap_or(&folders.pictures).display().to_string();
            return Err(Error::Set { set: place, problem: "has no pictures".to_owned() });
        }
        let length = |path: &Path| match std::fs::metadata(path) {
            Ok(metadata) => Ok(metadata.len()),
            Err(source) => Err(Error::io(path, source)),
        };
        let pair = |(id, picture): (&String, &PathBuf)| {
            let mask = match masks.get(id) {
                Some(mask) => Some((mask.clone(), length(mask)?)),
                None if part == TEST => None,
                None => {
                    let mask = folders.masks.join(format!("{id}.png"));
                    return Err(Error::MissingMask { picture: picture.clone(), mask });
                }
            };
            Ok(Pair { id: id.clone(), picture: picture.clone(), bytes: length(picture)?, mask })
        };
        chosen.into_iter().map(pair).collect()
    }
}

/// `images` and a folder of masks; parts are lists in `splits`, folders in both, or there are none.
fn beside_images(root: &Path) -> Result<Parts> {
    let problem = |problem: String| Error::Set { set: root.display().to_string(), problem };
    let found: Vec<&str> = MASKS.into_iter().filter(|name| root.join(name).is_dir()).collect();
    let &[masks] = found.as_slice() else {
        return Err(problem(if found.is_empty() {
            format!("has images, but none of {} beside it", MASKS.join(", "))
        } else {
            format!("has {}, but one folder of masks is expected", found.join(" and "))
        }));
    };
    let folders = Folders { pictures: root.join("images"), masks: root.join(masks) };
    let splits = root.join("splits");
    if splits.is_dir() {
        let lists: BTreeMap<String, PathBuf> = entries(&splits)?
            .into_iter()
            .filter(|path| path.extension().is_some_and(|ending| ending == "txt"))
            .map(|path| (stem(&path), path))
            .collect();
        if lists.is_empty() {
            return Err(problem("has a folder splits without a file such as train.txt".to_owned()));
        }
        return Ok(Parts::Listed { folders, lists });
    }
    if !["train", "val", TEST].iter().any(|part| folders.pictures.join(part).is_dir()) {
        return Ok(Parts::Apart(BTreeMap::from([(ALL.to_owned(), folders)])));
    }
    let parts = entries(&folders.pictures)?.into_iter().filter(|path| path.is_dir()).map(|pictures| {
        let part = file_name(&pictures);
        let masks = folders.masks.join(&part);
        (part, Folders { pictures, masks })
    });
    Ok(Parts::Apart(parts.collect()))
}

/// Pairs such as `train` and `trainannot`.
fn beside_each_other(root: &Path) -> Result<Parts> {
    let mut parts = BTreeMap::new();
    for pictures in entries(root)?.into_iter().filter(|path| path.is_dir()) {
        let part = file_name(&pictures);
        let masks =
            SUFFIXES.iter().map(|suffix| root.join(format!("{part}{suffix}"))).find(|path| path.is_dir());
        if let Some(masks) = masks {
            parts.insert(part, Folders { pictures, masks });
        }
    }
    if parts.is_empty() {
        let problem = format!(
            "is no folder of pictures and masks: there is neither images beside one of {}, nor a folder such as \
             train beside one such as {}",
            MASKS.join(", "),
            SUFFIXES.map(|suffix| format!("train{suffix}")).join(", ")
        );
        return Err(Error::Set { set: root.display().to_string(), problem });
    }
    let test = root.join(TEST);
    if test.is_dir() {
        let masks = root.join(format!("{TEST}{}", SUFFIXES[0]));
        parts.entry(TEST.to_owned()).or_insert(Folders { pictures: test, masks });
    }
    Ok(Parts::Apart(parts))
}

/// The pictures that the file `list` names, in its order.
fn listed<'a>(
    list: &Path,
    folder: &Path,
    pictures: &'a BTreeMap<String, PathBuf>,
) -> Result<Vec<(&'a String, &'a PathBuf)>> {
    let text = std::fs::read_to_string(list).map_err(|source| Error::io(list, source))?;
    let (mut chosen, mut seen) = (Vec::new(), BTreeSet::new());
    for (number, id) in (1..).zip(text.lines().map(str::trim)).filter(|(_, id)| !id.is_empty()) {
        let bad =
            |problem: String| Error::Manifest { what: format!("{}, line {number}", list.display()), problem };
        // Looked up among the files that are there, so a list cannot lead anywhere else.
        let Some(found) = pictures.get_key_value(id) else {
            return Err(bad(format!("there is no picture {id:?} in {}", folder.display())));
        };
        if !seen.insert(id.to_owned()) {
            return Err(bad(format!("{id:?} is listed twice")));
        }
        chosen.push(found);
    }
    Ok(chosen)
}

/// The files in `folder` and below with one of the `endings`, by their path below it without ending.
fn files_below(folder: &Path, endings: &[&str]) -> Result<BTreeMap<String, PathBuf>> {
    let mut found: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut pending = vec![(folder.to_owned(), String::new(), 0)];
    while let Some((folder, prefix, depth)) = pending.pop() {
        if depth > MAX_DEPTH {
            let problem = format!("folders are nested more than {MAX_DEPTH} deep");
            return Err(Error::Set { set: folder.display().to_string(), problem });
        }
        for path in entries(&folder)? {
            let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
            // An ending saves asking the system, which takes long in large folders.
            if endings.iter().any(|known| ending.eq_ignore_ascii_case(known)) {
                let id = format!("{prefix}{}", stem(&path));
                if let Some(other) = found.insert(id, path.clone()) {
                    let problem = format!("{} has the same name but for its ending", other.display());
                    return Err(Error::Set { set: path.display().to_string(), problem });
                }
            } else if path.is_dir() {
                let prefix = format!("{prefix}{}/", file_name(&path));
                pending.push((path, prefix, depth + 1));
            }
        }
    }
    Ok(found)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let io = |source| Error::io(folder, source);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .map_err(io)?
        .map(|entry| Ok(entry.map_err(io)?.path()))
        .collect::<Result<_>>()?;
    // The system's order is none.
    paths.sort();
    Ok(paths)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
