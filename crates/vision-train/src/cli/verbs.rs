//! What the common verbs do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;
use vision_core::params::ParamStore;
use vision_core::rng::Key;
use vision_datasets::Split;
use vision_eval::Value;

use super::args::{EvalArgs, InfoArgs, TrainArgs};
use super::context::CliContext;
use super::tell::tell;
use super::{PaperCli, ranks, terminal_progress};
use crate::checkpoint::{Checkpoint, find};
use crate::config::{Check, ConfigSource, Resolved, check_expectations};
use crate::error::{Error, Result};
use crate::launch::Place;
use crate::recipe::RecipeConfig;
use crate::report::{Page, write_report};
use crate::run_folder::RunFolder;
use crate::system;
use crate::trainer::{Trainer, model_metadata, on_big_stack};

pub(super) fn train<R: PaperCli>(mut cli: CliContext, args: TrainArgs, place: Option<&Place>) -> Result<()> {
    let folder = RunFolder::new(&cli.ctx.out);
    // A resumed run has its configuration with it.
    let resolved: Resolved<R::Config> =
        if args.resume && cli.common.config.is_none() && folder.config().is_file() {
            cli.config_from(&ConfigSource::Path(folder.config()))?
        } else {
            cli.config()?
        };
    cli.ctx.workers = resolved.config.run().workers;
    let weights = cli.weights()?;
    cli.start_logging(Some(&folder.log()))?;
    if let Some(place) = place {
        ranks::join(&mut cli.ctx, place, &args)?;
    }
    let outcome = Trainer::<R>::new(&resolved, &cli.data, &cli.ctx)
        .resume(args.resume)
        .allow_change(args.allow_change)
        .weights(weights)
        .command_line(cli.command_line.clone())
        .progress(terminal_progress(!cli.speaks()))
        .run()?;
    cli.say(format_args!("trained {} steps, {} epochs", outcome.step, outcome.epoch));
    for (name, value) in &outcome.values {
        cli.say(format_args!("{name:<24} {value:>12.4}"));
    }
    cli.say(format_args!("checkpoint {}", outcome.checkpoint.display()));
    cli.say(format_args!("report     {}", outcome.report.display()));
    if args.no_expect { Ok(()) } else { judge(&cli, &outcome.checks) }
}

pub(super) fn eval<R: PaperCli>(cli: &CliContext, args: &EvalArgs) -> Result<()> {
    cli.weight_file()?;
    let resolved: Resolved<R::Config> = cli.config()?;
    cli.start_logging(None)?;
    let mut ctx = cli.ctx.clone();
    ctx.workers = resolved.config.run().workers;
    let split = match args.split.as_deref() {
        Some("train") => Split::Train,
        Some("val") => Split::Val,
        Some(_) => Split::Test,
        None => R::eval_split(&resolved.config),
    };
    let checks = on_big_stack(|| {
        let params = empty_store(cli, &resolved);
        // Weights that are no variables are brought into the order of the kernels only once.
        params.freeze("")?;
        let mut recipe = R::build(&resolved.config, &params, &cli.ctx)?;
        load_weights::<R>(cli, &params)?;
        if let Some(checkpoint) = checkpoint(cli)? {
            recipe.restore(&checkpoint.state)?;
        }
        let report = recipe.evaluate(&resolved.config, &cli.data, split, &ctx)?;
        print_values(cli, &report.values);
        let checks = check_expectations(&resolved.expect, |name: &str| report.get(name));
        if let Some(out) = &cli.common.out {
            let folder = RunFolder::new(out);
            folder.create()?;
            write_report(&report, &folder.eval(), &format!("eval-{split}"), 0, 0)?;
            let page = Page {
                title: format!("{} evaluation", R::NAME),
                subtitle: format!("{} on {split}", resolved.source),
                checks: &checks,
                report: Some(&report),
                facts: facts(cli),
                config: &resolved.toml,
                ..Page::default()
            };
            page.write(&folder.report())?;
            cli.say(format_args!("report {}", folder.report().display()));
        }
        Ok(checks)
    })?;
    if args.no_expect { Ok(()) } else { judge(cli, &checks) }
}

pub(super) fn export<R: PaperCli>(cli: &CliContext) -> Result<()> {
    let source = cli.weight_file()?;
    let resolved: Resolved<R::Config> = cli.config()?;
    cli.start_logging(None)?;
    let (_, params) = build::<R>(cli, &resolved)?;
    let known = load_weights::<R>(cli, &params)?;
    let step = known.get("step").and_then(|step| step.parse().ok()).unwrap_or(0);
    let mut model = params.state_dict()?;
    model.metadata.extend(known);
    model.metadata.extend(model_metadata(R::NAME, &resolved.toml, step));
    model
        .metadata
        .extend(system::versions().into_iter().map(|(name, version)| (format!("version.{name}"), version)));
    let target = match &cli.common.out {
        Some(out) if out.extension().is_some_and(|extension| extension == "safetensors") => out.clone(),
        Some(out) => out.join("model.safetensors"),
        None => PathBuf::from(format!("{}.safetensors", R::NAME)),
    };
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent).map_err(|error| Error::io(parent, error))?;
    }
    model.save(&target)?;
    cli.say(format_args!("{} -> {}", source.display(), target.display()));
    Ok(())
}

pub(super) fn info<R: PaperCli>(cli: &CliContext, args: &InfoArgs) -> Result<()> {
    let resolved: Resolved<R::Config> = cli.config()?;
    cli.start_logging(None)?;
    let (_, params) = build::<R>(cli, &resolved)?;
    let presets: Vec<&str> = R::Config::presets().iter().map(|(name, _)| *name).collect();
    if args.json {
        let config: toml::Table = resolved.toml.parse().map_err(|error: toml::de::Error| Error::Format {
            what: "configuration".to_owned(),
            problem: error.to_string(),
        })?;
        let info = json!({
            "name": R::NAME,
            "about": R::ABOUT,
            "parameters": params.num_parameters(),
            "trainable": params.trainable().iter().map(|(_, var)| var.elem_count()).sum::<usize>(),
            "presets": presets,
            "source": resolved.source,
            "config": config,
            "device": system::device_name(&cli.ctx.device),
            "threads": cli.ctx.threads,
            "platform": system::platform(),
            "version": R::VERSION,
            "versions": system::versions(),
        });
        tell(format_args!("{info:#}"));
        return Ok(());
    }
    tell(format_args!("{} {}: {}", R::NAME, R::VERSION, R::ABOUT));
    tell(format_args!("presets     {}", presets.join(", ")));
    tell(format_args!("parameters  {}", params.num_parameters()));
    tell(format_args!("device      {}, {} threads", system::device_name(&cli.ctx.device), cli.ctx.threads));
    tell(format_args!("platform    {}", system::platform()));
    for (name, version) in system::versions() {
        tell(format_args!("{name:<11} {version}"));
    }
    tell(format_args!("\n# {}\n{}", resolved.source, resolved.toml));
    Ok(())
}

fn empty_store<C: RecipeConfig>(cli: &CliContext, resolved: &Resolved<C>) -> ParamStore {
    let key = Key::new(resolved.config.run().seed).fold("init");
    ParamStore::new(key, cli.ctx.dtype, &cli.ctx.device)
}

fn build<R: PaperCli>(cli: &CliContext, resolved: &Resolved<R::Config>) -> Result<(R, ParamStore)> {
    let params = empty_store(cli, resolved);
    let recipe = R::build(&resolved.config, &params, &cli.ctx)?;
    Ok((recipe, params))
}

/// Loads `--weights`; returns what else the file says.
fn load_weights<R: PaperCli>(cli: &CliContext, params: &ParamStore) -> Result<BTreeMap<String, String>> {
    let weights = vision_weights::open(cli.weight_file()?)?.state_dict()?;
    let known = weights.metadata.clone();
    R::load_weights(params, weights)?;
    Ok(known)
}

/// The checkpoint behind `--weights`, if it is one and not a bare weight file.
fn checkpoint(cli: &CliContext) -> Result<Option<Checkpoint>> {
    match cli.common.weights.as_deref() {
        Some(path) if path.is_dir() || !has_extension(path) => Checkpoint::read(&find(path)?).map(Some),
        _ => Ok(None),
    }
}

fn has_extension(path: &Path) -> bool {
    path.extension().is_some()
}

fn print_values(cli: &CliContext, values: &[Value]) {
    for value in values {
        cli.say(format_args!("{:<24} {:>12.4}   ({} samples)", value.name, value.value, value.count));
    }
}

fn facts(cli: &CliContext) -> Vec<(String, String)> {
    let mut facts = vec![
        ("Command".to_owned(), cli.command_line.join(" ")),
        ("Platform".to_owned(), system::platform()),
        ("Device".to_owned(), system::device_name(&cli.ctx.device)),
        ("Threads".to_owned(), cli.ctx.threads.to_string()),
    ];
    facts.extend(system::versions());
    facts
}

/// Prints expectations beside what was found; missing one is an error.
fn judge(cli: &CliContext, checks: &[Check]) -> Result<()> {
    if checks.is_empty() {
        return Ok(());
    }
    cli.say(format_args!("\n{:<24} {:>12}   {:<20} result", "expected", "value", "bound"));
    for check in checks {
        cli.say(check);
    }
    let missed = checks.iter().filter(|check| !check.ok).count();
    if missed == 0 { Ok(()) } else { Err(Error::ExpectationMissed { missed, total: checks.len() }) }
}
