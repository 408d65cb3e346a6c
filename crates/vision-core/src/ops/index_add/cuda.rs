//! [`super::index_add`] and [`super::scatter_add`] on a CUDA device.
//!
//! The index was read by the host to check it, which sorts it there too: the kernel then finds what to add to a row in
//! the order of the source.

use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, Layout, Tensor};

use super::Places;
use crate::cuda::{
    Kernels, Work, count, empty, on_cuda, ptx, read, read_all, read_storage, tensor, upload, write,
};
use crate::error::Result;

const KERNELS: Kernels = Kernels { name: "index_add", ptx: ptx::INDEX_ADD };

impl Places {
    /// Rows of the output, each `width` wide, that the rows of the source go to.
    fn rows(&self, index: &[u32]) -> (Vec<u32>, usize) {
        match &self.columns {
            None => (index.to_vec(), self.width),
            // Single elements. Products of row and width fit: a kernel refuses a larger output.
            Some(columns) => {
                let place = |(i, &row): (usize, &u32)| {
                    (row as usize * self.width + columns[i % columns.len().max(1)]) as u32
                };
                (index.iter().enumerate().map(place).collect(), 1)
            }
        }
    }
}

pub(super) fn add(
    places: &Places,
    index: &[u32],
    (s1, l1): (&CudaStorage, &Layout),
    (s2, l2): (&CudaStorage, &Layout),
) -> Result<CudaStorage> {
    let (device, dtype, n) = (s1.device(), s1.dtype(), l1.shape().elem_count());
    let mut out = empty(device, dtype, n)?;
    if n == 0 {
        return Ok(out);
    }
    let (rows, width) = places.rows(index);
    let (starts, order) = by_row(&rows, n / width);
    let (starts, order) = (upload(device, &starts)?, upload(device, &order)?);
    let args = [
        read("index_add: input", s1, l1)?,
        read("index_add: source", s2, l2)?,
        read_all("index_add: index", &starts)?,
        read_all("index_add: index", &order)?,
        write("index_add: output", &mut out)?,
        count(n),
        count(width),
    ];
    KERNELS.launch(device, "add_rows", dtype, Work::Elements(n), args)?;
    Ok(out)
}

/// Where the positions of each row start in the list of positions by row, and that list.
fn by_row(rows: &[u32], row_count: usize) -> (Vec<u32>, Vec<u32>) {
    let mut starts = vec![0_u32; row_count + 1];
    for &row in rows {
        starts[row as usize + 1] += 1;
    }
    let mut sum = 0;
    for start in &mut starts {
        sum += *start;
        *start = sum;
    }
    let (mut next, mut order) = (starts.clone(), vec![0; rows.len()]);
    for (position, &row) in rows.iter().enumerate() {
        order[next[row as usize] as usize] = position as u32;
        next[row as usize] += 1;
    }
    (starts, order)
}

/// What lies at the places of the source in the contiguous tensor `from`, in the shape of `like`.
pub(super) fn gather(places: &Places, index: &[u32], from: &Tensor, like: &Tensor) -> Result<Tensor> {
    let (s, l) = from.storage_and_layout();
    let device = on_cuda("index_add: gradient", &s)?.device();
    let (dtype, n) = (from.dtype(), like.elem_count());
    let mut out = empty(device, dtype, n)?;
    if n > 0 {
        let (rows, width) = places.rows(index);
        let rows = upload(device, &rows)?;
        let args = [
            read_storage("index_add: gradient", &s, l)?,
            read_all("index_add: index", &rows)?,
            write("index_add: gradient", &mut out)?,
            count(n),
            count(width),
        ];
        KERNELS.launch(device, "take_rows", dtype, Work::Elements(n), args)?;
    }
    Ok(tensor(out, like.shape()))
}
