//! From the names of a foreign file to ours.

use std::collections::BTreeMap;

use crate::{Error, Result, StateDict};

/// Rules that rename or drop arrays, applied in the order in which they were added, each to the name as the
/// rules before it left it.
///
/// ```
/// use vision_weights::KeyMap;
///
/// let map = KeyMap::new()
///     .keep_prefix("state_dict.")
///     .strip_prefix("state_dict.")
///     .strip_prefix("module.")
///     .replace("shortcut", "downsample")
///     .drop_suffix("num_batches_tracked");
/// let name = map.apply_name("state_dict.module.layer1.0.shortcut.0.weight");
/// assert_eq!(name.as_deref(), Some("layer1.0.downsample.0.weight"));
/// assert_eq!(map.apply_name("state_dict.module.bn1.num_batches_tracked"), None);
/// assert_eq!(map.apply_name("optimizer.state.0.exp_avg"), None);
/// ```
#[derive(Debug, Clone, Default)]
pub struct KeyMap {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone)]
enum Rule {
    StripPrefix(String),
    AddPrefix(String),
    KeepPrefix(String),
    Replace(String, String),
    Rename(String, String),
    DropPrefix(String),
    DropSuffix(String),
}

impl KeyMap {
    /// No rules: every name stays as it is.
    pub fn new() -> Self {
        Self::default()
    }

    /// Removes `prefix` from the names that start with it; others stay.
    #[must_use]
    pub fn strip_prefix(self, prefix: &str) -> Self {
        self.with(Rule::StripPrefix(prefix.to_owned()))
    }

    /// Puts `prefix` in front of every name.
    #[must_use]
    pub fn add_prefix(self, prefix: &str) -> Self {
        self.with(Rule::AddPrefix(prefix.to_owned()))
    }

    /// Drops the arrays whose names do not start with `prefix`.
    #[must_use]
    pub fn keep_prefix(self, prefix: &str) -> Self {
        self.with(Rule::KeepPrefix(prefix.to_owned()))
    }

    /// Replaces `from` with `to` wherever it stands as whole segments of the dotted name: `linear` is found
    /// in `head.linear.weight` but not in `bilinear.weight`. Both may span several segments.
    #[must_use]
    pub fn replace(self, from: &str, to: &str) -> Self {
        self.with(Rule::Replace(from.to_owned(), to.to_owned()))
    }

    /// Renames the one array called `from`.
    #[must_use]
    pub fn rename(self, from: &str, to: &str) -> Self {
        self.with(Rule::Rename(from.to_owned(), to.to_owned()))
    }

    /// Drops the arrays whose names start with `prefix`.
    #[must_use]
    pub fn drop_prefix(self, prefix: &str) -> Self {
        self.with(Rule::DropPrefix(prefix.to_owned()))
    }

    /// Drops the arrays whose names end with `suffix`.
    #[must_use]
    pub fn drop_suffix(self, suffix: &str) -> Self {
        self.with(Rule::DropSuffix(suffix.to_owned()))
    }

    fn with(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// The new name of an array, or `None` when it is dropped.
    pub fn apply_name(&self, name: &str) -> Option<String> {
        let mut name = name.to_owned();
        for rule in &self.rules {
            match rule {
                Rule::StripPrefix(prefix) => {
                    if let Some(rest) = name.strip_prefix(prefix.as_str()) {
                        name = rest.to_owned();
                    }
                }
                Rule::AddPrefix(prefix) => name.insert_str(0, prefix),
                Rule::KeepPrefix(prefix) if !name.starts_with(prefix.as_str()) => return None,
                Rule::DropPrefix(prefix) if name.starts_with(prefix.as_str()) => return None,
                Rule::DropSuffix(suffix) if name.ends_with(suffix.as_str()) => return None,
                Rule::Replace(from, to) => name = replace_segments(&name, from, to),
                Rule::Rename(from, to) if name == *from => name.clone_from(to),
                Rule::KeepPrefix(_) | Rule::DropPrefix(_) | Rule::DropSuffix(_) | Rule::Rename(..) => {}
            }
        }
        Some(name)
    }

    /// Renames and drops the arrays of a state dict. Metadata is left alone.
    ///
    /// # Errors
    /// [`Error::Collision`] when two arrays would get one name, [`Error::Name`] when a name would be empty.
    pub fn apply(&self, state: StateDict) -> Result<StateDict> {
        let mut mapped = StateDict { tensors: BTreeMap::new(), metadata: state.metadata };
        let mut origins: BTreeMap<String, String> = BTreeMap::new();
        for (old, array) in state.tensors {
            let Some(name) = self.apply_name(&old) else { continue };
            if name.is_empty() {
                return Err(Error::Name { name: old, problem: "the rules leave nothing of it" });
            }
            if let Some(first) = origins.insert(name.clone(), old.clone()) {
                return Err(Error::Collision { name, first, second: old });
            }
            mapped.tensors.insert(name, array);
        }
        Ok(mapped)
    }
}

fn replace_segments(name: &str, from: &str, to: &str) -> String {
    if from.is_empty() {
        return name.to_owned();
    }
    let mut out = String::with_capacity(name.len());
    let mut done = 0;
    for (start, _) in name.match_indices(from) {
        let end = start + from.len();
        let starts_segment = start == 0 || from.starts_with('.') || name[..start].ends_with('.');
        let ends_segment = end == name.len() || from.ends_with('.') || name[end..].starts_with('.');
        if start >= done && starts_segment && ends_segment {
            out.push_str(&name[done..start]);
            out.push_str(to);
            done = end;
        }
    }
    out.push_str(&name[done..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Array;

    fn state(names: &[&str]) -> StateDict {
        names.iter().map(|&name| (name.to_owned(), Array::from_u32([1], &[1]).unwrap())).collect()
    }

    #[test]
    fn replace_respects_segments() {
        let name = |from, to, name| KeyMap::new().replace(from, to).apply_name(name).unwrap();
        assert_eq!(name("linear", "fc", "linear.bias"), "fc.bias");
        assert_eq!(name("linear", "fc", "bilinear.linear.linear2.linear"), "bilinear.fc.linear2.fc");
        assert_eq!(name("a.b", "c", "a.b.a.b"), "c.c");
        assert_eq!(name("module.", "", "module.fc.module.bias"), "fc.bias");
        assert_eq!(name("", "x", "a.b"), "a.b");
    }

    #[test]
    fn rules_run_in_order() {
        let map = KeyMap::new()
            .drop_prefix("optimizer.")
            .strip_prefix("module.")
            .rename("l.weight", "fc.weight")
            .add_prefix("backbone.");
        assert_eq!(map.apply_name("module.l.weight").unwrap(), "backbone.fc.weight");
        assert_eq!(map.apply_name("other").unwrap(), "backbone.other");
        assert_eq!(map.apply_name("optimizer.l.weight"), None);
    }

    #[test]
    fn two_arrays_never_share_a_name() {
        let map = KeyMap::new().strip_prefix("module.");
        let error = map.apply(state(&["fc", "module.fc"])).unwrap_err();
        assert_eq!(error.to_string(), "`fc` and `module.fc` would both be called `fc`");
        assert!(matches!(map.apply(state(&["module."])), Err(Error::Name { .. })));
        let mapped = map.apply(state(&["module.a", "b"])).unwrap();
        assert_eq!(mapped.names().collect::<Vec<_>>(), ["a", "b"]);
        assert!(map.apply(StateDict::new()).unwrap().is_empty());
    }
}
