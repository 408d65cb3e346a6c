//! What a metric comes to.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a [`Value`] is measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Unit {
    /// A share, from 0 to 1.
    Fraction,
    /// A number of things.
    Count,
    /// Seconds.
    Seconds,
    /// No unit.
    Plain,
}

/// One number with what is needed to print and compare it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Value {
    /// Name within its metric, such as `top1`.
    pub name: String,
    /// The number. A mean over nothing is 0, with a `count` of 0.
    pub value: f64,
    /// What it is measured in.
    pub unit: Unit,
    /// Which direction is better; `None` when neither is.
    pub higher_is_better: Option<bool>,
    /// Samples it was measured on.
    pub count: u64,
}

impl Value {
    /// The share `hits / count`, of which more is better; 0 when `count` is 0.
    pub fn share(name: impl Into<String>, hits: u64, count: u64) -> Self {
        let value = if count == 0 { 0.0 } else { hits as f64 / count as f64 };
        Self { name: name.into(), value, unit: Unit::Fraction, higher_is_better: Some(true), count }
    }
}

impl fmt::Display for Value {
    /// `top1 0.8040 (n=10000)`, with `s` after seconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, value, count, .. } = self;
        match self.unit {
            Unit::Fraction => write!(f, "{name} {value:.4} (n={count})"),
            Unit::Count => write!(f, "{name} {value} (n={count})"),
            Unit::Seconds => write!(f, "{name} {value:.3} s (n={count})"),
            Unit::Plain => write!(f, "{name} {value:.6} (n={count})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_nothing_are_zero() {
        assert_eq!(Value::share("top1", 3, 4).to_string(), "top1 0.7500 (n=4)");
        let nothing = Value::share("top1", 0, 0);
        assert_eq!((nothing.value, nothing.count), (0.0, 0));
    }
}
