//! Every paper crate has the same files; one it lacks must be named in its `lib.rs`, with the reason.

use anyhow::Result;

use super::{Finding, Source};
use crate::workspace::Workspace;

/// Files from the crate's folder. A module may be a file or a folder with `mod.rs`.
const EXPECTED: &[&str] = &[
    "README.md",
    "configs/paper.toml",
    "configs/sample.toml",
    "src/lib.rs",
    "src/config.rs",
    "src/error.rs",
    "src/model.rs",
    "src/loss.rs",
    "src/weights.rs",
    "src/predict.rs",
    "src/data.rs",
    "src/recipe.rs",
    "src/evaluate.rs",
    "src/cli.rs",
    "tests/parity.rs",
    "tests/learning.rs",
    "tests/cli.rs",
];

pub(super) fn check(workspace: &Workspace, sources: &[Source]) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for (package, _) in workspace.papers() {
        let folder = package.folder().strip_prefix(&workspace.root)?.to_string_lossy().replace('\\', "/");
        findings.extend(one(&package.name, &folder, sources));
    }
    Ok(findings)
}

fn one(name: &str, folder: &str, sources: &[Source]) -> Vec<Finding> {
    let find = |path: &str| sources.iter().find(|source| source.path == format!("{folder}/{path}"));
    let mut findings = Vec::new();
    let lib = find("src/lib.rs").map_or("", |source| source.text.as_str());
    let binary = format!("src/bin/{name}.rs");
    for path in EXPECTED.iter().copied().chain([binary.as_str()]) {
        let module = path.strip_suffix(".rs").map(|stem| format!("{stem}/mod.rs"));
        let there = find(path).is_some() || module.is_some_and(|module| find(&module).is_some());
        let file = path.rsplit('/').next().unwrap_or(path);
        if !there && !lib.contains(file) {
            findings
                .push(Finding::error(format!("{folder}/{path} is missing and src/lib.rs does not say why")));
        }
    }
    if let Some(line) = lib.lines().find(|line| line.trim_start().starts_with("pub fn ")) {
        findings.push(Finding::error(format!("{folder}/src/lib.rs holds code: {}", line.trim())));
    }
    let examples = format!("{folder}/examples/");
    if !sources.iter().any(|source| source.path.starts_with(&examples)) {
        findings.push(Finding::error(format!("{folder} has no example")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::source;
    use super::*;

    #[test]
    fn a_missing_file_must_be_explained() {
        let mut sources: Vec<Source> = EXPECTED
            .iter()
            .map(|path| source(&format!("crates/p/{}", path.replace("config.rs", "config/mod.rs")), ""))
            .collect();
        sources.push(source("crates/p/src/bin/p.rs", ""));
        sources.push(source("crates/p/examples/a.rs", ""));
        assert_eq!(one("p", "crates/p", &sources), []);
        sources.retain(|source| source.name() != "predict.rs");
        assert_eq!(one("p", "crates/p", &sources).len(), 1);
        sources.retain(|source| source.name() != "lib.rs");
        sources.push(source("crates/p/src/lib.rs", "// No `predict.rs`: there is nothing to predict."));
        assert_eq!(one("p", "crates/p", &sources), []);
    }
}
