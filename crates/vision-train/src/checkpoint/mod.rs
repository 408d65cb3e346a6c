//! Checkpoints: folders that are complete or absent, and pointers that always lead to one.
//!
//! A checkpoint is a folder `step-N` with `model.safetensors` (parameters and buffers),
//! `optim.safetensors` (momentum), `state.safetensors` (what the recipe keeps besides) and `trainer.json`.
//! It is written under a temporary name, every file synced to disk, then renamed. Only after that is the
//! small file `last`, which names the newest checkpoint, replaced by renaming another over it. `best` works
//! the same way. Pointers are files and not links so that they behave alike on every system. A kill at any
//! moment therefore leaves `last` naming a complete checkpoint, the new one or the one before; older
//! checkpoints are removed only afterwards, and are renamed before their files go.

mod store;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vision_weights::StateDict;

use crate::error::{Error, Result};
use crate::run_folder::read_text;

pub use store::Store;

/// Version of the layout; readers refuse others.
pub const FORMAT: u32 = 1;

const MODEL: &str = "model.safetensors";
const OPTIM: &str = "optim.safetensors";
const STATE: &str = "state.safetensors";
const TRAINER: &str = "trainer.json";

/// Where training stood when a checkpoint was written, and what it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Layout version.
    pub format: u32,
    /// [`Recipe::NAME`](crate::Recipe::NAME).
    pub recipe: String,
    /// Optimiser steps done.
    pub step: u64,
    /// Epoch of the next batch, from 0.
    pub epoch: u64,
    /// Next batch within that epoch, from 0.
    pub batch: u64,
    /// Samples seen.
    pub samples: u64,
    /// Batches left out in a row because they were not finite.
    pub skipped_in_a_row: u32,
    /// Seed of the run.
    pub seed: u64,
    /// How many ranks trained together.
    #[serde(default = "one")]
    pub ranks: usize,
    /// Identity of the training data.
    pub fingerprint: String,
    /// The resolved configuration.
    pub config: String,
    /// Versions of the program that wrote it.
    pub versions: BTreeMap<String, String>,
    /// Sums not logged yet: the bits of the sum, so that it comes back exactly, and the number of terms.
    pub window: BTreeMap<String, (u64, u64)>,
}

/// What files say nothing about that are older than several ranks.
fn one() -> usize {
    1
}

/// Everything needed to go on as if nothing had happened.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Parameters and buffers.
    pub model: StateDict,
    /// Optimiser state; names begin with `phaseN.`.
    pub optim: StateDict,
    /// [`Recipe::state`](crate::Recipe::state).
    pub state: StateDict,
    /// Position and identity.
    pub trainer: TrainerState,
}

impl Checkpoint {
    /// Reads the checkpoint in `folder`.
    ///
    /// # Errors
    /// If a file is missing or broken, or the layout is of another version.
    pub fn read(folder: &Path) -> Result<Self> {
        let read =
            |name: &str| -> Result<StateDict> { Ok(vision_weights::open(folder.join(name))?.state_dict()?) };
        let trainer = read_trainer(folder)?;
        Ok(Self { model: read(MODEL)?, optim: read(OPTIM)?, state: read(STATE)?, trainer })
    }
}

/// Reads only `trainer.json` of the checkpoint in `folder`.
///
/// # Errors
/// If it is missing, broken or of another version.
pub fn read_trainer(folder: &Path) -> Result<TrainerState> {
    let path = folder.join(TRAINER);
    let problem = |problem: String| Error::Checkpoint { path: path.clone(), problem };
    let state: TrainerState =
        serde_json::from_str(&read_text(&path)?).map_err(|error| problem(error.to_string()))?;
    if state.format != FORMAT {
        return Err(problem(format!("layout version {}; this program reads {FORMAT}", state.format)));
    }
    Ok(state)
}

/// The weight file behind `path`, which may be a run folder, a `checkpoints` folder, a pointer, a
/// checkpoint, or a weight file. Run folders give `best` if there is one, else `last`.
///
/// # Errors
/// If nothing of the kind is there.
pub fn weight_file(path: &Path) -> Result<PathBuf> {
    if path.is_dir() || is_pointer(path) {
        let folder = find(path)?;
        return Ok(folder.join(MODEL));
    }
    if path.is_file() {
        return Ok(path.to_owned());
    }
    Err(Error::Usage(format!("{}: no such file or folder", path.display())))
}

/// The checkpoint folder behind `path`, which may be a run folder, a `checkpoints` folder, a pointer or a
/// checkpoint. Run folders give `best` if there is one, else `last`.
///
/// # Errors
/// If there is none.
pub fn find(path: &Path) -> Result<PathBuf> {
    if is_pointer(path) {
        let parent = path.parent().unwrap_or(Path::new(""));
        return Ok(parent.join(read_pointer(path)?.folder));
    }
    if path.join(TRAINER).is_file() {
        return Ok(path.to_owned());
    }
    for folder in [path.join("checkpoints"), path.to_owned()] {
        for name in ["best", "last"] {
            let pointer = folder.join(name);
            if is_pointer(&pointer) {
                return Ok(folder.join(read_pointer(&pointer)?.folder));
            }
        }
    }
    Err(Error::Usage(format!("{}: holds no checkpoint", path.display())))
}

fn is_pointer(path: &Path) -> bool {
    let named = path.file_name().is_some_and(|name| name == "last" || name == "best");
    named && path.is_file()
}

/// Contents of the files `last` and `best`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pointer {
    /// Name of the checkpoint folder beside it.
    pub folder: String,
    /// For `best`: the metric that chose it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// For `best`: its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
}

fn read_pointer(path: &Path) -> Result<Pointer> {
    let pointer: Pointer = serde_json::from_str(&read_text(path)?)
        .map_err(|error| Error::Checkpoint { path: path.to_owned(), problem: error.to_string() })?;
    // The name is joined to a folder; a path would lead out of it.
    if Path::new(&pointer.folder).components().count() != 1 || pointer.folder.starts_with('.') {
        return Err(Error::Checkpoint {
            path: path.to_owned(),
            problem: format!("`{}` is not the name of a checkpoint", pointer.folder),
        });
    }
    Ok(pointer)
}
