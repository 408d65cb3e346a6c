//! What a caller may choose.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::{Error, Result};

/// How to reach a hub and where to keep its files. No environment variable is read, but for those of a proxy
/// (`https_proxy` and its kin).
#[derive(Clone)]
pub struct HubOptions {
    /// The folder of the cache; `None` is where Python's `huggingface_hub` has it without settings,
    /// `.cache/huggingface/hub` in the home folder.
    pub cache_dir: Option<PathBuf>,
    /// The address of the hub.
    pub endpoint: String,
    /// Ask nobody: what is not in the cache is an error.
    pub offline: bool,
    /// Sent to the hub, and to nobody it points to, for repositories that are not public.
    pub token: Option<String>,
    /// How often a request is tried again that failed for a reason that may pass. What arrives in between, a MiB at
    /// least, starts the count anew.
    pub retries: u32,
    /// How long the hub may be silent.
    pub timeout: Duration,
    /// Called as the content arrives; the last call has `done == total`.
    pub progress: Option<OnProgress>,
}

/// Somebody who watches a download.
pub type OnProgress = Arc<dyn Fn(Progress<'_>) + Send + Sync>;

/// How far a download is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The file's path in its repository.
    pub file: &'a str,
    /// Bytes that are here, those of an earlier call included.
    pub done: u64,
    /// Bytes that the file has.
    pub total: u64,
}

impl Default for HubOptions {
    fn default() -> Self {
        Self {
            cache_dir: None,
            endpoint: "https://huggingface.co".to_owned(),
            offline: false,
            token: None,
            retries: 4,
            timeout: Duration::from_secs(30),
            progress: None,
        }
    }
}

impl HubOptions {
    pub(super) fn cache_folder(&self) -> Result<PathBuf> {
        if let Some(folder) = &self.cache_dir {
            return Ok(folder.clone());
        }
        let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
        home.map(|home| home.join(".cache/huggingface/hub")).ok_or(Error::NoHome)
    }
}

impl fmt::Debug for HubOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubOptions")
            .field("cache_dir", &self.cache_dir)
            .field("endpoint", &self.endpoint)
            .field("offline", &self.offline)
            // Logs are no place for it.
            .field("token", &self.token.as_ref().map(|_| "(hidden)"))
            .field("retries", &self.retries)
            .field("timeout", &self.timeout)
            .field("progress", &self.progress.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_not_printed() {
        let options = HubOptions { token: Some("hf_secret".to_owned()), ..HubOptions::default() };
        let text = format!("{options:?}");
        assert!(!text.contains("secret") && text.contains("token: Some"), "{text}");
    }
}
