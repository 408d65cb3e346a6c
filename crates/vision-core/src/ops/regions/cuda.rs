//! [`super::WeightedSum`] on a CUDA device. The tables come from the host, which makes them from the boxes for both
//! devices; the gradient gathers with the same tables turned round, so nothing is added in a changing order.

use candle_core::backend::BackendStorage;
use candle_core::{CudaDevice, CudaStorage, DType, Layout, Tensor};

use super::{Taps, WeightedSum};
use crate::cuda::{
    Arg, Kernels, Work, count, empty, on_cuda, ptx, read, read_all, read_storage, real, tensor, upload,
    upload_reals, write,
};
use crate::error::Result;

const KERNELS: Kernels = Kernels { name: "regions", ptx: ptx::REGIONS };

/// Numbered entries with factors.
pub(in crate::ops) type List = Vec<(u32, f64)>;

/// Lists, one after the other.
pub(in crate::ops) struct Lists {
    start: CudaStorage,
    entries: CudaStorage,
    factors: CudaStorage,
}

impl Lists {
    pub(in crate::ops) fn upload(
        device: &CudaDevice,
        dtype: DType,
        lists: &[Vec<(u32, f64)>],
    ) -> Result<Self> {
        let mut start = vec![0u32];
        let mut total = 0;
        for list in lists {
            total += list.len();
            start.push(u32::try_from(total).unwrap_or(u32::MAX));
        }
        let (entries, factors): (Vec<u32>, Vec<f64>) = lists.iter().flatten().copied().unzip();
        Ok(Self {
            start: upload(device, &start)?,
            entries: upload(device, &entries)?,
            factors: upload_reals(device, dtype, &factors)?,
        })
    }

    pub(in crate::ops) fn args(&self) -> Result<[Arg<'_>; 3]> {
        Ok([
            read_all("regions: table", &self.start)?,
            read_all("regions: table", &self.entries)?,
            read_all("regions: table", &self.factors)?,
        ])
    }
}

/// The taps of `cells` cells.
fn lists(taps: &Taps, cells: usize) -> Vec<List> {
    (0..cells).map(|cell| taps.of(cell).to_vec()).collect()
}

fn sizes(op: &WeightedSum) -> [Arg<'static>; 7] {
    let ([_, h, w, c], [ph, pw], [gh, gw]) = (op.grid.input, op.grid.cells, op.grid.group_size);
    [h, w, c, ph, pw, gh, gw].map(count)
}

pub(super) fn forward(op: &WeightedSum, s: &CudaStorage, l: &Layout) -> Result<CudaStorage> {
    let (device, dtype, regions) = (s.device(), s.dtype(), op.images.len());
    let len = op.grid.output_dims(regions).iter().product();
    let mut out = empty(device, dtype, len)?;
    if len == 0 {
        return Ok(out);
    }
    let images: Vec<u32> = op.images.iter().map(|&image| image as u32).collect();
    let images = upload(device, &images)?;
    let rows = Lists::upload(device, dtype, &lists(&op.rows, regions * op.grid.cells[0]))?;
    let columns = Lists::upload(device, dtype, &lists(&op.columns, regions * op.grid.cells[1]))?;
    let ([a, b, c], [d, e, f]) = (rows.args()?, columns.args()?);
    let [h, w, channels, ph, pw, gh, gw] = sizes(op);
    let args = [
        read(op.name, s, l)?,
        read_all("regions: images", &images)?,
        a,
        b,
        c,
        d,
        e,
        f,
        write(op.name, &mut out)?,
        real(dtype, op.fill),
        count(len),
        h,
        w,
        channels,
        ph,
        pw,
        gh,
        gw,
    ];
    KERNELS.launch(device, "regions", dtype, Work::Elements(len), args)?;
    Ok(out)
}

pub(super) fn gradient(op: &WeightedSum, input: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let (s, l) = grad.storage_and_layout();
    let (device, dtype, len) = (on_cuda(op.name, &s)?.device(), grad.dtype(), input.elem_count());
    let mut dx = empty(device, dtype, len)?;
    if len == 0 {
        return Ok(tensor(dx, input.dims()));
    }
    let ([n, h, w, _], [ph, pw]) = (op.grid.input, op.grid.cells);
    // In the order of the regions, as the sums are taken.
    let mut lines = vec![Vec::new(); n * h];
    let mut columns = vec![Vec::new(); op.images.len() * w];
    for (region, &image) in op.images.iter().enumerate() {
        for down in 0..ph {
            for &(y, factor) in op.rows.of(region * ph + down) {
                lines[image * h + y as usize].push(((region * ph + down) as u32, factor));
            }
        }
        for across in 0..pw {
            for &(x, factor) in op.columns.of(region * pw + across) {
                columns[region * w + x as usize].push((across as u32, factor));
            }
        }
    }
    let lines = Lists::upload(device, dtype, &lines)?;
    let columns = Lists::upload(device, dtype, &columns)?;
    let ([a, b, c], [d, e, f]) = (lines.args()?, columns.args()?);
    let [h, w, channels, ph, pw, gh, gw] = sizes(op);
    let args = [
        read_storage(op.name, &s, l)?,
        a,
        b,
        c,
        d,
        e,
        f,
        write(op.name, &mut dx)?,
        count(len),
        h,
        w,
        channels,
        ph,
        pw,
        gh,
        gw,
    ];
    KERNELS.launch(device, "regions_gradient", dtype, Work::Elements(len), args)?;
    Ok(tensor(dx, input.dims()))
}

/// The weighted sum over one region for each picture, all channels alike: the map `x` of `batch` pictures of `sizes[0]`
/// pixels, cells of `sizes[1]`.
pub(in crate::ops) fn weighted_sum(
    device: &CudaDevice,
    dtype: DType,
    x: Arg<'_>,
    lists: &[Lists; 2],
    batch: usize,
    channels: usize,
    [[height, width], [rows, columns]]: [[usize; 2]; 2],
) -> Result<CudaStorage> {
    let len = batch * rows * columns * channels;
    let mut out = empty(device, dtype, len)?;
    let images: Vec<u32> = (0..batch as u32).collect();
    let images = upload(device, &images)?;
    let ([a, b, c], [d, e, f]) = (lists[0].args()?, lists[1].args()?);
    let args = [
        x,
        read_all("regions: images", &images)?,
        a,
        b,
        c,
        d,
        e,
        f,
        write("regions: output", &mut out)?,
        real(dtype, 0.0),
        count(len),
        count(height),
        count(width),
        count(channels),
        count(rows),
        count(columns),
        count(1),
        count(1),
    ];
    KERNELS.launch(device, "regions", dtype, Work::Elements(len), args)?;
    Ok(out)
}
