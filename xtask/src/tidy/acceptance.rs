//! Tables of what must hold: every number has a row, and every row names tests that exist, or commands.
//!
//! The last cell of a row holds code in backticks: a file, the tests in it, another file and its tests, and so on. What
//! has a space in it is a command.

use std::collections::BTreeSet;

use super::{Finding, Source};

/// The tables, and the rows each must have.
const TABLES: &[(&str, u32, &[&str])] = &[("crates/encnet/ACCEPTANCE.md", 32, &["G1", "G2", "G3", "G4"])];

pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for &(path, last, others) in TABLES {
        let wanted =
            (1..=last).map(|number| number.to_string()).chain(others.iter().map(ToString::to_string));
        match sources.iter().find(|source| source.path == path) {
            Some(table) => findings.extend(rows(table, wanted.collect(), sources)),
            None => findings.push(Finding::error(format!("{path} is missing"))),
        }
    }
    findings
}

fn rows(table: &Source, mut wanted: BTreeSet<String>, sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut fail = |row: &str, problem: String| {
        findings.push(Finding::error(format!("{}: row {row}: {problem}", table.path)));
    };
    for line in table.text.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let (Some(&row), Some(cell)) = (cells.first(), cells.last()) else { continue };
        if row == "number" {
            continue;
        }
        if !wanted.remove(row) {
            fail(row, "is there twice, or is none of the table's".to_owned());
        }
        let mut named = 0;
        let mut file: Option<&Source> = None;
        for code in cell.split('`').skip(1).step_by(2) {
            if code.contains(' ') {
                named += 1;
            } else if code.contains('/') {
                file = sources.iter().find(|source| source.path == code);
                if file.is_none() {
                    fail(row, format!("there is no {code}"));
                }
            } else if let Some(file) = file {
                named += 1;
                if !has_test(&file.text, code) {
                    fail(row, format!("{} has no test {code}", file.path));
                }
            } else {
                fail(row, format!("{code} is named before a file"));
            }
        }
        if named == 0 {
            fail(row, "names neither a test nor a command".to_owned());
        }
    }
    for row in wanted {
        fail(&row, "is missing".to_owned());
    }
    findings
}

/// Whether `text` has a function of this name that is a test, and one that runs.
fn has_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let head = format!("fn {name}(");
    lines.iter().enumerate().any(|(at, line)| {
        let attributes = || lines[..at].iter().rev().take_while(|line| line.starts_with('#'));
        line.starts_with(&head)
            && attributes().any(|line| *line == "#[test]")
            && !attributes().any(|line| line.contains("ignore"))
    })
}

#[cfg(test)]
mod tests {
    use super::super::source;
    use super::*;

    const CODE: &str = "#[test]\n#[should_panic]\nfn adds() {}\n\nproptest! {\n    #[test]\n    fn holds(\n    ) {}\n}\n\
                        fn helper() {}\n\n#[test]\n#[cfg_attr(not(slow), ignore)]\nfn sleeps() {}\n";

    fn problems(table: &str) -> Vec<String> {
        let sources = [source("a/b.rs", CODE)];
        let wanted = ["1", "2", "G1"].map(str::to_owned).into();
        rows(&source("A.md", table), wanted, &sources).into_iter().map(|finding| finding.text).collect()
    }

    #[test]
    fn a_good_table() {
        let table = "# Title\n\n| number | what | test |\n|---|---|---|\n| 1 | sums | `a/b.rs` `adds`, `holds` |\n\
                     | 2 | speed | `cargo xtask bench x` |\n| G1 | both | by `a/b.rs` `adds`; `cargo run` |\n";
        assert_eq!(problems(table), Vec::<String>::new());
    }

    #[test]
    fn what_is_missing_is_named() {
        let table = "| 1 | a | `a/b.rs` `helper`, `sleeps` |\n| 1 | a | `a/c.rs` |\n| 2 | a | `adds` |\n| 4 | a | `a/b.rs` `add` |\n";
        let want = [
            "A.md: row 1: a/b.rs has no test helper",
            "A.md: row 1: a/b.rs has no test sleeps",
            "A.md: row 1: is there twice, or is none of the table's",
            "A.md: row 1: there is no a/c.rs",
            "A.md: row 1: names neither a test nor a command",
            "A.md: row 2: adds is named before a file",
            "A.md: row 2: names neither a test nor a command",
            "A.md: row 4: is there twice, or is none of the table's",
            "A.md: row 4: a/b.rs has no test add",
            "A.md: row G1: is missing",
        ];
        assert_eq!(problems(table), want);
        assert_eq!(check(&[]).len(), 1);
    }
}
