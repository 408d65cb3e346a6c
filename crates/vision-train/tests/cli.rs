//! The shared command line on the toy.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod toy;

use std::fs;
use std::path::Path;

use toy::Toy;
use vision_train::cli::{CliContext, PaperCli, run};
use vision_train::{Error, Result};

#[derive(Debug, clap::Subcommand)]
enum Own {
    /// Write the width of the hidden layer to a file
    Width {
        /// The file
        file: std::path::PathBuf,
    },
}

impl PaperCli for Toy {
    const ABOUT: &'static str = "a toy";
    const VERSION: &'static str = "1.2.3";
    type Own = Own;

    fn own(verb: Own, cli: &CliContext) -> Result<()> {
        let Own::Width { file } = verb;
        let config = cli.config::<toy::ToyConfig>()?.config;
        fs::write(&file, config.hidden.to_string()).map_err(|error| Error::io(&file, error))
    }
}

fn toy(arguments: &[&str]) -> u8 {
    let arguments = std::iter::once("toy").chain(arguments.iter().copied()).chain(["-q"]);
    run::<Toy>(arguments.map(Into::into).collect())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn train_eval_export_and_resume() {
    let folder = tempfile::tempdir().unwrap();
    let run_folder = folder.path().join("run");
    let out = text(&run_folder);
    assert_eq!(toy(&["train", "--config", "sample", "--out", out, "--workers", "1"]), 0);
    assert!(run_folder.join("log.jsonl").is_file());
    // A second run must not overwrite the first; resuming a finished one checks its expectations again.
    assert_eq!(toy(&["train", "--config", "sample", "--out", out]), 2);
    assert_eq!(toy(&["train", "--resume", "--out", out]), 0);
    assert_eq!(toy(&["train", "--resume", "--out", out, "--set", "sgd.lr=0.3"]), 2);

    let eval = folder.path().join("eval");
    assert_eq!(toy(&["eval", "--weights", out, "--out", text(&eval), "--split", "val"]), 0);
    assert!(eval.join("eval/eval-val.json").is_file() && eval.join("report.html").is_file());

    let model = folder.path().join("toy.safetensors");
    assert_eq!(toy(&["export", "--weights", out, "--out", text(&model)]), 0);
    let weights = vision_weights::open(&model).unwrap();
    assert_eq!(weights.metadata()["recipe"], "toy");
    // The file alone is enough.
    assert_eq!(toy(&["eval", "--weights", text(&model)]), 0);
    assert_eq!(toy(&["info", "--json"]), 0);
}

#[test]
fn a_missed_expectation_fails_the_command() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    assert_eq!(toy(&["train", "--config", "hopeless", "--out", text(&one)]), 1);
    assert_eq!(toy(&["train", "--config", "hopeless", "--out", text(&two), "--no-expect"]), 0);
}

#[test]
fn a_loss_that_is_not_finite_fails_the_command() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(toy(&["train", "--set", "poison=[2]", "--out", text(&folder.path().join("run"))]), 1);
}

#[test]
fn bad_usage_has_its_own_exit_code() {
    for arguments in [
        &["no-such-verb"][..],
        &["train", "--no-such-flag"],
        &["train", "--config", "nonsense"],
        &["train", "--set", "sgd.lrr=3"],
        &["train", "--device", "cuda"],
        &["train", "--device", "quantum"],
        &["train", "--threads", "0"],
        &["train", "--allow-change", "x"],
        &["eval"],
        &["eval", "--weights", "absent"],
        &["eval", "--split", "half"],
        &[],
    ] {
        assert_eq!(toy(arguments), 2, "{arguments:?}");
    }
    assert_eq!(toy(&["--help"]), 0);
    assert_eq!(toy(&["--version"]), 0);
}

#[test]
fn own_verbs_see_the_common_flags() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("width");
    assert_eq!(toy(&["width", text(&file), "--set", "hidden=5"]), 0);
    assert_eq!(fs::read_to_string(&file).unwrap(), "5");
    assert_eq!(toy(&["width", "/no/such/folder/width"]), 1);
}
