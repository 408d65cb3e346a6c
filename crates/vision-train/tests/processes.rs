//! Several processes that train the toy together. As in `kill.rs`, the ignored test `child` is the program.

#![cfg(all(feature = "cli", unix))]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod toy;

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
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
/// The batch of all ranks is of eight; every rank has the same random numbers: none.
const SHARED: [&str; 4] =
    ["drop=false", "share.norm=true", "share.memory=true", "run.checkpoint_every_steps=1"];

#[test]
#[ignore = "the program that the other tests start"]
fn child() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else { return };
    std::process::exit(run::<Toy>(arguments.split('\n').map(Into::into).collect()).into());
}

fn program(out: &Path, batch_size: usize, steps: u64, more: &[&str]) -> Command {
    let mut arguments: Vec<String> =
        ["toy", "train", "-q", "--rank-timeout", "30", "--out"].map(Into::into).into();
    arguments.push(out.to_str().unwrap().to_owned());
    let sizes = [
        format!("data.batch_size={batch_size}"),
        format!("run.max_steps={steps}"),
        // Seven are left for the last batch of an epoch.
        "data.samples=47".to_owned(),
        "run.epochs=100000".to_owned(),
        "run.eval_every_epochs=50".to_owned(),
    ];
    for set in SHARED.map(str::to_owned).into_iter().chain(sizes) {
        arguments.extend(["--set".to_owned(), set]);
    }
    arguments.extend(more.iter().map(|&argument| argument.to_owned()));
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child", "--ignored", "--quiet", "--nocapture"])
        .env(ARGUMENTS, arguments.join("\n"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

fn finish(command: &mut Command) -> Output {
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Starts ranks as torchrun would.
fn start_ranks(world: usize, out: &Path) -> Vec<Child> {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let start = |rank: usize| {
        program(out, 8 / world, 100_000, &[])
            .env("RANK", rank.to_string())
            .env("WORLD_SIZE", world.to_string())
            .env("MASTER_ADDR", "127.0.0.1")
            .env("MASTER_PORT", port.to_string())
            .spawn()
            .unwrap()
    };
    (0..world).map(start).collect()
}

fn last(out: &Path) -> Checkpoint {
    let store = Store::open(RunFolder::new(out).checkpoints()).unwrap();
    Checkpoint::read(&store.last().unwrap().unwrap()).unwrap()
}

fn wait_for_progress(out: &Path) {
    let begun = Instant::now();
    while !RunFolder::new(out).checkpoints().join("last").exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "no checkpoint after a minute");
        sleep(Duration::from_millis(5));
    }
}

fn signal(name: &str, process: u32) {
    assert!(Command::new("kill").args([name, &process.to_string()]).status().unwrap().success());
}

/// Ends a process and returns its exit code and what it said.
fn ended(process: Child) -> (Option<i32>, String) {
    let output = process.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn assert_equal_ends(single: &Path, several: &Path) {
    let (one, two) = (last(single), last(several));
    assert_eq!((one.trainer.step, two.trainer.step), (20, 20));
    for (one, two) in [(&one.model, &two.model), (&one.optim, &two.optim), (&one.state, &two.state)] {
        for (name, array) in &one.tensors {
            let (a, b) = (array.to_f64().unwrap(), two.require(name).unwrap().to_f64().unwrap());
            let furthest = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(furthest <= 1e-5, "{name}: {furthest}");
        }
    }
}

/// The processes that a process has started, of all its threads.
#[cfg(target_os = "linux")]
fn children(process: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for thread in std::fs::read_dir(format!("/proc/{process}/task")).unwrap() {
        let text = std::fs::read_to_string(thread.unwrap().path().join("children")).unwrap();
        found.extend(text.split_whitespace().map(|id| id.parse::<u32>().unwrap()));
    }
    found.sort_unstable();
    found
}

#[test]
fn two_processes_train_as_one_and_resume() {
    let (single, several) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    finish(&mut program(single.path(), 8, 20, &[]));
    finish(&mut program(several.path(), 4, 12, &["--nproc", "2"]));
    finish(&mut program(several.path(), 4, 20, &["--nproc", "2", "--resume"]));
    assert_equal_ends(single.path(), several.path());
    assert_eq!((last(single.path()).trainer.ranks, last(several.path()).trainer.ranks), (1, 2));
    assert!(RunFolder::new(several.path()).report().is_file());
}

#[test]
fn when_one_rank_is_killed_the_others_end_and_name_it() {
    for killed in [0, 2] {
        let out = tempfile::tempdir().unwrap();
        let mut ranks = start_ranks(3, out.path());
        wait_for_progress(out.path());
        let begun = Instant::now();
        let mut victim = ranks.remove(killed);
        victim.kill().unwrap();
        victim.wait().unwrap();
        for rank in ranks {
            let (code, text) = ended(rank);
            assert_eq!(code, Some(1), "{text}");
            assert!(text.contains(&format!("for rank {killed}, gone")), "{text}");
        }
        assert!(begun.elapsed() < Duration::from_secs(20));
        // What was saved is whole.
        assert!(last(out.path()).trainer.step > 0);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_launcher_says_which_rank_was_killed() {
    let out = tempfile::tempdir().unwrap();
    let launcher = program(out.path(), 4, 100_000, &["--nproc", "2"]).spawn().unwrap();
    wait_for_progress(out.path());
    signal("-KILL", children(launcher.id())[1]);
    let (code, text) = ended(launcher);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("error: rank 1 was killed by signal 9"), "{text}");
    assert!(text.contains("error: rank 0: ") && text.contains("for rank 1, gone"), "{text}");
}

#[test]
fn an_interrupt_of_one_rank_stops_all_with_a_checkpoint() {
    let out = tempfile::tempdir().unwrap();
    let ranks = start_ranks(2, out.path());
    wait_for_progress(out.path());
    signal("-INT", ranks[1].id());
    let texts: Vec<String> = ranks
        .into_iter()
        .map(|rank| {
            let (code, text) = ended(rank);
            assert_eq!(code, Some(1), "{text}");
            assert!(text.contains("interrupted after step"), "{text}");
            text
        })
        .collect();
    let step = format!("interrupted after step {};", last(out.path()).trainer.step);
    assert!(texts.iter().all(|text| text.contains(&step)), "{texts:?}");
    assert!(texts[1].contains("error: rank 1: interrupted"), "{texts:?}");
}

#[test]
fn an_interrupt_of_the_launcher_reaches_all() {
    for name in ["-INT", "-TERM"] {
        let out = tempfile::tempdir().unwrap();
        let launcher = program(out.path(), 4, 100_000, &["--nproc", "2"]).spawn().unwrap();
        wait_for_progress(out.path());
        signal(name, launcher.id());
        let (code, text) = ended(launcher);
        assert_eq!(code, Some(1), "{text}");
        assert!(
            text.contains("rank 0: interrupted after step") && text.contains("rank 1: interrupted"),
            "{text}"
        );
        assert!(last(out.path()).trainer.step > 0);
    }
}

/// Open MPI refuses to run as root, as containers do, and more processes than cores, unless told.
#[cfg(feature = "mpi")]
fn mpirun(command: &Command, ranks: &str) -> Command {
    let mut launcher = Command::new("mpirun");
    let version = Command::new("mpirun").arg("--version").output().unwrap();
    if String::from_utf8_lossy(&version.stdout).contains("Open MPI") {
        launcher.args(["--oversubscribe", "--allow-run-as-root"]);
    }
    launcher.args(["-n", ranks]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        launcher.env(name, value.unwrap_or_default());
    }
    launcher.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    launcher
}

#[cfg(feature = "mpi")]
#[test]
#[ignore = "tools/mpi-test.sh installs an MPI and runs it"]
fn processes_of_mpirun_train_as_one_and_resume() {
    for (ranks, batch_size) in [("2", 4), ("4", 2)] {
        let several = tempfile::tempdir().unwrap();
        let whole = tempfile::tempdir().unwrap();
        finish(&mut program(whole.path(), 8, 20, &[]));
        finish(&mut mpirun(&program(several.path(), batch_size, 12, &[]), ranks));
        finish(&mut mpirun(&program(several.path(), batch_size, 20, &["--resume"]), ranks));
        assert_equal_ends(whole.path(), several.path());
    }
}

#[cfg(feature = "mpi")]
#[test]
#[ignore = "tools/mpi-test.sh installs an MPI and runs it"]
fn mpirun_ends_all_when_one_is_killed() {
    let out = tempfile::tempdir().unwrap();
    let launcher = mpirun(&program(out.path(), 4, 100_000, &[]), "2").spawn().unwrap();
    wait_for_progress(out.path());
    let (begun, victim) = (Instant::now(), children(launcher.id())[1]);
    signal("-KILL", victim);
    let (code, text) = ended(launcher);
    assert_ne!(code, Some(0));
    assert!(text.contains("signal 9"), "{text}");
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert!(last(out.path()).trainer.step > 0);
}

#[test]
fn bad_usage() {
    let out = tempfile::tempdir().unwrap();
    let fails = |command: &mut Command, problem: &str| {
        let (code, text) = ended(command.spawn().unwrap());
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(problem), "{text}");
    };
    let start = |more: &[&str]| program(out.path(), 4, 1, more);
    fails(&mut start(&["--nproc", "0"]), "--nproc: must be at least 1");
    fails(
        start(&["--nproc", "3"]).env("RANK", "0").env("WORLD_SIZE", "2"),
        "--nproc 3: this process is rank 0 of 2",
    );
    fails(start(&[]).env("RANK", "0"), "WORLD_SIZE is not");
    fails(start(&[]).env("SLURM_PROCID", "0").env("SLURM_NTASKS", "2"), "set MASTER_ADDR and MASTER_PORT");
    // A configuration that is wrong is so on every rank, and the exit code says it.
    fails(&mut start(&["--nproc", "2", "--set", "hidden=0"]), "hidden");
    if !cfg!(feature = "mpi") {
        fails(&mut start(&["--nproc", "2", "--transport", "mpi"]), "build with --features mpi");
    }
}
