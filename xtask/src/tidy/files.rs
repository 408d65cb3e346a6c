//! Length of source files, words that must not appear, and the few places of `unsafe` and custom kernels.

use super::{Finding, Source};

/// Lines of a Rust file from which it is reported, and from which it fails.
const LONG: usize = 400;
const TOO_LONG: usize = 600;

/// Must not appear in any text file. Split, so that this file does not find itself.
const WORDS: &[&str] = &[
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("/wo", "rk/"),
    concat!("/tmp", "/lab"),
    concat!("the dos", "sier"),
    concat!("this ses", "sion"),
    concat!("other ses", "sion"),
    concat!("last ses", "sion"),
    concat!("my ses", "sion"),
    concat!("as an A", "I"),
    concat!("language mo", "del"),
    concat!("the br", "ief"),
];

/// Must not start a path: files that are not part of the repository.
const FOREIGN_FOLDER: &str = concat!("sha", "red/");

/// Crates that may hold one file with `unsafe`, for mapping files into memory.
const MAPPING: &[&str] = &["crates/vision-weights/", "datasets/", "crates/instdisc/"];
const KERNELS: &str = "crates/vision-core/";

pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        if source.name() == "Cargo.lock" {
            continue;
        }
        findings.extend(length(source));
        findings.extend(words(source));
    }
    findings.extend(unsafe_code(sources));
    findings
}

fn length(source: &Source) -> Option<Finding> {
    let lines = source.text.lines().count();
    let text = format!("{} has {lines} lines", source.path);
    if !source.has_extension("rs") || lines <= LONG {
        None
    } else if lines > TOO_LONG {
        Some(Finding::error(format!("{text}, at most {TOO_LONG} are allowed")))
    } else {
        Some(Finding::warning(text))
    }
}

fn words(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in source.text.lines().enumerate() {
        let mut found: Vec<&str> = WORDS.iter().copied().filter(|word| line.contains(word)).collect();
        if starts_path(line, FOREIGN_FOLDER) {
            found.push(FOREIGN_FOLDER);
        }
        for word in found {
            findings.push(Finding::error(format!("{}:{} says {word:?}", source.path, number + 1)));
        }
    }
    findings
}

/// Whether `folder` appears at the beginning of a path or after `../`, not in the middle of one or of a word.
fn starts_path(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = &line[..at];
        before.ends_with("../") || !before.ends_with(|c: char| c.is_alphanumeric() || "/_-.".contains(c))
    })
}

fn unsafe_code(sources: &[Source]) -> Vec<Finding> {
    let (allow, expect) = (concat!("allow(unsa", "fe_code"), concat!("expect(unsa", "fe_code"));
    let custom = concat!("impl Custom", "Op");
    let mut findings = Vec::new();
    let mut mapping: Vec<&str> = Vec::new();
    for source in sources.iter().filter(|source| source.has_extension("rs")) {
        if source.path.starts_with(KERNELS) {
            continue;
        }
        if source.text.contains(custom) {
            findings.push(Finding::error(format!("{}: kernels belong in vision-core", source.path)));
        }
        if source.text.contains(allow) || source.text.contains(expect) {
            match MAPPING.iter().find(|folder| source.path.starts_with(**folder)) {
                Some(folder) if !mapping.contains(folder) => mapping.push(folder),
                Some(folder) => findings.push(Finding::error(format!("{folder}: unsafe code in two files"))),
                None => {
                    findings
                        .push(Finding::error(format!("{}: unsafe code is not allowed here", source.path)));
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
    fn long_files_and_words() {
        assert_eq!(length(&source("a.rs", &"x\n".repeat(400))), None);
        assert!(length(&source("a.rs", &"x\n".repeat(401))).unwrap().warning);
        assert!(!length(&source("a.rs", &"x\n".repeat(601))).unwrap().warning);
        assert_eq!(length(&source("a.md", &"x\n".repeat(9000))), None);
        let bad = format!("let x = 1;\n{});\n", WORDS[0]);
        assert!(words(&source("a.rs", &bad))[0].text.starts_with("a.rs:2"));
    }

    #[test]
    fn the_foreign_folder_is_told_from_words() {
        for line in ["../NAME", "see NAME", "(`NAME`)"] {
            assert!(starts_path(&line.replace("NAME", FOREIGN_FOLDER), FOREIGN_FOLDER), "{line}");
        }
        for line in ["unNAME", "a/NAME", "x_NAME"] {
            assert!(!starts_path(&line.replace("NAME", FOREIGN_FOLDER), FOREIGN_FOLDER), "{line}");
        }
    }

    #[test]
    fn places_of_unsafe() {
        let text = format!("#[{WORDS_OF_UNSAFE}, reason = \"\")]");
        let at = |paths: &[&str]| {
            let sources: Vec<Source> = paths.iter().map(|path| source(path, &text)).collect();
            unsafe_code(&sources).len()
        };
        assert_eq!(at(&["crates/vision-core/src/a.rs", "datasets/src/a.rs"]), 0);
        assert_eq!(at(&["datasets/src/a.rs", "datasets/src/b.rs"]), 1);
        assert_eq!(at(&["crates/vision-train/src/a.rs"]), 1);
    }

    const WORDS_OF_UNSAFE: &str = concat!("allow(unsa", "fe_code");
}
