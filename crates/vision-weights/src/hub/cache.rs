//! The folders in which files of a hub are kept. hf-hub names them, as `huggingface_hub` does.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use hf_hub::{CacheRepo, Repo, RepoType};

use crate::{Error, HubFile, Result, atomic_write};

/// The part of the cache that one file is about.
pub(super) struct Cache<'f> {
    folder: PathBuf,
    /// `models--OWNER--NAME`.
    repo_name: String,
    repo: CacheRepo,
    file: &'f HubFile,
}

impl<'f> Cache<'f> {
    pub(super) fn new(folder: PathBuf, file: &'f HubFile) -> Self {
        let repo = Repo::with_revision(file.repo().to_owned(), RepoType::Model, file.revision().to_owned());
        let repo_name = repo.folder_name();
        Self { repo: hf_hub::Cache::new(folder.clone()).repo(repo), folder, repo_name, file }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file, if it is there.
    pub(super) fn find(&self) -> Result<Option<PathBuf>> {
        // A commit needs no reference.
        let commit = self.reference()?.unwrap_or_else(|| self.file.revision().to_owned());
        if !is_plain_name(&commit) {
            return Ok(None);
        }
        let path = self.pointer(&commit);
        // A link whose content was removed is no file.
        Ok(path.is_file().then_some(path))
    }

    /// The commit that the revision was when it was last asked for.
    fn reference(&self) -> Result<Option<String>> {
        let path = self.reference_path();
        match fs::read_to_string(&path) {
            Ok(text) if is_plain_name(text.trim()) => Ok(Some(text.trim().to_owned())),
            Ok(_) => Err(Error::format(&path, Some(0), "a reference that is no commit")),
            // A revision may be the folder of others: `refs` is one of `refs/pr/1`.
            Err(error) if is_absence(&error) || path.is_dir() => Ok(None),
            Err(error) => Err(Error::io(&path, error)),
        }
    }

    fn reference_path(&self) -> PathBuf {
        self.folder.join(&self.repo_name).join("refs").join(self.file.revision())
    }

    fn pointer(&self, commit: &str) -> PathBuf {
        self.repo.pointer_path(commit).join(self.file.file())
    }

    /// Where the content with this etag is or will be.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join(&self.repo_name).join("blobs").join(etag)
    }

    /// Waits until nobody else downloads this content. The lock is the file's; it ends when it is dropped.
    pub(super) fn lock(&self, etag: &str) -> Result<File> {
        let folder = self.folder.join(".locks").join(&self.repo_name);
        create(&folder)?;
        let path = folder.join(format!("{etag}.lock"));
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|source| Error::io(&path, source))?;
        file.lock().map_err(|source| Error::io(&path, source))?;
        Ok(file)
    }

    /// Makes a commit's file a link to the content, and remembers that the revision is this commit.
    pub(super) fn link(&self, commit: &str, blob: &Path) -> Result<PathBuf> {
        let pointer = self.pointer(commit);
        create_parent(&pointer)?;
        if !same(&pointer, blob) {
            // What is there is the link of a content that is gone, or of another one.
            match fs::remove_file(&pointer) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io(&pointer, error));
                }
                _ => {}
            }
            let made = make_link(self.file.file(), blob, &pointer);
            // Another process that was as quick is welcome.
            if let Err(error) = made
                && !same(&pointer, blob)
            {
                return Err(Error::io(&pointer, error));
            }
        }
        if self.file.revision() != commit && self.reference()?.as_deref() != Some(commit) {
            let path = self.reference_path();
            create_parent(&path)?;
            atomic_write(&path, &mut |out| out.write_all(commit.as_bytes()))?;
        }
        Ok(pointer)
    }
}

/// Whether a word of a server's answer can name a file of the cache: letters and digits, as digests and commits
/// are.
pub(super) fn is_plain_name(word: &str) -> bool {
    let sound = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !word.is_empty() && word.len() <= 128 && !word.starts_with('.') && word.chars().all(sound)
}

pub(super) fn create_parent(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), create)
}

fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|source| Error::io(folder, source))
}

/// Whether there is nothing at a path, perhaps because one of its folders is a file.
fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn same(pointer: &Path, blob: &Path) -> bool {
    matches!((fs::canonicalize(pointer), fs::canonicalize(blob)), (Ok(a), Ok(b)) if a == b)
}

/// Links are relative, so that the cache can be moved.
#[cfg(unix)]
fn make_link(file: &str, blob: &Path, pointer: &Path) -> io::Result<()> {
    let name = blob.file_name().unwrap_or_default();
    // Out of the folders of the file, of the commit, and of `snapshots`.
    let up: PathBuf = (0..=file.split('/').count()).map(|_| "..").collect();
    std::os::unix::fs::symlink(up.join("blobs").join(name), pointer)
}

/// Elsewhere links need a privilege, but a second name for the same content does not.
#[cfg(not(unix))]
fn make_link(_: &str, blob: &Path, pointer: &Path) -> io::Result<()> {
    fs::hard_link(blob, pointer).or_else(|_| fs::copy(blob, pointer).map(|_| ()))
}
