//! Configurations: order of sources and messages.

#![allow(clippy::unwrap_used, reason = "tests")]

mod toy;

use std::fs;

use toy::ToyConfig;
use vision_train::config::{Bound, ConfigSource, Resolved, load, parse_resolved};
use vision_train::schedule::Shape;
use vision_train::{Error, Result};

fn text(toml: &str) -> Result<Resolved<ToyConfig>> {
    load(&ConfigSource::Text { name: "mine.toml".into(), toml: toml.into() }, &[])
}

fn message(toml: &str) -> String {
    let error = text(toml).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    error.to_string()
}

#[test]
fn defaults_bases_file_and_overrides_apply_in_order() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("one.toml"), "base = \"sample\"\nhidden = 4\n[sgd]\nlr = 0.5\n").unwrap();
    let two = folder.path().join("two.toml");
    fs::write(&two, "base = \"one.toml\"\n[sgd]\nmomentum = 0.5\n[data]\nsamples = 20\n").unwrap();
    let source = ConfigSource::from_argument(two.to_str().unwrap());
    let overrides = ["data.samples=30".to_owned(), "run.on_nonfinite=skip".to_owned()];
    let resolved = load::<ToyConfig>(&source, &overrides).unwrap();
    let config = resolved.config;
    assert_eq!((config.hidden, config.sgd.lr, config.sgd.momentum), (4, 0.5, 0.5));
    // Untouched keys keep the value of the whole configuration's default, not of the part's.
    assert_eq!(config.sgd.weight_decay, 1e-3);
    assert_eq!((config.run.epochs, config.data.samples), (8, 30));
    // The expectations of a base hold for the base only.
    assert!(resolved.expect.is_empty());
}

#[test]
fn the_resolved_text_reads_back_to_the_same() {
    let resolved = load::<ToyConfig>(&ConfigSource::Preset("sample".into()), &[]).unwrap();
    assert_eq!(resolved.expect[0].metric, "top1");
    assert_eq!(resolved.expect[0].bound, Bound::Min(0.8));
    assert!(!resolved.toml.contains("expect"));
    let again = parse_resolved::<ToyConfig>(&resolved.file_text().unwrap(), "run/config.toml").unwrap();
    assert_eq!(again.config, resolved.config);
    assert_eq!(again.expect, resolved.expect);
    assert_eq!(again.toml, resolved.toml);
}

#[test]
fn an_unknown_key_is_named_with_its_file_and_the_allowed_ones() {
    let found = message("[sgd]\nmomentun = 0.5\n");
    for part in ["mine.toml", "`sgd.momentun`", "lr, momentum, dampening", "did you mean `momentum`?"] {
        assert!(found.contains(part), "{part} is not in: {found}");
    }
    let found = message("hiden = 3\n");
    assert!(found.contains("`hiden`") && found.contains("hidden"), "{found}");
    // An option that is not set is still a known key.
    assert!(text("[run]\nmax_steps = 3\n").unwrap().config.run.max_steps == Some(3));
    let found = message("[run]\nmax_step = 3\n");
    assert!(found.contains("max_steps"), "{found}");
}

#[test]
fn a_wrong_type_is_named_with_the_source_of_the_value() {
    let found = message("[sgd]\nlr = \"fast\"\n");
    assert!(found.contains("mine.toml: key `sgd.lr`") && found.contains("fast"), "{found}");
    let error = load::<ToyConfig>(&ConfigSource::Preset("paper".into()), &["sgd.lr=fast".into()]);
    let found = error.unwrap_err().to_string();
    assert!(found.contains("--set sgd.lr=fast: key `sgd.lr`"), "{found}");
    let found = message("[run]\non_nonfinite = \"ignore\"\n");
    assert!(found.contains("run.on_nonfinite") && found.contains("skip"), "{found}");
}

#[test]
fn all_problems_are_reported_at_once() {
    let found = message("hidden = 0\n[run]\naccumulate = 0\n[sgd]\nlr = -1.0\n");
    for part in ["3 problems", "hidden", "run.accumulate", "sgd.lr"] {
        assert!(found.contains(part), "{part} is not in: {found}");
    }
}

#[test]
fn a_kind_is_replaced_with_its_keys() {
    let step = "[schedule.shape]\nkind = \"step\"\nmilestones = [1, 2]\ngamma = 0.5\n";
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("step.toml"), step).unwrap();
    let path = folder.path().join("cosine.toml");
    fs::write(&path, "base = \"step.toml\"\nschedule.shape = { kind = \"cosine\", last = 0.1 }\n").unwrap();
    let config = load::<ToyConfig>(&ConfigSource::Path(path), &[]).unwrap().config;
    assert_eq!(config.schedule.shape, Shape::Cosine { last: 0.1 });
    let found = message("[schedule]\nshape = { kind = \"stairs\" }\n");
    assert!(found.contains("schedule.shape") && found.contains("cosine"), "{found}");
}

#[test]
fn missing_files_presets_and_loops_are_errors() {
    let load_from = |argument: &str| load::<ToyConfig>(&ConfigSource::from_argument(argument), &[]);
    let found = load_from("nonsense").unwrap_err().to_string();
    assert!(found.contains("paper, sample"), "{found}");
    assert!(matches!(load_from("absent.toml"), Err(Error::Io { .. })));
    let found = load_from("loop-a").unwrap_err().to_string();
    assert!(found.contains("never ends"), "{found}");
    let found = message("hidden = = 3\n");
    assert!(found.contains("mine.toml") && found.contains("line 1"), "{found}");
    let found = message("[expect]\ntop1 = { least = 1 }\n");
    assert!(found.contains("expect.top1.least"), "{found}");
}
