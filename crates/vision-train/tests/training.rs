//! The loop on a toy: learning, resuming, stopping, failing.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod toy;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Device;
use toy::{Toy, ToyConfig, no_data, resolved};
use vision_train::checkpoint::{Checkpoint, Store, find};
use vision_train::config::Resolved;
use vision_train::optim::AdamConfig;
use vision_train::sinks::{Progress, StepInfo};
use vision_train::{Context, Error, NonFinite, Outcome, Result, RunFolder, Trainer};

fn train(config: &Resolved<ToyConfig>, out: &Path, resume: bool) -> Result<Outcome> {
    let ctx = Context::new(Device::Cpu, out);
    Trainer::<Toy>::new(config, &no_data(), &ctx).resume(resume).run()
}

fn last(out: &Path) -> Checkpoint {
    let store = Store::open(RunFolder::new(out).checkpoints()).unwrap();
    Checkpoint::read(&store.last().unwrap().unwrap()).unwrap()
}

/// The metric log without what depends on the clock.
fn timeless_rows(out: &Path) -> Vec<String> {
    let text = fs::read_to_string(RunFolder::new(out).metrics()).unwrap();
    text.lines()
        .filter(|line| !line.contains("\"system\"") && !line.contains("evaluation_seconds"))
        .map(str::to_owned)
        .collect()
}

fn assert_same_run(a: &Path, b: &Path) {
    let (one, two) = (last(a), last(b));
    assert_eq!(one.model.tensors, two.model.tensors);
    assert_eq!(one.optim.tensors, two.optim.tensors);
    assert_eq!(one.state.tensors, two.state.tensors);
    let position = |c: &Checkpoint| (c.trainer.step, c.trainer.epoch, c.trainer.batch, c.trainer.samples);
    assert_eq!(position(&one), position(&two));
    assert_eq!(timeless_rows(a), timeless_rows(b));
}

#[test]
fn the_toy_learns_and_leaves_a_complete_run_folder() {
    let out = tempfile::tempdir().unwrap();
    let config = resolved(|c| {
        c.run.epochs = 8;
        c.run.eval_at_start = true;
    });
    let outcome = train(&config, out.path(), false).unwrap();
    // 50 samples in batches of 8 are 7 batches.
    assert_eq!((outcome.step, outcome.epoch, outcome.samples), (56, 8, 400));
    assert!(outcome.values["top1"] > 0.85, "{:?}", outcome.values);
    let folder = RunFolder::new(out.path());
    for file in [folder.config(), folder.run_json(), folder.metrics(), folder.report()] {
        assert!(file.is_file(), "{}", file.display());
    }
    for epoch in 0..=8 {
        assert!(folder.eval().join(format!("epoch-{epoch}.json")).is_file());
    }
    let page = fs::read_to_string(folder.report()).unwrap();
    assert!(page.contains("<svg") && page.contains("top1") && page.contains("train: loss"));
    assert!(
        fs::read_dir(out.path()).unwrap().any(|entry| {
            entry.unwrap().file_name().to_string_lossy().starts_with("events.out.tfevents.")
        })
    );
    let best = find(&folder.checkpoints()).unwrap();
    assert_eq!(find(out.path()).unwrap(), best);
    let weights = vision_weights::open(best.join("model.safetensors")).unwrap();
    assert_eq!(weights.metadata()["recipe"], "toy");
    assert_eq!(weights.metadata()["config"], config.toml);
    let first = fs::read_to_string(folder.eval().join("epoch-0.json")).unwrap();
    assert!(first.contains("\"fraction\"") && first.contains("\"top1\""), "{first}");
}

#[test]
fn stopping_and_resuming_equals_never_having_stopped() {
    let adam = AdamConfig { lr: 0.01, amsgrad: true, ..AdamConfig::default() };
    for (accumulate, workers, stops, optimiser) in [
        (1, 0, vec![10, 13], None),
        (2, 2, vec![3], None),
        (3, 1, vec![1, 2, 8], None),
        (1, 2, vec![7], None),
        (1, 0, vec![5, 10], Some(adam.into())),
        (2, 1, vec![3], Some(AdamConfig::adamw().into())),
    ] {
        let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let config = |max_steps: Option<u64>, workers: usize| {
            resolved(|c| {
                c.run.max_steps = max_steps;
                c.run.accumulate = accumulate;
                c.optimiser = optimiser;
                c.run.workers = workers;
                c.run.clip_norm = Some(1.0);
                c.run.checkpoint_every_steps = Some(4);
                // A run that ends within an epoch evaluates there, which the whole run does not.
                c.run.eval_every_epochs = 0;
                c.schedule.warm_up_epochs = 0.5;
            })
        };
        train(&config(None, 0), whole.path(), false).unwrap();
        for (index, stop) in stops.iter().enumerate() {
            train(&config(Some(*stop), workers), parts.path(), index > 0).unwrap();
        }
        let eval = RunFolder::new(parts.path()).eval();
        assert!(fs::read_dir(eval).unwrap().count() > 0);
        train(&config(None, workers), parts.path(), true).unwrap();
        let (one, two) = (last(whole.path()), last(parts.path()));
        assert_eq!(one.model.tensors, two.model.tensors, "accumulate {accumulate}");
        assert_eq!(one.optim.tensors, two.optim.tensors);
        assert_eq!(one.state.tensors, two.state.tensors);
        let train_rows = |path: &Path| -> Vec<String> {
            timeless_rows(path).into_iter().filter(|line| line.contains("\"train\"")).collect()
        };
        assert_eq!(train_rows(whole.path()), train_rows(parts.path()));
    }
}

/// Stops the run after a number of steps, as a signal would.
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
fn an_interrupt_saves_and_the_rest_is_the_same_run() {
    let config = resolved(|_| {});
    let whole = tempfile::tempdir().unwrap();
    train(&config, whole.path(), false).unwrap();
    // In the middle of an epoch, and at its end: before the evaluation.
    for stop in [9, 14] {
        let parts = tempfile::tempdir().unwrap();
        let ctx = Context::new(Device::Cpu, parts.path());
        let error = Trainer::<Toy>::new(&config, &no_data(), &ctx)
            .progress(Box::new(StopAt(stop, Arc::clone(&ctx.interrupt))))
            .run()
            .unwrap_err();
        assert!(matches!(error, Error::Interrupted { step, .. } if step == stop), "{error}");
        assert!(error.to_string().contains("--resume"));
        assert_eq!(error.exit_code(), 1);
        train(&config, parts.path(), true).unwrap();
        assert_same_run(whole.path(), parts.path());
    }
}

#[test]
fn rows_beyond_the_checkpoint_are_not_repeated() {
    let config = resolved(|c| c.run.checkpoint_every_steps = Some(5));
    let whole = tempfile::tempdir().unwrap();
    train(&config, whole.path(), false).unwrap();
    let killed = tempfile::tempdir().unwrap();
    let short = resolved(|c| {
        c.run.checkpoint_every_steps = Some(5);
        c.run.max_steps = Some(10);
    });
    train(&short, killed.path(), false).unwrap();
    // As if the process had gone on past its checkpoint and died while writing a line and a checkpoint.
    let folder = RunFolder::new(killed.path());
    let mut log = fs::read_to_string(folder.metrics()).unwrap();
    log.push_str(
        "{\"step\":12,\"epoch\":1,\"split\":\"train\",\"name\":\"loss\",\"value\":9.0}\n{\"step\":1",
    );
    fs::write(folder.metrics(), log).unwrap();
    fs::create_dir(folder.checkpoints().join(".tmp-step-12-abc")).unwrap();
    // The evaluation at the early end is not part of the whole run.
    fs::remove_file(folder.eval().join("step-10.json")).unwrap();
    train(&config, killed.path(), true).unwrap();
    assert_same_run(whole.path(), killed.path());
}

#[test]
fn a_finished_run_can_be_resumed_and_extended() {
    let out = tempfile::tempdir().unwrap();
    let short = resolved(|c| c.run.epochs = 1);
    let outcome = train(&short, out.path(), false).unwrap();
    let again = train(&short, out.path(), true).unwrap();
    assert_eq!((again.step, &again.values), (outcome.step, &outcome.values));
    let longer = train(&resolved(|c| c.run.epochs = 2), out.path(), true).unwrap();
    assert_eq!(longer.epoch, 2);
    let whole = tempfile::tempdir().unwrap();
    train(&resolved(|c| c.run.epochs = 2), whole.path(), false).unwrap();
    assert_same_run(whole.path(), out.path());
    let runs: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(RunFolder::new(out.path()).run_json()).unwrap()).unwrap();
    assert_eq!(runs["starts"].as_array().unwrap().len(), 3);
}

#[test]
fn another_configuration_or_data_is_refused() {
    let out = tempfile::tempdir().unwrap();
    train(&resolved(|c| c.run.epochs = 1), out.path(), false).unwrap();

    let other = resolved(|c| {
        c.sgd.lr = 0.5;
        c.noise = 0.0;
        c.run.workers = 1;
    });
    let error = train(&other, out.path(), true).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("noise, sgd.lr") && text.contains("--allow-change sgd.lr"), "{text}");
    assert!(!text.contains("workers"), "{text}");
    assert_eq!(error.exit_code(), 2);

    let ctx = Context::new(Device::Cpu, out.path());
    let allowed = vec!["sgd".to_owned(), "noise".to_owned()];
    Trainer::<Toy>::new(&other, &no_data(), &ctx).resume(true).allow_change(allowed).run().unwrap();

    let more = resolved(|c| c.data.samples = 60);
    let train_more = |allow: &[&str]| {
        let allow = allow.iter().map(|&key| key.to_owned()).collect();
        Trainer::<Toy>::new(&more, &no_data(), &ctx).resume(true).allow_change(allow).run()
    };
    let error = train_more(&["data.samples", "noise", "sgd.lr"]).unwrap_err();
    assert!(error.to_string().contains("the data differs"), "{error}");
}

#[test]
fn an_existing_run_is_not_overwritten_and_a_missing_one_not_resumed() {
    let out = tempfile::tempdir().unwrap();
    let config = resolved(|c| c.run.epochs = 1);
    let error = train(&config, out.path(), true).unwrap_err();
    assert!(error.to_string().contains("no run to resume"), "{error}");
    train(&config, out.path(), false).unwrap();
    let error = train(&config, out.path(), false).unwrap_err();
    assert!(error.to_string().contains("--resume"), "{error}");
    assert_eq!(error.exit_code(), 2);
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_names_the_samples() {
    let out = tempfile::tempdir().unwrap();
    let config = resolved(|c| c.poison = vec![9]);
    let error = train(&config, out.path(), false).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("step 9") && text.contains("NaN") && text.contains("points#"), "{text}");
    assert_eq!(error.exit_code(), 1);
    let Error::Diverged { checkpoint, samples, .. } = error else { panic!("{text}") };
    assert_eq!(samples.len(), 8);
    assert_eq!(Checkpoint::read(&checkpoint).unwrap().trainer.step, 9);
    // The checkpoint to go on from is the one at the end of the first epoch.
    assert_eq!(last(out.path()).trainer.step, 7);
}

#[test]
fn bad_batches_can_be_left_out_but_not_for_ever() {
    let out = tempfile::tempdir().unwrap();
    let skip = |poison: Vec<u64>| {
        resolved(|c| {
            c.poison = poison;
            c.run.on_nonfinite = NonFinite::Skip;
        })
    };
    let outcome = train(&skip(vec![3, 4, 9]), out.path(), false).unwrap();
    assert_eq!(outcome.step, 21);
    let out = tempfile::tempdir().unwrap();
    let error = train(&skip((2..21).collect()), out.path(), false).unwrap_err();
    assert!(matches!(error, Error::Diverged { step: 11, .. }), "{error}");
}

#[test]
fn a_pointer_that_cannot_be_moved_stops_the_run_and_loses_nothing() {
    let out = tempfile::tempdir().unwrap();
    let config = |epochs| resolved(|c| c.run.epochs = epochs);
    train(&config(1), out.path(), false).unwrap();
    let before = last(out.path());
    // No file can be renamed over a folder, so `best` cannot be moved on.
    let folder = RunFolder::new(out.path()).checkpoints();
    let pointer = fs::read(folder.join("best")).unwrap();
    fs::remove_file(folder.join("best")).unwrap();
    fs::create_dir(folder.join("best")).unwrap();
    let error = train(&config(2), out.path(), true).unwrap_err();
    assert!(error.to_string().contains("best"), "{error}");
    fs::remove_dir(folder.join("best")).unwrap();
    fs::write(folder.join("best"), pointer).unwrap();
    assert!(last(out.path()).trainer.step >= before.trainer.step);
    train(&config(2), out.path(), true).unwrap();
    let whole = tempfile::tempdir().unwrap();
    train(&config(2), whole.path(), false).unwrap();
    assert_eq!(last(whole.path()).model.tensors, last(out.path()).model.tensors);
}

#[test]
fn broken_checkpoints_are_refused_with_their_path() {
    let out = tempfile::tempdir().unwrap();
    let config = resolved(|c| c.run.epochs = 1);
    let outcome = train(&config, out.path(), false).unwrap();
    let model = outcome.checkpoint.join("model.safetensors");
    let bytes = fs::read(&model).unwrap();
    fs::write(&model, &bytes[..bytes.len() / 2]).unwrap();
    let error = train(&config, out.path(), true).unwrap_err();
    assert!(error.to_string().contains("model.safetensors"), "{error}");
}

#[test]
fn weights_to_start_from_must_fit() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = resolved(|c| c.run.epochs = 1);
    train(&config, first.path(), false).unwrap();
    let weights = last(first.path()).model;
    let none = resolved(|c| c.run.epochs = 0);
    let start = |config: &Resolved<ToyConfig>, out: &Path| {
        let ctx = Context::new(Device::Cpu, out);
        Trainer::<Toy>::new(config, &no_data(), &ctx).weights(Some(weights.clone())).run()
    };
    let outcome = start(&none, second.path()).unwrap();
    assert_eq!(outcome.step, 0);
    assert_eq!(last(second.path()).model.tensors, weights.tensors);
    let wide = resolved(|c| c.hidden = 5);
    assert!(start(&wide, tempfile::tempdir().unwrap().path()).is_err());
}

#[test]
fn expectations_are_checked_against_the_final_values() {
    let out = tempfile::tempdir().unwrap();
    let text = "[run]\nepochs = 1\n[expect]\ntop1 = { min = 2.0 }\nabsent = { max = 1.0 }\n";
    let config = vision_train::config::parse_resolved::<ToyConfig>(text, "x.toml").unwrap();
    let outcome = train(&config, out.path(), false).unwrap();
    let verdicts: BTreeMap<&str, bool> =
        outcome.checks.iter().map(|check| (check.expect.metric.as_str(), check.ok)).collect();
    assert_eq!(verdicts, BTreeMap::from([("top1", false), ("absent", false)]));
    let page = fs::read_to_string(&outcome.report).unwrap();
    assert!(page.contains("MISSED"));
}
