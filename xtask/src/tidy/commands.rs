//! Every `cargo xtask X` that the documentation shows exists.

use super::{Finding, Source};

pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    unknown(sources, &crate::subcommands())
}

fn unknown(sources: &[Source], known: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.has_extension("md")) {
        for (number, line) in source.text.lines().enumerate() {
            for word in line.split("cargo xtask ").skip(1) {
                let word: String =
                    word.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
                // Upper case stands for any command, as in "every `cargo xtask X`".
                let named = word.starts_with(|c: char| c.is_ascii_lowercase());
                if named && word != "help" && !known.contains(&word) {
                    findings.push(Finding::error(format!(
                        "{}:{}: there is no `cargo xtask {word}`",
                        source.path,
                        number + 1
                    )));
                }
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::source;
    use super::*;

    #[test]
    fn commands_that_do_not_exist() {
        let text = "`cargo xtask tidy` and `cargo xtask fly PAPER`,\n`cargo xtask --help`, `cargo xtask X`";
        let findings =
            unknown(&[source("README.md", text), source("a.rs", "cargo xtask swim")], &["tidy".to_owned()]);
        assert_eq!(findings, [Finding::error("README.md:1: there is no `cargo xtask fly`")]);
    }
}
