//! Real processes that are killed and interrupted. Each test starts this test binary again, with the
//! ignored test `child` as the program.

#![cfg(all(feature = "cli", unix))]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod toy;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use toy::Toy;
use vision_train::RunFolder;
use vision_train::checkpoint::{Checkpoint, Store};
use vision_train::cli::{CliContext, NoVerbs, PaperCli, run};

impl PaperCli for Toy {
    const ABOUT: &'static str = "a toy";
    const VERSION: &'static str = "0";
    type Own = NoVerbs;

    fn own(verb: NoVerbs, _: &CliContext) -> vision_train::Result<()> {
        match verb {}
    }
}

const ARGUMENTS: &str = "TOY_ARGUMENTS";

#[test]
#[ignore = "the program that the other tests start"]
fn child() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else { return };
    std::process::exit(run::<Toy>(arguments.split('\n').map(Into::into).collect()).into());
}

/// Sixty steps with a checkpoint after each.
fn start(out: &Path, resume: bool) -> Child {
    let mut arguments = vec!["toy", "train", "-q", "--out", out.to_str().unwrap()];
    if resume {
        arguments.push("--resume");
    }
    for set in
        ["run.epochs=20", "run.checkpoint_every_steps=1", "run.max_steps=60", "run.eval_every_epochs=3"]
    {
        arguments.extend(["--set", set]);
    }
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--quiet"])
        .env(ARGUMENTS, arguments.join("\n"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn last(out: &Path) -> Option<Checkpoint> {
    let store = Store::open(RunFolder::new(out).checkpoints()).unwrap();
    store.last().unwrap().map(|path| Checkpoint::read(&path).unwrap())
}

/// Waits until some checkpoint is there.
fn wait_for_progress(out: &Path) {
    let begun = Instant::now();
    while !RunFolder::new(out).checkpoints().join("last").exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "no checkpoint after a minute");
        sleep(Duration::from_millis(2));
    }
}

fn assert_equal_ends(whole: &Path, parts: &Path) {
    let (one, two) = (last(whole).unwrap(), last(parts).unwrap());
    assert_eq!((one.trainer.step, two.trainer.step), (60, 60));
    assert_eq!(one.model.tensors, two.model.tensors);
    assert_eq!(one.optim.tensors, two.optim.tensors);
    assert_eq!(one.state.tensors, two.state.tensors);
    assert!(RunFolder::new(parts).report().is_file());
}

#[test]
fn a_run_killed_again_and_again_ends_like_one_that_was_not() {
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert!(start(whole.path(), false).wait().unwrap().success());
    let mut process = start(parts.path(), false);
    wait_for_progress(parts.path());
    let mut kills = 0;
    let mut step = 0;
    for delay in [0, 7, 31, 13, 53, 3, 41, 19, 61, 29] {
        sleep(Duration::from_millis(delay));
        process.kill().unwrap();
        let ended = process.wait().unwrap();
        // Whatever it was doing, a complete checkpoint is there, and none is lost.
        let now = last(parts.path()).unwrap().trainer.step;
        assert!(now >= step, "{now} after {step}");
        step = now;
        process = start(parts.path(), true);
        if ended.success() {
            break;
        }
        kills += 1;
    }
    assert!(process.wait().unwrap().success());
    assert!(kills > 0, "the run was over before the first kill");
    assert_equal_ends(whole.path(), parts.path());
}

#[test]
fn an_interrupt_from_the_terminal_saves_and_exits_with_one() {
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert!(start(whole.path(), false).wait().unwrap().success());
    let mut process = start(parts.path(), false);
    wait_for_progress(parts.path());
    let sent = Command::new("kill").args(["-INT", &process.id().to_string()]).status().unwrap();
    assert!(sent.success());
    assert_eq!(process.wait().unwrap().code(), Some(1));
    let step = last(parts.path()).unwrap().trainer.step;
    assert!(step < 60, "the run was over before the interrupt");
    assert!(start(parts.path(), true).wait().unwrap().success());
    assert_equal_ends(whole.path(), parts.path());
}
