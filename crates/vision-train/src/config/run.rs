//! The part of every configuration that steers the training loop.

use serde::{Deserialize, Serialize};
use vision_datasets::LoaderConfig;

use crate::error::Problem;

/// What to do when a loss or gradient is infinite or NaN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NonFinite {
    /// Stop with the names of the samples and a checkpoint.
    #[default]
    Stop,
    /// Leave the batch out and go on; stop after ten such batches in a row.
    Skip,
}

/// `[run]`: how long to train, how often to measure and save.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunConfig {
    /// Seed of every random choice: initial values, order, augmentation, sampling.
    pub seed: u64,
    /// Passes over the training data. 0 only evaluates.
    pub epochs: u64,
    /// Stop after this many optimiser steps, if that comes first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    /// Evaluate after every so many epochs, and always at the end. 0: only at the end.
    pub eval_every_epochs: u64,
    /// Evaluate once before the first step.
    pub eval_at_start: bool,
    /// Save every so many optimiser steps besides at every evaluation. Without it, at the end of each epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_every_steps: Option<u64>,
    /// Log losses every so many optimiser steps.
    pub log_every_steps: u64,
    /// How many of the newest `step-N` checkpoints to keep, besides `last` and `best`. At least 1.
    pub keep_checkpoints: usize,
    /// Metric that decides which checkpoint is `best`; by default the first one that says which direction
    /// is better.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best_metric: Option<String>,
    /// Threads that prepare batches. 0 prepares them in the training thread. Changes no result.
    pub workers: usize,
    /// Batches prepared ahead.
    pub prefetch: usize,
    /// Batches whose gradients are averaged into one optimiser step.
    pub accumulate: usize,
    /// Largest allowed norm of the whole gradient; larger ones are scaled down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    /// What to do when a loss or gradient is not finite.
    pub on_nonfinite: NonFinite,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            epochs: 1,
            max_steps: None,
            eval_every_epochs: 1,
            eval_at_start: false,
            checkpoint_every_steps: None,
            log_every_steps: 10,
            keep_checkpoints: 1,
            best_metric: None,
            workers: 2,
            prefetch: 4,
            accumulate: 1,
            clip_norm: None,
            on_nonfinite: NonFinite::Stop,
        }
    }
}

impl RunConfig {
    /// Keys that may change when training continues: none of them alters a step already made. A schedule
    /// that stretches over the whole run follows `run.epochs` from the next step on.
    pub const MAY_CHANGE: &'static [&'static str] = &[
        "run.epochs",
        "run.max_steps",
        "run.eval_every_epochs",
        "run.eval_at_start",
        "run.checkpoint_every_steps",
        "run.log_every_steps",
        "run.keep_checkpoints",
        "run.best_metric",
        "run.workers",
        "run.prefetch",
        "run.on_nonfinite",
    ];

    /// How batches for training are prepared; up to `skip_broken` samples that cannot be read are left out.
    pub fn train_loader(&self, skip_broken: usize) -> LoaderConfig {
        LoaderConfig { workers: self.workers, prefetch: self.prefetch, seed: self.seed, skip_broken }
    }

    /// How batches for measuring are prepared, by `workers` threads: every sample must be readable.
    pub fn eval_loader(&self, workers: usize) -> LoaderConfig {
        LoaderConfig { workers, prefetch: 4, seed: self.seed, skip_broken: 0 }
    }

    /// Checks ranges; meant to be called from [`RecipeConfig::validate`](crate::RecipeConfig::validate).
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut check = |ok: bool, key: &str, problem: &str| {
            if !ok {
                problems.push(Problem::new(format!("run.{key}"), problem));
            }
        };
        check(self.log_every_steps > 0, "log_every_steps", "must be at least 1");
        check(self.keep_checkpoints > 0, "keep_checkpoints", "must be at least 1");
        check(self.accumulate > 0, "accumulate", "must be at least 1");
        check(self.checkpoint_every_steps != Some(0), "checkpoint_every_steps", "must be at least 1");
        check(
            self.clip_norm.is_none_or(|norm| norm > 0.0 && norm.is_finite()),
            "clip_norm",
            "must be a positive finite number",
        );
        // TOML integers are signed; a larger seed could not be written back.
        check(i64::try_from(self.seed).is_ok(), "seed", "must be below 2^63");
        problems
    }
}
