//! [`super::adaptive_avg_pool2d`] and its gradient on a CUDA device.

use std::ops::Range;

use candle_core::backend::BackendStorage;
use candle_core::{CudaDevice, CudaStorage, Layout, Tensor};

use super::AdaptiveAvgPool;
use crate::cuda::{
    Kernels, Work, count, empty, on_cuda, ptx, read, read_all, read_storage, tensor, upload_pairs, write,
    zeros,
};
use crate::error::Result;

const KERNELS: Kernels = Kernels { name: "adaptive_avg_pool2d", ptx: ptx::ADAPTIVE_AVG_POOL2D };

/// Pixels of a bin from which on a block sums them, not a thread.
const WIDE: usize = 32;

impl AdaptiveAvgPool {
    /// Bins along `axis` that hold pixel `index`.
    fn bins(&self, axis: usize, index: usize) -> Range<usize> {
        let (size, bins) = (self.input[axis], self.output[axis]);
        // The first that ends beyond the pixel, and the first that starts beyond it.
        index * bins / size..((index + 1) * bins).div_ceil(size)
    }
}

/// The pixels of each row of bins, then of each column.
fn bins(op: &AdaptiveAvgPool, device: &CudaDevice) -> Result<CudaStorage> {
    upload_pairs(device, op.output, |axis, index| {
        let bin = op.bin(axis, index);
        [bin.start, bin.end]
    })
}

pub(super) fn forward(op: &AdaptiveAvgPool, s: &CudaStorage, l: &Layout) -> Result<CudaStorage> {
    let (device, dtype) = (s.device(), s.dtype());
    let len = op.batch * op.output[0] * op.output[1] * op.channels;
    let mut out = empty(device, dtype, len)?;
    if len == 0 {
        return Ok(out);
    }
    let bins = bins(op, device)?;
    let what = "adaptive_avg_pool2d: input";
    let input = read(what, s, l)?;
    let bins = read_all("adaptive_avg_pool2d: bins", &bins)?;
    let y = write("adaptive_avg_pool2d: output", &mut out)?;
    let ([h, w], [oh, ow]) = (op.input.map(count), op.output.map(count));
    let area = op.input[0].div_ceil(op.output[0]) * op.input[1].div_ceil(op.output[1]);
    if area >= WIDE {
        let work = Work::Grid(len / op.channels, op.channels.div_ceil(32));
        let args = [input, bins, y, h, w, count(op.channels), oh, ow];
        KERNELS.launch(device, "adaptive_avg_pool2d_wide", dtype, work, args)?;
    } else {
        let args = [input, bins, y, h, w, count(op.channels), oh, ow, count(len)];
        KERNELS.launch(device, "adaptive_avg_pool2d", dtype, Work::Elements(len), args)?;
    }
    Ok(out)
}

/// Each input pixel collects the shares of the bins it lies in.
pub(super) fn gradient(op: &AdaptiveAvgPool, grad: &Tensor) -> Result<Tensor> {
    let (s, l) = grad.storage_and_layout();
    let (device, dtype) = (on_cuda("adaptive_avg_pool2d: gradient", &s)?.device(), grad.dtype());
    let shape = (op.batch, op.input[0], op.input[1], op.channels);
    let len = shape.0 * shape.1 * shape.2 * shape.3;
    if len == 0 || op.output.contains(&0) {
        return Ok(tensor(zeros(device, dtype, len)?, shape));
    }
    let mut out = empty(device, dtype, len)?;
    let pixels = upload_pairs(device, op.input, |axis, index| {
        let bins = op.bins(axis, index);
        [bins.start, bins.end]
    })?;
    let bins = bins(op, device)?;
    let args = [
        read_storage("adaptive_avg_pool2d: gradient", &s, l)?,
        read_all("adaptive_avg_pool2d: pixels", &pixels)?,
        read_all("adaptive_avg_pool2d: bins", &bins)?,
        write("adaptive_avg_pool2d: gradient", &mut out)?,
        count(op.input[0]),
        count(op.input[1]),
        count(op.channels),
        count(op.output[0]),
        count(op.output[1]),
        count(len),
    ];
    KERNELS.launch(device, "adaptive_avg_pool2d_gradient", dtype, Work::Elements(len), args)?;
    Ok(tensor(out, shape))
}
