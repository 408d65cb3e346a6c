//! [`super::roi_pool`] on a CUDA device.

use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, DType, Layout, Tensor};

use super::RoiPool;
use crate::cuda::{
    Kernels, Work, count, empty, on_cuda, ptx, read, read_all, read_storage, real, tensor, upload, write,
};
use crate::error::Result;
use crate::ops::regions::cuda::Lists;

const KERNELS: Kernels = Kernels { name: "roi_pool", ptx: ptx::ROI_POOL };

/// The maxima, and the pixel of its image that each came from.
pub(super) fn forward(op: &RoiPool, s: &CudaStorage, l: &Layout) -> Result<(CudaStorage, CudaStorage)> {
    let (device, dtype, len) = (s.device(), s.dtype(), op.images.len() * op.region_len());
    let (mut out, mut argmax) = (empty(device, dtype, len)?, empty(device, DType::U32, len)?);
    let images: Vec<u32> = op.images.iter().map(|&image| image as u32).collect();
    let images = upload(device, &images)?;
    let (rows, columns) =
        (upload(device, op.rows.as_flattened())?, upload(device, op.columns.as_flattened())?);
    let ([_, h, w, c], [ph, pw]) = (op.dims, op.cells);
    let lowest = if dtype == DType::F64 { f64::MIN } else { f64::from(f32::MIN) };
    let args = [
        read("roi_pool: input", s, l)?,
        read_all("roi_pool: images", &images)?,
        read_all("roi_pool: rows", &rows)?,
        read_all("roi_pool: columns", &columns)?,
        write("roi_pool: output", &mut out)?,
        write("roi_pool: pixels", &mut argmax)?,
        real(dtype, lowest),
        count(len),
        count(h),
        count(w),
        count(c),
        count(ph),
        count(pw),
    ];
    KERNELS.launch(device, "roi_pool", dtype, Work::Elements(len), args)?;
    Ok((out, argmax))
}

pub(super) fn gradient(op: &RoiPool, argmax: &CudaStorage, input: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let (s, l) = grad.storage_and_layout();
    let (device, dtype, len) =
        (on_cuda("roi_pool: gradient", &s)?.device(), grad.dtype(), input.elem_count());
    let ([n, h, w, c], [ph, pw]) = (op.dims, op.cells);
    // Which rows of cells see each line of the maps, and which columns of cells each column of a region's map.
    let mut lines = vec![Vec::new(); n * h];
    let mut columns = vec![Vec::new(); op.images.len() * w];
    for (region, &image) in op.images.iter().enumerate() {
        for (down, &[top, bottom]) in op.rows[region * ph..(region + 1) * ph].iter().enumerate() {
            for y in top..bottom {
                lines[image * h + y as usize].push(((region * ph + down) as u32, 1.0));
            }
        }
        for (across, &[left, right]) in op.columns[region * pw..(region + 1) * pw].iter().enumerate() {
            for x in left..right {
                columns[region * w + x as usize].push((across as u32, 1.0));
            }
        }
    }
    let (lines, columns) = (Lists::upload(device, dtype, &lines)?, Lists::upload(device, dtype, &columns)?);
    let ([a, b, _], [d, e, _]) = (lines.args()?, columns.args()?);
    let mut dx = empty(device, dtype, len)?;
    let args = [
        read_storage("roi_pool: gradient", &s, l)?,
        read_all("roi_pool: pixels", argmax)?,
        a,
        b,
        d,
        e,
        write("roi_pool: input gradient", &mut dx)?,
        count(len),
        count(h),
        count(w),
        count(c),
        count(ph),
        count(pw),
    ];
    KERNELS.launch(device, "roi_pool_gradient", dtype, Work::Elements(len), args)?;
    Ok(tensor(dx, input.dims()))
}
