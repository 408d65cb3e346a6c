//! Whether a checkpoint belongs to this run.

use std::path::Path;

use toml::Table;

use crate::checkpoint::TrainerState;
use crate::config::{RunConfig, differing_keys};
use crate::error::{Error, Result};

/// Compares what a checkpoint was made from with what this run is made from.
pub(super) fn check_compatible(
    path: &Path,
    found: &TrainerState,
    recipe: &str,
    config: &str,
    fingerprint: &str,
    ranks: usize,
    allow_change: &[String],
) -> Result<()> {
    let refuse = |problem: String| Err(Error::Resume { path: path.to_owned(), problem });
    if found.recipe != recipe {
        return refuse(format!("it is of `{}`, this is `{recipe}`", found.recipe));
    }
    let parse = |text: &str| {
        text.parse::<Table>()
            .map_err(|error| Error::Resume { path: path.to_owned(), problem: error.to_string() })
    };
    let (old, new) = (parse(&found.config)?, parse(config)?);
    let differing: Vec<String> = differing_keys(&old, &new)
        .into_iter()
        .filter(|key| !RunConfig::MAY_CHANGE.contains(&key.as_str()))
        .filter(|key| !allow_change.iter().any(|allowed| covers(allowed, key)))
        .collect();
    if !differing.is_empty() {
        return refuse(format!(
            "the configuration differs in {}; give {} to go on anyway",
            differing.join(", "),
            differing.iter().map(|key| format!("--allow-change {key}")).collect::<Vec<_>>().join(" ")
        ));
    }
    if found.fingerprint != fingerprint && !allow_change.iter().any(|allowed| allowed == "data") {
        return refuse(format!(
            "the data differs: {} then, {fingerprint} now; give --allow-change data to go on anyway",
            found.fingerprint
        ));
    }
    if found.ranks != ranks && !allow_change.iter().any(|allowed| allowed == "ranks") {
        return refuse(format!(
            "it was trained by {} ranks, this run has {ranks}, so batches differ; give --allow-change ranks to go on \
             anyway",
            found.ranks
        ));
    }
    Ok(())
}

/// `data` covers `data.size` too.
fn covers(allowed: &str, key: &str) -> bool {
    key == allowed || key.strip_prefix(allowed).is_some_and(|rest| rest.starts_with('.'))
}
