//! An op of `vision-core` is known in the conformance registry, in the generator of golden cases and, where there are
//! benchmarks, in `benches/cases.json`.

use super::{Finding, Source};

const OPS: &str = "crates/vision-core/src/ops/mod.rs";
const BENCHES: &str = "benches/cases.json";
const REGISTRY: &str = "tests/src/registry/";
const GENERATOR: &str = "tests/golden/generate.py";

pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    let find = |path: &str| sources.iter().find(|source| source.path == path);
    let Some(module) = find(OPS) else { return vec![Finding::error(format!("{OPS} is missing"))] };
    // `pub use conv2d::…` makes `conv2d.rs` an op; modules that are not re-exported are plumbing.
    let public =
        module.text.lines().filter_map(|line| line.trim().strip_prefix("pub use ")?.split_once("::"));
    let registry: String = sources
        .iter()
        .filter(|source| source.path.starts_with(REGISTRY))
        .map(|source| source.text.as_str())
        .collect();
    let generator = find(GENERATOR).map_or("", |source| source.text.as_str());
    let mut findings = Vec::new();
    for (op, _) in public {
        let quoted = format!("\"{op}\"");
        if !registry.contains(&quoted) {
            findings.push(Finding::error(format!("op {op} has no row in {REGISTRY}")));
        }
        if !generator.contains(&quoted) {
            findings.push(Finding::error(format!("op {op} has no case family in {GENERATOR}")));
        }
        if find(BENCHES).is_some_and(|benches| !benches.text.contains(op)) {
            findings.push(Finding::error(format!("op {op} has no row in {BENCHES}")));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::source;
    use super::*;

    #[test]
    fn every_place_is_asked_for() {
        let mut sources = vec![
            source(OPS, "mod support;\npub use conv2d::*;\npub use relu::relu;\n"),
            source("tests/src/registry/core.rs", "op(\"conv2d\", &[\"conv2d\"], conv2d)"),
            source(GENERATOR, "(\"conv2d\", [\"conv2d\"], f), (\"relu\", [\"relu\"], g)"),
        ];
        let findings = check(&sources);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].text.contains("relu has no row"));
        sources.push(source(BENCHES, "conv2d"));
        assert_eq!(check(&sources).len(), 2);
        assert_eq!(check(&[]).len(), 1);
    }
}
