//! [`super::momentum_update_rows`] on a CUDA device.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, DType, InplaceOp1, Layout, Tensor};

use super::bad_norm;
use crate::cuda::{
    Arg, Kernels, Work, count, empty, on_cuda, ptx, read_storage, tensor, upload, write, write_part,
};
use crate::error::Result;

const KERNELS: Kernels = Kernels { name: "momentum_update", ptx: ptx::MOMENTUM_UPDATE };

/// Updates a contiguous bank with contiguous features; every index is a row of it.
pub(super) fn update(bank: &Tensor, index: &Tensor, features: &Tensor, momentum: f64) -> Result<()> {
    let (batch, width) = features.dims2()?;
    if batch == 0 {
        return Ok(());
    }
    let (rows, written, bad, norms) = {
        let ((vs, vl), (is, il), (fs, fl)) =
            (bank.storage_and_layout(), index.storage_and_layout(), features.storage_and_layout());
        let device = on_cuda("momentum_update_rows: bank", &vs)?.device();
        let mut rows = empty(device, bank.dtype(), batch * width)?;
        let mut written = empty(device, DType::U32, batch)?;
        let mut bad = upload(device, &[u32::MAX])?;
        let mut norms = empty(device, DType::F64, batch)?;
        let args = [
            read_storage("momentum_update_rows: bank", &vs, vl)?,
            read_storage("momentum_update_rows: index", &is, il)?,
            read_storage("momentum_update_rows: features", &fs, fl)?,
            write("momentum_update_rows: rows", &mut rows)?,
            write("momentum_update_rows: rows", &mut written)?,
            write("momentum_update_rows: rows", &mut bad)?,
            write("momentum_update_rows: norms", &mut norms)?,
            count(batch),
            count(width),
            Arg::Real64(momentum),
            Arg::Real64(1. - momentum),
        ];
        KERNELS.launch(device, "momentum_rows", bank.dtype(), Work::Blocks(batch), args)?;
        (tensor(rows, batch * width), tensor(written, batch), tensor(bad, 1), tensor(norms, batch))
    };
    // The one number that the host waits for: an error leaves the bank as it is.
    if let [b] = bad.to_vec1::<u32>()?[..]
        && b != u32::MAX
    {
        let at = b as usize;
        let (y, norm) = (index.get(at)?.to_scalar::<u32>()?, norms.get(at)?.to_scalar::<f64>()?);
        return Err(bad_norm(at, y, norm));
    }
    Ok(bank.inplace_op1(&WriteRows { rows, index: index.clone(), written, batch, width })?)
}

/// Writes the rows that a batch changed.
struct WriteRows {
    rows: Tensor,
    index: Tensor,
    written: Tensor,
    batch: usize,
    width: usize,
}

impl InplaceOp1 for WriteRows {
    fn name(&self) -> &'static str {
        "momentum-update-rows"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> candle_core::Result<()> {
        candle_core::bail!("momentum_update_rows: the rows are on a CUDA device, the bank is not")
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> candle_core::Result<()> {
        let ((rs, rl), (is, il), (ws, wl)) = (
            self.rows.storage_and_layout(),
            self.index.storage_and_layout(),
            self.written.storage_and_layout(),
        );
        let (device, dtype) = (storage.device().clone(), storage.dtype());
        let args = [
            read_storage("momentum_update_rows: rows", &rs, rl)?,
            read_storage("momentum_update_rows: index", &is, il)?,
            read_storage("momentum_update_rows: rows", &ws, wl)?,
            write_part("momentum_update_rows: bank", storage, layout)?,
            count(self.width),
        ];
        Ok(KERNELS.launch(&device, "momentum_write", dtype, Work::Blocks(self.batch), args)?)
    }
}
