//! [`super::interpolate`] and its gradient on a CUDA device.

use candle_core::backend::BackendStorage;
use candle_core::{CudaDevice, CudaStorage, DType, Layout, Tensor};

use super::Interpolate;
use super::weights::Table;
use crate::cuda::{
    Arg, Kernels, Work, count, empty, on_cuda, ptx, read, read_all, read_range, read_storage, tensor, upload,
    upload_reals, write,
};
use crate::error::Result;
use crate::ops::support::{Float, dispatch_float};

const KERNELS: Kernels = Kernels { name: "interpolate", ptx: ptx::INTERPOLATE };

/// A table on the device.
struct Uploaded {
    /// Where the taps of each target pixel start, then the source pixels.
    numbers: CudaStorage,
    weights: CudaStorage,
    /// Target pixels and taps.
    len: [usize; 2],
}

impl Uploaded {
    fn new<T: Float>(device: &CudaDevice, table: &Table<T>) -> Result<Self> {
        let (starts, taps) = table.parts();
        let (sources, weights): (Vec<usize>, Vec<f64>) = taps.unzip();
        // What does not fit belongs to no pixel of a buffer that a kernel gets.
        let numbers = starts.iter().chain(&sources).map(|&x| u32::try_from(x).unwrap_or(u32::MAX));
        Ok(Self {
            numbers: upload(device, &numbers.collect::<Vec<_>>())?,
            weights: upload_reals(device, T::DTYPE, &weights)?,
            len: [starts.len() - 1, sources.len()],
        })
    }

    /// Starts, sources and weights.
    fn args(&self) -> Result<[Arg<'_>; 3]> {
        let [pixels, taps] = self.len;
        Ok([
            read_range("interpolate: starts", &self.numbers, 0..pixels + 1)?,
            read_range("interpolate: pixels", &self.numbers, pixels + 1..pixels + 1 + taps)?,
            read_all("interpolate: weights", &self.weights)?,
        ])
    }
}

/// Both tables, those of rows first.
fn tables(op: &Interpolate, device: &CudaDevice, dtype: DType, transposed: bool) -> Result<[Uploaded; 2]> {
    dispatch_float!("interpolate: input", dtype, T => {
        let [rows, columns] = if transposed { op.transposed::<T>() } else { op.tables::<T>() };
        Ok([Uploaded::new(device, &rows)?, Uploaded::new(device, &columns)?])
    })
}

/// Makes a map of `target` rows and columns of one of `source` rows and columns.
fn mix(
    op: &Interpolate,
    device: &CudaDevice,
    input: Arg<'_>,
    tables: &[Uploaded; 2],
    [source, target]: [[usize; 2]; 2],
    out: &mut CudaStorage,
) -> Result<()> {
    let (dtype, len) = (out.dtype(), op.batch * target[0] * target[1] * op.channels);
    let [[starts, sources, weights], [starts_x, sources_x, weights_x]] =
        [tables[0].args()?, tables[1].args()?];
    let args = [
        input,
        starts,
        sources,
        weights,
        starts_x,
        sources_x,
        weights_x,
        write("interpolate: output", out)?,
        count(source[0]),
        count(source[1]),
        count(op.channels),
        count(target[0]),
        count(target[1]),
        count(len),
    ];
    KERNELS.launch(device, "interpolate", dtype, Work::Elements(len), args)
}

pub(super) fn forward(op: &Interpolate, s: &CudaStorage, l: &Layout) -> Result<CudaStorage> {
    let (device, dtype) = (s.device(), s.dtype());
    let sizes = [op.axes.map(|axis| axis.input), op.axes.map(|axis| axis.output)];
    let len = op.batch * sizes[1][0] * sizes[1][1] * op.channels;
    let mut out = empty(device, dtype, len)?;
    if len > 0 {
        let tables = tables(op, device, dtype, false)?;
        mix(op, device, read("interpolate: input", s, l)?, &tables, sizes, &mut out)?;
    }
    Ok(out)
}

/// The same with tables from output to input: every pixel collects what was made of it.
pub(super) fn gradient(op: &Interpolate, grad: &Tensor) -> Result<Tensor> {
    let (s, l) = grad.storage_and_layout();
    let (device, dtype) = (on_cuda("interpolate: gradient", &s)?.device(), grad.dtype());
    let sizes = [op.axes.map(|axis| axis.output), op.axes.map(|axis| axis.input)];
    let shape = (op.batch, sizes[1][0], sizes[1][1], op.channels);
    let len = shape.0 * shape.1 * shape.2 * shape.3;
    let mut out = empty(device, dtype, len)?;
    if len > 0 {
        let tables = tables(op, device, dtype, true)?;
        mix(op, device, read_storage("interpolate: gradient", &s, l)?, &tables, sizes, &mut out)?;
    }
    Ok(tensor(out, shape))
}
