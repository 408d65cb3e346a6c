//! [`super::l2_normalize`] on a CUDA device.

use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, Layout, Tensor};

use crate::cuda::{Arg, Kernels, Work, count, empty, on_cuda, ptx, read, read_storage, tensor, write};
use crate::error::Result;

const KERNELS: Kernels = Kernels { name: "l2_normalize", ptx: ptx::L2_NORMALIZE };

pub(super) fn forward(s: &CudaStorage, l: &Layout, width: usize, eps: f64) -> Result<CudaStorage> {
    let (device, dtype, len) = (s.device(), s.dtype(), l.shape().elem_count());
    let mut y = empty(device, dtype, len)?;
    let args = [
        read("l2_normalize: input", s, l)?,
        write("l2_normalize: output", &mut y)?,
        Arg::Real64(eps),
        count(width),
    ];
    KERNELS.launch(device, "l2_normalize", dtype, Work::Blocks(len / width.max(1)), args)?;
    Ok(y)
}

pub(super) fn gradient(x: &Tensor, y: &Tensor, grad: &Tensor, width: usize, eps: f64) -> Result<Tensor> {
    let ((xs, xl), (ys, yl)) = (x.storage_and_layout(), y.storage_and_layout());
    let (gs, gl) = grad.storage_and_layout();
    let (device, dtype, len) = (on_cuda("l2_normalize: input", &xs)?.device(), x.dtype(), x.elem_count());
    let mut dx = empty(device, dtype, len)?;
    let args = [
        read_storage("l2_normalize: input", &xs, xl)?,
        read_storage("l2_normalize: output", &ys, yl)?,
        read_storage("l2_normalize: gradient", &gs, gl)?,
        write("l2_normalize: input gradient", &mut dx)?,
        Arg::Real64(eps),
        count(width),
    ];
    KERNELS.launch(device, "l2_normalize_gradient", dtype, Work::Blocks(len / width.max(1)), args)?;
    Ok(tensor(dx, x.shape()))
}
