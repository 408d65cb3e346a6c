//! `demo`: the claim of a paper in miniature, on pictures the repository carries or makes.

use std::time::Instant;

use serde::Serialize;

use super::{CliContext, PaperCli, terminal_progress};
use crate::config::{Check, ConfigSource, load};
use crate::error::{Error, Result};
use crate::recipe::RecipeConfig;
use crate::trainer::Trainer;

#[derive(Serialize)]
struct Demo {
    title: String,
    seconds: f64,
    parts: Vec<Part>,
}

#[derive(Serialize)]
struct Part {
    name: String,
    question: String,
    /// The page of this run, relative to the file.
    page: String,
    seconds: f64,
    values: std::collections::BTreeMap<String, f64>,
    expectations: Vec<Expectation>,
}

#[derive(Serialize)]
struct Expectation {
    metric: String,
    bound: String,
    value: Option<f64>,
    ok: bool,
}

impl From<&Check> for Expectation {
    fn from(check: &Check) -> Self {
        Self {
            metric: check.expect.metric.clone(),
            bound: check.expect.bound.to_string(),
            value: check.value,
            ok: check.ok,
        }
    }
}

/// Trains every sample, an embedded configuration with the question it answers, into a folder of its name below `--out`
/// and writes `demo.json`, which says what was found and where the pages are. An earlier demo there is replaced.
///
/// # Errors
/// If training fails, or an expectation of a sample is missed.
pub fn demo<R: PaperCli>(cli: &CliContext, title: &str, samples: &[(&str, &str)]) -> Result<()> {
    let out = &cli.ctx.out;
    let start = Instant::now();
    let mut parts = Vec::new();
    let (mut missed, mut total) = (0, 0);
    for (name, question) in samples {
        cli.say(format_args!("{name}: {question}"));
        let folder = out.join(name);
        if folder.exists() {
            std::fs::remove_dir_all(&folder).map_err(|error| Error::io(&folder, error))?;
        }
        let resolved = load::<R::Config>(&ConfigSource::Preset((*name).to_owned()), &cli.common.set)?;
        let mut ctx = cli.ctx.clone();
        ctx.out = folder;
        ctx.workers = resolved.config.run().workers;
        let begun = Instant::now();
        let outcome = Trainer::<R>::new(&resolved, &cli.data, &ctx)
            .command_line(cli.command_line.clone())
            .progress(terminal_progress(cli.common.quiet))
            .run()?;
        let seconds = begun.elapsed().as_secs_f64();
        for check in &outcome.checks {
            cli.say(check);
            total += 1;
            missed += usize::from(!check.ok);
        }
        cli.say(format_args!("{name}: {seconds:.0} s, {}\n", outcome.report.display()));
        parts.push(Part {
            name: (*name).to_owned(),
            question: (*question).to_owned(),
            page: format!("{name}/report.html"),
            seconds,
            values: outcome.values,
            expectations: outcome.checks.iter().map(Expectation::from).collect(),
        });
    }
    let demo = Demo { title: title.to_owned(), seconds: start.elapsed().as_secs_f64(), parts };
    let path = out.join("demo.json");
    let text = serde_json::to_string_pretty(&demo)
        .map_err(|error| Error::Format { what: "demo.json".to_owned(), problem: error.to_string() })?;
    vision_weights::atomic_write(&path, &mut |to| to.write_all(text.as_bytes()))?;
    if missed > 0 { Err(Error::ExpectationMissed { missed, total }) } else { Ok(()) }
}
