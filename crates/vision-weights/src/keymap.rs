//! From the names of a foreign file to ours.

use std::collections::BTreeMap;

use crate::pattern::Row;
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
    ReplacePrefix(String, String),
    Replace(String, String),
    Rename(String, String),
    Table(Vec<Row>),
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

    /// Puts `to` in the place of `from` at the beginning of the names that start with it; others stay.
    #[must_use]
    pub fn replace_prefix(self, from: &str, to: &str) -> Self {
        self.with(Rule::ReplacePrefix(from.to_owned(), to.to_owned()))
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

    /// Renames by a table. Each name is changed by the first row that it has the form of, and by that row alone, so
    /// rows may swap names; a name that no row describes stays. In a row, `*` stands for one segment of the dotted
    /// name and `**`, at the end, for all that is left; the same stars come back in the new name.
    ///
    /// ```
    /// use vision_weights::KeyMap;
    ///
    /// let map = KeyMap::new().table([
    ///     ("backbone.stem.7.**", "bn1.**"),
    ///     ("backbone.stem.*.**", "conv1.*.**"),
    ///     ("backbone.**", "**"),
    /// ])?;
    /// assert_eq!(map.apply_name("backbone.stem.7.weight").as_deref(), Some("bn1.weight"));
    /// assert_eq!(map.apply_name("backbone.stem.3.weight").as_deref(), Some("conv1.3.weight"));
    /// assert_eq!(map.apply_name("backbone.layer1.0.conv1.weight").as_deref(), Some("layer1.0.conv1.weight"));
    /// # Ok::<(), vision_weights::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Rule`] for a row whose sides have different stars, or with a `*` inside a segment.
    pub fn table<'r>(self, rows: impl IntoIterator<Item = (&'r str, &'r str)>) -> Result<Self> {
        let rows = rows.into_iter().map(|(from, to)| Row::new(from, to)).collect::<Result<_>>()?;
        Ok(self.with(Rule::Table(rows)))
    }

    /// Applies the rules of `other` after these.
    #[must_use]
    pub fn then(mut self, other: &Self) -> Self {
        self.rules.extend(other.rules.iter().cloned());
        self
    }

    /// The map back, from our names to the foreign ones. Arrays that were dropped do not come back.
    ///
    /// It is exact for names that the rules tell apart: when a foreign file has both `a` and `b`, a rule from `a`
    /// to `b` cannot be undone, and neither [`KeyMap::apply`] nor this can know without the file. Check a map with the
    /// names of a real file.
    ///
    /// # Errors
    /// [`Error::Rule`] when a rule forgets what it did: [`KeyMap::strip_prefix`] not right after
    /// [`KeyMap::keep_prefix`] with the same prefix, since names with and without it look the same afterwards; a
    /// replacement by nothing; a table in which all that a row results in could come from an earlier row.
    pub fn inverse(&self) -> Result<Self> {
        let mut rules = Vec::new();
        for (i, rule) in self.rules.iter().enumerate().rev() {
            let before = i.checked_sub(1).and_then(|i| self.rules.get(i));
            rules.extend(rule.inverse(before)?);
        }
        Ok(Self { rules })
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
                Rule::ReplacePrefix(from, to) => {
                    if let Some(rest) = name.strip_prefix(from.as_str()) {
                        name = format!("{to}{rest}");
                    }
                }
                Rule::Table(rows) => {
                    if let Some(new) = rows.iter().find_map(|row| row.apply(&name)) {
                        name = new;
                    }
                }
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

impl Rule {
    /// The rule that undoes this one, if there is something to undo. `before` is the rule that ran before it.
    fn inverse(&self, before: Option<&Self>) -> Result<Option<Self>> {
        let forgets = |rule: String, problem| Err(Error::Rule { rule, problem });
        Ok(match self {
            Self::KeepPrefix(_) | Self::DropPrefix(_) | Self::DropSuffix(_) => None,
            Self::AddPrefix(prefix) => Some(Self::StripPrefix(prefix.clone())),
            Self::StripPrefix(prefix) => match before {
                Some(Self::KeepPrefix(kept)) if kept == prefix => Some(Self::AddPrefix(prefix.clone())),
                _ => {
                    let problem = "it cannot be undone: some names may not have had the prefix";
                    return forgets(format!("strip_prefix({prefix:?})"), problem);
                }
            },
            Self::ReplacePrefix(from, to) if to.is_empty() && !from.is_empty() => {
                let problem = "it cannot be undone: it leaves nothing of the prefix";
                return forgets(format!("replace_prefix({from:?}, \"\")"), problem);
            }
            Self::ReplacePrefix(from, to) => Some(Self::ReplacePrefix(to.clone(), from.clone())),
            Self::Replace(from, to) if to.is_empty() && !from.is_empty() => {
                let problem = "it cannot be undone: it leaves nothing of the segments";
                return forgets(format!("replace({from:?}, \"\")"), problem);
            }
            // Without segments to look for it does nothing.
            Self::Replace(from, _) if from.is_empty() => None,
            Self::Replace(from, to) => Some(Self::Replace(to.clone(), from.clone())),
            Self::Rename(from, to) => Some(Self::Rename(to.clone(), from.clone())),
            Self::Table(rows) => {
                for (i, row) in rows.iter().enumerate() {
                    // On the way back the first row that fits is taken, too.
                    if let Some(other) = rows.iter().take(i).find(|other| other.results_cover(row)) {
                        let problem =
                            "they cannot be undone: what the second gives looks as if the first had";
                        return forgets(format!("{} and {}", other.describe(), row.describe()), problem);
                    }
                }
                Some(Self::Table(rows.iter().map(Row::inverse).collect()))
            }
        })
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
    fn prefixes_are_replaced_at_the_beginning_only() {
        let map = KeyMap::new().replace_prefix("pretrained.", "backbone.");
        assert_eq!(map.apply_name("pretrained.conv1.weight").unwrap(), "backbone.conv1.weight");
        assert_eq!(map.apply_name("head.pretrained.x").unwrap(), "head.pretrained.x");
    }

    #[test]
    fn tables_may_swap_names() {
        let map = KeyMap::new().table([("a.**", "b.**"), ("b.**", "a.**")]).unwrap();
        assert_eq!(map.apply_name("a.x").unwrap(), "b.x");
        assert_eq!(map.apply_name("b.x").unwrap(), "a.x");
        assert_eq!(map.inverse().unwrap().apply_name("b.x").unwrap(), "a.x");
        assert!(matches!(KeyMap::new().table([("a.*", "b")]), Err(Error::Rule { .. })));
    }

    #[test]
    fn what_is_forgotten_cannot_be_undone() {
        let lost = |map: KeyMap| map.inverse().unwrap_err().to_string();
        assert!(lost(KeyMap::new().strip_prefix("module.")).contains("strip_prefix(\"module.\")"));
        let other = KeyMap::new().keep_prefix("a.").strip_prefix("b.");
        assert!(lost(other).contains("cannot be undone"));
        assert!(lost(KeyMap::new().replace("module.", "")).contains("replace"));
        assert!(lost(KeyMap::new().replace_prefix("module.", "")).contains("replace_prefix"));
        let table = KeyMap::new().table([("a.**", "x.**"), ("b.*", "x.*")]).unwrap();
        assert!(lost(table).contains("`b.*` to `x.*`"));
        let kept = KeyMap::new().keep_prefix("a.").strip_prefix("a.").add_prefix("c.").drop_suffix("y");
        let back = kept.inverse().unwrap();
        assert_eq!(back.apply_name(&kept.apply_name("a.x").unwrap()).unwrap(), "a.x");
        assert_eq!(back.apply_name("c.y").unwrap(), "a.y");
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
