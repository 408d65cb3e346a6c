//! [`super::grid_sample`] and its gradients on a CUDA device.

use candle_core::backend::BackendStorage;
use candle_core::{CudaDevice, CudaStorage, DType, Layout, Tensor};

use super::{GridMode, GridPadding, GridSample};
use crate::cuda::{
    Kernels, Samples, Work, count, empty, on_cuda, ptx, read, read_storage, tensor, write, zeros,
};
use crate::error::Result;

const KERNELS: Kernels = Kernels { name: "grid_sample", ptx: ptx::GRID_SAMPLE };

/// Warps of a block, each of which has a place.
const WARPS: usize = 8;

/// Launches a kernel with the numbers that all of this file take behind their buffers.
macro_rules! launch {
    ($op:expr, $function:expr, $device:expr, $dtype:expr, $work:expr, $len:expr, [$($arg:expr),+ $(,)?]) => {{
        let op: &GridSample = $op;
        KERNELS.launch($device, $function, $dtype, $work, [
            $($arg,)+
            count(op.input[0]),
            count(op.input[1]),
            count(op.channels),
            count(op.output[0] * op.output[1]),
            count(usize::from(op.args.mode == GridMode::Nearest)),
            count(match op.args.padding_mode {
                GridPadding::Zeros => 0,
                GridPadding::Border => 1,
                GridPadding::Reflection => 2,
            }),
            count(usize::from(op.args.align_corners)),
            count($len),
        ])
    }};
}

impl GridSample {
    /// Places of all images.
    fn places(&self) -> usize {
        self.batch * self.output[0] * self.output[1]
    }
}

pub(super) fn forward(
    op: &GridSample,
    (s1, l1): (&CudaStorage, &Layout),
    (s2, l2): (&CudaStorage, &Layout),
) -> Result<CudaStorage> {
    let (device, dtype, len) = (s1.device(), s1.dtype(), op.places() * op.channels);
    let mut out = empty(device, dtype, len)?;
    let args = (read("grid_sample: input", s1, l1)?, read("grid_sample: grid", s2, l2)?);
    let out_arg = write("grid_sample: output", &mut out)?;
    launch!(op, "grid_sample", device, dtype, Work::Elements(len), len, [args.0, args.1, out_arg])?;
    Ok(out)
}

/// Gradients of input and grid, each only if the tensor takes part in the graph.
pub(super) fn backward(
    op: &GridSample,
    input: &Tensor,
    grid: &Tensor,
    grad: &Tensor,
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let (s, _) = grad.storage_and_layout();
    let device = on_cuda("grid_sample: gradient", &s)?.device();
    let dx = input.track_op().then(|| input_gradient(op, device, grid, grad)).transpose()?;
    let dg = grid.track_op().then(|| grid_gradient(op, device, input, grid, grad)).transpose()?;
    Ok((dx.map(|dx| tensor(dx, input.dims())), dg.map(|dg| tensor(dg, grid.dims()))))
}

fn input_gradient(op: &GridSample, device: &CudaDevice, grid: &Tensor, grad: &Tensor) -> Result<CudaStorage> {
    let (dtype, samples) = (grad.dtype(), op.places());
    let len = op.batch * op.image_len();
    if len == 0 || samples == 0 {
        return zeros(device, dtype, len);
    }
    let ((sg, lg), (sd, ld)) = (grid.storage_and_layout(), grad.storage_and_layout());
    let all = Samples {
        images: op.batch,
        size: op.input,
        channels: op.channels,
        shared: 1,
        group_in: op.channels,
        number: samples,
        each: 1,
    };
    let mut places = all.places(device, dtype)?;
    launch!(
        op,
        "grid_sample_cells",
        device,
        dtype,
        Work::Elements(samples),
        samples,
        [
            read_storage("grid_sample: grid", &sg, lg)?,
            write("grid_sample: cells", &mut places.cells)?,
            write("grid_sample: weights", &mut places.weights)?,
            count(all.cells()?),
        ]
    )?;
    let mut out = empty(device, dtype, len)?;
    let grad = read_storage("grid_sample: gradient", &sd, ld)?;
    all.add_up(device, dtype, grad, places, write("grid_sample: gradient", &mut out)?)?;
    Ok(out)
}

fn grid_gradient(
    op: &GridSample,
    device: &CudaDevice,
    input: &Tensor,
    grid: &Tensor,
    grad: &Tensor,
) -> Result<CudaStorage> {
    let (dtype, samples): (DType, usize) = (grad.dtype(), op.places());
    if op.channels == 0 || op.args.mode == GridMode::Nearest {
        return zeros(device, dtype, 2 * samples);
    }
    let (sx, lx) = input.storage_and_layout();
    let ((sg, lg), (sd, ld)) = (grid.storage_and_layout(), grad.storage_and_layout());
    let mut out = empty(device, dtype, 2 * samples)?;
    launch!(
        op,
        "grid_sample_grid",
        device,
        dtype,
        Work::Blocks(samples.div_ceil(WARPS)),
        samples,
        [
            read_storage("grid_sample: input", &sx, lx)?,
            read_storage("grid_sample: grid", &sg, lg)?,
            read_storage("grid_sample: gradient", &sd, ld)?,
            write("grid_sample: gradient", &mut out)?,
        ]
    )?;
    Ok(out)
}
