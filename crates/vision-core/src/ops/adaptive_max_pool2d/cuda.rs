//! [`super::adaptive_max_pool2d`] on a CUDA device.

use candle_core::backend::BackendStorage;
use candle_core::{CudaDevice, CudaStorage, DType, Layout, Tensor};

use super::Bins;
use crate::cuda::{
    Arg, Kernels, Work, count, empty, on_cuda, ptx, read, read_all, read_storage, tensor, write,
};
use crate::error::Result;

const KERNELS: Kernels = Kernels { name: "adaptive_max_pool2d", ptx: ptx::ADAPTIVE_MAX_POOL2D };

fn launch(
    bins: &Bins,
    function: &str,
    device: &CudaDevice,
    dtype: DType,
    len: usize,
    [a, b, c]: [Arg<'_>; 3],
) -> Result<()> {
    let args = [
        a,
        b,
        c,
        count(len),
        count(bins.input[0]),
        count(bins.input[1]),
        count(bins.channels),
        count(bins.output[0]),
        count(bins.output[1]),
    ];
    KERNELS.launch(device, function, dtype, Work::Elements(len), args)
}

/// The maxima, and the pixel of its image that each came from.
pub(super) fn forward(bins: &Bins, s: &CudaStorage, l: &Layout) -> Result<(CudaStorage, CudaStorage)> {
    let (device, dtype, len) = (s.device(), s.dtype(), bins.shape().elem_count());
    let (mut out, mut argmax) = (empty(device, dtype, len)?, empty(device, DType::U32, len)?);
    let buffers = [
        read("adaptive_max_pool2d: input", s, l)?,
        write("adaptive_max_pool2d: output", &mut out)?,
        write("adaptive_max_pool2d: pixels", &mut argmax)?,
    ];
    launch(bins, "adaptive_max_pool2d", device, dtype, len, buffers)?;
    Ok((out, argmax))
}

pub(super) fn gradient(bins: &Bins, argmax: &CudaStorage, input: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let what = "adaptive_max_pool2d: gradient";
    let (s, l) = grad.storage_and_layout();
    let (device, dtype, len) = (on_cuda(what, &s)?.device(), grad.dtype(), input.elem_count());
    let mut dx = empty(device, dtype, len)?;
    let buffers = [
        read_storage(what, &s, l)?,
        read_all("adaptive_max_pool2d: pixels", argmax)?,
        write("adaptive_max_pool2d: input gradient", &mut dx)?,
    ];
    launch(bins, "adaptive_max_pool2d_gradient", device, dtype, len, buffers)?;
    Ok(tensor(dx, input.dims()))
}
