//! One run from its first step, or from a checkpoint, to its end.

use std::path::PathBuf;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use vision_core::dist::weigh_loss;
use vision_core::params::ParamStore;
use vision_core::rng::Key;
use vision_datasets::{DataRoot, Loader};

use super::Outcome;
use super::gradients::Gradients;
use super::ranks::Ranks;
use super::saving::Position;
use super::window::{Meter, Window, read_scalar};
use crate::checkpoint::Store;
use crate::config::{NonFinite, Resolved, RunConfig};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::optim::Optimiser;
use crate::recipe::{Losses, Recipe, RecipeConfig, Scalar, Step};
use crate::report::Report;
use crate::run_folder::RunFolder;
use crate::schedule::Schedule;
use crate::sinks::{EventWriter, MetricLog, Progress};

/// How many batches in a row may be left out before the run counts as lost.
const MAX_SKIPPED_IN_A_ROW: u32 = 10;

pub(super) struct Session<'a, R: Recipe> {
    pub(super) resolved: &'a Resolved<R::Config>,
    pub(super) data: &'a DataRoot,
    pub(super) ctx: &'a Context,
    pub(super) ranks: Ranks,
    pub(super) folder: RunFolder,
    /// Only rank 0 has them.
    pub(super) files: Option<Files>,
    pub(super) recipe: R,
    pub(super) params: ParamStore,
    pub(super) loader: Loader<R::Batch>,
    pub(super) fingerprint: String,
    pub(super) optimisers: Vec<Optimiser>,
    pub(super) schedule: Schedule,
    pub(super) steps_per_epoch: u64,
    pub(super) progress: Box<dyn Progress>,
    pub(super) position: Position,
    pub(super) window: Window,
    /// The checkpoint of the current step, once it is written.
    pub(super) saved: Option<(u64, PathBuf)>,
    /// Whether ranks were found to be alike after the first step of this start.
    pub(super) compared: bool,
    pub(super) report: Option<Report>,
}

/// The files of the run folder, open.
pub(super) struct Files {
    pub(super) store: Store,
    pub(super) metrics: MetricLog,
    pub(super) events: EventWriter,
    /// What the report says about this start.
    pub(super) facts: Vec<(String, String)>,
}

/// What a rank tells the others about its batch.
#[derive(Serialize, Deserialize)]
struct BatchNote {
    /// Somebody asked it to stop.
    stop: bool,
    /// Samples; none where the epoch is over.
    samples: Option<usize>,
    /// The batch that comes next.
    next: u64,
}

/// What a rank tells the others about its loss: bits, because the loss may be NaN.
#[derive(Serialize, Deserialize)]
struct LossNote {
    total: u64,
    named: Vec<(String, u64)>,
}

impl<'a, R: Recipe> Session<'a, R> {
    pub(super) fn config(&self) -> &'a RunConfig {
        self.resolved.config.run()
    }

    fn finished(&self) -> bool {
        let run = self.config();
        self.position.epoch >= run.epochs || run.max_steps.is_some_and(|max| self.position.step >= max)
    }

    pub(super) fn run(&mut self) -> Result<Outcome> {
        let run = self.config();
        let total = run.epochs.saturating_mul(self.steps_per_epoch).min(run.max_steps.unwrap_or(u64::MAX));
        self.progress.start(self.position.step, total);
        loop {
            // Also the first thing after a restart: the run may have been stopped before an evaluation.
            if self.evaluation_due() && !self.evaluated()? {
                let ((), stops) = self.ranks.share("stop", Ok(()), |()| self.ctx.interrupted())?;
                if stops.contains(&true) {
                    return self.interrupted();
                }
                self.save()?;
                self.evaluate()?;
            }
            if self.finished() {
                self.save()?;
                return self.outcome();
            }
            self.epoch()?;
        }
    }

    /// Between epochs, or at the end.
    fn evaluation_due(&self) -> bool {
        let run = self.config();
        if self.position.step == 0 && !self.finished() {
            return run.eval_at_start;
        }
        let every = run.eval_every_epochs;
        self.finished()
            || (self.position.batch == 0 && every > 0 && self.position.epoch.is_multiple_of(every))
    }

    /// Trains from the current position to the end of the epoch, or to the last step.
    fn epoch(&mut self) -> Result<()> {
        let run = self.config();
        let epoch = self.position.epoch;
        let batches = self.loader.batches_per_epoch() as u64;
        let mut iter = self.loader.epoch(epoch, self.position.batch as usize);
        let mut meter = Meter::start();
        loop {
            let stop = self.ctx.interrupted();
            if stop && !self.ranks.several() {
                drop(iter);
                return self.interrupted();
            }
            let mut cursor = self.position;
            let mut gradients: Vec<Gradients> =
                self.optimisers.iter().map(|_| Gradients::default()).collect();
            let mut losses = Vec::new();
            let mut micro = 0;
            let mut ended = false;
            while micro < run.accumulate && !ended {
                let asked = Instant::now();
                let batch = iter.next().transpose().map_err(Error::from);
                let waited = asked.elapsed();
                // What is left tells which batch comes next, even if one was left out as broken.
                let next = batches - iter.size_hint().1.map_or(0, |left| left as u64).min(batches);
                let note = |batch: &Option<R::Batch>| BatchNote {
                    stop,
                    samples: batch.as_ref().map(R::batch_len),
                    next,
                };
                let (batch, notes) = self.ranks.share("batch", batch, note)?;
                check_together(&notes)?;
                // Between steps only; a batch that was fetched already is fetched again after a restart.
                if micro == 0 && notes.iter().any(|note| note.stop) {
                    drop(iter);
                    return self.interrupted();
                }
                let Some(batch) = batch else {
                    ended = true;
                    break;
                };
                let number = cursor.batch;
                cursor.batch = next;
                ended = cursor.batch >= batches;
                let samples: Vec<usize> = notes.iter().filter_map(|note| note.samples).collect();
                let len = samples.iter().sum();
                cursor.samples += len as u64;
                meter.add(len, waited);

                let mut key = Key::new(run.seed).fold("train").fold_u64(epoch).fold_u64(number);
                if self.ranks.several() {
                    key = key.fold("rank").fold_u64(self.ranks.rank() as u64);
                }
                let index = micro;
                let step_at = |phase: usize| Step {
                    epoch,
                    batch: number,
                    step: cursor.step,
                    micro: index,
                    phase,
                    key: key.fold_u64(phase as u64),
                    train: true,
                };
                micro += 1;
                let last = micro == run.accumulate || ended;
                let mut problem = self.batch(&batch, &samples, &step_at, &mut gradients, &mut losses)?;
                if last {
                    // Batches before a bad one still count.
                    problem = problem.or(self.update(&mut gradients, cursor.step)?);
                }
                match problem {
                    None => {
                        cursor.skipped_in_a_row = 0;
                        self.recipe.after_step(&batch, &step_at(R::PHASES - 1))?;
                    }
                    Some(what) => {
                        cursor.skipped_in_a_row += 1;
                        self.not_finite(what, &batch, cursor)?;
                    }
                }
            }
            if micro == 0 {
                // Nothing was left of the epoch.
                self.position.epoch += 1;
                self.position.batch = 0;
                return Ok(());
            }
            cursor.step += 1;
            if ended {
                cursor.epoch += 1;
                cursor.batch = 0;
            }
            self.position = cursor;
            self.record(epoch, &losses, &mut meter, ended)?;
            if !self.compared {
                self.compare_ranks()?;
            }
            if run.checkpoint_every_steps.map_or(ended, |every| self.position.step.is_multiple_of(every)) {
                self.save()?;
            }
            if ended || self.finished() {
                return Ok(());
            }
        }
    }

    /// Losses and gradients of one batch, of which every rank has so many `samples`. Returns what was not finite, if
    /// anything, the same on all ranks.
    fn batch(
        &mut self,
        batch: &R::Batch,
        samples: &[usize],
        step_at: &dyn Fn(usize) -> Step,
        gradients: &mut [Gradients],
        logged: &mut Vec<(String, f64)>,
    ) -> Result<Option<String>> {
        for phase in 0..R::PHASES {
            let losses = self.recipe.losses(batch, &step_at(phase)).and_then(|losses| numbers::<R>(losses));
            let note = |(_, total, named): &Read| LossNote {
                total: total.to_bits(),
                named: named.iter().map(|(name, value)| (name.clone(), value.to_bits())).collect(),
            };
            let ((losses, mut total, mut named), notes) = self.ranks.share("loss", losses, note)?;
            let suffix = if R::PHASES > 1 { format!("_{phase}") } else { String::new() };
            for (rank, note) in notes.iter().enumerate() {
                let value = f64::from_bits(note.total);
                if !value.is_finite() {
                    let place = if self.ranks.several() { format!(" on rank {rank}") } else { String::new() };
                    return Ok(Some(format!("loss{suffix} is {value}{place}")));
                }
            }
            let mut loss = losses.total;
            if self.ranks.several() {
                (total, named) = means(&notes, samples);
                loss =
                    weigh_loss(&*self.ranks.0, &loss, samples.get(self.ranks.rank()).copied().unwrap_or(0))?;
            }
            logged.push((format!("loss{suffix}"), total));
            for (name, value) in named {
                logged.push((format!("{name}{suffix}"), value));
            }
            if let (Some(gradients), Some(optimiser)) = (gradients.get_mut(phase), self.optimisers.get(phase))
            {
                gradients.add(&loss, optimiser)?;
            }
        }
        Ok(None)
    }

    /// One optimiser step of every phase.
    fn update(&mut self, gradients: &mut [Gradients], step: u64) -> Result<Option<String>> {
        let factor = self.schedule.factor(step);
        let clip_norm = self.config().clip_norm;
        for (gradients, optimiser) in gradients.iter_mut().zip(&mut self.optimisers) {
            if let Some(norm) = gradients.apply(optimiser, &self.ranks, factor, clip_norm)?
                && !norm.is_finite()
            {
                return Ok(Some(format!("the norm of the gradient is {norm}")));
            }
        }
        Ok(None)
    }

    fn not_finite(&mut self, what: String, batch: &R::Batch, cursor: Position) -> Result<()> {
        let ((), samples) = self.ranks.share("samples", Ok(()), |()| R::describe_batch(batch))?;
        let samples = samples.concat();
        let skip = self.config().on_nonfinite == NonFinite::Skip;
        if skip && cursor.skipped_in_a_row < MAX_SKIPPED_IN_A_ROW {
            tracing::warn!(step = cursor.step, what, ?samples, "left a batch out");
            self.progress.message(&format!("step {}: {what}; batch left out", cursor.step));
            return Ok(());
        }
        // Not `last`: what the forward pass did to running statistics is of no use to go on from.
        let name = self.ranks.clone().first_does("diverged checkpoint", || {
            let Some(files) = &self.files else { return Ok(None) };
            let path = files.store.save_aside(&self.checkpoint()?, "diverged")?;
            Ok(path.file_name().map(|name| name.to_string_lossy().into_owned()))
        })?;
        let checkpoint = self.folder.checkpoints().join(name.unwrap_or_default());
        Err(Error::Diverged { step: cursor.step, epoch: cursor.epoch, what, samples, checkpoint })
    }
}

/// A loss, its value, and the numbers beside it.
type Read = (Losses, f64, Vec<(String, f64)>);

/// Reads the numbers of a loss from its tensors.
fn numbers<R: Recipe>(losses: Losses) -> Result<Read> {
    if losses.total.elem_count() != 1 {
        return Err(Error::Core(vision_core::Error::shape(
            format!("{}: total loss", R::NAME),
            "a scalar",
            losses.total.dims(),
        )));
    }
    let total = read_scalar(&Scalar::Tensor(losses.total.clone()))?;
    let mut named = Vec::with_capacity(losses.named.len());
    if total.is_finite() {
        for (name, value) in &losses.named {
            named.push((name.clone(), read_scalar(value)?));
        }
    }
    Ok((losses, total, named))
}

/// Means over the ranks, each rank with the weight of its samples: total loss and the other numbers.
fn means(notes: &[LossNote], samples: &[usize]) -> (f64, Vec<(String, f64)>) {
    let weighted = |bits: &dyn Fn(&LossNote) -> Option<u64>| {
        let (mut sum, mut weight) = (0.0, 0.0);
        for (note, &samples) in notes.iter().zip(samples) {
            if let Some(bits) = bits(note) {
                sum += samples as f64 * f64::from_bits(bits);
                weight += samples as f64;
            }
        }
        sum / weight
    };
    let names = notes.first().map(|note| note.named.iter()).into_iter().flatten();
    let named = names.map(|(name, _)| {
        let find = |note: &LossNote| Some(note.named.iter().find(|(other, _)| other == name)?.1);
        (name.clone(), weighted(&find))
    });
    (weighted(&|note| Some(note.total)), named.collect())
}

/// Fails unless all ranks have a batch, or none has, and all are equally far.
fn check_together(notes: &[BatchNote]) -> Result<()> {
    let Some(first) = notes.first() else { return Ok(()) };
    for (rank, note) in notes.iter().enumerate() {
        if note.samples.is_some() != first.samples.is_some() || note.next != first.next {
            let problem = "it has left out a whole batch as broken, which rank 0 has not".to_owned();
            return Err(Error::Rank { rank, problem });
        }
    }
    Ok(())
}
