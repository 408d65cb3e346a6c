//! Exact maximum inner product search: for each query, the `k` rows of a matrix with the largest dot
//! products.
//!
//! Scores are computed in tiles and merged into running lists, so memory stays at `O(Q k)` instead of the
//! `Q x n` of a full similarity matrix. Every tile has the same size, short ones are padded: a score is
//! then the same to the last bit however queries and rows are grouped.

#[cfg(feature = "cuda")]
mod cuda;

use std::cmp::Ordering;

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use super::conv2d::gemm::{Matrix, multiply};
use super::support::{Float, check_device, check_float, check_same_device, dispatch_float, storage_slice};
use crate::error::{Error, Result};

/// Queries per tile.
const QUERIES: usize = 32;
/// Rows per tile.
const ROWS: usize = 256;
/// Rows per unit of parallel work.
const CHUNK: usize = 64 * ROWS;

/// The `k` best rows for each query, best first: scores `(Q, k)` of the inputs' type and row numbers
/// `(Q, k)` as `u32`.
///
/// `queries` is `(Q, D)`, `rows` is `(n, D)`. Equal scores are ordered by row number. No gradient: the
/// result is detached.
///
/// # Errors
/// If shapes, types or devices disagree, `k` is zero or more than `n`, or a score is NaN.
pub fn inner_product_topk(queries: &Tensor, rows: &Tensor, k: usize) -> Result<(Tensor, Tensor)> {
    const OP: &str = "inner_product_topk";
    let [q, d] = queries.dims()[..] else {
        return Err(Error::shape(format!("{OP}: queries"), "(Q, D)", queries.dims()));
    };
    let [n, row_len] = rows.dims()[..] else {
        return Err(Error::shape(format!("{OP}: rows"), "(n, D)", rows.dims()));
    };
    if row_len != d {
        return Err(Error::shape(format!("{OP}: rows"), format!("(n, {d})"), rows.dims()));
    }
    if d == 0 {
        return Err(Error::shape(format!("{OP}: queries"), "(Q, D) with D at least 1", queries.dims()));
    }
    if k == 0 || k > n || u32::try_from(n).is_err() {
        return Err(Error::argument(format!("{OP}: k"), format!("must be within 1 and {n} rows, is {k}")));
    }
    for (name, tensor) in [("queries", queries), ("rows", rows)] {
        let what = format!("{OP}: {name}");
        check_float(&what, tensor)?;
        check_device(&what, tensor)?;
        check_same_device(&what, tensor, queries)?;
    }
    if queries.dtype() != rows.dtype() {
        return Err(Error::Dtype {
            what: format!("{OP}: rows"),
            expected: format!("{:?} as the queries", queries.dtype()),
            got: rows.dtype(),
        });
    }
    if q == 0 {
        let device = queries.device();
        return Ok((
            Tensor::zeros((0, k), queries.dtype(), device)?,
            Tensor::zeros((0, k), DType::U32, device)?,
        ));
    }
    let (queries, rows) = (queries.contiguous()?, rows.contiguous()?);
    #[cfg(feature = "cuda")]
    if queries.device().is_cuda() {
        return cuda::search(&queries, &rows, k);
    }
    dispatch_float!(OP, queries.dtype(), T => {
        let (query_storage, query_layout) = queries.storage_and_layout();
        let (row_storage, row_layout) = rows.storage_and_layout();
        let hits = search::<T>(
            storage_slice(OP, &query_storage, query_layout)?,
            storage_slice(OP, &row_storage, row_layout)?,
            d,
            k,
        );
        if let Some(query) = hits.iter().position(|hits| hits.iter().any(|hit| hit.score.is_nan())) {
            return Err(nan_score(query));
        }
        let scores: Vec<T> = hits.iter().flatten().map(|hit| hit.score).collect();
        let index: Vec<u32> = hits.iter().flatten().map(|hit| hit.row).collect();
        let device = queries.device();
        Ok((Tensor::from_vec(scores, (q, k), device)?, Tensor::from_vec(index, (q, k), device)?))
    })
}

fn nan_score(query: usize) -> Error {
    Error::argument("inner_product_topk: queries", format!("a score of query {query} is NaN"))
}

#[derive(Clone, Copy)]
struct Hit<T> {
    score: T,
    row: u32,
}

/// Best first; NaN first of all, so that it is never lost and can be reported.
fn order<T: Float>(a: &Hit<T>, b: &Hit<T>) -> Ordering {
    match b.score.partial_cmp(&a.score) {
        Some(order) => order.then(a.row.cmp(&b.row)),
        None => b.score.is_nan().cmp(&a.score.is_nan()),
    }
}

fn search<T: Float>(queries: &[T], rows: &[T], d: usize, k: usize) -> Vec<Vec<Hit<T>>> {
    // Without enough queries to occupy the threads, the rows are shared out as well.
    queries
        .par_chunks(QUERIES * d)
        .flat_map_iter(|block| {
            let parts: Vec<Vec<Best<T>>> = rows
                .par_chunks(CHUNK * d)
                .enumerate()
                .map(|(chunk, rows)| search_chunk(block, rows, d, k, chunk * CHUNK))
                .collect();
            let mut merged: Vec<Best<T>> = (0..block.len() / d).map(|_| Best::new(k)).collect();
            for part in parts {
                for (all, part) in merged.iter_mut().zip(part) {
                    for hit in part.hits {
                        all.push(hit);
                    }
                }
            }
            merged.into_iter().map(Best::finish).collect::<Vec<_>>()
        })
        .collect()
}

fn search_chunk<T: Float>(block: &[T], rows: &[T], d: usize, k: usize, first: usize) -> Vec<Best<T>> {
    let count = block.len() / d;
    let mut queries = vec![T::ZERO; QUERIES * d];
    for (to, &from) in queries.iter_mut().zip(block) {
        *to = from;
    }
    let mut best: Vec<Best<T>> = (0..count).map(|_| Best::new(k)).collect();
    let mut scores = vec![T::ZERO; QUERIES * ROWS];
    let mut padded = Vec::new();
    for (tile, rows) in rows.chunks(ROWS * d).enumerate() {
        let valid = rows.len() / d;
        let rows = if valid == ROWS {
            rows
        } else {
            padded.clear();
            padded.extend_from_slice(rows);
            padded.resize(ROWS * d, T::ZERO);
            &padded
        };
        multiply(
            [QUERIES, d, ROWS],
            Matrix::rows(&queries, d),
            Matrix::rows(rows, d).transposed(),
            &mut scores,
            ROWS,
            false,
        );
        for (best, scores) in best.iter_mut().zip(scores.chunks_exact(ROWS)) {
            for (row, &score) in scores.iter().take(valid).enumerate() {
                best.offer(score, first + tile * ROWS + row);
            }
        }
    }
    best
}

/// The `k` best hits of a stream: candidates are kept until there are twice as many as needed, then the
/// worse half goes and the worst survivor becomes the bar for newcomers.
struct Best<T> {
    k: usize,
    hits: Vec<Hit<T>>,
    bar: Option<Hit<T>>,
}

impl<T: Float> Best<T> {
    fn new(k: usize) -> Self {
        Self { k, hits: Vec::new(), bar: None }
    }

    fn offer(&mut self, score: T, row: usize) {
        // The common case first: most rows are worse than the bar.
        if let Some(bar) = &self.bar
            && score < bar.score
        {
            return;
        }
        self.push(Hit { score, row: row as u32 });
    }

    fn push(&mut self, hit: Hit<T>) {
        if self.bar.as_ref().is_some_and(|bar| order(&hit, bar) == Ordering::Greater) {
            return;
        }
        self.hits.push(hit);
        if self.hits.len() >= 2 * self.k + 64 {
            self.shrink();
        }
    }

    fn shrink(&mut self) {
        if self.hits.len() > self.k {
            self.hits.select_nth_unstable_by(self.k - 1, order);
            self.hits.truncate(self.k);
            self.bar = self.hits.iter().copied().max_by(order);
        }
    }

    fn finish(mut self) -> Vec<Hit<T>> {
        self.shrink();
        self.hits.sort_unstable_by(order);
        self.hits
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::rng::Key;

    fn random(rows: usize, d: usize, dtype: DType, seed: u64) -> Tensor {
        Key::new(seed).normal((rows, d), 0.0, 1.0, dtype, &Device::Cpu).unwrap()
    }

    #[test]
    fn equals_a_sorted_similarity_matrix() {
        for (q, n, d, k) in
            [(1, 1, 1, 1), (3, 7, 5, 7), (70, 600, 33, 10), (2, 40_000, 16, 200), (33, 257, 8, 1)]
        {
            let (queries, rows) = (random(q, d, DType::F64, 1), random(n, d, DType::F64, 2));
            let (scores, index) = inner_product_topk(&queries, &rows, k).unwrap();
            let full = queries.matmul(&rows.t().unwrap()).unwrap().to_vec2::<f64>().unwrap();
            for ((full, scores), index) in
                full.iter().zip(scores.to_vec2::<f64>().unwrap()).zip(index.to_vec2::<u32>().unwrap())
            {
                let mut want: Vec<usize> = (0..n).collect();
                want.sort_by(|&a, &b| full[b].total_cmp(&full[a]).then(a.cmp(&b)));
                let want: Vec<u32> = want[..k].iter().map(|&row| row as u32).collect();
                assert_eq!(index, want, "{q} {n} {d} {k}");
                for (score, row) in scores.iter().zip(&index) {
                    assert!((score - full[*row as usize]).abs() < 1e-12);
                }
            }
        }
    }

    #[test]
    fn ties_are_ordered_by_row_and_grouping_changes_no_bit() {
        let rows = Tensor::cat(&[random(500, 24, DType::F32, 1), random(500, 24, DType::F32, 1)], 0).unwrap();
        let queries = random(65, 24, DType::F32, 2);
        let (scores, index) = inner_product_topk(&queries, &rows, 40).unwrap();
        for row in index.to_vec2::<u32>().unwrap() {
            for pair in row.chunks(2) {
                assert_eq!(pair[0] + 500, pair[1]);
            }
        }
        for at in [0, 31, 32, 64] {
            let (one, one_index) = inner_product_topk(&queries.narrow(0, at, 1).unwrap(), &rows, 40).unwrap();
            assert_eq!(one.to_vec2::<f32>().unwrap()[0], scores.to_vec2::<f32>().unwrap()[at]);
            assert_eq!(one_index.to_vec2::<u32>().unwrap()[0], index.to_vec2::<u32>().unwrap()[at]);
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let (alone, _) = pool.install(|| inner_product_topk(&queries, &rows, 40)).unwrap();
        assert_eq!(alone.to_vec2::<f32>().unwrap(), scores.to_vec2::<f32>().unwrap());
    }

    #[test]
    fn bad_input_is_refused_by_name() {
        let x = random(3, 4, DType::F32, 1);
        let message = |result: Result<(Tensor, Tensor)>| result.unwrap_err().to_string();
        assert!(message(inner_product_topk(&x, &random(3, 5, DType::F32, 1), 1)).contains("rows"));
        assert!(message(inner_product_topk(&x, &random(3, 4, DType::F64, 1), 1)).contains("rows"));
        assert!(message(inner_product_topk(&x, &x, 4)).contains("k: must be within 1 and 3"));
        assert!(
            message(inner_product_topk(&x.narrow(0, 0, 1).unwrap().squeeze(0).unwrap(), &x, 1))
                .contains("queries")
        );
        let nan = (&x * f64::NAN).unwrap();
        assert!(message(inner_product_topk(&nan, &x, 1)).contains("NaN"));
        let (scores, index) = inner_product_topk(&x.narrow(0, 0, 0).unwrap(), &x, 2).unwrap();
        assert_eq!((scores.dims(), index.dims()), (&[0, 2][..], &[0, 2][..]));
    }
}
