//! Every dependency of a crate is named in its code.

use super::{Finding, Source};
use crate::workspace::{Package, Workspace};

pub(super) fn check(workspace: &Workspace, sources: &[Source]) -> Vec<Finding> {
    let folder = |package: &Package| {
        let folder = package.manifest_path.parent().and_then(|path| path.strip_prefix(&workspace.root).ok());
        folder.map(|path| format!("{}/", path.display()))
    };
    workspace
        .members
        .values()
        .filter_map(|package| Some((package, folder(package)?)))
        .flat_map(|(package, folder)| unused(package, &folder, sources))
        .collect()
}

fn unused(package: &Package, folder: &str, sources: &[Source]) -> Vec<Finding> {
    let code = |source: &&Source| source.has_extension("rs") || source.name() == "README.md";
    let code: Vec<&Source> =
        sources.iter().filter(|source| source.path.starts_with(folder)).filter(code).collect();
    // The tests of a crate may turn on its own features by depending on it.
    let others = package.dependencies.iter().filter(|dependency| dependency.name != package.name);
    others
        .filter(|dependency| {
            // Hyphens become underscores, but for those few crates that leave them out.
            let names = [dependency.name.replace('-', "_"), dependency.name.replace('-', "")];
            !code.iter().any(|source| names.iter().any(|name| has_word(&source.text, name)))
        })
        .map(|dependency| {
            Finding::error(format!("{}: nothing in {folder} names {}", package.name, dependency.name))
        })
        .collect()
}

fn has_word(text: &str, word: &str) -> bool {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(word).any(|(at, _)| {
        let (before, after) = (text[..at].chars().next_back(), text[at + word.len()..].chars().next());
        !part(before) && !part(after)
    })
}

#[cfg(test)]
mod tests {
    use super::super::source;
    use super::*;

    #[test]
    fn what_no_code_names_is_found() {
        let dependency = |name: &str| format!(r#"{{"name":"{name}","kind":null,"optional":false}}"#);
        let names = ["serde", "serde-json", "md-5", "one"].map(dependency).join(",");
        let package: Package = serde_json::from_str(&format!(
            r#"{{"name":"one","version":"0","id":"one","license":null,"manifest_path":"","metadata":null,
            "dependencies":[{names}]}}"#
        ))
        .unwrap();
        let sources = [
            source("crates/one/src/lib.rs", "use serde_json::Value;\nuse md5::Md5;\n"),
            source("crates/two/src/lib.rs", "use serde::Serialize;\n"),
        ];
        let texts: Vec<String> =
            unused(&package, "crates/one/", &sources).into_iter().map(|f| f.text).collect();
        assert_eq!(texts, ["one: nothing in crates/one/ names serde"]);
    }
}
