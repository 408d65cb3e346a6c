//! What a paper has to provide to be trained, evaluated and reported.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};
use serde::Serialize;
use serde::de::DeserializeOwned;
use vision_core::Pass;
use vision_core::params::ParamStore;
use vision_core::rng::Key;
use vision_datasets::{DataRoot, Fingerprint, Loader, Split};
use vision_weights::{LoadReport, StateDict};

use crate::config::RunConfig;
use crate::context::Context;
use crate::error::{Problem, Result};
use crate::optim::OptimiserConfig;
use crate::report::Report;
use crate::schedule::Schedule;

/// A configuration that can be merged from files, checked, and written back.
///
/// Implementors put `#[serde(deny_unknown_fields, default)]` on every struct, keep the [`RunConfig`] in a
/// field named `run`, and make `Default` the published setting.
pub trait RecipeConfig: Serialize + DeserializeOwned + Default + Clone + Send + Sync {
    /// Checks ranges and rules across fields.
    ///
    /// # Errors
    /// Every problem found, so that all can be mended at once.
    fn validate(&self) -> std::result::Result<(), Vec<Problem>>;

    /// Embedded configurations: name and TOML text.
    fn presets() -> &'static [(&'static str, &'static str)];

    /// The part that steers the training loop.
    fn run(&self) -> &RunConfig;

    /// The same, to be changed.
    fn run_mut(&mut self) -> &mut RunConfig;
}

/// A trainable system: its parameters, data, losses and evaluation.
///
/// The trainer owns the loop: it asks for batches and losses, differentiates, updates the parameters,
/// writes checkpoints and reports. It assumes nothing else about the model.
///
/// Where [`Context::collective`] holds several ranks, the trainer gives each its share of every batch and averages
/// gradients. What a recipe changes itself ([`Recipe::after_step`]) it must change alike on all ranks, by exchanging
/// what they have; the trainer compares it and stops if it differs.
pub trait Recipe: Sized {
    /// Name used in run folders and messages, such as `instdisc`.
    const NAME: &'static str;
    /// Optimiser updates per batch; 2 for an adversarial pair. `losses` is called once for each.
    const PHASES: usize = 1;
    /// Which numbers of the evaluation are drawn over time, and which of them together. If there are none,
    /// each gets a plot of its own.
    const PLOTS: &'static [Plot] = &[];
    /// Its configuration.
    type Config: RecipeConfig;
    /// What one loader step yields.
    type Batch: Send + 'static;

    /// Builds the model, taking parameters from `params`.
    ///
    /// # Errors
    /// If the configuration does not describe a model, or a tensor cannot be made.
    fn build(cfg: &Self::Config, params: &ParamStore, ctx: &Context) -> Result<Self>;

    /// Puts weights somebody gave (`--weights`) into the parameters. Only the batch counters, which files of
    /// other programs lack, may be missing. A paper that knows other writers' names maps them here.
    ///
    /// # Errors
    /// If names or shapes of the file and the model differ.
    fn load_weights(params: &ParamStore, weights: StateDict) -> Result<LoadReport> {
        let report = params.load(&weights)?.allow_missing_suffix("num_batches_tracked");
        report.check()?;
        Ok(report)
    }

    /// Opens the training data.
    ///
    /// # Errors
    /// If the data is missing or broken.
    fn loaders(cfg: &Self::Config, data: &DataRoot, ctx: &Context) -> Result<Loaders<Self::Batch>>;

    /// Called once before the first step of a run, new or resumed, when the data is known to be there and
    /// before [`Recipe::restore`]. The place to size what depends on the number of samples.
    ///
    /// # Errors
    /// If the data cannot be read or does not fit the configuration.
    fn begin(&mut self, cfg: &Self::Config, data: &DataRoot, ctx: &Context) -> Result<()> {
        let _ = (cfg, data, ctx);
        Ok(())
    }

    /// Which parameters `phase` updates, in groups with their own multiplier and weight decay.
    ///
    /// # Errors
    /// If a parameter asked for does not exist.
    fn groups(&self, cfg: &Self::Config, params: &ParamStore, phase: usize) -> Result<Vec<ParamGroup>>;

    /// How the learning rate changes over time.
    ///
    /// # Errors
    /// If the configuration gives no valid schedule.
    fn schedule(cfg: &Self::Config, steps_per_epoch: u64) -> Result<Schedule>;

    /// The optimiser and its constants.
    fn optimiser(cfg: &Self::Config) -> OptimiserConfig;

    /// The losses of one batch, with their graph.
    ///
    /// # Errors
    /// If a forward pass fails.
    fn losses(&mut self, batch: &Self::Batch, step: &Step) -> Result<Losses>;

    /// Called once per batch, after the gradient of its last phase was taken, and after the parameters were
    /// updated if this batch completes a step. The place for a memory bank or a moving average. Not called
    /// for a batch that was skipped because its loss was not finite.
    ///
    /// # Errors
    /// If the update fails.
    fn after_step(&mut self, batch: &Self::Batch, step: &Step) -> Result<()> {
        let _ = (batch, step);
        Ok(())
    }

    /// What must be saved besides parameters, buffers and optimiser state.
    ///
    /// # Errors
    /// If a tensor cannot be read back from its device.
    fn state(&self) -> Result<StateDict> {
        Ok(StateDict::new())
    }

    /// Puts back what [`Recipe::state`] returned.
    ///
    /// # Errors
    /// If an entry is missing or has another shape.
    fn restore(&mut self, state: &StateDict) -> Result<()> {
        let _ = state;
        Ok(())
    }

    /// Facts that travel in every weight file beside the configuration, such as the names of classes: what a program
    /// needs that has nothing but the file.
    ///
    /// # Errors
    /// If a fact cannot be written as text.
    fn metadata(&self) -> Result<BTreeMap<String, String>> {
        Ok(BTreeMap::new())
    }

    /// Measures the model on `split`.
    ///
    /// # Errors
    /// If the data is missing or a forward pass fails.
    fn evaluate(&self, cfg: &Self::Config, data: &DataRoot, split: Split, ctx: &Context) -> Result<Report>;

    /// Whether every rank calls [`Recipe::evaluate`], which then brings their parts together through
    /// [`Context::collective`]; what rank 0 returns counts. Otherwise rank 0 evaluates alone while the others wait.
    fn evaluates_on_every_rank(cfg: &Self::Config) -> bool {
        let _ = cfg;
        false
    }

    /// Samples in a batch: the weight of this rank's loss among those of all ranks, and the throughput.
    fn batch_len(batch: &Self::Batch) -> usize;

    /// Names of the samples in a batch, for the message about a loss that is not finite.
    fn describe_batch(batch: &Self::Batch) -> Vec<String> {
        let _ = batch;
        Vec::new()
    }

    /// The split measured during training.
    fn eval_split(cfg: &Self::Config) -> Split {
        let _ = cfg;
        Split::Test
    }
}

/// Numbers of an evaluation that share a plot over the steps of a run.
#[derive(Clone, Copy, Debug)]
pub struct Plot {
    /// Heading.
    pub title: &'static str,
    /// Names of the numbers, in the order of the legend; those the evaluation does not give are left out.
    pub names: &'static [&'static str],
}

/// What a recipe trains on.
pub struct Loaders<B> {
    /// The training batches.
    pub train: Loader<B>,
    /// Identity of the training data, kept in checkpoints.
    pub fingerprint: Fingerprint,
}

/// Where training stands when a loss is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Batch within the epoch, from 0.
    pub batch: u64,
    /// Optimiser step of the whole run, from 0. Accumulated batches share one.
    pub step: u64,
    /// Which of the accumulated batches of this step this is, from 0.
    pub micro: usize,
    /// Which of [`Recipe::PHASES`] updates this is, from 0.
    pub phase: usize,
    /// Key of every random choice of this batch and phase: a function of seed, epoch, batch and phase only, and of the
    /// rank if there are several.
    pub key: Key,
    /// Training behaviour is on.
    pub train: bool,
}

impl Step {
    /// The pass for the model's forward functions.
    pub fn pass(&self) -> Pass {
        Pass { train: self.train, graph: true, key: self.key }
    }
}

/// A number to be logged: already read, or still a scalar tensor.
#[derive(Clone, Debug)]
pub enum Scalar {
    /// A plain number.
    Number(f64),
    /// A tensor with one element; read when the step is logged.
    Tensor(Tensor),
}

impl From<f64> for Scalar {
    fn from(value: f64) -> Self {
        Self::Number(value)
    }
}

impl From<Tensor> for Scalar {
    fn from(value: Tensor) -> Self {
        Self::Tensor(value)
    }
}

/// The losses of one batch.
#[derive(Clone, Debug)]
pub struct Losses {
    /// The scalar that is differentiated: the mean over the batch.
    pub total: Tensor,
    /// Parts and other numbers worth a curve, in the order they are logged.
    pub named: Vec<(String, Scalar)>,
}

impl Losses {
    /// A loss without parts.
    pub fn new(total: Tensor) -> Self {
        Self { total, named: Vec::new() }
    }

    /// Adds a number to log.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<Scalar>) -> Self {
        self.named.push((name.into(), value.into()));
        self
    }
}

/// Parameters that share a learning-rate multiplier and a weight decay.
#[derive(Clone, Debug)]
pub struct ParamGroup {
    /// Name in messages and logs.
    pub name: String,
    /// Full parameter names with their variables. No parameter may be in two groups of one phase.
    pub params: Vec<(String, Var)>,
    /// Factor on the learning rate.
    pub lr_mult: f64,
    /// Weight decay in the sense of the optimiser; replaces that of [`OptimiserConfig`].
    pub weight_decay: f64,
}

impl ParamGroup {
    /// All trainable parameters of `params` in one group.
    pub fn all(params: &ParamStore, weight_decay: f64) -> Self {
        Self { name: "all".to_owned(), params: params.trainable(), lr_mult: 1.0, weight_decay }
    }
}
