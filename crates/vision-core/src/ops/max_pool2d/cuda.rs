//! [`super::max_pool2d`] and its gradient on a CUDA device.

use std::ops::Range;

use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, DType, Layout, Tensor};

use super::MaxPool;
use crate::cuda::{
    Kernels, Work, count, empty, nothing, on_cuda, ptx, read, read_all, read_storage, tensor, upload_pairs,
    write,
};
use crate::error::Result;

const KERNELS: Kernels = Kernels { name: "max_pool2d", ptx: ptx::MAX_POOL2D };

impl MaxPool {
    /// Windows along `axis` that may have a tap at input pixel `index`.
    fn windows(&self, axis: usize, index: usize) -> Range<usize> {
        let (stride, at) = (self.args.stride[axis], index + self.args.padding[axis]);
        let reach = (self.args.kernel_size[axis] - 1) * self.args.dilation[axis];
        let end = (at / stride + 1).min(self.output[axis]);
        at.saturating_sub(reach).div_ceil(stride).min(end)..end
    }
}

/// Maxima, and the pixels they came from if a gradient may be asked for.
pub(super) fn forward(
    op: &MaxPool,
    s: &CudaStorage,
    l: &Layout,
) -> Result<(CudaStorage, Option<CudaStorage>)> {
    let (device, dtype) = (s.device(), s.dtype());
    let len = op.batch * op.output[0] * op.output[1] * op.channels;
    let mut out = empty(device, dtype, len)?;
    let mut argmax = op.keep.then(|| empty(device, DType::U32, len)).transpose()?;
    if len > 0 {
        let taps = upload_pairs(device, op.output, |axis, index| op.taps(axis, index).into())?;
        let args = [
            read("max_pool2d: input", s, l)?,
            read_all("max_pool2d: taps", &taps)?,
            write("max_pool2d: output", &mut out)?,
            argmax.as_mut().map_or(Ok(nothing()), |argmax| write("max_pool2d: argmax", argmax))?,
            count(op.input[0]),
            count(op.input[1]),
            count(op.channels),
            count(op.output[0]),
            count(op.output[1]),
            count(op.args.dilation[0]),
            count(op.args.dilation[1]),
            count(len),
        ];
        KERNELS.launch(device, "max_pool2d", dtype, Work::Elements(len), args)?;
    }
    Ok((out, argmax))
}

/// Each input pixel collects from the windows whose maximum it is.
pub(super) fn gradient(op: &MaxPool, argmax: &CudaStorage, grad: &Tensor) -> Result<Tensor> {
    let (s, l) = grad.storage_and_layout();
    let (device, dtype) = (on_cuda("max_pool2d: gradient", &s)?.device(), grad.dtype());
    let shape = (op.batch, op.input[0], op.input[1], op.channels);
    let len = shape.0 * shape.1 * shape.2 * shape.3;
    let mut out = empty(device, dtype, len)?;
    if len > 0 {
        let windows = upload_pairs(device, op.input, |axis, index| {
            let windows = op.windows(axis, index);
            [windows.start, windows.end]
        })?;
        let args = [
            read_storage("max_pool2d: gradient", &s, l)?,
            read_all("max_pool2d: argmax", argmax)?,
            read_all("max_pool2d: windows", &windows)?,
            write("max_pool2d: gradient", &mut out)?,
            count(op.input[0]),
            count(op.input[1]),
            count(op.channels),
            count(op.output[0]),
            count(op.output[1]),
            count(len),
        ];
        KERNELS.launch(device, "max_pool2d_gradient", dtype, Work::Elements(len), args)?;
    }
    Ok(tensor(out, shape))
}
