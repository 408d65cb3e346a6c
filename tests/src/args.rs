//! The JSON arguments of a case, with a record of which were read.

use std::cell::RefCell;
use std::collections::BTreeSet;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value};

/// Arguments by name. A name that no row reads is reported, so no argument is ignored by accident.
#[derive(Debug, Default)]
pub struct Args {
    values: Map<String, Value>,
    read: RefCell<BTreeSet<String>>,
}

impl Args {
    /// Parses a JSON object.
    ///
    /// # Errors
    /// If the text is no JSON object.
    pub fn parse(text: &str) -> Result<Self> {
        match serde_json::from_str(text).with_context(|| format!("args are not JSON: {text}"))? {
            Value::Object(values) => Ok(Self { values, read: RefCell::default() }),
            other => bail!("args must be a JSON object, found {other}"),
        }
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.read.borrow_mut().insert(name.to_owned());
        self.values.get(name)
    }

    /// Names that were never asked for.
    pub fn unread(&self) -> Vec<String> {
        let read = self.read.borrow();
        self.values.keys().filter(|name| !read.contains(*name)).cloned().collect()
    }

    fn parse_with<T>(&self, name: &str, kind: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>> {
        match self.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match read(value) {
                Some(value) => Ok(Some(value)),
                None => bail!("argument {name} must be {kind}, found {value}"),
            },
        }
    }

    /// A number; `None` if absent or null.
    ///
    /// # Errors
    /// If it is something else.
    pub fn number(&self, name: &str) -> Result<Option<f64>> {
        self.parse_with(name, "a number", Value::as_f64)
    }

    /// A number, or `default`.
    ///
    /// # Errors
    /// If it is something else.
    pub fn f64(&self, name: &str, default: f64) -> Result<f64> {
        Ok(self.number(name)?.unwrap_or(default))
    }

    /// A number that must be given.
    ///
    /// # Errors
    /// If it is absent or something else.
    pub fn need_f64(&self, name: &str) -> Result<f64> {
        self.number(name)?.ok_or_else(|| missing(name))
    }

    /// An integer, or `default`.
    ///
    /// # Errors
    /// If it is something else.
    pub fn i64(&self, name: &str, default: i64) -> Result<i64> {
        Ok(self.parse_with(name, "an integer", Value::as_i64)?.unwrap_or(default))
    }

    /// A count, or `default`.
    ///
    /// # Errors
    /// If it is something else.
    pub fn usize(&self, name: &str, default: usize) -> Result<usize> {
        Ok(self.parse_with(name, "a count", count)?.unwrap_or(default))
    }

    /// A count that must be given.
    ///
    /// # Errors
    /// If it is absent or something else.
    pub fn need_usize(&self, name: &str) -> Result<usize> {
        self.parse_with(name, "a count", count)?.ok_or_else(|| missing(name))
    }

    /// One count for both axes or a pair (height, width); `None` if absent or null.
    ///
    /// # Errors
    /// If it is something else.
    pub fn pair(&self, name: &str) -> Result<Option<[usize; 2]>> {
        self.parse_with(name, "a count or a pair of counts", |value| match value {
            Value::Array(items) => match items.as_slice() {
                [a, b] => Some([count(a)?, count(b)?]),
                _ => None,
            },
            single => count(single).map(|n| [n, n]),
        })
    }

    /// Counts in a list, empty if absent.
    ///
    /// # Errors
    /// If it is something else.
    pub fn counts(&self, name: &str) -> Result<Vec<u64>> {
        let list = self.parse_with(name, "a list of counts", |value| {
            value.as_array()?.iter().map(Value::as_u64).collect::<Option<Vec<_>>>()
        })?;
        Ok(list.unwrap_or_default())
    }

    /// Numbers in a list; `None` if absent or null.
    ///
    /// # Errors
    /// If it is something else.
    pub fn numbers(&self, name: &str) -> Result<Option<Vec<f64>>> {
        self.parse_with(name, "a list of numbers", |value| {
            value.as_array()?.iter().map(Value::as_f64).collect()
        })
    }

    /// Lists of numbers in a list, empty if absent.
    ///
    /// # Errors
    /// If it is something else.
    pub fn nested(&self, name: &str) -> Result<Vec<Vec<f64>>> {
        let lists = self.parse_with(name, "a list of lists of numbers", |value| {
            value
                .as_array()?
                .iter()
                .map(|list| list.as_array()?.iter().map(Value::as_f64).collect())
                .collect()
        })?;
        Ok(lists.unwrap_or_default())
    }

    /// A truth value, or `default`.
    ///
    /// # Errors
    /// If it is something else.
    pub fn bool(&self, name: &str, default: bool) -> Result<bool> {
        Ok(self.parse_with(name, "true or false", Value::as_bool)?.unwrap_or(default))
    }

    /// A text; `None` if absent or null.
    ///
    /// # Errors
    /// If it is something else.
    pub fn text(&self, name: &str) -> Result<Option<String>> {
        self.parse_with(name, "a text", |value| value.as_str().map(str::to_owned))
    }

    /// A text that must be given.
    ///
    /// # Errors
    /// If it is absent or something else.
    pub fn need_text(&self, name: &str) -> Result<String> {
        self.text(name)?.ok_or_else(|| missing(name))
    }
}

fn count(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|n| usize::try_from(n).ok())
}

fn missing(name: &str) -> anyhow::Error {
    anyhow!("argument {name} is missing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_pairs_and_unread_names() {
        let args = Args::parse(r#"{"stride": 2, "padding": [1, 3], "typo": 1}"#).unwrap();
        assert_eq!(args.pair("stride").unwrap(), Some([2, 2]));
        assert_eq!(args.pair("padding").unwrap(), Some([1, 3]));
        assert_eq!(args.usize("groups", 1).unwrap(), 1);
        assert_eq!(args.unread(), ["typo"]);
        assert!(args.bool("stride", true).is_err());
        assert!(args.need_f64("eps").is_err());
        assert!(Args::parse("[1]").is_err());
    }
}
