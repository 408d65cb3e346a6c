//! [`super::max_pool2d`] on a CUDA device.

use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, DType, Layout, Tensor};

use super::MaxPool;
use crate::cuda::{
    Kernels, Work, count, empty, int, on_cuda, ptx, read, read_all, read_storage, tensor, write,
};
use crate::error::Result;

const KERNELS: Kernels = Kernels { name: "max_pool2d", ptx: ptx::MAX_POOL2D };

/// The kernel's arguments, followed by the sizes in the order it declares them.
macro_rules! launch {
    ($function:expr, $op:expr, $device:expr, $dtype:expr, $len:expr, [$($arg:expr),+]) => {{
        let (op, args): (&MaxPool, _) = ($op, &$op.args);
        KERNELS.launch($device, $function, $dtype, Work::Elements($len), [
            $($arg,)+
            count($len),
            count(op.input[0]),
            count(op.input[1]),
            count(op.channels),
            count(op.output[0]),
            count(op.output[1]),
            int(args.kernel_size[0]),
            int(args.kernel_size[1]),
            int(args.stride[0]),
            int(args.stride[1]),
            int(args.padding[0]),
            int(args.padding[1]),
            int(args.dilation[0]),
            int(args.dilation[1]),
        ])
    }};
}

/// The maxima, and the pixel of its image that each came from.
pub(super) fn forward(op: &MaxPool, s: &CudaStorage, l: &Layout) -> Result<(CudaStorage, CudaStorage)> {
    let (device, dtype) = (s.device(), s.dtype());
    let len = op.batch * op.output[0] * op.output[1] * op.channels;
    let (mut out, mut argmax) = (empty(device, dtype, len)?, empty(device, DType::U32, len)?);
    launch!(
        "max_pool2d",
        op,
        device,
        dtype,
        len,
        [
            read("max_pool2d: input", s, l)?,
            write("max_pool2d: output", &mut out)?,
            write("max_pool2d: pixels", &mut argmax)?
        ]
    )?;
    Ok((out, argmax))
}

pub(super) fn gradient(op: &MaxPool, argmax: &CudaStorage, input: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let (s, l) = grad.storage_and_layout();
    let (device, dtype) = (on_cuda("max_pool2d: gradient", &s)?.device(), grad.dtype());
    let len = input.elem_count();
    let mut dx = empty(device, dtype, len)?;
    launch!(
        "max_pool2d_gradient",
        op,
        device,
        dtype,
        len,
        [
            read_storage("max_pool2d: gradient", &s, l)?,
            read_all("max_pool2d: pixels", argmax)?,
            write("max_pool2d: input gradient", &mut dx)?
        ]
    )?;
    Ok(tensor(dx, input.dims()))
}
