//! Sums over the rows of a matrix.

use candle_core::{CudaDevice, CudaStorage, DType};

use super::{Arg, Kernels, Work, count, empty, ptx, read_all, write};
use crate::error::Result;

const KERNELS: Kernels = Kernels { name: "column_sums", ptx: ptx::COLUMN_SUMS };

/// Columns of a block, `WIDE` of the kernel file.
pub(crate) const WIDE: usize = 32;

/// Into how many parts sums over `rows` rows of `columns` columns fall: enough to fill a device, few enough to be added
/// up by one thread per column. It depends on the sizes only.
pub(crate) fn parts(rows: usize, columns: usize) -> usize {
    (1024 / columns.div_ceil(WIDE).max(1)).clamp(1, rows.div_ceil(64).max(1))
}

/// The sums of the columns of `x`, `(rows, columns)`.
pub(crate) fn column_sums(
    device: &CudaDevice,
    dtype: DType,
    x: Arg<'_>,
    [rows, columns]: [usize; 2],
) -> Result<CudaStorage> {
    let parts = parts(rows, columns);
    let mut partial = empty(device, DType::F64, parts * columns)?;
    let mut out = empty(device, dtype, columns)?;
    let args = [x, write("partial sums", &mut partial)?, count(rows), count(columns)];
    KERNELS.launch(device, "column_sums", dtype, Work::Grid(columns.div_ceil(WIDE), parts), args)?;
    let args = [read_all("partial sums", &partial)?, write("sums", &mut out)?, count(parts), count(columns)];
    KERNELS.launch(device, "column_sums_finish", dtype, Work::Elements(columns), args)?;
    Ok(out)
}
