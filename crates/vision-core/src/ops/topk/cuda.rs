//! [`super::topk`] on a CUDA device, and its parts for other searches.

use candle_core::backend::BackendStorage;
use candle_core::{CudaDevice, CudaStorage, DType, Tensor};

use super::nan_at;
use crate::cuda::{
    Arg, Kernels, Work, count, empty, nothing, on_cuda, ptx, read_range, read_storage, tensor, upload, write,
};
use crate::error::Result;

const KERNELS: Kernels = Kernels { name: "topk", ptx: ptx::TOPK };

/// Values and indices of the `k` best elements of each row of `len` elements of a contiguous tensor, of sizes `dims`.
pub(super) fn topk(
    input: &Tensor,
    len: usize,
    k: usize,
    largest: bool,
    dims: &[usize],
) -> Result<(Tensor, Tensor)> {
    let (dtype, n) = (input.dtype(), input.elem_count());
    if n == 0 {
        let zeros = |dtype| Tensor::zeros(dims, dtype, input.device());
        return Ok((zeros(dtype)?, zeros(DType::U32)?));
    }
    let (s, l) = input.storage_and_layout();
    let device = on_cuda("topk: input", &s)?.device();
    let mut first = upload(device, &[u32::MAX])?;
    let args = [read_storage("topk: input", &s, l)?, write("topk: input", &mut first)?, count(n)];
    KERNELS.launch(device, "topk_nan", dtype, Work::Elements(n), args)?;
    if let [at] = tensor(first, 1).to_vec1::<u32>()?[..]
        && at != u32::MAX
    {
        return Err(nan_at(at as usize / len, at as usize % len));
    }
    if k == 0 {
        let zeros = |dtype| Tensor::zeros(dims, dtype, input.device());
        return Ok((zeros(dtype)?, zeros(DType::U32)?));
    }
    let rows = n / len;
    let best = select(device, dtype, read_storage("topk: input", &s, l)?, [rows, len, k], 0, largest)?;
    let (values, indices) = best.ranked(largest)?;
    Ok((tensor(values, dims), tensor(indices, dims)))
}

/// The best elements of rows, not in order, and their numbers.
pub(in crate::ops) struct Best {
    pub(in crate::ops) values: CudaStorage,
    pub(in crate::ops) ids: CudaStorage,
    rows: usize,
    k: usize,
}

/// How many blocks share a row: many enough to fill a device, few enough that the next round is much shorter. It
/// depends on the sizes only.
fn parts([rows, len, k]: [usize; 3]) -> usize {
    (len / (4 * k).max(4096)).min(1024 / rows).max(1)
}

/// The `k` best of each of `rows` rows of `len` elements, numbered from `first_id` on; `1 <= k <= len`, `rows >= 1`.
pub(in crate::ops) fn select(
    device: &CudaDevice,
    dtype: DType,
    x: Arg<'_>,
    [rows, len, k]: [usize; 3],
    first_id: usize,
    largest: bool,
) -> Result<Best> {
    let parts = parts([rows, len, k]);
    let best = round(device, dtype, (x, nothing()), [rows, len, k, parts], first_id, largest)?;
    if parts == 1 { Ok(best) } else { select_again(best, parts * k, largest) }
}

/// As [`select`] among candidates `(rows, len)` whose numbers are `ids`; both tensors are contiguous.
pub(in crate::ops) fn select_among(values: &Tensor, ids: &Tensor, k: usize, largest: bool) -> Result<Best> {
    let ((rows, len), dtype) = (values.dims2()?, values.dtype());
    let ((vs, vl), (is, il)) = (values.storage_and_layout(), ids.storage_and_layout());
    let device = on_cuda("topk: candidates", &vs)?.device();
    let candidates = (read_storage("topk: candidates", &vs, vl)?, read_storage("topk: candidates", &is, il)?);
    let parts = parts([rows, len, k]);
    let best = round(device, dtype, candidates, [rows, len, k, parts], 0, largest)?;
    if parts == 1 { Ok(best) } else { select_again(best, parts * k, largest) }
}

/// The `k` best of the `len` candidates in each row of `best`.
fn select_again(mut best: Best, mut len: usize, largest: bool) -> Result<Best> {
    let (rows, k) = (best.rows, best.k);
    loop {
        let parts = parts([rows, len, k]);
        let candidates = (
            read_range("topk: candidates", &best.values, 0..rows * len)?,
            read_range("topk: candidates", &best.ids, 0..rows * len)?,
        );
        let (device, dtype) = (best.values.device(), best.values.dtype());
        let next = round(device, dtype, candidates, [rows, len, k, parts], 0, largest)?;
        best = next;
        if parts == 1 {
            return Ok(best);
        }
        len = parts * k;
    }
}

fn round(
    device: &CudaDevice,
    dtype: DType,
    (x, ids): (Arg<'_>, Arg<'_>),
    [rows, len, k, parts]: [usize; 4],
    first_id: usize,
    largest: bool,
) -> Result<Best> {
    let mut best = Best::empty(device, dtype, [rows, parts * k], k)?;
    let args = [
        x,
        ids,
        write("topk: values", &mut best.values)?,
        write("topk: indices", &mut best.ids)?,
        count(len),
        count(k),
        count(first_id),
        Arg::Int(i32::from(largest)),
    ];
    KERNELS.launch(device, "topk_select", dtype, Work::Grid(rows, parts), args)?;
    Ok(best)
}

impl Best {
    fn empty(device: &CudaDevice, dtype: DType, [rows, len]: [usize; 2], k: usize) -> Result<Self> {
        let (values, ids) = (empty(device, dtype, rows * len)?, empty(device, DType::U32, rows * len)?);
        Ok(Self { values, ids, rows, k })
    }

    /// Values and numbers with the best first, equal values by number.
    pub(in crate::ops) fn ranked(&self, largest: bool) -> Result<(CudaStorage, CudaStorage)> {
        let n = self.rows * self.k;
        let (device, dtype) = (self.values.device(), self.values.dtype());
        let (mut values, mut ids) = (empty(device, dtype, n)?, empty(device, DType::U32, n)?);
        let args = [
            read_range("topk: values", &self.values, 0..n)?,
            read_range("topk: indices", &self.ids, 0..n)?,
            write("topk: values", &mut values)?,
            write("topk: indices", &mut ids)?,
            count(n),
            count(self.k),
            Arg::Int(i32::from(largest)),
        ];
        KERNELS.launch(device, "topk_rank", dtype, Work::Elements(n), args)?;
        Ok((values, ids))
    }
}
