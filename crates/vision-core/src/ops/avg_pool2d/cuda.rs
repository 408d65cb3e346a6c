//! [`super::avg_pool2d`] and its gradient on a CUDA device.

use candle_core::backend::BackendStorage;
use candle_core::{CudaDevice, CudaStorage, DType, Layout, Tensor};

use super::AvgPool;
use crate::cuda::{
    Kernels, Work, count, empty, on_cuda, ptx, read, read_all, read_storage, tensor, upload_pairs,
    upload_reals, write,
};
use crate::error::Result;

const KERNELS: Kernels = Kernels { name: "avg_pool2d", ptx: ptx::AVG_POOL2D };

/// For each row of windows, then for each column, a factor of what its sum is divided by.
fn counts(op: &AvgPool, device: &CudaDevice) -> Result<CudaStorage> {
    let [oh, ow] = op.output;
    let counts: Vec<f64> = match op.args.divisor_override {
        Some(divisor) => [vec![divisor as f64; oh], vec![1.0; ow]].concat(),
        None => (0..oh).map(|y| op.count(0, y)).chain((0..ow).map(|x| op.count(1, x))).collect(),
    };
    upload_reals(device, DType::F64, &counts)
}

pub(super) fn forward(op: &AvgPool, s: &CudaStorage, l: &Layout) -> Result<CudaStorage> {
    let (device, dtype) = (s.device(), s.dtype());
    let len = op.batch * op.output[0] * op.output[1] * op.channels;
    let mut out = empty(device, dtype, len)?;
    if len > 0 {
        let pixels = upload_pairs(device, op.output, |axis, index| {
            let pixels = op.pixels(axis, index);
            [pixels.start, pixels.end]
        })?;
        let counts = counts(op, device)?;
        let args = [
            read("avg_pool2d: input", s, l)?,
            read_all("avg_pool2d: pixels", &pixels)?,
            read_all("avg_pool2d: counts", &counts)?,
            write("avg_pool2d: output", &mut out)?,
            count(op.input[0]),
            count(op.input[1]),
            count(op.channels),
            count(op.output[0]),
            count(op.output[1]),
            count(len),
        ];
        KERNELS.launch(device, "avg_pool2d", dtype, Work::Elements(len), args)?;
    }
    Ok(out)
}

/// Each input pixel collects the shares of the windows it lies in.
pub(super) fn gradient(op: &AvgPool, grad: &Tensor) -> Result<Tensor> {
    let (s, l) = grad.storage_and_layout();
    let (device, dtype) = (on_cuda("avg_pool2d: gradient", &s)?.device(), grad.dtype());
    let shape = (op.batch, op.input[0], op.input[1], op.channels);
    let len = shape.0 * shape.1 * shape.2 * shape.3;
    let mut out = empty(device, dtype, len)?;
    if len > 0 {
        let windows = upload_pairs(device, op.input, |axis, index| {
            let windows = op.windows(axis, index);
            [windows.start, windows.end]
        })?;
        let counts = counts(op, device)?;
        let args = [
            read_storage("avg_pool2d: gradient", &s, l)?,
            read_all("avg_pool2d: windows", &windows)?,
            read_all("avg_pool2d: counts", &counts)?,
            write("avg_pool2d: gradient", &mut out)?,
            count(op.input[0]),
            count(op.input[1]),
            count(op.channels),
            count(op.output[0]),
            count(op.output[1]),
            count(len),
        ];
        KERNELS.launch(device, "avg_pool2d_gradient", dtype, Work::Elements(len), args)?;
    }
    Ok(tensor(out, shape))
}
