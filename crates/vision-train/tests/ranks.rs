//! Several ranks that train the toy together, as threads of this process.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod toy;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use candle_core::Device;
use toy::{Share, Toy, ToyConfig, no_data, resolved};
use vision_core::dist::Threads;
use vision_train::checkpoint::{Checkpoint, Store};
use vision_train::config::Resolved;
use vision_train::sinks::{Progress, StepInfo};
use vision_train::{Context, Error, NonFinite, Outcome, Result, RunFolder, Trainer};

const PATIENT: Duration = Duration::from_secs(60);
const ALL: Share = Share { norm: true, memory: true, evaluation: false };

/// What every rank returns; `change` gets the configuration of each.
fn train_each(
    world: usize,
    out: &Path,
    resume: bool,
    config: impl Fn(usize) -> Resolved<ToyConfig> + Sync,
    prepare: impl Fn(usize, &Context) -> Box<dyn Progress> + Sync,
) -> Vec<Result<Outcome>> {
    let results = Threads::run(world, PATIENT, |ranks| {
        let rank = vision_core::dist::Collective::rank(&ranks);
        let ctx = Context::new(Device::Cpu, out).with_collective(Arc::new(ranks));
        let progress = prepare(rank, &ctx);
        Trainer::<Toy>::new(&config(rank), &no_data(), &ctx).resume(resume).progress(progress).run()
    });
    results.into_iter().map(|result| result.unwrap()).collect()
}

fn train(world: usize, out: &Path, resume: bool, config: &Resolved<ToyConfig>) -> Vec<Result<Outcome>> {
    train_each(world, out, resume, |_| config.clone(), |_, _| Box::new(vision_train::sinks::Silent))
}

fn train_well(world: usize, out: &Path, resume: bool, config: &Resolved<ToyConfig>) -> Vec<Outcome> {
    train(world, out, resume, config).into_iter().map(|result| result.unwrap()).collect()
}

/// Batches of eight over all ranks, without what depends on the rank.
fn config(world: usize, change: impl FnOnce(&mut ToyConfig)) -> Resolved<ToyConfig> {
    resolved(|c| {
        c.data.samples = 48;
        c.data.batch_size = 8 / world;
        c.drop = false;
        c.share = ALL;
        change(c);
    })
}

fn last(out: &Path) -> Checkpoint {
    let store = Store::open(RunFolder::new(out).checkpoints()).unwrap();
    Checkpoint::read(&store.last().unwrap().unwrap()).unwrap()
}

fn assert_close(a: &Path, b: &Path, tolerance: f64) {
    let (one, two) = (last(a), last(b));
    for (one, two) in [(&one.model, &two.model), (&one.optim, &two.optim), (&one.state, &two.state)] {
        assert!(one.names().eq(two.names()));
        for (name, array) in &one.tensors {
            let (a, b) = (array.to_f64().unwrap(), two.require(name).unwrap().to_f64().unwrap());
            let furthest = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(furthest <= tolerance, "{name}: {furthest}, not {tolerance}");
        }
    }
    let position = |c: &Checkpoint| (c.trainer.step, c.trainer.epoch, c.trainer.batch, c.trainer.samples);
    assert_eq!(position(&one), position(&two));
}

/// Value of the last row called `name`.
fn last_row(out: &Path, name: &str) -> f64 {
    let text = fs::read_to_string(RunFolder::new(out).metrics()).unwrap();
    let mut rows = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    rows.rfind(|row| row["name"] == name).unwrap()["value"].as_f64().unwrap()
}

#[test]
fn ranks_together_train_as_one_on_the_whole_batch() {
    // The last of 47 samples are seven: shares of four and three.
    for (accumulate, clip_norm, samples) in [(1, None, 47), (2, Some(0.5), 48)] {
        let change = |c: &mut ToyConfig| {
            c.data.samples = samples;
            c.run.accumulate = accumulate;
            c.run.clip_norm = clip_norm;
        };
        let single = tempfile::tempdir().unwrap();
        let ctx = Context::new(Device::Cpu, single.path());
        let want = Trainer::<Toy>::new(&config(1, change), &no_data(), &ctx).run().unwrap();
        for world in [1, 2, 4] {
            let out = tempfile::tempdir().unwrap();
            let outcomes = train_well(world, out.path(), false, &config(world, change));
            assert_close(single.path(), out.path(), if world == 1 { 0.0 } else { 1e-5 });
            for outcome in &outcomes {
                assert_eq!((outcome.step, outcome.samples), (want.step, want.samples));
                assert_eq!(outcome.values, want.values);
                assert_eq!(outcome.checkpoint.file_name(), want.checkpoint.file_name());
            }
            for name in ["loss", "feature_norm"] {
                let (a, b) = (last_row(single.path(), name), last_row(out.path(), name));
                assert!((a - b).abs() < 1e-5, "{name}: {a} and {b}");
            }
            assert_eq!(last(out.path()).trainer.ranks, world);
            let events = fs::read_dir(out.path())
                .unwrap()
                .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("events."));
            assert_eq!(events.count(), 1);
        }
    }
}

#[test]
fn without_shared_statistics_each_rank_has_its_own_and_rank_0_counts() {
    let out = tempfile::tempdir().unwrap();
    let config = config(2, |c| c.share.norm = false);
    train_well(2, out.path(), false, &config);
    let shared = tempfile::tempdir().unwrap();
    train_well(2, shared.path(), false, &self::config(2, |_| {}));
    assert_ne!(last(out.path()).model.tensors, last(shared.path()).model.tensors);
}

#[test]
fn stopping_and_resuming_equals_never_having_stopped() {
    // Random numbers that differ between ranks, and statistics of their own, are part of it.
    let config = |max_steps: Option<u64>| {
        config(2, |c| {
            c.drop = true;
            c.share.norm = false;
            c.run.max_steps = max_steps;
            c.run.checkpoint_every_steps = Some(4);
            c.run.eval_every_epochs = 0;
            c.run.workers = 1;
        })
    };
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    train_well(2, whole.path(), false, &config(None));
    for (index, stop) in [5, 7, 10].into_iter().enumerate() {
        train_well(2, parts.path(), index > 0, &config(Some(stop)));
    }
    train_well(2, parts.path(), true, &config(None));
    let (one, two) = (last(whole.path()), last(parts.path()));
    assert_eq!(one.model.tensors, two.model.tensors);
    assert_eq!(one.optim.tensors, two.optim.tensors);
    assert_eq!(one.state.tensors, two.state.tensors);
}

#[test]
fn another_number_of_ranks_is_another_run() {
    let out = tempfile::tempdir().unwrap();
    train_well(2, out.path(), false, &config(2, |c| c.run.epochs = 1));
    let ctx = Context::new(Device::Cpu, out.path());
    let go_on = |allow: &[&str]| {
        let allow = allow.iter().map(|&key| key.to_owned()).collect();
        let config = config(1, |c| c.run.epochs = 2);
        Trainer::<Toy>::new(&config, &no_data(), &ctx).resume(true).allow_change(allow).run()
    };
    let text = go_on(&["data"]).unwrap_err().to_string();
    assert!(text.contains("trained by 2 ranks, this run has 1"), "{text}");
    assert_eq!(go_on(&["data", "ranks"]).unwrap().epoch, 2);
}

/// Asks its own rank to stop.
struct StopAt(u64, Arc<AtomicBool>);

impl Progress for StopAt {
    fn start(&mut self, _: u64, _: u64) {}
    fn step(&mut self, info: &StepInfo<'_>) {
        if info.step == self.0 {
            self.1.store(true, Ordering::Relaxed);
        }
    }
    fn message(&mut self, _: &str) {}
    fn finish(&mut self) {}
}

#[test]
fn one_rank_that_is_asked_to_stop_stops_all_at_the_same_step() {
    let whole = tempfile::tempdir().unwrap();
    train_well(3, whole.path(), false, &config(2, |_| {}));
    // Within an epoch, and at its end.
    for stop in [2, 4] {
        let parts = tempfile::tempdir().unwrap();
        let results = train_each(
            3,
            parts.path(),
            false,
            |_| config(2, |_| {}),
            |rank, ctx| Box::new(StopAt(if rank == 1 { stop } else { 0 }, Arc::clone(&ctx.interrupt))),
        );
        for result in results {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::Interrupted { step, .. } if step == stop), "{error}");
        }
        train_well(3, parts.path(), true, &config(2, |_| {}));
        assert_close(whole.path(), parts.path(), 0.0);
    }
}

#[test]
fn a_loss_that_is_not_finite_on_one_rank_stops_all() {
    let poisoned = |on_nonfinite| {
        config(2, |c| {
            c.poison = vec![9];
            c.poison_rank = Some(1);
            c.run.on_nonfinite = on_nonfinite;
        })
    };
    let out = tempfile::tempdir().unwrap();
    for result in train(2, out.path(), false, &poisoned(NonFinite::Stop)) {
        let error = result.unwrap_err();
        assert!(
            error.to_string().contains("step 9") && error.to_string().contains("NaN on rank 1"),
            "{error}"
        );
        let Error::Diverged { checkpoint, samples, .. } = error else { panic!("{error}") };
        assert_eq!(samples.len(), 8);
        assert_eq!(Checkpoint::read(&checkpoint).unwrap().trainer.step, 9);
    }
    let out = tempfile::tempdir().unwrap();
    for outcome in train_well(2, out.path(), false, &poisoned(NonFinite::Skip)) {
        assert_eq!(outcome.step, 18);
    }
}

#[test]
fn what_a_recipe_forgets_to_exchange_is_found_after_the_first_step() {
    let out = tempfile::tempdir().unwrap();
    for result in train(2, out.path(), false, &config(2, |c| c.share.memory = false)) {
        let text = result.unwrap_err().to_string();
        assert!(text.starts_with("rank 1 failed: its state memory is not that of rank 0"), "{text}");
    }
}

#[test]
fn ranks_that_differ_are_found_before_the_first_step() {
    type Change = fn(&mut ToyConfig);
    let changes: [Change; 2] = [|c| c.sgd.lr = 0.5, |c| c.data.samples = 40];
    for change in changes {
        let out = tempfile::tempdir().unwrap();
        let each = |rank| {
            config(2, |c| {
                if rank == 1 {
                    change(c);
                }
            })
        };
        for result in train_each(2, out.path(), false, each, |_, _| Box::new(vision_train::sinks::Silent)) {
            let text = result.unwrap_err().to_string();
            assert_eq!(text, "rank 1 failed: its configuration is not that of rank 0");
        }
    }
    // One sample cannot be shared.
    let out = tempfile::tempdir().unwrap();
    for result in train(2, out.path(), false, &config(2, |c| c.data.samples = 1)) {
        let text = result.unwrap_err().to_string();
        assert!(text.contains("too few samples for so many ranks"), "{text}");
    }
    // Only rank 0 looks whether there is a run already; the others hear of it.
    let out = tempfile::tempdir().unwrap();
    train_well(2, out.path(), false, &config(2, |c| c.run.epochs = 1));
    let results = train(2, out.path(), false, &config(2, |_| {}));
    let texts: Vec<String> = results.into_iter().map(|result| result.unwrap_err().to_string()).collect();
    assert!(texts[0].contains("a run is here already"), "{texts:?}");
    assert!(
        texts[1].starts_with("rank 0 failed: ") && texts[1].contains("a run is here already"),
        "{texts:?}"
    );
}

#[test]
fn an_evaluation_can_be_shared() {
    let (alone, together) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let one = train_well(2, alone.path(), false, &config(2, |_| {}));
    let two = train_well(2, together.path(), false, &config(2, |c| c.share.evaluation = true));
    for outcome in &two {
        assert_eq!(outcome.values, one[0].values);
        assert_eq!(outcome.checks.len(), one[0].checks.len());
    }
    let folder = RunFolder::new(together.path());
    assert!(folder.eval().join("epoch-3.json").is_file() && folder.report().is_file());
}
