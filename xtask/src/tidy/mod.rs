//! The house rules as code. Each rule returns findings; any finding but a warning fails.

mod acceptance;
mod arrows;
mod commands;
mod dependencies;
mod files;
mod layout;
mod licences;
mod ops;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::process;
use crate::workspace::Workspace;

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Reported, but does not fail.
    warning: bool,
    text: String,
}

impl Finding {
    fn error(text: impl Into<String>) -> Self {
        Self { warning: false, text: text.into() }
    }

    fn warning(text: impl Into<String>) -> Self {
        Self { warning: true, text: text.into() }
    }
}

/// A rule and its name.
type Rule = (&'static str, fn(&Workspace, &[Source]) -> Result<Vec<Finding>>);

const RULES: &[Rule] = &[
    ("arrows between crates", arrows::check),
    ("dependencies", |workspace, sources| Ok(dependencies::check(workspace, sources))),
    ("layout of paper crates", layout::check),
    ("places of an op", |_, sources| Ok(ops::check(sources))),
    ("files: length, words, unsafe", |_, sources| Ok(files::check(sources))),
    ("documented commands", |_, sources| Ok(commands::check(sources))),
    ("tables of what must hold", |_, sources| Ok(acceptance::check(sources))),
    ("licences", licences::check),
];

/// Runs every rule; whether none failed.
pub(crate) fn run(workspace: &Workspace) -> Result<bool> {
    let sources = sources(&workspace.root)?;
    let mut clean = true;
    for (name, rule) in RULES {
        let findings = rule(workspace, &sources).with_context(|| (*name).to_owned())?;
        let failed = findings.iter().any(|finding| !finding.warning);
        println!("{:<30} {}", name, if failed { "FAIL" } else { "ok" });
        for finding in findings {
            println!("  {}{}", if finding.warning { "warning: " } else { "" }, finding.text);
        }
        clean &= !failed;
    }
    Ok(clean)
}

/// A text file of the repository.
#[derive(Debug)]
pub(crate) struct Source {
    /// Path from the top, with `/`.
    path: String,
    text: String,
}

impl Source {
    fn has_extension(&self, extension: &str) -> bool {
        Path::new(&self.path).extension().is_some_and(|ext| ext == extension)
    }

    fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

/// Every file that git knows or would add, as far as it is text.
fn sources(root: &Path) -> Result<Vec<Source>> {
    let mut command = std::process::Command::new("git");
    command.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(root);
    let (ok, listing) = process::capture(&mut command)?;
    anyhow::ensure!(ok, "git ls-files: {listing}");
    let mut found = Vec::new();
    for path in listing.split('\0').filter(|path| !path.is_empty()) {
        // A file that was deleted but not committed yet is still listed.
        let Ok(bytes) = std::fs::read(root.join(PathBuf::from(path))) else { continue };
        if let Ok(text) = String::from_utf8(bytes) {
            found.push(Source { path: path.to_owned(), text });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

#[cfg(test)]
fn source(path: &str, text: &str) -> Source {
    Source { path: path.to_owned(), text: text.to_owned() }
}
