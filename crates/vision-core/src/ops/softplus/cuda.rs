//! [`super::softplus`] on a CUDA device.

use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, Layout};

use crate::cuda::{Kernels, Work, count, empty, ptx, read, write};
use crate::error::Result;

const KERNELS: Kernels = Kernels { name: "softplus", ptx: ptx::SOFTPLUS };

pub(super) fn forward(s: &CudaStorage, l: &Layout) -> Result<CudaStorage> {
    let (device, dtype, n) = (s.device(), s.dtype(), l.shape().elem_count());
    let mut y = empty(device, dtype, n)?;
    let args = [read("softplus: input", s, l)?, write("softplus: output", &mut y)?, count(n)];
    KERNELS.launch(device, "softplus", dtype, Work::Elements(n), args)?;
    Ok(y)
}

pub(super) fn gradient(s1: &CudaStorage, l1: &Layout, s2: &CudaStorage, l2: &Layout) -> Result<CudaStorage> {
    let (device, dtype, n) = (s1.device(), s1.dtype(), l1.shape().elem_count());
    let mut dx = empty(device, dtype, n)?;
    let args = [
        read("softplus: input", s1, l1)?,
        read("softplus: gradient", s2, l2)?,
        write("softplus: gradient", &mut dx)?,
        count(n),
    ];
    KERNELS.launch(device, "softplus_gradient", dtype, Work::Elements(n), args)?;
    Ok(dx)
}
