//! The training loop.
//!
//! The loop is a function of seed, configuration and data: position, order and random keys are counters
//! that a checkpoint holds, so going on from one equals never having stopped, bit for bit on the CPU.
//!
//! Several ranks ([`Context::collective`](crate::Context::collective)) make each step together: every rank
//! differentiates the loss of its share of the batch, gradients are averaged, and all make the same update. Rank 0
//! alone writes files and, unless the recipe says otherwise, evaluates. What a rank finds (a batch that cannot be
//! read, a loss that is not finite, a request to stop) it tells the others before anybody acts on it.

mod evaluation;
mod gradients;
mod ranks;
mod record;
mod resume;
mod run_json;
mod saving;
mod session;
mod start;
mod window;

use std::collections::BTreeMap;
use std::path::PathBuf;

use vision_datasets::DataRoot;
use vision_weights::StateDict;

use crate::config::{Check, Resolved};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::recipe::Recipe;
use crate::sinks::{Progress, Silent};
#[cfg(feature = "cli")]
pub(crate) use saving::model_metadata;
use session::Session;

/// The backward pass walks the graph recursively; deep networks overflow the usual 2 MiB.
const STACK_BYTES: usize = 64 << 20;

/// What a finished run left behind.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Optimiser steps done in the whole run.
    pub step: u64,
    /// Epochs done.
    pub epoch: u64,
    /// Samples seen.
    pub samples: u64,
    /// Values of the final evaluation.
    pub values: BTreeMap<String, f64>,
    /// `[expect]` beside those values. Missed expectations are not an error here; the caller decides.
    pub checks: Vec<Check>,
    /// The last checkpoint.
    pub checkpoint: PathBuf,
    /// The page that shows the run.
    pub report: PathBuf,
}

/// A run about to start.
pub struct Trainer<'a, R: Recipe> {
    resolved: &'a Resolved<R::Config>,
    data: &'a DataRoot,
    ctx: &'a Context,
    resume: bool,
    allow_change: Vec<String>,
    weights: Option<StateDict>,
    command_line: Vec<String>,
    progress: Box<dyn Progress>,
}

impl<'a, R: Recipe> Trainer<'a, R> {
    /// A run of `resolved` on `data` that writes below [`Context::out`].
    pub fn new(resolved: &'a Resolved<R::Config>, data: &'a DataRoot, ctx: &'a Context) -> Self {
        Self {
            resolved,
            data,
            ctx,
            resume: false,
            allow_change: Vec::new(),
            weights: None,
            command_line: Vec::new(),
            progress: Box::new(Silent),
        }
    }

    /// Whether to go on from the last checkpoint of the run folder. If the run was stopped before it wrote
    /// one, it starts over and says so.
    #[must_use]
    pub fn resume(mut self, resume: bool) -> Self {
        self.resume = resume;
        self
    }

    /// Dotted keys of the configuration that may differ from the checkpoint's, besides
    /// [`RunConfig::MAY_CHANGE`](crate::RunConfig::MAY_CHANGE).
    #[must_use]
    pub fn allow_change(mut self, keys: Vec<String>) -> Self {
        self.allow_change = keys;
        self
    }

    /// Weights to start from, by [`Recipe::load_weights`]. Ignored when a checkpoint is resumed.
    #[must_use]
    pub fn weights(mut self, weights: Option<StateDict>) -> Self {
        self.weights = weights;
        self
    }

    /// What is recorded as the command that started this run.
    #[must_use]
    pub fn command_line(mut self, command_line: Vec<String>) -> Self {
        self.command_line = command_line;
        self
    }

    /// Who is told how it goes.
    #[must_use]
    pub fn progress(mut self, progress: Box<dyn Progress>) -> Self {
        self.progress = progress;
        self
    }

    /// Trains to the end, evaluates, and writes the report.
    ///
    /// # Errors
    /// [`Error::Resume`] if the checkpoint does not belong to this configuration and data;
    /// [`Error::Diverged`] if a loss was not finite; [`Error::Interrupted`] if [`Context::interrupt`] was
    /// set; otherwise what the recipe, the data or the file system reported.
    pub fn run(self) -> Result<Outcome> {
        on_big_stack(move || {
            let mut session = Session::start(self)?;
            let result = session.run();
            session.progress.finish();
            result
        })
    }
}

/// Runs `work` on a thread whose stack is large enough for the backward pass and waits for it.
pub(crate) fn on_big_stack<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let handle = std::thread::Builder::new()
            .name("trainer".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, work)
            .map_err(|error| Error::Usage(format!("cannot start the trainer thread: {error}")))?;
        match handle.join() {
            Ok(result) => result,
            // A panic is a bug; it goes on as one, with its own message.
            Err(payload) => std::panic::resume_unwind(payload),
        }
    })
}
