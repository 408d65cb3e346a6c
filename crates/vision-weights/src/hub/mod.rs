//! Weight files of a Hugging Face hub (feature `hub`).
//!
//! Files are kept as Python's `huggingface_hub` and other programs keep them, and one cache serves them all:
//!
//! ```text
//! models--OWNER--NAME/blobs/ETAG              the content, named by its digest
//! models--OWNER--NAME/snapshots/COMMIT/FILE   a link to it
//! models--OWNER--NAME/refs/REVISION           the commit that a branch or tag was
//! .locks/models--OWNER--NAME/ETAG.lock        held by who downloads it
//! ```
//!
//! ```no_run
//! use vision_weights::hub::{self, HubOptions};
//! use vision_weights::open;
//!
//! let path = hub::fetch("timm/resnet50.a1_in1k", "model.safetensors", "main", &HubOptions::default())?;
//! let file = open(path)?;
//! // The same, from text that may also be a path.
//! let path = hub::resolve("hf:timm/resnet50.a1_in1k/model.safetensors", &HubOptions::default())?;
//! # Ok::<(), vision_weights::Error>(())
//! ```

mod answer;
mod cache;
mod client;
mod options;
mod transfer;

use std::path::PathBuf;

use crate::{Error, HubFile, Result, Source};
use cache::Cache;
use client::Client;
pub use options::{HubOptions, OnProgress, Progress};

/// The path of a file of a hub in the cache, after downloading it if it is not there.
///
/// A file that is there is returned without asking the hub: a branch that has moved on is not noticed. Name a
/// commit where that matters. An interrupted download is continued, by the next call if this one fails. Processes
/// that want the same file wait for each other.
///
/// The length is always checked, the SHA-256 when the hub states it, as it does for all large files. Small files
/// that are kept in git itself have none.
///
/// # Errors
/// [`Error::Address`] for an impossible repository, file or revision, [`Error::NotCached`] when `offline` forbids
/// to ask, [`Error::Status`] when the hub refuses, [`Error::Connection`] when it cannot be reached or falls silent,
/// [`Error::Incomplete`] when it ends too early, [`Error::Answer`] when it says what a hub does not say,
/// [`Error::Digest`] when the content is not what it should be, [`Error::Io`] when the cache cannot be written.
pub fn fetch(repo: &str, file: &str, revision: &str, options: &HubOptions) -> Result<PathBuf> {
    fetch_file(&HubFile::new(repo, file, revision)?, options)
}

/// The path of a weight file: `address` itself, or what [`fetch`] returns when it is `hf:OWNER/NAME/FILE` or
/// `hf:OWNER/NAME/FILE@REVISION`.
///
/// # Errors
/// Those of [`fetch`]; none for a path, which may or may not exist.
pub fn resolve(address: &str, options: &HubOptions) -> Result<PathBuf> {
    match address.parse()? {
        Source::Path(path) => Ok(path),
        Source::Hub(file) => fetch_file(&file, options),
    }
}

fn fetch_file(file: &HubFile, options: &HubOptions) -> Result<PathBuf> {
    let folder = options.cache_folder()?;
    let cache = Cache::new(folder, file);
    if let Some(path) = cache.find()? {
        return Ok(path);
    }
    if options.offline {
        return Err(Error::NotCached { file: file.to_string(), cache: cache.folder().to_path_buf() });
    }
    let client = Client::new(options);
    let facts = client.ask(file)?;
    let lock = cache.lock(&facts.etag)?;
    let blob = cache.blob(&facts.etag);
    if !blob.is_file() {
        transfer::download(&client, &facts, file, &blob)?;
    }
    let path = cache.link(&facts.commit, &blob)?;
    drop(lock);
    Ok(path)
}
