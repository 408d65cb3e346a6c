//! [`super::adaptive_avg_pool2d`] on a CUDA device.

use candle_core::backend::BackendStorage;
use candle_core::{CudaDevice, CudaStorage, DType, Layout, Tensor};

use super::Bins;
use crate::cuda::{Arg, Kernels, Work, count, empty, on_cuda, ptx, read, read_storage, tensor, write};
use crate::error::Result;

const KERNELS: Kernels = Kernels { name: "adaptive_avg_pool2d", ptx: ptx::ADAPTIVE_AVG_POOL2D };

fn launch(
    bins: &Bins,
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
        count(bins.input[0]),
        count(bins.input[1]),
        count(bins.channels),
        count(bins.output[0]),
        count(bins.output[1]),
    ];
    KERNELS.launch(device, function, dtype, Work::Elements(len), args)
}

pub(super) fn forward(bins: &Bins, s: &CudaStorage, l: &Layout) -> Result<CudaStorage> {
    let (device, dtype) = (s.device(), s.dtype());
    let len = bins.batch * bins.output[0] * bins.output[1] * bins.channels;
    let mut out = empty(device, dtype, len)?;
    let buffers =
        [read("adaptive_avg_pool2d: input", s, l)?, write("adaptive_avg_pool2d: output", &mut out)?];
    launch(bins, "adaptive_avg_pool2d", device, dtype, len, buffers)?;
    Ok(out)
}

pub(super) fn gradient(bins: &Bins, input: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let what = "adaptive_avg_pool2d: gradient";
    let (s, l) = grad.storage_and_layout();
    let (device, dtype) = (on_cuda(what, &s)?.device(), grad.dtype());
    let mut dx = empty(device, dtype, input.elem_count())?;
    let buffers = [read_storage(what, &s, l)?, write("adaptive_avg_pool2d: input gradient", &mut dx)?];
    launch(bins, "adaptive_avg_pool2d_gradient", device, dtype, input.elem_count(), buffers)?;
    Ok(tensor(dx, input.dims()))
}
