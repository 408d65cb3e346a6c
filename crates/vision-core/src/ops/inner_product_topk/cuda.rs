//! [`super::inner_product_topk`] on a CUDA device.

use candle_core::Tensor;
use candle_core::backend::BackendStorage;

use super::nan_score;
use crate::cuda::{Kernels, Work, count, empty, on_cuda, ptx, read_range, tensor, upload, write};
use crate::error::{Error, Result};
use crate::ops::topk::cuda::{Best, select, select_among};

const KERNELS: Kernels = Kernels { name: "inner_product_topk", ptx: ptx::INNER_PRODUCT_TOPK };

/// Queries treated together.
const QUERIES: usize = 1024;
/// Scores that are kept at a time, about.
const SCORES: usize = 1 << 24;
/// Queries and rows of a block, `TILE` of the kernel file.
const TILE: usize = 64;

/// Scores and row numbers `(Q, k)` for contiguous queries `(Q, d)` and rows `(n, d)`; no size is zero, `k <= n`.
pub(super) fn search(queries: &Tensor, rows: &Tensor, k: usize) -> Result<(Tensor, Tensor)> {
    const OP: &str = "inner_product_topk";
    let ((q, d), (n, _), dtype) = (queries.dims2()?, rows.dims2()?, queries.dtype());
    let ((qs, ql), (rs, rl)) = (queries.storage_and_layout(), rows.storage_and_layout());
    let (query_storage, row_storage) = (on_cuda(OP, &qs)?, on_cuda(OP, &rs)?);
    let device = query_storage.device();
    let offset = |layout: &candle_core::Layout| match layout.contiguous_offsets() {
        Some((start, _)) => Ok(start),
        None => Err(Error::argument(OP, "the tensor must be contiguous")),
    };
    let (first_query, first_row) = (offset(ql)?, offset(rl)?);
    let mut nan = upload(device, &[u32::MAX])?;
    let (mut scores, mut numbers) = (Vec::new(), Vec::new());
    for start in (0..q).step_by(QUERIES) {
        let batch = QUERIES.min(q - start);
        // Parts of the rows, none shorter than `k`.
        let parts = (n / (SCORES / batch).max(k)).max(1);
        let mut found = Vec::with_capacity(parts);
        for part in 0..parts {
            let (from, to) = (part * n / parts, (part + 1) * n / parts);
            let len = to - from;
            let mut products = empty(device, dtype, batch * len)?;
            let args = [
                read_range(OP, query_storage, first_query + start * d..first_query + (start + batch) * d)?,
                read_range(OP, row_storage, first_row + from * d..first_row + to * d)?,
                write(OP, &mut products)?,
                write(OP, &mut nan)?,
                count(batch),
                count(len),
                count(d),
                count(start),
            ];
            let work = Work::Grid(len.div_ceil(TILE), batch.div_ceil(TILE));
            KERNELS.launch(device, "inner_products", dtype, work, args)?;
            let products = read_range(OP, &products, 0..batch * len)?;
            found.push(select(device, dtype, products, [batch, len, k], from, true)?);
        }
        let (best, order) = merge(found, batch, k)?.ranked(true)?;
        scores.push(tensor(best, (batch, k)));
        numbers.push(tensor(order, (batch, k)));
    }
    if let [query] = tensor(nan, 1).to_vec1::<u32>()?[..]
        && query != u32::MAX
    {
        return Err(nan_score(query as usize));
    }
    match (&scores[..], &numbers[..]) {
        ([scores], [numbers]) => Ok((scores.clone(), numbers.clone())),
        _ => Ok((Tensor::cat(&scores, 0)?, Tensor::cat(&numbers, 0)?)),
    }
}

/// The `k` best of what was found in the parts.
fn merge(mut found: Vec<Best>, batch: usize, k: usize) -> Result<Best> {
    let parts = found.len();
    if parts == 1
        && let Some(best) = found.pop()
    {
        return Ok(best);
    }
    let (mut values, mut ids) = (Vec::new(), Vec::new());
    for best in found {
        values.push(tensor(best.values, (batch, k)));
        ids.push(tensor(best.ids, (batch, k)));
    }
    select_among(&Tensor::cat(&values, 1)?.contiguous()?, &Tensor::cat(&ids, 1)?.contiguous()?, k, true)
}
