//! Pickles, numbers and raw bytes back to back, as the formats before the archive have them.

use std::ops::Range;
use std::path::Path;

use super::pickle::{self, Load};
use super::rebuild;
use super::value::{Node, Pickle, Value};
use crate::{Error, Result};

/// A reading position.
pub(super) struct Stream<'a> {
    bytes: &'a [u8],
    at: usize,
    /// What errors put in front: nothing, or the member of an archive that the bytes are.
    prefix: &'static str,
    path: &'a Path,
}

impl<'a> Stream<'a> {
    pub(super) fn new(bytes: &'a [u8], prefix: &'static str, path: &'a Path) -> Self {
        Self { bytes, at: 0, prefix, path }
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// The next pickle; errors call it `what`.
    pub(super) fn pickle(&mut self, what: &str, load: Load<'_, 'a>) -> Result<Pickle<'a>> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let pickle = pickle::parse(rest, load).map_err(|problem| {
            let at = self.at.saturating_add(problem.offset) as u64;
            Error::format(self.path, Some(at), format!("{}{what}: {}", self.prefix, problem.what))
        })?;
        self.at += pickle.len;
        Ok(pickle)
    }

    /// A pickle that is a number of things.
    pub(super) fn count(&mut self, what: &str) -> Result<u64> {
        let start = self.at;
        match self.pickle(what, &rebuild::no_persistent)?.root {
            Value::Int(count) if count >= 0 => Ok(count.unsigned_abs()),
            other => Err(self.problem_at(start, format!("{what}: {other:?} is no number of things"))),
        }
    }

    /// The next number of 64 bits that must not be negative.
    pub(super) fn length(&mut self, what: &str) -> Result<usize> {
        let start = self.at;
        let number = i64::from_le_bytes(self.array(what)?);
        usize::try_from(number).ok().ok_or_else(|| self.problem_at(start, format!("{what} is {number}")))
    }

    pub(super) fn i32(&mut self, what: &str) -> Result<i32> {
        self.array(what).map(i32::from_le_bytes)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let range = self.take(N, what)?;
        let bytes = self.bytes.get(range).and_then(|bytes| bytes.first_chunk());
        bytes.copied().ok_or_else(|| self.problem(format!("{what}: the file ends inside a number")))
    }

    /// Where the next `length` bytes are.
    pub(super) fn take(&mut self, length: usize, what: &str) -> Result<Range<usize>> {
        let left = self.bytes.len().saturating_sub(self.at);
        if length > left {
            return Err(self.problem(format!("{what}: {length} bytes are announced, {left} are left")));
        }
        let start = self.at;
        self.at += length;
        Ok(start..self.at)
    }

    pub(super) fn unsupported(&self, what: impl AsRef<str>) -> Error {
        Error::unsupported(self.path, format!("{}{}", self.prefix, what.as_ref()))
    }

    pub(super) fn problem(&self, problem: impl AsRef<str>) -> Error {
        self.problem_at(self.at, problem)
    }

    pub(super) fn problem_at(&self, at: usize, problem: impl AsRef<str>) -> Error {
        Error::format(self.path, Some(at as u64), format!("{}{}", self.prefix, problem.as_ref()))
    }
}

/// Refuses what a big-endian machine wrote. Files that do not say are taken for little-endian, as all but a few
/// are.
pub(super) fn check_byte_order(sys_info: &Pickle<'_>, path: &Path) -> Result<()> {
    if let Some(Node::Dict(items)) = rebuild::node(&sys_info.nodes, sys_info.root)
        && items.contains(&(Value::Str("little_endian"), Value::Bool(false)))
    {
        return Err(Error::unsupported(path, "a file of a big-endian machine"));
    }
    Ok(())
}
