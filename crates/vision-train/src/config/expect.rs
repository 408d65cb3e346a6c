//! `[expect]`: the results a configuration promises.

use std::fmt;

use toml::{Table, Value};

use crate::error::{Error, Result};

/// One promised result.
#[derive(Clone, Debug, PartialEq)]
pub struct Expect {
    /// Name of a value in the final report.
    pub metric: String,
    /// What it has to be.
    pub bound: Bound,
}

/// What a value has to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// At least this.
    Min(f64),
    /// At most this.
    Max(f64),
    /// Between both, ends included.
    Between(f64, f64),
    /// At most `tolerance` away from `value`.
    Near {
        /// The value measured.
        value: f64,
        /// Allowed distance.
        tolerance: f64,
    },
}

impl Bound {
    /// Whether `value` is within; NaN never is.
    pub fn holds(&self, value: f64) -> bool {
        match *self {
            Self::Min(min) => value >= min,
            Self::Max(max) => value <= max,
            Self::Between(min, max) => (min..=max).contains(&value),
            Self::Near { value: want, tolerance } => (value - want).abs() <= tolerance,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Min(min) => write!(f, ">= {min}"),
            Self::Max(max) => write!(f, "<= {max}"),
            Self::Between(min, max) => write!(f, "{min} .. {max}"),
            Self::Near { value, tolerance } => write!(f, "{value} +- {tolerance}"),
        }
    }
}

/// An expectation beside what was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// The expectation.
    pub expect: Expect,
    /// The value found; none if the report has no such metric.
    pub value: Option<f64>,
    /// Whether it is met.
    pub ok: bool,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value.map_or_else(|| "missing".to_owned(), |value| format!("{value:.4}"));
        let verdict = if self.ok { "ok" } else { "MISSED" };
        write!(f, "{:<24} {value:>12}   {:<20} {verdict}", self.expect.metric, self.expect.bound.to_string())
    }
}

/// Compares each expectation with the value `get` finds for its metric.
pub fn check_expectations(expect: &[Expect], get: impl Fn(&str) -> Option<f64>) -> Vec<Check> {
    expect
        .iter()
        .map(|expect| {
            let value = get(&expect.metric);
            let ok = value.is_some_and(|value| expect.bound.holds(value));
            Check { expect: expect.clone(), value, ok }
        })
        .collect()
}

/// The `[expect]` table that [`parse_expect`] reads back.
pub(super) fn expect_table(expect: &[Expect]) -> Table {
    let mut table = Table::new();
    for Expect { metric, bound } in expect {
        let entry: &[(&str, f64)] = match *bound {
            Bound::Min(min) => &[("min", min)],
            Bound::Max(max) => &[("max", max)],
            Bound::Between(min, max) => &[("min", min), ("max", max)],
            Bound::Near { value, tolerance } => &[("value", value), ("tolerance", tolerance)],
        };
        let entry: Table =
            entry.iter().map(|(key, value)| ((*key).to_owned(), Value::Float(*value))).collect();
        table.insert(metric.clone(), Value::Table(entry));
    }
    table
}

/// Reads `metric = { min = .. }`, `{ max = .. }`, both, or `{ value = .., tolerance = .. }`.
pub(super) fn parse_expect(table: &Table, path: &str) -> Result<Vec<Expect>> {
    const ALLOWED: &str = "allowed: { min = .. }, { max = .. }, { min = .., max = .. } or \
                           { value = .., tolerance = .. }";
    let mut expect = Vec::new();
    for (metric, entry) in table {
        let key = format!("expect.{metric}");
        let Value::Table(entry) = entry else { return Err(Error::config(path, key, ALLOWED)) };
        for name in entry.keys() {
            if !["min", "max", "value", "tolerance"].contains(&name.as_str()) {
                return Err(Error::config(path, format!("{key}.{name}"), format!("unknown key; {ALLOWED}")));
            }
        }
        let number = |name: &str| match entry.get(name) {
            None => Ok(None),
            Some(Value::Float(x)) => Ok(Some(*x)),
            Some(Value::Integer(x)) => Ok(Some(*x as f64)),
            Some(_) => Err(Error::config(path, format!("{key}.{name}"), "must be a number")),
        };
        let bound = match (number("min")?, number("max")?, number("value")?, number("tolerance")?) {
            (Some(min), None, None, None) => Bound::Min(min),
            (None, Some(max), None, None) => Bound::Max(max),
            (Some(min), Some(max), None, None) => Bound::Between(min, max),
            (None, None, Some(value), Some(tolerance)) => Bound::Near { value, tolerance },
            _ => return Err(Error::config(path, key, ALLOWED)),
        };
        expect.push(Expect { metric: metric.clone(), bound });
    }
    Ok(expect)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Expect>> {
        parse_expect(&text.parse().unwrap(), "x.toml")
    }

    #[test]
    fn bounds_hold_at_their_ends() {
        let expect =
            parse("a = { min = 1 }\nb = { max = 2.0 }\nc = { value = 3.0, tolerance = 0.5 }").unwrap();
        let found = |name: &str| match name {
            "a" => Some(1.0),
            "b" => Some(2.5),
            _ => None,
        };
        assert_eq!(parse_expect(&expect_table(&expect), "x").unwrap(), expect);
        let checks = check_expectations(&expect, found);
        assert_eq!(checks.iter().map(|check| check.ok).collect::<Vec<_>>(), [true, false, false]);
        assert!(checks[1].to_string().ends_with("MISSED"), "{}", checks[1]);
        assert!(checks[2].to_string().contains("missing"));
        assert!(Bound::Near { value: 3.0, tolerance: 0.5 }.holds(3.5));
        assert!(!Bound::Min(0.0).holds(f64::NAN));
    }

    #[test]
    fn wrong_entries_name_their_key() {
        for (text, key) in [
            ("a = 3", "expect.a"),
            ("a = { least = 3 }", "expect.a.least"),
            ("a = { min = \"x\" }", "expect.a.min"),
            ("a = { value = 3 }", "expect.a"),
            ("a = {}", "expect.a"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("x.toml: key `{key}`")), "{error}");
        }
    }
}
