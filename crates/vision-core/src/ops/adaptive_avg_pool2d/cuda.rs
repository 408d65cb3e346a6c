//! [`super::adaptive_avg_pool2d`] on a CUDA device.

use candle_core::backend::BackendStorage;
use candle_core::{CudaDevice, CudaStorage, DType, Layout, Tensor};

use super::AdaptiveAvgPool;
use crate::cuda::{Arg, Kernels, Work, count, empty, on_cuda, ptx, read, read_storage, tensor, write};
use crate::error::Result;

const KERNELS: Kernels = Kernels { name: "adaptive_avg_pool2d", ptx: ptx::ADAPTIVE_AVG_POOL2D };

fn launch(
    op: &AdaptiveAvgPool,
    function: &str,
    device: &CudaDevice,
    dtype: DType,
    len: usize,
    [from, to]: [Arg<'_>; 2],
) -> Result<()> {
    let args = [
        from,
        to,
        count(len),
        count(op.input[0]),
        count(op.input[1]),
        count(op.channels),
        count(op.output[0]),
        count(op.output[1]),
    ];
    KERNELS.launch(device, function, dtype, Work::Elements(len), args)
}

pub(super) fn forward(op: &AdaptiveAvgPool, s: &CudaStorage, l: &Layout) -> Result<CudaStorage> {
    let (device, dtype) = (s.device(), s.dtype());
    let len = op.batch * op.output[0] * op.output[1] * op.channels;
    let mut out = empty(device, dtype, len)?;
    let buffers =
        [read("adaptive_avg_pool2d: input", s, l)?, write("adaptive_avg_pool2d: output", &mut out)?];
    launch(op, "adaptive_avg_pool2d", device, dtype, len, buffers)?;
    Ok(out)
}

pub(super) fn gradient(op: &AdaptiveAvgPool, input: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let what = "adaptive_avg_pool2d: gradient";
    let (s, l) = grad.storage_and_layout();
    let (device, dtype) = (on_cuda(what, &s)?.device(), grad.dtype());
    let mut dx = empty(device, dtype, input.elem_count())?;
    let buffers = [read_storage(what, &s, l)?, write("adaptive_avg_pool2d: input gradient", &mut dx)?];
    launch(op, "adaptive_avg_pool2d_gradient", device, dtype, input.elem_count(), buffers)?;
    Ok(tensor(dx, input.dims()))
}
