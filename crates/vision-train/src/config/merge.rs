//! Merging and comparing TOML tables.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

/// Which source each dotted key came from, to be named in errors.
#[derive(Debug, Default)]
pub(super) struct Origins(BTreeMap<String, String>);

impl Origins {
    fn record(&mut self, key: &str, source: &str) {
        self.0.insert(key.to_owned(), source.to_owned());
    }

    /// The source of `key`, or of its nearest known parent or any child.
    pub(super) fn find(&self, key: &str) -> Option<&str> {
        let mut prefix = key;
        loop {
            if let Some(source) = self.0.get(prefix) {
                return Some(source);
            }
            match prefix.rfind('.') {
                Some(dot) => prefix = &prefix[..dot],
                None => break,
            }
        }
        let children = format!("{key}.");
        self.0.iter().find(|(known, _)| known.starts_with(&children)).map(|(_, source)| source.as_str())
    }
}

/// Puts `over` on top of `base`. Tables merge key by key unless their `kind` differs.
pub(super) fn merge(base: &mut Table, over: Table, source: &str, origins: &mut Origins) {
    merge_at(base, over, source, origins, "");
}

fn merge_at(base: &mut Table, over: Table, source: &str, origins: &mut Origins, prefix: &str) {
    for (key, value) in over {
        let full = join(prefix, &key);
        match (base.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) if same_kind(old, &new) => {
                merge_at(old, new, source, origins, &full);
            }
            (_, value) => {
                record_all(&full, &value, source, origins);
                base.insert(key, value);
            }
        }
    }
}

/// A table without a `kind` of its own keeps the kind that is there.
fn same_kind(old: &Table, new: &Table) -> bool {
    match (old.get("kind"), new.get("kind")) {
        (Some(old), Some(new)) => old == new,
        _ => true,
    }
}

fn record_all(key: &str, value: &Value, source: &str, origins: &mut Origins) {
    origins.record(key, source);
    if let Value::Table(table) = value {
        for (child, value) in table {
            record_all(&join(key, child), value, source, origins);
        }
    }
}

/// A table with the one value of `key = value` in it.
pub(super) fn nested(key: &str, value: Value) -> Table {
    let mut table = Table::new();
    match key.split_once('.') {
        Some((head, rest)) => {
            table.insert(head.to_owned(), Value::Table(nested(rest, value)));
        }
        None => {
            table.insert(key.to_owned(), value);
        }
    }
    table
}

pub(super) fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") }
}

/// Every value that is not a table, under its dotted key. Arrays count as one value.
pub fn flatten(table: &Table) -> BTreeMap<String, Value> {
    fn walk(table: &Table, prefix: &str, out: &mut BTreeMap<String, Value>) {
        for (key, value) in table {
            let full = join(prefix, key);
            match value {
                Value::Table(inner) => walk(inner, &full, out),
                other => {
                    out.insert(full, other.clone());
                }
            }
        }
    }
    let mut out = BTreeMap::new();
    walk(table, "", &mut out);
    out
}

/// Dotted keys whose values differ or that only one of the tables has, sorted.
pub fn differing_keys(a: &Table, b: &Table) -> Vec<String> {
    let (a, b) = (flatten(a), flatten(b));
    let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    keys.into_iter().filter(|key| a.get(*key) != b.get(*key)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Table {
        text.parse().unwrap()
    }

    #[test]
    fn tables_merge_and_kinds_replace() {
        let mut base = table("a = 1\n[s]\nkind = \"step\"\nmilestones = [1]\n[t]\nx = 1\ny = 2");
        let mut origins = Origins::default();
        merge(&mut base, table("[s]\nkind = \"cosine\"\nlast = 0.1\n[t]\ny = 3"), "f", &mut origins);
        assert_eq!(base, table("a = 1\n[s]\nkind = \"cosine\"\nlast = 0.1\n[t]\nx = 1\ny = 3"));
        assert_eq!(origins.find("t.y"), Some("f"));
        assert_eq!(origins.find("t.x"), None);
        assert_eq!(origins.find("s.last"), Some("f"));
        assert_eq!(origins.find("s"), Some("f"));
    }

    #[test]
    fn differences_are_named_by_dotted_key() {
        let a = table("x = 1\n[t]\ny = [1, 2]\nz = 1");
        let b = table("x = 1\n[t]\ny = [1, 3]\nw = 1");
        assert_eq!(differing_keys(&a, &b), ["t.w", "t.y", "t.z"]);
        assert!(differing_keys(&a, &a).is_empty());
    }

    #[test]
    fn a_dotted_key_makes_nested_tables() {
        assert_eq!(nested("a.b.c", Value::Integer(3)), table("[a.b]\nc = 3"));
    }
}
