//! The table from op name to code. A row is a small function that reads the inputs and arguments of a case and
//! calls this workspace; each file holds the rows of one part of it.

mod boxes;
mod core;
mod detect;
mod encnet;
mod instdisc;
mod metrics;
mod models;
mod pictures;
mod ranks;
mod regions;
mod resample;
mod training;

use anyhow::Result;

use crate::case::{Case, Outputs};

/// A row of the registry.
#[derive(Debug, Clone, Copy)]
pub struct Op {
    /// The name cases use.
    pub name: &'static str,
    /// Files of `vision-core/src/ops` that it exercises, without `.rs`.
    pub kernels: &'static [&'static str],
    /// Its cases are too large to commit; `generate.py --models` writes them.
    pub models_only: bool,
    /// Computes what the case asks for.
    pub run: fn(&Case) -> Result<Outputs>,
}

/// A row that only `kernels` of the same name stand behind.
const fn op(name: &'static str, kernels: &'static [&'static str], run: fn(&Case) -> Result<Outputs>) -> Op {
    Op { name, kernels, models_only: false, run }
}

/// Every row.
pub fn ops() -> impl Iterator<Item = &'static Op> {
    [
        boxes::OPS,
        core::OPS,
        resample::OPS,
        regions::OPS,
        training::OPS,
        models::OPS,
        detect::OPS,
        pictures::OPS,
        metrics::OPS,
        instdisc::OPS,
        encnet::OPS,
    ]
    .into_iter()
    .flatten()
}

/// The row of that name.
pub fn find(name: &str) -> Option<&'static Op> {
    ops().find(|op| op.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = ops().map(|op| op.name).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        assert!(find("conv2d").is_some() && find("no_such_op").is_none());
    }
}
