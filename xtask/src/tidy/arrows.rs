//! Which crate may use which, ours and foreign.

use anyhow::Result;

use super::{Finding, Source};
use crate::workspace::{Package, Workspace};

/// Ours, from bottom to top. Paper crates have their own rule, `conformance` may use all but `xtask`.
const ALLOWED: &[(&str, &[&str])] = &[
    ("vision-image", &[]),
    ("vision-eval", &[]),
    ("vision-weights", &[]),
    ("vision-datasets", &["vision-image", "vision-eval"]),
    ("vision-core", &["vision-weights"]),
    ("vision-detect", &["vision-core", "vision-weights"]),
    ("vision-train", &["vision-core", "vision-datasets", "vision-image", "vision-eval", "vision-weights"]),
    ("xtask", &["vision-image", "vision-eval", "vision-weights", "vision-datasets"]),
];

/// What a paper crate may use always, and what only behind a feature.
const PAPER: &[&str] = &["vision-core", "vision-detect", "vision-weights"];
const PAPER_OPTIONAL: &[&str] = &["vision-image", "vision-train", "vision-datasets", "vision-eval"];

/// Crates that must build without the tensor library.
const WITHOUT_CANDLE: &[&str] =
    &["vision-image", "vision-eval", "vision-weights", "vision-datasets", "xtask"];

/// Crates of the command line; elsewhere only behind a feature.
const PROGRAM_ONLY: &[&str] = &["clap", "anyhow", "indicatif", "ctrlc"];

pub(super) fn check(workspace: &Workspace, _: &[Source]) -> Result<Vec<Finding>> {
    let mut findings: Vec<Finding> =
        workspace.members.values().flat_map(|package| edges(workspace, package)).collect();
    let graph = workspace.graph()?;
    for name in WITHOUT_CANDLE {
        if let Some(package) = workspace.members.get(*name) {
            let reached = graph.reachable(package);
            if let Some(candle) = reached.iter().find(|name| name.starts_with("candle")) {
                findings
                    .push(Finding::error(format!("{name} reaches {candle}; it must build without tensors")));
            }
        }
    }
    Ok(findings)
}

fn edges(workspace: &Workspace, package: &Package) -> Vec<Finding> {
    let name = package.name.as_str();
    let paper = package.paper().is_some();
    let program = matches!(name, "xtask" | "conformance");
    let row = ALLOWED.iter().find(|(crate_name, _)| *crate_name == name).map(|(_, allowed)| *allowed);
    let mut findings = Vec::new();
    if row.is_none() && !paper && name != "conformance" {
        findings.push(Finding::error(format!("{name} has no row in the table of arrows")));
    }
    for dependency in &package.dependencies {
        let to = dependency.name.as_str();
        let ours = workspace.members.contains_key(to);
        // A crate's tests may turn on its own features by depending on it.
        if to == name && dependency.kind.as_deref() == Some("dev") {
            continue;
        }
        if ours {
            let ok = match row {
                Some(allowed) => allowed.contains(&to),
                None if paper => {
                    PAPER.contains(&to)
                        || (PAPER_OPTIONAL.contains(&to)
                            && (dependency.optional || dependency.kind.as_deref() == Some("dev")))
                }
                None => name == "conformance" && to != "xtask",
            };
            if !ok {
                findings.push(Finding::error(format!("{name} must not depend on {to} this way")));
            }
        } else if PROGRAM_ONLY.contains(&to) && !program && !dependency.optional {
            findings.push(Finding::error(format!("{name}: {to} belongs behind the feature cli")));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace(json: &str) -> Workspace {
        let packages: Vec<Package> = serde_json::from_str(json).unwrap();
        let members = packages.into_iter().map(|p| (p.name.clone(), p)).collect();
        Workspace { root: std::path::PathBuf::new(), members }
    }

    fn package(name: &str, metadata: &str, dependencies: &str) -> String {
        format!(
            r#"{{"name":"{name}","version":"0","id":"{name}","license":null,"manifest_path":"",
            "metadata":{metadata},"dependencies":[{dependencies}]}}"#
        )
    }

    #[test]
    fn forbidden_edges_are_found() {
        let paper = r#"{"paper":{"title":"t"}}"#;
        let edge =
            |name: &str, optional: bool| format!(r#"{{"name":"{name}","kind":null,"optional":{optional}}}"#);
        let json = [
            package("vision-image", "null", &edge("vision-eval", false)),
            package("vision-eval", "null", &edge("clap", false)),
            package("one", paper, &format!("{},{}", edge("two", true), edge("vision-image", true))),
            package("two", paper, &edge("vision-image", false)),
            package("stray", "null", ""),
        ];
        let workspace = workspace(&format!("[{}]", json.join(",")));
        let texts: Vec<String> =
            workspace.members.values().flat_map(|p| edges(&workspace, p)).map(|f| f.text).collect();
        assert_eq!(texts.len(), 5, "{texts:?}");
        for part in
            ["one must not depend on two", "stray has no row", "clap belongs", "vision-image must not"]
        {
            assert!(texts.iter().any(|text| text.contains(part)), "{part}: {texts:?}");
        }
    }
}
