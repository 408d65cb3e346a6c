//! Exact nearest-neighbour search over features: the retrieval index of the method.
//!
//! The index is the matrix itself. Search is exhaustive, so recall is 1 by construction; ties go to the
//! lower row, and results do not depend on how queries are batched.

use std::path::Path;

use candle_core::{Device, Tensor};
use vision_core::ops;
use vision_weights::{Array, StateDict};

use crate::error::{Error, Result};

/// What the `format` entry of an index file says.
const FORMAT: &str = "instdisc-flat-index-1";

/// One neighbour of a query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbour {
    /// Row of the index.
    pub row: u32,
    /// Inner product with the query; the cosine if both have length one.
    pub score: f32,
}

/// An exact index over `n` features of length `D`, with a name and optionally a class per row.
///
/// Works with any features, not only those of this crate.
///
/// ```
/// use instdisc::FlatIndex;
/// # fn main() -> instdisc::Result<()> {
/// let index = FlatIndex::new(2, vec![1.0, 0.0, 0.0, 1.0, 0.6, 0.8])?;
/// let hits = index.search(&[0.0, 1.0], 2)?;
/// assert_eq!(hits[0].iter().map(|hit| hit.row).collect::<Vec<_>>(), [1, 2]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct FlatIndex {
    rows: Tensor,
    names: Vec<String>,
    labels: Option<Vec<i64>>,
    fingerprint: Option<String>,
}

impl FlatIndex {
    /// An index over `features`, rows of `dim` numbers one after the other.
    ///
    /// # Errors
    /// If the length is no multiple of `dim`, or a row is not finite.
    pub fn new(dim: usize, features: Vec<f32>) -> Result<Self> {
        if dim == 0 || !features.len().is_multiple_of(dim) {
            return Err(Error::size("index features", format!("a multiple of {dim}"), features.len()));
        }
        check_finite("index features", dim, &features)?;
        let count = features.len() / dim;
        let rows = Tensor::from_vec(features, (count, dim), &Device::Cpu)?;
        Ok(Self { rows, names: Vec::new(), labels: None, fingerprint: None })
    }

    /// Gives every row a name, such as the path of its picture.
    ///
    /// # Errors
    /// If there is not one name per row.
    pub fn with_names(mut self, names: Vec<String>) -> Result<Self> {
        self.check_count("index names", names.len())?;
        self.names = names;
        Ok(self)
    }

    /// Gives every row a class; -1 where unknown.
    ///
    /// # Errors
    /// If there is not one label per row.
    pub fn with_labels(mut self, labels: Vec<i64>) -> Result<Self> {
        self.check_count("index labels", labels.len())?;
        self.labels = Some(labels);
        Ok(self)
    }

    /// Notes which data the rows were made from.
    #[must_use]
    pub fn with_fingerprint(mut self, fingerprint: impl Into<String>) -> Self {
        self.fingerprint = Some(fingerprint.into());
        self
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.dims().first().copied().unwrap_or(0)
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Length of a row.
    pub fn dim(&self) -> usize {
        self.rows.dims().get(1).copied().unwrap_or(0)
    }

    /// Name of a row, if rows have names.
    pub fn name(&self, row: u32) -> Option<&str> {
        self.names.get(row as usize).map(String::as_str)
    }

    /// Class of every row, if rows have classes.
    pub fn labels(&self) -> Option<&[i64]> {
        self.labels.as_deref()
    }

    /// The data the rows were made from, if noted.
    pub fn fingerprint(&self) -> Option<&str> {
        self.fingerprint.as_deref()
    }

    /// The `k` rows with the largest inner product for each query, best first. Queries are rows of
    /// [`FlatIndex::dim`] numbers one after the other; none gives an empty result.
    ///
    /// # Errors
    /// If the queries are no multiple of the row length or not finite, or `k` is zero or more than there
    /// are rows.
    pub fn search(&self, queries: &[f32], k: usize) -> Result<Vec<Vec<Neighbour>>> {
        let dim = self.dim();
        if !queries.len().is_multiple_of(dim) {
            return Err(Error::size("queries", format!("a multiple of {dim}"), queries.len()));
        }
        if k == 0 || k > self.len() {
            return Err(Error::size("neighbours asked for", format!("1 to {}", self.len()), k));
        }
        if queries.is_empty() {
            return Ok(Vec::new());
        }
        check_finite("queries", dim, queries)?;
        let queries = Tensor::from_slice(queries, (queries.len() / dim, dim), &Device::Cpu)?;
        let (scores, rows) = ops::inner_product_topk(&queries, &self.rows, k)?;
        let (scores, rows) = (scores.to_vec2::<f32>()?, rows.to_vec2::<u32>()?);
        Ok(scores
            .into_iter()
            .zip(rows)
            .map(|(scores, rows)| {
                rows.into_iter().zip(scores).map(|(row, score)| Neighbour { row, score }).collect()
            })
            .collect())
    }

    /// Writes the index to one file: safetensors with `features`, and `labels` and `names` if there are any.
    ///
    /// # Errors
    /// If the file cannot be written; an earlier file is intact then.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let mut state = StateDict::new();
        let values = self.rows.flatten_all()?.to_vec1::<f32>()?;
        state.insert("features", Array::from_f32([self.len(), self.dim()], &values)?);
        if let Some(labels) = &self.labels {
            state.insert("labels", Array::from_i64([labels.len()], labels)?);
        }
        if !self.names.is_empty() {
            let text = self.names.concat().into_bytes();
            let mut ends = Vec::with_capacity(self.names.len());
            let mut end = 0u64;
            for name in &self.names {
                end += name.len() as u64;
                ends.push(end);
            }
            state.insert("names.text", Array::from_u8([text.len()], &text)?);
            state.insert("names.ends", Array::from_u64([ends.len()], &ends)?);
        }
        state.insert_metadata("format", FORMAT);
        if let Some(fingerprint) = &self.fingerprint {
            state.insert_metadata("fingerprint", fingerprint);
        }
        Ok(state.save(path)?)
    }

    /// Reads what [`FlatIndex::save`] wrote.
    ///
    /// # Errors
    /// If the file is no such index, is cut off, or holds rows that are not finite.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = vision_weights::open(path)?;
        if file.metadata().get("format").map(String::as_str) != Some(FORMAT) {
            return Err(Error::file(path, format!("not an index: its format entry is not {FORMAT}")));
        }
        let features = file.read("features")?;
        let [_, dim] = features.shape[..] else {
            return Err(Error::file(
                path,
                format!("features have shape {:?}, expected (n, D)", features.shape),
            ));
        };
        let mut index = Self::new(dim, features.to_f32()?)?;
        if file.info("labels").is_some() {
            index = index.with_labels(file.read("labels")?.to_i64()?)?;
        }
        if file.info("names.ends").is_some() {
            let names = split_names(&file.read("names.text")?.data, &file.read("names.ends")?.to_u64()?)
                .ok_or_else(|| Error::file(path, "the table of names is damaged"))?;
            index = index.with_names(names)?;
        }
        index.fingerprint = file.metadata().get("fingerprint").cloned();
        Ok(index)
    }

    fn check_count(&self, what: &str, got: usize) -> Result<()> {
        if got == self.len() { Ok(()) } else { Err(Error::size(what, self.len(), got)) }
    }
}

fn split_names(text: &[u8], ends: &[u64]) -> Option<Vec<String>> {
    let mut start = 0;
    ends.iter()
        .map(|&end| {
            let end = usize::try_from(end).ok()?;
            let name = std::str::from_utf8(text.get(start..end)?).ok()?;
            start = end;
            Some(name.to_owned())
        })
        .collect()
}

fn check_finite(what: &str, dim: usize, values: &[f32]) -> Result<()> {
    match values.iter().position(|v| !v.is_finite()) {
        Some(at) => Err(Error::BadRow { what: what.into(), row: at / dim }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;
    use vision_core::rng::Key;

    use super::*;

    fn random(rows: usize, dim: usize, seed: u64) -> Vec<f32> {
        let x = Key::new(seed).normal((rows, dim), 0.0, 1.0, DType::F32, &Device::Cpu).unwrap();
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn search_equals_brute_force() {
        for (n, q, dim, k) in [(1, 1, 1, 1), (7, 3, 5, 7), (1000, 70, 32, 20), (5000, 2, 128, 200)] {
            let (rows, queries) = (random(n, dim, 1), random(q, dim, 2));
            let hits = FlatIndex::new(dim, rows.clone()).unwrap().search(&queries, k).unwrap();
            for (query, hits) in queries.chunks(dim).zip(&hits) {
                let mut want: Vec<(f64, usize)> = rows
                    .chunks(dim)
                    .map(|row| row.iter().zip(query).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum())
                    .enumerate()
                    .map(|(i, s)| (s, i))
                    .collect();
                want.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
                for (hit, want) in hits.iter().zip(&want) {
                    assert!((f64::from(hit.score) - want.0).abs() < 1e-4, "{n} {q} {dim} {k}");
                }
                assert_eq!(hits[0].row as usize, want[0].1);
            }
        }
    }

    #[test]
    fn batching_changes_nothing_and_ties_go_to_the_lower_row() {
        let mut rows = random(300, 24, 1);
        let copy = rows[24 * 7..24 * 8].to_vec();
        rows.extend_from_slice(&copy);
        let index = FlatIndex::new(24, rows).unwrap();
        let queries = random(130, 24, 3);
        let all = index.search(&queries, 301).unwrap();
        for (query, hits) in queries.chunks(24).zip(&all) {
            assert_eq!(&index.search(query, 301).unwrap()[0], hits);
            let at = |row| hits.iter().position(|hit| hit.row == row).unwrap();
            assert_eq!(at(300), at(7) + 1);
        }
    }

    #[test]
    fn a_file_round_trips() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let index = FlatIndex::new(3, random(4, 3, 1))
            .unwrap()
            .with_names(vec!["a/b.png".into(), String::new(), "ü".into(), "d".into()])
            .unwrap()
            .with_labels(vec![1, -1, 0, 5])
            .unwrap()
            .with_fingerprint("set:1");
        index.save(&path).unwrap();
        let read = FlatIndex::open(&path).unwrap();
        assert_eq!(read.names, index.names);
        assert_eq!(read.labels(), index.labels());
        assert_eq!(read.fingerprint(), Some("set:1"));
        assert_eq!(read.rows.to_vec2::<f32>().unwrap(), index.rows.to_vec2::<f32>().unwrap());

        let bytes = std::fs::read(&path).unwrap();
        for cut in [0, 5, bytes.len() / 2, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            assert!(FlatIndex::open(&path).is_err());
        }
        let mut other = StateDict::new();
        other.insert("features", Array::from_f32([1, 1], &[1.0]).unwrap());
        other.save(&path).unwrap();
        assert!(FlatIndex::open(&path).unwrap_err().to_string().contains("not an index"));
    }

    #[test]
    fn impossible_requests_are_refused() {
        assert!(FlatIndex::new(0, vec![]).is_err());
        assert!(FlatIndex::new(3, vec![0.0; 4]).is_err());
        assert!(matches!(
            FlatIndex::new(2, vec![0.0, 1.0, f32::NAN, 0.0]),
            Err(Error::BadRow { row: 1, .. })
        ));
        let index = FlatIndex::new(2, vec![0.0; 4]).unwrap();
        assert!(index.search(&[1.0], 1).is_err());
        assert!(index.search(&[1.0, 0.0], 3).is_err());
        assert!(index.search(&[1.0, 0.0], 0).is_err());
        assert!(index.search(&[f32::INFINITY, 0.0], 1).is_err());
        assert!(index.search(&[], 1).unwrap().is_empty());
        assert!(index.clone().with_names(vec![]).is_err());
        assert!(index.with_labels(vec![1]).is_err());
    }
}
