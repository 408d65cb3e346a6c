//! [`super::avg_pool2d`] on a CUDA device.

use candle_core::backend::BackendStorage;
use candle_core::{CudaDevice, CudaStorage, DType, Layout, Tensor};

use super::AvgPool;
use crate::cuda::{Arg, Kernels, Work, count, empty, int, on_cuda, ptx, read, read_storage, tensor, write};
use crate::error::Result;

const KERNELS: Kernels = Kernels { name: "avg_pool2d", ptx: ptx::AVG_POOL2D };

fn launch(
    op: &AvgPool,
    function: &str,
    device: &CudaDevice,
    dtype: DType,
    len: usize,
    [from, to]: [Arg<'_>; 2],
) -> Result<()> {
    let a = &op.args;
    let args = [
        from,
        to,
        count(len),
        int(op.input[0]),
        int(op.input[1]),
        count(op.channels),
        int(op.output[0]),
        int(op.output[1]),
        int(a.kernel_size[0]),
        int(a.kernel_size[1]),
        int(a.stride[0]),
        int(a.stride[1]),
        int(a.padding[0]),
        int(a.padding[1]),
        count(usize::from(a.count_include_pad)),
        // 0 stands for none, which the operation refuses as a divisor.
        count(a.divisor_override.unwrap_or(0)),
    ];
    KERNELS.launch(device, function, dtype, Work::Elements(len), args)
}

pub(super) fn forward(op: &AvgPool, s: &CudaStorage, l: &Layout) -> Result<CudaStorage> {
    let (device, dtype) = (s.device(), s.dtype());
    let len = op.batch * op.output[0] * op.output[1] * op.channels;
    let mut out = empty(device, dtype, len)?;
    let buffers = [read("avg_pool2d: input", s, l)?, write("avg_pool2d: output", &mut out)?];
    launch(op, "avg_pool2d", device, dtype, len, buffers)?;
    Ok(out)
}

pub(super) fn gradient(op: &AvgPool, input: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let (s, l) = grad.storage_and_layout();
    let (device, dtype) = (on_cuda("avg_pool2d: gradient", &s)?.device(), grad.dtype());
    let mut dx = empty(device, dtype, input.elem_count())?;
    let buffers =
        [read_storage("avg_pool2d: gradient", &s, l)?, write("avg_pool2d: input gradient", &mut dx)?];
    launch(op, "avg_pool2d_gradient", device, dtype, input.elem_count(), buffers)?;
    Ok(tensor(dx, input.dims()))
}
