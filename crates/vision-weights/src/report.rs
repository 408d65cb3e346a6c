//! What a model wants against what a file has.

use std::collections::BTreeMap;
use std::fmt;

use crate::{Error, Result};

/// An array whose shape differs between model and file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// Its name.
    pub name: String,
    /// The shape the model has.
    pub expected: Vec<usize>,
    /// The shape the file has.
    pub found: Vec<usize>,
}

/// The outcome of comparing a model with a file, every list in order of the names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// In both, with equal shapes.
    pub loaded: Vec<String>,
    /// In the model only.
    pub missing: Vec<String>,
    /// In the file only.
    pub unexpected: Vec<String>,
    /// In both, with different shapes.
    pub mismatched: Vec<Mismatch>,
}

impl LoadReport {
    /// Compares the shapes a model expects with those found in a file.
    pub fn compare(expected: &BTreeMap<String, Vec<usize>>, found: &BTreeMap<String, Vec<usize>>) -> Self {
        let mut report = Self::default();
        for (name, shape) in expected {
            match found.get(name) {
                None => report.missing.push(name.clone()),
                Some(other) if other == shape => report.loaded.push(name.clone()),
                Some(other) => report.mismatched.push(Mismatch {
                    name: name.clone(),
                    expected: shape.clone(),
                    found: other.clone(),
                }),
            }
        }
        report.unexpected = found.keys().filter(|name| !expected.contains_key(*name)).cloned().collect();
        report
    }

    /// Accepts that the file lacks the arrays whose names start with `prefix`.
    #[must_use]
    pub fn allow_missing(mut self, prefix: &str) -> Self {
        self.missing.retain(|name| !name.starts_with(prefix));
        self
    }

    /// Accepts that the file has more arrays than the model, where their names start with `prefix`.
    #[must_use]
    pub fn allow_unexpected(mut self, prefix: &str) -> Self {
        self.unexpected.retain(|name| !name.starts_with(prefix));
        self
    }

    /// Accepts that the file lacks the arrays whose names end with `suffix`, such as `num_batches_tracked`.
    #[must_use]
    pub fn allow_missing_suffix(mut self, suffix: &str) -> Self {
        self.missing.retain(|name| !name.ends_with(suffix));
        self
    }

    /// Accepts that the file has more arrays than the model, where their names end with `suffix`.
    #[must_use]
    pub fn allow_unexpected_suffix(mut self, suffix: &str) -> Self {
        self.unexpected.retain(|name| !name.ends_with(suffix));
        self
    }

    /// Whether nothing but `loaded` is left.
    pub fn is_clean(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.mismatched.is_empty()
    }

    /// Insists that model and file agree, except for what was accepted before.
    ///
    /// # Errors
    /// [`Error::Mismatched`], listing the names, when anything is missing, unexpected or mismatched.
    pub fn check(&self) -> Result<()> {
        if self.is_clean() { Ok(()) } else { Err(Error::Mismatched(Box::new(self.clone()))) }
    }
}

/// As many names as fit a terminal line; the fields have them all.
const SHOWN: usize = 5;

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} loaded", self.loaded.len())?;
        list(f, "missing", &self.missing)?;
        list(f, "unexpected", &self.unexpected)?;
        let mismatched: Vec<String> = self
            .mismatched
            .iter()
            .map(|m| format!("{} (model {:?}, file {:?})", m.name, m.expected, m.found))
            .collect();
        list(f, "of another shape", &mismatched)
    }
}

fn list(f: &mut fmt::Formatter<'_>, what: &str, names: &[String]) -> fmt::Result {
    if names.is_empty() {
        return Ok(());
    }
    let shown = &names[..names.len().min(SHOWN)];
    write!(f, "; {} {what}: {}", names.len(), shown.join(", "))?;
    if names.len() > SHOWN { write!(f, " and {} more", names.len() - SHOWN) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shapes(entries: &[(&str, &[usize])]) -> BTreeMap<String, Vec<usize>> {
        entries.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec())).collect()
    }

    #[test]
    fn strict_until_told_otherwise() {
        let model = shapes(&[("conv1.weight", &[8, 3]), ("fc.weight", &[10, 8]), ("bn.weight", &[8])]);
        let file =
            shapes(&[("conv1.weight", &[8, 3]), ("head.weight", &[5]), ("bn.num_batches_tracked", &[])]);
        let report = LoadReport::compare(&model, &file);
        assert_eq!(report.loaded, ["conv1.weight"]);
        assert_eq!(report.missing, ["bn.weight", "fc.weight"]);
        assert_eq!(report.unexpected, ["bn.num_batches_tracked", "head.weight"]);
        let text = report.check().unwrap_err().to_string();
        assert!(text.contains("2 missing: bn.weight, fc.weight"), "{text}");
        let accepted = report
            .allow_missing("fc.")
            .allow_missing("bn.")
            .allow_unexpected("head.")
            .allow_unexpected_suffix("num_batches_tracked");
        accepted.check().unwrap();
        assert_eq!(accepted.to_string(), "1 loaded");
    }

    #[test]
    fn shapes_cannot_be_accepted_away() {
        let report = LoadReport::compare(&shapes(&[("fc", &[2])]), &shapes(&[("fc", &[3])]));
        let report = report.allow_missing("").allow_unexpected("");
        assert!(matches!(report.check(), Err(Error::Mismatched(_))));
        assert_eq!(report.to_string(), "0 loaded; 1 of another shape: fc (model [2], file [3])");
    }

    #[test]
    fn long_lists_are_cut_and_empty_ones_agree() {
        let names: Vec<String> = (0..9).map(|i| format!("p{i}")).collect();
        let model = names.iter().map(|name| (name.clone(), vec![1])).collect();
        let report = LoadReport::compare(&model, &BTreeMap::new());
        assert!(report.to_string().ends_with("p4 and 4 more"), "{report}");
        LoadReport::compare(&BTreeMap::new(), &BTreeMap::new()).check().unwrap();
    }
}
