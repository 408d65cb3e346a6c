//! [`super::relu`] on a CUDA device.

use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, Layout};

use crate::cuda::{Kernels, Work, count, empty, ptx, read, write};
use crate::error::Result;

const KERNELS: Kernels = Kernels { name: "relu", ptx: ptx::RELU };

pub(super) fn forward(s: &CudaStorage, l: &Layout) -> Result<CudaStorage> {
    let (device, dtype, n) = (s.device(), s.dtype(), l.shape().elem_count());
    let mut y = empty(device, dtype, n)?;
    let args = [read("relu: input", s, l)?, write("relu: output", &mut y)?, count(n)];
    KERNELS.launch(device, "relu", dtype, Work::Elements(n), args)?;
    Ok(y)
}

pub(super) fn gradient(s1: &CudaStorage, l1: &Layout, s2: &CudaStorage, l2: &Layout) -> Result<CudaStorage> {
    let (device, dtype, n) = (s1.device(), s1.dtype(), l1.shape().elem_count());
    let mut dx = empty(device, dtype, n)?;
    let args = [
        read("relu: output", s1, l1)?,
        read("relu: gradient", s2, l2)?,
        write("relu: gradient", &mut dx)?,
        count(n),
    ];
    KERNELS.launch(device, "relu_gradient", dtype, Work::Elements(n), args)?;
    Ok(dx)
}
