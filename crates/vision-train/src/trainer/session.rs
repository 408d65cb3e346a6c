//! One run from its first step, or from a checkpoint, to its end.

use std::path::PathBuf;
use std::time::Instant;

use vision_core::params::ParamStore;
use vision_core::rng::Key;
use vision_datasets::{DataRoot, Loader};

use super::evaluation::kept_evaluations;
use super::gradients::Gradients;
use super::resume::check_compatible;
use super::run_json::write_run_json;
use super::saving::{Position, with_prefix_removed};
use super::window::{Meter, Window, read_scalar};
use super::{Outcome, Trainer};
use crate::checkpoint::{Checkpoint, Store};
use crate::config::{NonFinite, Resolved, RunConfig};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::optim::Optimiser;
use crate::recipe::{Recipe, RecipeConfig, Scalar, Step};
use crate::report::Report;
use crate::run_folder::{RunFolder, replace_file};
use crate::schedule::Schedule;
use crate::sinks::{EventWriter, MetricLog, Progress, Row, StepInfo};
use crate::system;

/// How many batches in a row may be left out before the run counts as lost.
const MAX_SKIPPED_IN_A_ROW: u32 = 10;

pub(super) struct Session<'a, R: Recipe> {
    pub(super) resolved: &'a Resolved<R::Config>,
    pub(super) data: &'a DataRoot,
    pub(super) ctx: &'a Context,
    pub(super) folder: RunFolder,
    pub(super) store: Store,
    pub(super) recipe: R,
    pub(super) params: ParamStore,
    loader: Loader<R::Batch>,
    pub(super) fingerprint: String,
    pub(super) optimisers: Vec<Optimiser>,
    schedule: Schedule,
    steps_per_epoch: u64,
    pub(super) metrics: MetricLog,
    pub(super) events: EventWriter,
    pub(super) progress: Box<dyn Progress>,
    pub(super) position: Position,
    pub(super) window: Window,
    /// The checkpoint of the current step, once it is written.
    pub(super) saved: Option<(u64, PathBuf)>,
    pub(super) report: Option<Report>,
    pub(super) facts: Vec<(String, String)>,
}

impl<'a, R: Recipe> Session<'a, R> {
    pub(super) fn start(trainer: Trainer<'a, R>) -> Result<Self> {
        let Trainer { resolved, data, ctx, resume, allow_change, weights, command_line, mut progress } =
            trainer;
        let cfg = &resolved.config;
        let run = cfg.run();
        let folder = RunFolder::new(&ctx.out);
        if resume && !folder.config().exists() {
            return Err(Error::Usage(format!(
                "{}: no run to resume here; leave --resume out to start one",
                ctx.out.display()
            )));
        }
        folder.create()?;
        let store = Store::open(folder.checkpoints())?;
        let last = store.last()?;
        let checkpoint = match (resume, last) {
            (false, Some(_)) => {
                return Err(Error::Usage(format!(
                    "{}: a run is here already; continue it with --resume or choose another --out",
                    ctx.out.display()
                )));
            }
            (true, Some(path)) => Some((Checkpoint::read(&path)?, path)),
            (true, None) => {
                progress.message("the run was stopped before its first checkpoint; starting over");
                None
            }
            (false, None) => None,
        };

        let params = ParamStore::new(Key::new(run.seed).fold("init"), ctx.dtype, &ctx.device);
        let mut recipe = R::build(cfg, &params, ctx)?;
        let loaders = R::loaders(cfg, data, ctx)?;
        recipe.begin(cfg, data, ctx)?;
        let fingerprint = loaders.fingerprint.to_string();
        let batches = loaders.train.batches_per_epoch() as u64;
        if batches == 0 && run.epochs > 0 {
            return Err(Error::Usage(format!(
                "the training data ({fingerprint}) does not fill a single batch"
            )));
        }
        let steps_per_epoch = batches.div_ceil(run.accumulate as u64);
        let mut optimisers = Vec::with_capacity(R::PHASES);
        for phase in 0..R::PHASES {
            optimisers.push(Optimiser::new(R::optimiser(cfg), recipe.groups(cfg, &params, phase)?)?);
        }

        let mut position = Position::default();
        let mut window = Window::default();
        let mut saved = None;
        if let Some((checkpoint, path)) = checkpoint {
            let state = &checkpoint.trainer;
            check_compatible(&path, state, R::NAME, &resolved.toml, &fingerprint, &allow_change)?;
            params.load(&checkpoint.model)?.check()?;
            for (phase, optimiser) in optimisers.iter_mut().enumerate() {
                optimiser.restore(&with_prefix_removed(&checkpoint.optim, phase))?;
            }
            recipe.restore(&checkpoint.state)?;
            position = Position {
                step: state.step,
                epoch: state.epoch,
                batch: state.batch,
                samples: state.samples,
                skipped_in_a_row: state.skipped_in_a_row,
            };
            window = Window::from_bits(&state.window);
            progress.message(&format!("resuming at step {} from {}", state.step, path.display()));
            saved = Some((state.step, path));
        } else if let Some(weights) = weights {
            R::load_weights(&params, weights)?;
        }

        let evaluated = kept_evaluations(&folder, saved.as_ref().map(|(step, _)| *step))?;
        let metrics = MetricLog::open(folder.metrics(), |row| {
            let own = matches!(row.split.as_str(), "train" | "system");
            row.step < position.step || (row.step == position.step && (own || evaluated.contains(&row.step)))
        })?;
        let events = EventWriter::create(folder.path(), position.step)?;
        replace_file(&folder.config(), resolved.file_text()?.as_bytes())?;
        let facts = write_run_json::<R>(&folder, ctx, run, &fingerprint, &command_line, position.step)?;

        Ok(Self {
            schedule: R::schedule(cfg, steps_per_epoch)?,
            steps_per_epoch,
            resolved,
            data,
            ctx,
            folder,
            store,
            recipe,
            params,
            loader: loaders.train,
            fingerprint,
            optimisers,
            metrics,
            events,
            progress,
            position,
            window,
            saved,
            report: None,
            facts,
        })
    }

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
            if self.evaluation_due() && !self.evaluated() {
                if self.ctx.interrupted() {
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
            if self.ctx.interrupted() {
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
                let Some(batch) = iter.next() else {
                    ended = true;
                    break;
                };
                let batch = batch?;
                let waited = asked.elapsed();
                let number = cursor.batch;
                // What is left tells which batch comes next, even if one was left out as broken.
                cursor.batch = batches - iter.size_hint().1.map_or(0, |left| left as u64).min(batches);
                ended = cursor.batch >= batches;
                let len = R::batch_len(&batch);
                cursor.samples += len as u64;
                meter.add(len, waited);

                let key = Key::new(run.seed).fold("train").fold_u64(epoch).fold_u64(number);
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
                let mut problem = self.batch(&batch, &step_at, &mut gradients, &mut losses)?;
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
            if run.checkpoint_every_steps.map_or(ended, |every| self.position.step.is_multiple_of(every)) {
                self.save()?;
            }
            if ended || self.finished() {
                return Ok(());
            }
        }
    }

    /// Losses and gradients of one batch. Returns what was not finite, if anything.
    fn batch(
        &mut self,
        batch: &R::Batch,
        step_at: &dyn Fn(usize) -> Step,
        gradients: &mut [Gradients],
        logged: &mut Vec<(String, f64)>,
    ) -> Result<Option<String>> {
        for phase in 0..R::PHASES {
            let losses = self.recipe.losses(batch, &step_at(phase))?;
            if losses.total.elem_count() != 1 {
                return Err(Error::Core(vision_core::Error::shape(
                    format!("{}: total loss", R::NAME),
                    "a scalar",
                    losses.total.dims(),
                )));
            }
            let suffix = if R::PHASES > 1 { format!("_{phase}") } else { String::new() };
            let total = read_scalar(&Scalar::Tensor(losses.total.clone()))?;
            if !total.is_finite() {
                return Ok(Some(format!("loss{suffix} is {total}")));
            }
            logged.push((format!("loss{suffix}"), total));
            for (name, value) in &losses.named {
                logged.push((format!("{name}{suffix}"), read_scalar(value)?));
            }
            if let (Some(gradients), Some(optimiser)) = (gradients.get_mut(phase), self.optimisers.get(phase))
            {
                gradients.add(&losses.total, optimiser)?;
            }
        }
        Ok(None)
    }

    /// One optimiser step of every phase.
    fn update(&mut self, gradients: &mut [Gradients], step: u64) -> Result<Option<String>> {
        let factor = self.schedule.factor(step);
        let clip_norm = self.config().clip_norm;
        for (gradients, optimiser) in gradients.iter_mut().zip(&mut self.optimisers) {
            if let Some(norm) = gradients.apply(optimiser, factor, clip_norm)?
                && !norm.is_finite()
            {
                return Ok(Some(format!("the norm of the gradient is {norm}")));
            }
        }
        Ok(None)
    }

    fn not_finite(&mut self, what: String, batch: &R::Batch, cursor: Position) -> Result<()> {
        let samples = R::describe_batch(batch);
        let skip = self.config().on_nonfinite == NonFinite::Skip;
        if skip && cursor.skipped_in_a_row < MAX_SKIPPED_IN_A_ROW {
            tracing::warn!(step = cursor.step, what, ?samples, "left a batch out");
            self.progress.message(&format!("step {}: {what}; batch left out", cursor.step));
            return Ok(());
        }
        // Not `last`: what the forward pass did to running statistics is of no use to go on from.
        let checkpoint = self.store.save_aside(&self.checkpoint()?, "diverged")?;
        Err(Error::Diverged { step: cursor.step, epoch: cursor.epoch, what, samples, checkpoint })
    }

    /// Sends the numbers of a finished step to the sinks.
    fn record(&mut self, epoch: u64, losses: &[(String, f64)], meter: &mut Meter, ended: bool) -> Result<()> {
        let run = self.config();
        let step = self.position.step;
        let lr = R::optimiser(&self.resolved.config).lr() * self.schedule.factor(step - 1);
        for (name, value) in losses {
            self.window.add(name, *value);
        }
        let totals: Vec<f64> =
            losses.iter().filter(|(name, _)| name.starts_with("loss")).map(|(_, value)| *value).collect();
        let loss = totals.iter().sum::<f64>() / totals.len() as f64;
        let (images_per_second, data_wait) = (meter.images_per_second(), meter.data_wait());
        let mut logged = Vec::new();
        if ended || step.is_multiple_of(run.log_every_steps) {
            logged = self.window.take();
            let mut rows: Vec<(&str, String, f64)> =
                logged.iter().map(|(name, value)| ("train", name.clone(), *value)).collect();
            rows.push(("train", "lr".to_owned(), lr));
            rows.push(("system", "images_per_second".to_owned(), images_per_second));
            rows.push(("system", "data_wait".to_owned(), data_wait));
            if let Some(bytes) = system::peak_memory() {
                rows.push(("system", "peak_memory_mib".to_owned(), bytes as f64 / f64::from(1 << 20)));
            }
            self.log(epoch, rows)?;
            *meter = Meter::start();
        }
        tracing::debug!(step, loss, lr, "train_step");
        let info = StepInfo { step, epoch, loss, lr, images_per_second, data_wait, logged: &logged };
        self.progress.step(&info);
        Ok(())
    }

    /// Writes (split, name, value) to the metric log and to TensorBoard.
    pub(super) fn log(&mut self, epoch: u64, rows: Vec<(&str, String, f64)>) -> Result<()> {
        let step = self.position.step;
        for (split, name, value) in &rows {
            self.events.scalar(step, &format!("{split}/{name}"), *value)?;
        }
        let row = |(split, name, value): (&str, String, f64)| Row {
            step,
            epoch,
            split: split.to_owned(),
            name,
            value: value.is_finite().then_some(value),
        };
        self.metrics.append(rows.into_iter().map(row).collect())
    }
}
