//! A folder with one folder of pictures per class.

use std::path::{Path, PathBuf};

use crate::{Dataset, Error, Fingerprint, Labelled, LabelledSet, Result};

/// File name endings that count as pictures, in any case.
pub const EXTENSIONS: [&str; 3] = ["jpg", "jpeg", "png"];

/// Folders within class folders are followed this deep; more is a loop of links.
const MAX_DEPTH: usize = 32;

/// Pictures in class folders, numbered as torchvision's `ImageFolder` does: folders sorted by name, and
/// within a class all files of its folder and the folders below it, sorted by folder, then by name. Names
/// sort by code point. Other files are ignored.
///
/// Opening reads the folders but no picture; each picture is decoded when it is asked for, and pictures
/// may differ in size. The fingerprint covers paths, file sizes and labels, not pixels.
#[derive(Debug, Clone)]
pub struct ImageFolder {
    name: String,
    classes: Vec<String>,
    paths: Vec<PathBuf>,
    labels: Vec<i64>,
    fingerprint: Fingerprint,
}

impl ImageFolder {
    /// Lists the classes and pictures under `root`. The set is named after the folder.
    ///
    /// # Errors
    /// If a folder cannot be read, there is no class folder, or a class folder holds no picture.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let root = root.as_ref();
        let mut folders = Vec::new();
        for path in entries(root)? {
            if is_folder(&path)? {
                folders.push((file_name(&path), path));
            }
        }
        if folders.is_empty() {
            return Err(Error::NoClasses { folder: root.to_owned() });
        }
        folders.sort();
        let name = file_name(root);
        let (mut paths, mut labels) = (Vec::new(), Vec::new());
        let mut builder = Fingerprint::builder(&name);
        for (label, (class, folder)) in folders.iter().enumerate() {
            let pictures = pictures_below(folder)?;
            if pictures.is_empty() {
                return Err(Error::EmptyClass { folder: folder.clone() });
            }
            builder = builder.bytes(class.as_bytes());
            for (path, bytes) in pictures {
                builder = builder.bytes(relative(root, &path).as_bytes()).number(bytes).number(label as u64);
                paths.push(path);
                labels.push(label as i64);
            }
        }
        let fingerprint = builder.finish(paths.len());
        let classes = folders.into_iter().map(|(class, _)| class).collect();
        Ok(Self { name, classes, paths, labels, fingerprint })
    }

    /// The names of the class folders, sorted.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The paths of the pictures, in order.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }
}

/// Every picture in `folder` and below, with its size in bytes, sorted by folder, then by name.
fn pictures_below(folder: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let mut found: Vec<(String, String, PathBuf, u64)> = Vec::new();
    let mut pending = vec![(folder.to_owned(), 0)];
    while let Some((folder, depth)) = pending.pop() {
        if depth > MAX_DEPTH {
            let problem = format!("folders are nested more than {MAX_DEPTH} deep");
            return Err(Error::Set { set: folder.display().to_string(), problem });
        }
        for path in entries(&folder)? {
            let metadata = std::fs::metadata(&path).map_err(|source| Error::io(&path, source))?;
            if metadata.is_dir() {
                pending.push((path, depth + 1));
            } else if is_picture(&path) {
                let sort_by = (folder.to_string_lossy().into_owned(), file_name(&path));
                found.push((sort_by.0, sort_by.1, path, metadata.len()));
            }
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, _, path, bytes)| (path, bytes)).collect())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let io = |source| Error::io(folder, source);
    std::fs::read_dir(folder).map_err(io)?.map(|entry| Ok(entry.map_err(io)?.path())).collect()
}

fn is_folder(path: &Path) -> Result<bool> {
    // Follows links, as torchvision does.
    Ok(std::fs::metadata(path).map_err(|source| Error::io(path, source))?.is_dir())
}

fn is_picture(path: &Path) -> bool {
    path.extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|extension| EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known)))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// The path below `root` with `/` between its parts on every system.
fn relative(root: &Path, path: &Path) -> String {
    let below = path.strip_prefix(root).unwrap_or(path);
    let parts: Vec<_> = below.components().map(|part| part.as_os_str().to_string_lossy()).collect();
    parts.join("/")
}

impl Dataset for ImageFolder {
    type Sample = Labelled;

    fn len(&self) -> usize {
        self.paths.len()
    }

    fn get(&self, index: usize) -> Result<Labelled> {
        let (Some(path), Some(&label)) = (self.paths.get(index), self.labels.get(index)) else {
            return Err(Error::Index { set: self.name.clone(), index, len: self.len() });
        };
        let bytes = std::fs::read(path).map_err(|source| Error::io(path, source))?;
        let image =
            vision_image::decode(&bytes).map_err(|source| Error::Picture { path: path.clone(), source })?;
        Ok(Labelled { image, label, index, name: path.display().to_string() })
    }

    fn fingerprint(&self) -> Fingerprint {
        self.fingerprint.clone()
    }

    fn sample_name(&self, index: usize) -> String {
        match self.paths.get(index) {
            Some(path) => path.display().to_string(),
            None => format!("{}#{index}", self.name),
        }
    }
}

impl LabelledSet for ImageFolder {
    fn labels(&self) -> &[i64] {
        &self.labels
    }

    fn class_names(&self) -> &[String] {
        &self.classes
    }

    fn name(&self) -> &str {
        &self.name
    }
}
