//! [`super::dropout()`] on a CUDA device.

use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, Layout};

use super::Dropout;
use crate::cuda::{Arg, Kernels, Work, count, empty, ptx, read, real, write};
use crate::error::Result;

const KERNELS: Kernels = Kernels { name: "dropout", ptx: ptx::DROPOUT };

pub(super) fn apply(op: &Dropout, s: &CudaStorage, l: &Layout) -> Result<CudaStorage> {
    let (device, dtype, len) = (s.device(), s.dtype(), l.shape().elem_count());
    let mut y = empty(device, dtype, len)?;
    let [key0, key1, domain] = op.key.mask_counter();
    let args = [
        read("dropout: input", s, l)?,
        write("dropout: output", &mut y)?,
        real(dtype, op.scale()),
        Arg::Count(op.threshold()),
        Arg::Count(key0),
        Arg::Count(key1),
        Arg::Count(domain),
        count(len),
    ];
    KERNELS.launch(device, "dropout", dtype, Work::Elements(len), args)?;
    Ok(y)
}
