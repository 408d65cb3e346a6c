//! Every package in the lock file has a licence that lets anyone use it.

use anyhow::Result;

use super::{Finding, Source};
use crate::workspace::Workspace;

const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    // Only what changes its files must be published: `option-ext`, below hf-hub.
    "MPL-2.0",
    "NCSA",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

pub(super) fn check(workspace: &Workspace, _: &[Source]) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for package in workspace.graph()?.packages {
        let name = format!("{} {}", package.name, package.version);
        match package.license.as_deref() {
            None => findings.push(Finding::error(format!("{name} states no licence"))),
            Some(text) if !allowed(text) => {
                findings
                    .push(Finding::error(format!("{name} has the licence {text}, which is not on the list")));
            }
            Some(_) => {}
        }
    }
    Ok(findings)
}

/// Whether an SPDX expression can be met with licences of the list. `/` is the old way to write OR.
fn allowed(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut parser = Parser { words: &words, at: 0 };
    let ok = parser.either();
    ok && parser.at == words.len()
}

struct Parser<'a> {
    words: &'a [&'a str],
    at: usize,
}

impl Parser<'_> {
    fn take(&mut self, word: &str) -> bool {
        let there = self.words.get(self.at) == Some(&word);
        self.at += usize::from(there);
        there
    }

    fn either(&mut self) -> bool {
        let mut ok = self.both();
        while self.take("OR") {
            ok |= self.both();
        }
        ok
    }

    fn both(&mut self) -> bool {
        let mut ok = self.one();
        while self.take("AND") {
            ok &= self.one();
        }
        ok
    }

    fn one(&mut self) -> bool {
        if self.take("(") {
            let ok = self.either();
            return self.take(")") && ok;
        }
        let Some(name) = self.words.get(self.at).copied() else { return false };
        self.at += 1;
        if self.take("WITH") {
            let exception = self.words.get(self.at).copied().unwrap_or("");
            self.at += 1;
            return ALLOWED.contains(&format!("{name} WITH {exception}").as_str());
        }
        ALLOWED.contains(&name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions() {
        for good in [
            "MIT",
            "MIT OR Apache-2.0",
            "MIT/Apache-2.0",
            "GPL-3.0 OR MIT",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
        ] {
            assert!(allowed(good), "{good}");
        }
        for bad in
            ["GPL-3.0", "MIT AND GPL-3.0", "", "(MIT", "MIT Apache-2.0", "MIT AND (GPL-3.0 OR AGPL-3.0)"]
        {
            assert!(!allowed(bad), "{bad}");
        }
    }
}
