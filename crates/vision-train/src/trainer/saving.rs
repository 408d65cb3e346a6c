//! What a session saves, and when.

use std::collections::BTreeMap;
use std::path::PathBuf;

use vision_core::dist::broadcast_params;
use vision_weights::StateDict;

use super::session::Session;
use crate::checkpoint::{Checkpoint, FORMAT, TrainerState};
use crate::error::{Error, Result};
use crate::recipe::Recipe;
use crate::system;

/// Counters that say exactly where a run stands, between two optimiser steps.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Position {
    pub(super) step: u64,
    pub(super) epoch: u64,
    pub(super) batch: u64,
    pub(super) samples: u64,
    pub(super) skipped_in_a_row: u32,
}

impl<R: Recipe> Session<'_, R> {
    pub(super) fn checkpoint(&self) -> Result<Checkpoint> {
        let mut model = self.params.state_dict()?;
        let Position { step, epoch, batch, samples, skipped_in_a_row } = self.position;
        model.metadata.extend(self.recipe.metadata()?);
        model.metadata.extend(model_metadata(R::NAME, &self.resolved.toml, step));
        let mut optim = StateDict::new();
        for (phase, optimiser) in self.optimisers.iter().enumerate() {
            for (name, array) in optimiser.state()?.tensors {
                optim.insert(format!("phase{phase}.{name}"), array);
            }
        }
        let trainer = TrainerState {
            format: FORMAT,
            recipe: R::NAME.to_owned(),
            step,
            epoch,
            batch,
            samples,
            skipped_in_a_row,
            seed: self.config().seed,
            ranks: self.ranks.world(),
            fingerprint: self.fingerprint.clone(),
            config: self.resolved.toml.clone(),
            versions: system::versions(),
            window: self.window.to_bits(),
        };
        Ok(Checkpoint { model, optim, state: self.recipe.state()?, trainer })
    }

    /// Writes the checkpoint of the current step, unless it is there.
    pub(super) fn save(&mut self) -> Result<PathBuf> {
        if let Some((step, path)) = &self.saved
            && *step == self.position.step
        {
            return Ok(path.clone());
        }
        self.compare_ranks()?;
        let name = self.ranks.clone().first_does("checkpoint", || {
            let Some(files) = &self.files else { return Ok(None) };
            let path = files.store.save(&self.checkpoint()?)?;
            files.store.prune(self.config().keep_checkpoints)?;
            tracing::info!(step = self.position.step, path = %path.display(), "checkpoint");
            Ok(path.file_name().map(|name| name.to_string_lossy().into_owned()))
        })?;
        let path = self.folder.checkpoints().join(name.unwrap_or_default());
        self.saved = Some((self.position.step, path.clone()));
        Ok(path)
    }

    /// Gives all ranks the running statistics of rank 0, as a run resumed here would have them, and fails if anything
    /// else differs between ranks: then they no longer train the same model.
    pub(super) fn compare_ranks(&mut self) -> Result<()> {
        self.compared = true;
        if !self.ranks.several() {
            return Ok(());
        }
        broadcast_params(&*self.ranks.0, &self.params.buffers(), 0)?;
        let Checkpoint { model, optim, state, .. } = self.checkpoint()?;
        let parts = [("parameter", &model), ("optimiser state", &optim), ("state", &state)];
        self.ranks.check_equal("state of the run", &parts)
    }

    pub(super) fn interrupted<T>(&mut self) -> Result<T> {
        let checkpoint = self.save()?;
        Err(Error::Interrupted { step: self.position.step, checkpoint })
    }
}

/// What travels in every weight file, so that it can be used without its run folder.
pub(crate) fn model_metadata(recipe: &str, config: &str, step: u64) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("recipe".to_owned(), recipe.to_owned()),
        ("config".to_owned(), config.to_owned()),
        ("step".to_owned(), step.to_string()),
    ])
}

pub(super) fn with_prefix_removed(state: &StateDict, phase: usize) -> StateDict {
    let prefix = format!("phase{phase}.");
    let mut own = StateDict::new();
    for (name, array) in &state.tensors {
        if let Some(name) = name.strip_prefix(&prefix) {
            own.insert(name, array.clone());
        }
    }
    own
}
