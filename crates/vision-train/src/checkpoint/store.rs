//! The folder in which a run keeps its checkpoints.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use vision_weights::StateDict;

use super::{Checkpoint, MODEL, OPTIM, Pointer, STATE, TRAINER, read_pointer, read_trainer};
use crate::error::{Error, Result};
use crate::run_folder::replace_json;

type SaveDict = Box<dyn Fn(&StateDict, &Path) -> Result<()> + Send>;

/// The `checkpoints` folder of a run.
pub struct Store {
    folder: PathBuf,
    save_dict: SaveDict,
}

impl Store {
    /// The store in `folder`, which must exist. Leftovers of killed processes are removed.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self> {
        let store = Self { folder: folder.into(), save_dict: Box::new(|dict, path| Ok(dict.save(path)?)) };
        for name in store.names()? {
            if name.starts_with(".tmp-") || name.starts_with(".old-") {
                let path = store.folder.join(name);
                fs::remove_dir_all(&path).map_err(|error| Error::io(path, error))?;
            }
        }
        Ok(store)
    }

    /// Replaces the function that writes weight files, to try out what happens when it fails.
    #[cfg(test)]
    fn with_writer(mut self, save_dict: SaveDict) -> Self {
        self.save_dict = save_dict;
        self
    }

    /// The newest checkpoint, if there is one.
    ///
    /// # Errors
    /// If the pointer cannot be read.
    pub fn last(&self) -> Result<Option<PathBuf>> {
        Ok(self.pointer("last")?.map(|pointer| self.folder.join(pointer.folder)))
    }

    /// The pointer to the best checkpoint, if there is one.
    ///
    /// # Errors
    /// If the pointer cannot be read.
    pub fn best(&self) -> Result<Option<Pointer>> {
        self.pointer("best")
    }

    fn pointer(&self, name: &str) -> Result<Option<Pointer>> {
        let path = self.folder.join(name);
        if path.exists() { read_pointer(&path).map(Some) } else { Ok(None) }
    }

    /// Writes a checkpoint and makes it `last`. A checkpoint of the same step and state that is already
    /// there is kept instead.
    ///
    /// # Errors
    /// If something cannot be written; then the checkpoints that were there are untouched and `last` is what
    /// it was.
    pub fn save(&self, checkpoint: &Checkpoint) -> Result<PathBuf> {
        let step = checkpoint.trainer.step;
        let mut name = format!("step-{step}");
        let mut copy = 0;
        while self.folder.join(&name).exists() {
            if read_trainer(&self.folder.join(&name)).is_ok_and(|found| found == checkpoint.trainer) {
                self.point("last", &Pointer { folder: name.clone(), metric: None, value: None })?;
                return Ok(self.folder.join(name));
            }
            copy += 1;
            name = format!("step-{step}.{copy}");
        }
        let path = self.write(checkpoint, &name)?;
        self.point("last", &Pointer { folder: name, metric: None, value: None })?;
        Ok(path)
    }

    /// Writes a checkpoint for inspection that no pointer names.
    ///
    /// # Errors
    /// If something cannot be written.
    pub fn save_aside(&self, checkpoint: &Checkpoint, prefix: &str) -> Result<PathBuf> {
        let mut name = format!("{prefix}-step-{}", checkpoint.trainer.step);
        let mut copy = 0;
        while self.folder.join(&name).exists() {
            copy += 1;
            name = format!("{prefix}-step-{}.{copy}", checkpoint.trainer.step);
        }
        self.write(checkpoint, &name)
    }

    fn write(&self, checkpoint: &Checkpoint, name: &str) -> Result<PathBuf> {
        let target = self.folder.join(name);
        let failed = |source: Error| Error::Checkpoint { path: target.clone(), problem: source.to_string() };
        let failed_io = |source: std::io::Error| failed(Error::io(&target, source));
        let temporary = tempfile::Builder::new()
            .prefix(&format!(".tmp-{name}-"))
            .tempdir_in(&self.folder)
            .map_err(failed_io)?;
        for (file, dict) in
            [(MODEL, &checkpoint.model), (OPTIM, &checkpoint.optim), (STATE, &checkpoint.state)]
        {
            (self.save_dict)(dict, &temporary.path().join(file)).map_err(failed)?;
        }
        replace_json(&temporary.path().join(TRAINER), &checkpoint.trainer).map_err(failed)?;
        sync_folder(temporary.path()).map_err(failed_io)?;
        open_to_readers(temporary.path()).map_err(failed_io)?;
        fs::rename(temporary.path(), &target).map_err(failed_io)?;
        // The folder has its final name; there is nothing left to remove.
        let _ = temporary.keep();
        sync_folder(&self.folder).map_err(failed_io)?;
        Ok(target)
    }

    /// Makes the checkpoint `folder` the best one.
    ///
    /// # Errors
    /// If the pointer cannot be written.
    pub fn mark_best(&self, folder: &Path, metric: &str, value: f64) -> Result<()> {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.point("best", &Pointer { folder: name, metric: Some(metric.to_owned()), value: Some(value) })
    }

    fn point(&self, name: &str, pointer: &Pointer) -> Result<()> {
        let path = self.folder.join(name);
        replace_json(&path, pointer).map_err(|error| Error::Checkpoint { path, problem: error.to_string() })
    }

    /// Removes all but the newest `keep` checkpoints; those `last` and `best` name always stay.
    ///
    /// # Errors
    /// If a folder cannot be removed.
    pub fn prune(&self, keep: usize) -> Result<()> {
        let mut steps: Vec<((u64, u64), String)> =
            self.names()?.into_iter().filter_map(|name| Some((parse_name(&name)?, name))).collect();
        steps.sort();
        let mut kept: BTreeSet<String> =
            steps.iter().rev().take(keep).map(|(_, name)| name.clone()).collect();
        for pointer in ["last", "best"] {
            kept.extend(self.pointer(pointer)?.map(|pointer| pointer.folder));
        }
        for (_, name) in steps.into_iter().filter(|(_, name)| !kept.contains(name)) {
            // Half removed, it must not look like a checkpoint.
            let (path, old) = (self.folder.join(&name), self.folder.join(format!(".old-{name}")));
            fs::rename(&path, &old).map_err(|error| Error::io(&path, error))?;
            fs::remove_dir_all(&old).map_err(|error| Error::io(&old, error))?;
        }
        Ok(())
    }

    fn names(&self) -> Result<Vec<String>> {
        let failed = |error| Error::io(&self.folder, error);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }
}

/// `step-12` is (12, 0), `step-12.1` is (12, 1), others are nothing.
fn parse_name(name: &str) -> Option<(u64, u64)> {
    let rest = name.strip_prefix("step-")?;
    match rest.split_once('.') {
        Some((step, copy)) => Some((step.parse().ok()?, copy.parse().ok()?)),
        None => Some((rest.parse().ok()?, 0)),
    }
}

/// Names become durable only with their folder. Windows has no such call.
fn sync_folder(folder: &Path) -> std::io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Temporary folders are private; a checkpoint gets the permissions of the folder it lies in.
fn open_to_readers(folder: &Path) -> std::io::Result<()> {
    if let Some(parent) = folder.parent() {
        fs::set_permissions(folder, fs::metadata(parent)?.permissions())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use vision_weights::Array;

    use super::*;
    use crate::checkpoint::{FORMAT, TrainerState, find, weight_file};

    fn checkpoint(step: u64) -> Checkpoint {
        let mut model = StateDict::new();
        model.insert("w", Array::from_f32(vec![2], &[step as f32, 0.1]).unwrap());
        Checkpoint {
            model,
            optim: StateDict::new(),
            state: StateDict::new(),
            trainer: TrainerState {
                format: FORMAT,
                recipe: "toy".into(),
                step,
                epoch: 1,
                batch: 2,
                samples: 3,
                skipped_in_a_row: 0,
                seed: 4,
                ranks: 1,
                fingerprint: "f".into(),
                config: "c = 1\n".into(),
                versions: BTreeMap::new(),
                window: BTreeMap::from([("loss".into(), (0.1f64.to_bits(), 1))]),
            },
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        assert!(store.last().unwrap().is_none());
        let path = store.save(&checkpoint(7)).unwrap();
        assert_eq!(store.last().unwrap().unwrap(), path);
        let found = Checkpoint::read(&path).unwrap();
        assert_eq!(found.trainer, checkpoint(7).trainer);
        assert_eq!(found.model.tensors, checkpoint(7).model.tensors);
        assert_eq!(find(folder.path()).unwrap(), path);
        assert_eq!(find(&folder.path().join("last")).unwrap(), path);
        assert_eq!(weight_file(&path).unwrap(), path.join(MODEL));
    }

    #[test]
    fn a_failed_write_leaves_the_previous_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let path = Store::open(folder.path()).unwrap().save(&checkpoint(1)).unwrap();
        // The second of the three files does not fit on the disk.
        let written = Arc::new(AtomicUsize::new(0));
        let store = Store::open(folder.path()).unwrap().with_writer(Box::new(move |dict, path| {
            if written.fetch_add(1, Ordering::Relaxed) == 1 {
                return Err(Error::io(path, std::io::ErrorKind::StorageFull.into()));
            }
            Ok(dict.save(path)?)
        }));
        let error = store.save(&checkpoint(2)).unwrap_err();
        assert!(error.to_string().contains("step-2"), "{error}");
        assert!(error.to_string().contains("no storage space"), "{error}");
        assert_eq!(error.exit_code(), 1);
        assert_eq!(names(folder.path()), ["last", "step-1"]);
        assert_eq!(store.last().unwrap().unwrap(), path);
        assert_eq!(Checkpoint::read(&path).unwrap().trainer.step, 1);
    }

    #[test]
    fn the_newest_the_last_and_the_best_stay() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        for step in [5, 10, 100, 20] {
            let path = store.save(&checkpoint(step)).unwrap();
            if step == 5 {
                store.mark_best(&path, "top1", 0.5).unwrap();
            }
        }
        store.prune(1).unwrap();
        assert_eq!(names(folder.path()), ["best", "last", "step-100", "step-20", "step-5"]);
        assert_eq!(store.best().unwrap().unwrap().value, Some(0.5));
        assert!(find(folder.path()).unwrap().ends_with("step-5"));
    }

    #[test]
    fn a_step_that_is_there_is_kept_if_equal_and_not_overwritten_if_not() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let first = store.save(&checkpoint(3)).unwrap();
        assert_eq!(store.save(&checkpoint(3)).unwrap(), first);
        let mut other = checkpoint(3);
        other.trainer.config = "c = 2\n".into();
        assert!(store.save(&other).unwrap().ends_with("step-3.1"));
        assert_eq!(Checkpoint::read(&first).unwrap().trainer.config, "c = 1\n");
    }

    #[test]
    fn leftovers_are_removed_and_broken_ones_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(".tmp-step-1-xyz")).unwrap();
        let store = Store::open(folder.path()).unwrap();
        assert!(names(folder.path()).is_empty());
        let path = store.save(&checkpoint(1)).unwrap();
        fs::write(path.join(TRAINER), "{").unwrap();
        let error = Checkpoint::read(&path).unwrap_err();
        assert!(error.to_string().contains("trainer.json"), "{error}");
        fs::write(folder.path().join("last"), r#"{"folder":"../elsewhere"}"#).unwrap();
        assert!(store.last().is_err());
    }
}
