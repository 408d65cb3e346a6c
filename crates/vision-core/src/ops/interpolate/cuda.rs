//! [`super::interpolate`] on a CUDA device: a weighted sum whose one region is the whole map of each picture.

use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, DType, Layout, Tensor};

use super::Interpolate;
use super::weights::Table;
use crate::cuda::{on_cuda, read, read_storage, tensor};
use crate::error::Result;
use crate::ops::regions::cuda::{List, Lists, weighted_sum};
use crate::ops::support::{Float, dispatch_float};

/// The taps of every target pixel along one axis, once for each picture.
fn lists<T: Float>(table: &Table<T>, batch: usize) -> Vec<List> {
    let taps =
        |at: usize| table.taps(at).iter().map(|&(pixel, weight)| (pixel as u32, weight.to_f64())).collect();
    let one: Vec<List> = (0..table.len()).map(taps).collect();
    (0..batch).flat_map(|_| one.clone()).collect()
}

fn tables(op: &Interpolate, dtype: DType, transposed: bool) -> Result<[Vec<List>; 2]> {
    dispatch_float!("interpolate: input", dtype, T => {
        let [y, x] = op.tables::<T>();
        let [rows, columns] = &op.axes;
        let tables = if transposed { [y.transposed(rows.input), x.transposed(columns.input)] } else { [y, x] };
        Ok(tables.map(|table| lists(&table, op.batch)))
    })
}

pub(super) fn forward(op: &Interpolate, s: &CudaStorage, l: &Layout) -> Result<CudaStorage> {
    let (device, dtype) = (s.device(), s.dtype());
    let [rows, columns] = tables(op, dtype, false)?;
    let lists = [Lists::upload(device, dtype, &rows)?, Lists::upload(device, dtype, &columns)?];
    let sizes = [[op.axes[0].input, op.axes[1].input], [op.axes[0].output, op.axes[1].output]];
    weighted_sum(device, dtype, read("interpolate: input", s, l)?, &lists, op.batch, op.channels, sizes)
}

pub(super) fn gradient(op: &Interpolate, input: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let (s, l) = grad.storage_and_layout();
    let (device, dtype) = (on_cuda("interpolate: gradient", &s)?.device(), grad.dtype());
    let [rows, columns] = tables(op, dtype, true)?;
    let lists = [Lists::upload(device, dtype, &rows)?, Lists::upload(device, dtype, &columns)?];
    let sizes = [[op.axes[0].output, op.axes[1].output], [op.axes[0].input, op.axes[1].input]];
    let grad = read_storage("interpolate: gradient", &s, l)?;
    let dx = weighted_sum(device, dtype, grad, &lists, op.batch, op.channels, sizes)?;
    Ok(tensor(dx, input.dims()))
}
