//! What happens before the first step.

use std::path::PathBuf;

use vision_core::dist::broadcast_params;
use vision_core::params::ParamStore;
use vision_core::rng::Key;
use vision_datasets::Loader;

use super::Trainer;
use super::evaluation::kept_evaluations;
use super::ranks::Ranks;
use super::resume::check_compatible;
use super::run_json::write_run_json;
use super::saving::{Position, with_prefix_removed};
use super::session::{Files, Session};
use super::window::Window;
use crate::checkpoint::{Checkpoint, Store};
use crate::error::{Error, Result};
use crate::optim::Optimiser;
use crate::recipe::{Recipe, RecipeConfig};
use crate::run_folder::{RunFolder, replace_file};
use crate::sinks::{EventWriter, MetricLog};

impl<'a, R: Recipe> Session<'a, R> {
    pub(super) fn start(trainer: Trainer<'a, R>) -> Result<Self> {
        let Trainer { resolved, data, ctx, resume, allow_change, weights, command_line, mut progress } =
            trainer;
        let cfg = &resolved.config;
        let run = cfg.run();
        let ranks = Ranks(ctx.collective.clone());
        let folder = RunFolder::new(&ctx.out);
        // Only rank 0 looks what is there; the others read the checkpoint that it names.
        let mut store = None;
        let last = ranks.first_does("run folder", || {
            let opened = open(&folder, resume)?;
            let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
            let last = opened.last()?.as_ref().and_then(name);
            store = Some(opened);
            Ok(last)
        })?;
        let checkpoint = match last {
            Some(name) => {
                let path = folder.checkpoints().join(name);
                let read = Checkpoint::read(&path);
                Some((ranks.agree("checkpoint to resume", read)?, path))
            }
            None => None,
        };
        if resume && checkpoint.is_none() {
            progress.message("the run was stopped before its first checkpoint; starting over");
        }

        let params = ParamStore::new(Key::new(run.seed).fold("init"), ctx.dtype, &ctx.device);
        let build = || -> Result<(R, Loader<R::Batch>, String)> {
            let mut recipe = R::build(cfg, &params, ctx)?;
            let loaders = R::loaders(cfg, data, ctx)?;
            recipe.begin(cfg, data, ctx)?;
            let fingerprint = loaders.fingerprint.to_string();
            let loader = loaders.train.with_shard(ranks.rank(), ranks.world())?;
            Ok((recipe, loader, fingerprint))
        };
        let note = |(_, loader, fingerprint): &(R, Loader<R::Batch>, String)| {
            (loader.batches_per_epoch() as u64, fingerprint.clone(), resolved.toml.clone())
        };
        let ((mut recipe, loader, fingerprint), notes) = ranks.share("model and data", build(), note)?;
        check_alike(&notes)?;
        let batches = loader.batches_per_epoch() as u64;
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
            let world = ranks.world();
            check_compatible(&path, state, R::NAME, &resolved.toml, &fingerprint, world, &allow_change)?;
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
        if ranks.several() {
            broadcast_params(&*ranks.0, &params.all(), 0)?;
        }

        let files = || -> Result<Option<Files>> {
            let Some(store) = store else { return Ok(None) };
            let evaluated = kept_evaluations(&folder, saved.as_ref().map(|(step, _)| *step))?;
            let metrics = MetricLog::open(folder.metrics(), |row| {
                let own = matches!(row.split.as_str(), "train" | "system");
                row.step < position.step
                    || (row.step == position.step && (own || evaluated.contains(&row.step)))
            })?;
            let events = EventWriter::create(folder.path(), position.step)?;
            replace_file(&folder.config(), resolved.file_text()?.as_bytes())?;
            let facts = write_run_json::<R>(&folder, ctx, run, &fingerprint, &command_line, position.step)?;
            Ok(Some(Files { store, metrics, events, facts }))
        };
        let files = ranks.agree("files of the run", files())?;

        Ok(Self {
            schedule: R::schedule(cfg, steps_per_epoch)?,
            steps_per_epoch,
            resolved,
            data,
            ctx,
            ranks,
            folder,
            files,
            recipe,
            params,
            loader,
            fingerprint,
            optimisers,
            progress,
            position,
            window,
            saved,
            compared: false,
            report: None,
        })
    }
}

/// Makes the run folder, or finds it where a run is to go on.
fn open(folder: &RunFolder, resume: bool) -> Result<Store> {
    if resume && !folder.config().exists() {
        return Err(Error::Usage(format!(
            "{}: no run to resume here; leave --resume out to start one",
            folder.path().display()
        )));
    }
    folder.create()?;
    let store = Store::open(folder.checkpoints())?;
    if !resume && store.last()?.is_some() {
        return Err(Error::Usage(format!(
            "{}: a run is here already; continue it with --resume or choose another --out",
            folder.path().display()
        )));
    }
    Ok(store)
}

/// Fails unless all ranks have as many batches of the same data, and the same configuration.
fn check_alike(notes: &[(u64, String, String)]) -> Result<()> {
    let Some(first) = notes.first() else { return Ok(()) };
    for (rank, theirs) in notes.iter().enumerate() {
        let problem = if first.2 != theirs.2 {
            "its configuration is not that of rank 0".to_owned()
        } else if first.1 != theirs.1 {
            format!("its training data is {}, that of rank 0 {}", theirs.1, first.1)
        } else if first.0 != theirs.0 {
            format!("it has {} batches, rank 0 has {}: too few samples for so many ranks", theirs.0, first.0)
        } else {
            continue;
        };
        return Err(Error::Rank { rank, problem });
    }
    Ok(())
}
