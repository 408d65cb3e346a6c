//! Adding to rows at indices: `index_add` and `scatter_add` along the first dimension, as in PyTorch.
//!
//! `index_add`: `output[index[k], ...] = input[index[k], ...] + source[k, ...]`.
//! `scatter_add`: `output[index[k, j], j] = input[index[k, j], j] + source[k, j]`, where `j` stands for all
//! further dimensions; the source may be narrower than the input in them, which leaves the rest as it is.
//!
//! Repeated indices add up in the order of `k`, so results do not depend on the number of threads. The input
//! gets the gradient of the output, the source that of the places it was added to.

#[cfg(feature = "cuda")]
mod cuda;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, DType, Device, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::support::{
    Float, check_device, check_dims, check_dtype, check_float, check_same_device, chunk_rows, cpu_slice,
    dispatch_float, storage_slice, vectorised,
};
use crate::error::{Error, Result};

/// `input` `(R, ...)` with row `k` of `source` `(K, ...)` added to row `index[k]`, where `index` is `(K)`, `u32`.
///
/// # Errors
/// If the input is a scalar or not of a float type, if shapes, types or devices do not fit, or if an index
/// is not below `R`.
pub fn index_add(input: &Tensor, index: &Tensor, source: &Tensor) -> Result<Tensor> {
    check_input("index_add", input)?;
    let (&[count], [_, rest @ ..]) = (index.dims(), input.dims()) else {
        return Err(Error::shape("index_add: index", "(K)", index.dims()));
    };
    let dims: Vec<usize> = [count].iter().chain(rest).copied().collect();
    check_dims("index_add: source", source, &dims)?;
    let index = on_cpu("index_add", index, input)?;
    check_rows("index_add", &index, input.dims()[0], 1)?;
    let places = Places { index, columns: None, width: rest.iter().product() };
    run("index_add", input, source, places)
}

/// `input` `(R, ...)` with each element of `source` added in the row that the same element of `index` names.
///
/// `source` and `index` (`u32`) have one shape, with as many dimensions as the input and no larger than it but
/// for the first.
///
/// # Errors
/// As [`index_add`].
pub fn scatter_add(input: &Tensor, index: &Tensor, source: &Tensor) -> Result<Tensor> {
    check_input("scatter_add", input)?;
    let (inner, outer) = (index.dims(), input.dims());
    if inner.len() != outer.len() || inner.iter().zip(outer).skip(1).any(|(inner, outer)| inner > outer) {
        let expected = format!("(K, ...) within {outer:?}");
        return Err(Error::shape("scatter_add: index", expected, inner));
    }
    check_dims("scatter_add: source", source, inner)?;
    let (rows, inner, outer) = (outer[0], &inner[1..], &outer[1..]);
    let (index, width) = (on_cpu("scatter_add", index, input)?, outer.iter().product());
    let whole = if inner == outer { one_row_each(&index, width)? } else { None };
    let places = if let Some(index) = whole {
        check_rows("scatter_add", &index, rows, width)?;
        Places { index, columns: None, width }
    } else {
        check_rows("scatter_add", &index, rows, 1)?;
        let columns = (0..inner.iter().product()).map(|j| position(j, inner, outer)).collect();
        Places { index, columns: Some(columns), width }
    };
    run("scatter_add", input, source, places)
}

/// Where element `j` of an array of the sizes `inner` lies in one of the sizes `outer`.
fn position(mut j: usize, inner: &[usize], outer: &[usize]) -> usize {
    let (mut at, mut stride) = (0, 1);
    for (&inner, &outer) in inner.iter().zip(outer).rev() {
        at += j % inner * stride;
        j /= inner;
        stride *= outer;
    }
    at
}

fn check_input(op: &str, input: &Tensor) -> Result<()> {
    let what = format!("{op}: input");
    check_float(&what, input)?;
    check_device(&what, input)?;
    if input.rank() == 0 { Err(Error::shape(what, "(R, ...)", input.dims())) } else { Ok(()) }
}

/// The indices, contiguous on the CPU.
fn on_cpu(op: &str, index: &Tensor, input: &Tensor) -> Result<Tensor> {
    let what = format!("{op}: index");
    check_dtype(&what, index, DType::U32)?;
    check_same_device(&what, index, input)?;
    // An empty tensor has nothing to copy between devices, which some of them do not forgive.
    if index.elem_count() == 0 {
        Ok(Tensor::zeros(index.shape(), DType::U32, &Device::Cpu)?)
    } else {
        Ok(index.contiguous()?.to_device(&Device::Cpu)?)
    }
}

/// Fails unless each index is a row of the input. An index stands for `repeats` elements of what was given.
fn check_rows(op: &str, index: &Tensor, rows: usize, repeats: usize) -> Result<()> {
    let what = format!("{op}: index");
    let (s, l) = index.storage_and_layout();
    let values = storage_slice::<u32>(&what, &s, l)?;
    match values.par_iter().with_min_len(1 << 14).position_first(|&row| row as usize >= rows) {
        None => Ok(()),
        Some(at) => {
            let position = at * repeats;
            let problem = format!("{} at position {position} is not one of the {rows} rows", values[at]);
            Err(Error::argument(what, problem))
        }
    }
}

/// The first of every `width` indices if the others are the same, as when whole rows are added.
fn one_row_each(index: &Tensor, width: usize) -> Result<Option<Tensor>> {
    let (s, l) = index.storage_and_layout();
    let values = storage_slice::<u32>("scatter_add: index", &s, l)?;
    if width == 0 || values.is_empty() {
        return Ok(None);
    }
    let same = |part: &[u32]| {
        vectorised(|| {
            part.chunks_exact(width).all(|row| row.iter().fold(0, |other, at| other | (at ^ row[0])) == 0)
        })
    };
    if !values.par_chunks(chunk_rows(values.len() / width, width) * width).all(same) {
        return Ok(None);
    }
    let rows: Vec<u32> = values.iter().step_by(width).copied().collect();
    Ok(Some(Tensor::new(rows, &Device::Cpu)?))
}

fn run(name: &'static str, input: &Tensor, source: &Tensor, places: Places) -> Result<Tensor> {
    check_same_device(&format!("{name}: source"), source, input)?;
    check_dtype(&format!("{name}: source"), source, input.dtype())?;
    Ok(input.contiguous()?.apply_op2(&source.contiguous()?, AddAt { name, places })?)
}

/// Where the elements of the source go.
struct Places {
    /// A row per source row or, with `columns`, per source element: contiguous `u32` on the CPU.
    index: Tensor,
    /// Of `scatter_add`: the column of the output for each column of the source.
    columns: Option<Vec<usize>>,
    /// Elements of a row of the output.
    width: usize,
}

/// Elements that make it worth to share the work.
const PARALLEL: usize = 1 << 15;

impl Places {
    /// `input` with the source added.
    fn add<T: Float>(&self, index: &[u32], input: &[T], source: &[T]) -> Vec<T> {
        let mut out = input.to_vec();
        if out.is_empty() || source.is_empty() {
            return out;
        }
        // Each thread goes through all indices and adds those of its band of rows, so no two write to one
        // place, and the order of additions is that of the source whatever the bands.
        let rows = out.len() / self.width;
        let bands = if source.len() + out.len() < PARALLEL { 1 } else { rayon::current_num_threads() };
        let band = rows.div_ceil(bands);
        out.par_chunks_mut(band * self.width).enumerate().for_each(|(number, out)| {
            vectorised(|| self.add_band(index, source, number * band, out));
        });
        out
    }

    /// Adds to `out` what belongs to its rows, the rows from `first` on.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "must be compiled with the features of `vectorised`")]
    fn add_band<T: Float>(&self, index: &[u32], source: &[T], first: usize, out: &mut [T]) {
        let width = self.width;
        let rows = out.len() / width;
        // Rows before the band wrap around to numbers beyond it.
        let within = |row: u32| Some((row as usize).wrapping_sub(first)).filter(|&row| row < rows);
        match &self.columns {
            None => {
                for (source, &row) in source.chunks_exact(width).zip(index) {
                    if let Some(row) = within(row) {
                        for (out, &x) in out[row * width..(row + 1) * width].iter_mut().zip(source) {
                            *out += x;
                        }
                    }
                }
            }
            Some(columns) => {
                let parts = source.chunks_exact(columns.len()).zip(index.chunks_exact(columns.len()));
                for (source, index) in parts {
                    for ((&x, &row), &column) in source.iter().zip(index).zip(columns) {
                        if let Some(row) = within(row) {
                            out[row * width + column] += x;
                        }
                    }
                }
            }
        }
    }

    /// What lies at the places of the source.
    fn gather<T: Float>(&self, index: &[u32], from: &[T], len: usize) -> Vec<T> {
        if len == 0 {
            return Vec::new();
        }
        let Some(columns) = &self.columns else {
            // One after the other: to clear the memory first, for threads to fill it, takes as long.
            let mut out = Vec::with_capacity(len);
            for &row in index {
                out.extend_from_slice(&from[row as usize * self.width..][..self.width]);
            }
            return out;
        };
        let mut out = vec![T::ZERO; len];
        let chunk = chunk_rows(len / columns.len(), columns.len()) * columns.len();
        out.par_chunks_mut(chunk).zip(index.par_chunks(chunk)).for_each(|(out, index)| {
            let parts = out.chunks_exact_mut(columns.len()).zip(index.chunks_exact(columns.len()));
            for (out, index) in parts {
                for ((out, &row), &column) in out.iter_mut().zip(index).zip(columns) {
                    *out = from[row as usize * self.width + column];
                }
            }
        });
        out
    }
}

struct AddAt {
    name: &'static str,
    places: Places,
}

impl CustomOp2 for AddAt {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        dispatch_float!(format!("{}: input", self.name), s1.dtype(), T => {
            let (s, l) = self.places.index.storage_and_layout();
            let index = storage_slice::<u32>(self.name, &s, l)?;
            let (input, source) = (cpu_slice::<T>(self.name, s1, l1)?, cpu_slice::<T>(self.name, s2, l2)?);
            let out = self.places.add(index, input, source);
            Ok((T::to_cpu_storage_owned(out), l1.shape().clone()))
        })
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        let (s, l) = self.places.index.storage_and_layout();
        let index = storage_slice::<u32>(self.name, &s, l)?;
        Ok((cuda::add(&self.places, index, (s1, l1), (s2, l2))?, l1.shape().clone()))
    }

    fn bwd(
        &self,
        input: &Tensor,
        source: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let of_input = input.track_op().then(|| grad.clone());
        if !source.track_op() {
            return Ok((of_input, None));
        }
        let grad = grad.contiguous()?;
        let (s, l) = grad.storage_and_layout();
        let (is, il) = self.places.index.storage_and_layout();
        let index = storage_slice::<u32>(self.name, &is, il)?;
        #[cfg(feature = "cuda")]
        if grad.device().is_cuda() {
            return Ok((of_input, Some(cuda::gather(&self.places, index, &grad, source)?)));
        }
        dispatch_float!(format!("{}: gradient", self.name), grad.dtype(), T => {
            let grad = storage_slice::<T>(self.name, &s, l)?;
            let of_source = self.places.gather(index, grad, source.elem_count());
            Ok((of_input, Some(Tensor::from_vec(of_source, source.shape(), &Device::Cpu)?)))
        })
    }
}

#[cfg(test)]
mod tests;
