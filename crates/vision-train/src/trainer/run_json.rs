//! `run.json`: what was started, where, and with what.

use serde_json::json;

use crate::config::RunConfig;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::recipe::Recipe;
use crate::run_folder::{RunFolder, read_text, replace_json};
use crate::system;

#[derive(serde::Deserialize)]
struct RunJson {
    starts: Vec<serde_json::Value>,
}

/// Adds this start to `run.json` and returns what the report shows of it.
pub(super) fn write_run_json<R: Recipe>(
    folder: &RunFolder,
    ctx: &Context,
    run: &RunConfig,
    fingerprint: &str,
    command_line: &[String],
    step: u64,
) -> Result<Vec<(String, String)>> {
    let path = folder.run_json();
    let mut starts = Vec::new();
    // Only a resumed run has earlier starts to keep.
    if step > 0 && path.exists() {
        let found: RunJson = serde_json::from_str(&read_text(&path)?).map_err(|error| Error::Format {
            what: path.display().to_string(),
            problem: error.to_string(),
        })?;
        starts = found.starts;
    }
    let started = system::timestamp(system::now());
    let versions = system::versions();
    starts.push(json!({
        "started": started,
        "step": step,
        "command_line": command_line,
        "platform": system::platform(),
        "device": system::device_name(&ctx.device),
        "threads": ctx.threads,
        "workers": run.workers,
        "ranks": ctx.collective.world_size(),
        "seed": run.seed,
        "data": fingerprint,
        "versions": versions,
    }));
    replace_json(&path, &json!({ "recipe": R::NAME, "starts": starts }))?;
    let fact = |name: &str, value: String| (name.to_owned(), value);
    let mut facts = vec![
        fact("Started", started),
        fact("Command", command_line.join(" ")),
        fact("Platform", system::platform()),
        fact("Device", system::device_name(&ctx.device)),
        fact("Threads", ctx.threads.to_string()),
        fact("Ranks", ctx.collective.world_size().to_string()),
        fact("Seed", run.seed.to_string()),
        fact("Training data", fingerprint.to_owned()),
    ];
    facts.extend(versions);
    Ok(facts)
}
