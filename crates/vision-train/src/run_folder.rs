//! The folder of one training run.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Paths inside a run folder:
/// `config.toml run.json log.jsonl metrics.jsonl events.out.tfevents.* report.html checkpoints/ eval/`.
#[derive(Clone, Debug)]
pub struct RunFolder(PathBuf);

impl RunFolder {
    /// The run folder at `path`, which need not exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Makes the folder and its fixed subfolders.
    ///
    /// # Errors
    /// If a folder cannot be made.
    pub fn create(&self) -> Result<()> {
        for folder in [self.checkpoints(), self.eval()] {
            fs::create_dir_all(&folder).map_err(|error| Error::io(folder, error))?;
        }
        Ok(())
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The resolved configuration.
    pub fn config(&self) -> PathBuf {
        self.0.join("config.toml")
    }

    /// Versions, machine, seed and command line of every start.
    pub fn run_json(&self) -> PathBuf {
        self.0.join("run.json")
    }

    /// Log events, one JSON object per line.
    pub fn log(&self) -> PathBuf {
        self.0.join("log.jsonl")
    }

    /// Numbers, one JSON object per line.
    pub fn metrics(&self) -> PathBuf {
        self.0.join("metrics.jsonl")
    }

    /// The page that shows the run.
    pub fn report(&self) -> PathBuf {
        self.0.join("report.html")
    }

    /// The checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.0.join("checkpoints")
    }

    /// The evaluations.
    pub fn eval(&self) -> PathBuf {
        self.0.join("eval")
    }
}

/// Replaces the file at `path` as a whole: a kill at any moment leaves the old or the new contents.
pub(crate) fn replace_file(path: &Path, contents: &[u8]) -> Result<()> {
    Ok(vision_weights::atomic_write(path, &mut |writer: &mut dyn Write| writer.write_all(contents))?)
}

/// The same for a value as indented JSON.
pub(crate) fn replace_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::Format { what: path.display().to_string(), problem: error.to_string() })?;
    text.push('\n');
    replace_file(path, text.as_bytes())
}

pub(crate) fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| Error::io(path, error))
}
