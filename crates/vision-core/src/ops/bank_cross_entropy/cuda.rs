//! [`super::bank_cross_entropy`] on a CUDA device: tiles of the logits come from cuBLAS.

use std::ops::Range;

use candle_core::backend::BackendStorage;
use candle_core::{CudaDevice, CudaStorage, DType, Layout, Tensor};

use crate::cuda::{
    Arg, Gemm, Kernels, Work, count, empty, on_cuda, ptx, read, read_all, read_range, read_storage, real,
    tensor, write, zeros,
};
use crate::error::{Error, Result};

const KERNELS: Kernels = Kernels { name: "bank_cross_entropy", ptx: ptx::BANK_CROSS_ENTROPY };

/// Logits of a block, `SEGMENT` of the kernel file.
const SEGMENT: usize = 4096;
/// Logits that are kept at a time, about.
const LOGITS: usize = 1 << 24;

/// Made by forward for backward: maximum and sum of each softmax, at the start of rows of `parts`.
pub(super) struct Saved {
    tops: CudaStorage,
    sums: CudaStorage,
    parts: usize,
}

/// Features `(B, D)` and a bank `(n, D)`.
struct Problem<'a> {
    device: &'a CudaDevice,
    dtype: DType,
    features: (&'a CudaStorage, &'a Layout),
    bank: &'a CudaStorage,
    /// Where the bank starts in its buffer.
    first: usize,
    batch: usize,
    rows: usize,
    width: usize,
}

impl<'a> Problem<'a> {
    fn new(features: (&'a CudaStorage, &'a Layout), bank: (&'a CudaStorage, &'a Layout)) -> Result<Self> {
        let ((batch, width), (rows, _)) = (features.1.shape().dims2()?, bank.1.shape().dims2()?);
        let (first, _) = bank
            .1
            .contiguous_offsets()
            .ok_or_else(|| Error::argument("bank_cross_entropy: bank", "the tensor must be contiguous"))?;
        let (device, dtype) = (features.0.device(), features.0.dtype());
        Ok(Self { device, dtype, features, bank: bank.0, first, batch, rows, width })
    }

    /// The parts of the bank. They depend on the sizes only.
    fn tiles(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (size, rows) = ((LOGITS / self.batch.max(1) / SEGMENT).max(1) * SEGMENT, self.rows);
        (0..rows).step_by(size).map(move |start| start..(start + size).min(rows))
    }

    fn tile(&self, tile: &Range<usize>) -> Result<Arg<'a>> {
        let place = |row: usize| self.first + row * self.width;
        read_range("bank_cross_entropy: bank", self.bank, place(tile.start)..place(tile.end))
    }

    /// `features bank^T` for a tile.
    fn logits(&self, tile: &Range<usize>) -> Result<CudaStorage> {
        let n = self.batch * tile.len();
        // A product over nothing is zero, and not written.
        let mut logits = if self.width == 0 { zeros } else { empty }(self.device, self.dtype, n)?;
        let product = Gemm {
            sizes: [self.batch, tile.len(), self.width],
            a_transposed: false,
            b_transposed: true,
            accumulate: false,
        };
        let features = read("bank_cross_entropy: features", self.features.0, self.features.1)?;
        let bank = self.tile(tile)?;
        product.run(self.device, &features, &bank, &mut write("bank_cross_entropy: logits", &mut logits)?)?;
        Ok(logits)
    }
}

/// The losses, and what backward needs.
pub(super) fn forward(
    features: (&CudaStorage, &Layout),
    bank: (&CudaStorage, &Layout),
    target: &Tensor,
    scale: f64,
) -> Result<(CudaStorage, Saved)> {
    let problem = Problem::new(features, bank)?;
    let (device, dtype, batch) = (problem.device, problem.dtype, problem.batch);
    let parts = problem.rows.div_ceil(SEGMENT);
    let mut saved = Saved {
        tops: empty(device, dtype, batch * parts)?,
        sums: empty(device, DType::F64, batch * parts)?,
        parts,
    };
    let (mut hits, mut losses) = (empty(device, dtype, batch)?, empty(device, dtype, batch)?);
    if batch == 0 {
        return Ok((losses, saved));
    }
    let (ts, tl) = target.storage_and_layout();
    for tile in problem.tiles() {
        let logits = problem.logits(&tile)?;
        let args = [
            read_all("bank_cross_entropy: logits", &logits)?,
            read_storage("bank_cross_entropy: target", &ts, tl)?,
            write("bank_cross_entropy: maxima", &mut saved.tops)?,
            write("bank_cross_entropy: sums", &mut saved.sums)?,
            write("bank_cross_entropy: targets", &mut hits)?,
            count(tile.len()),
            count(tile.start),
            count(parts),
            real(dtype, scale),
        ];
        let work = Work::Grid(batch, tile.len().div_ceil(SEGMENT));
        KERNELS.launch(device, "bank_softmax", dtype, work, args)?;
    }
    let args = [
        write("bank_cross_entropy: maxima", &mut saved.tops)?,
        write("bank_cross_entropy: sums", &mut saved.sums)?,
        read_all("bank_cross_entropy: targets", &hits)?,
        write("bank_cross_entropy: losses", &mut losses)?,
        count(parts),
    ];
    KERNELS.launch(device, "bank_loss", dtype, Work::Blocks(batch), args)?;
    Ok((losses, saved))
}

/// The gradient of the features; all tensors are contiguous.
pub(super) fn gradient(
    saved: &Saved,
    features: &Tensor,
    bank: &Tensor,
    target: &Tensor,
    grad: &Tensor,
    scale: f64,
) -> Result<Tensor> {
    let ((fs, fl), (vs, vl), (ts, tl), (gs, gl)) = (
        features.storage_and_layout(),
        bank.storage_and_layout(),
        target.storage_and_layout(),
        grad.storage_and_layout(),
    );
    let problem = Problem::new(
        (on_cuda("bank_cross_entropy: features", &fs)?, fl),
        (on_cuda("bank_cross_entropy: bank", &vs)?, vl),
    )?;
    let (device, dtype, n) = (problem.device, problem.dtype, problem.batch * problem.width);
    let mut df = zeros(device, dtype, n)?;
    if n == 0 {
        return Ok(tensor(df, features.shape()));
    }
    for tile in problem.tiles() {
        let mut logits = problem.logits(&tile)?;
        let args = [
            write("bank_cross_entropy: logits", &mut logits)?,
            read_storage("bank_cross_entropy: target", &ts, tl)?,
            read_all("bank_cross_entropy: maxima", &saved.tops)?,
            read_all("bank_cross_entropy: sums", &saved.sums)?,
            count(problem.batch * tile.len()),
            count(tile.len()),
            count(tile.start),
            count(saved.parts),
            real(dtype, scale),
        ];
        KERNELS.launch(device, "bank_pull", dtype, Work::Elements(problem.batch * tile.len()), args)?;
        let product = Gemm {
            sizes: [problem.batch, problem.width, tile.len()],
            a_transposed: false,
            b_transposed: false,
            accumulate: true,
        };
        let mut out = write("bank_cross_entropy: gradient", &mut df)?;
        product.run(
            device,
            &read_all("bank_cross_entropy: logits", &logits)?,
            &problem.tile(&tile)?,
            &mut out,
        )?;
    }
    let args = [
        write("bank_cross_entropy: gradient", &mut df)?,
        read_storage("bank_cross_entropy: gradient", &gs, gl)?,
        count(n),
        count(problem.width),
        real(dtype, scale),
    ];
    KERNELS.launch(device, "bank_scale", dtype, Work::Elements(n), args)?;
    Ok(tensor(df, features.shape()))
}
