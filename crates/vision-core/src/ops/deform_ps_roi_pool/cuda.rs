//! [`super::deform_ps_roi_pool`] and its gradients on a CUDA device.

use candle_core::backend::BackendStorage;
use candle_core::{CudaDevice, CudaStorage, DType, Layout, Tensor};

use super::DeformPool;
use crate::cuda::{
    Arg, Kernels, Samples, Work, count, empty, nothing, on_cuda, ptx, read, read_all, read_storage, tensor,
    upload, upload_reals, write, zeros,
};
use crate::error::Result;

const KERNELS: Kernels = Kernels { name: "deform_ps_roi_pool", ptx: ptx::DEFORM_PS_ROI_POOL };

/// Warps of a block, each of which has a part of a region.
const WARPS: usize = 8;

/// Launches a kernel with the numbers that all of this file take behind their buffers.
macro_rules! launch {
    ($op:expr, $function:expr, $device:expr, $dtype:expr, $work:expr, $len:expr, [$($arg:expr),+ $(,)?]) => {{
        let op: &DeformPool = $op;
        KERNELS.launch($device, $function, $dtype, $work, [
            $($arg,)+
            count(op.grid.input[1]),
            count(op.grid.input[2]),
            count(op.grid.input[3]),
            count(op.args.output_size),
            count(op.args.group_size),
            count(op.grid.runs),
            count(op.args.sample_per_part),
            count(op.parts),
            count($len),
        ])
    }};
}

/// Where the samples of all cells lie.
struct Placed {
    images: CudaStorage,
    sides: CudaStorage,
    low: CudaStorage,
    beyond: CudaStorage,
}

impl Placed {
    fn new(op: &DeformPool, device: &CudaDevice, dtype: DType, offset: Arg<'_>) -> Result<Self> {
        let images: Vec<u32> = op.images.iter().map(|&image| image as u32).collect();
        let sides: Vec<f64> =
            op.boxes.as_flattened().iter().flat_map(|s| [s.start, s.length, s.bin, s.step]).collect();
        let len = op.cells() * op.grid.runs * 2 * op.args.sample_per_part;
        let mut placed = Self {
            images: upload(device, &images)?,
            sides: upload_reals(device, DType::F64, &sides)?,
            low: empty(device, DType::U32, len)?,
            beyond: empty(device, dtype, len)?,
        };
        let args = (
            read_all("deform_ps_roi_pool: boxes", &placed.sides)?,
            if op.moved { offset } else { nothing() },
            write("deform_ps_roi_pool: places", &mut placed.low)?,
            write("deform_ps_roi_pool: places", &mut placed.beyond)?,
            Arg::Real64(op.args.trans_std),
        );
        let work = Work::Elements(len);
        launch!(op, "deform_ps_places", device, dtype, work, len, [args.0, args.1, args.2, args.3, args.4])?;
        Ok(placed)
    }

    /// Images, pixels and distances.
    fn args(&self) -> Result<[Arg<'_>; 3]> {
        Ok([
            read_all("deform_ps_roi_pool: images", &self.images)?,
            read_all("deform_ps_roi_pool: places", &self.low)?,
            read_all("deform_ps_roi_pool: places", &self.beyond)?,
        ])
    }
}

impl DeformPool {
    /// Cells of all regions.
    fn cells(&self) -> usize {
        self.images.len() * self.args.output_size * self.args.output_size
    }
}

pub(super) fn forward(
    op: &DeformPool,
    (s1, l1): (&CudaStorage, &Layout),
    (s2, l2): (&CudaStorage, &Layout),
) -> Result<CudaStorage> {
    let (device, dtype, len) = (s1.device(), s1.dtype(), op.cells() * op.grid.channels());
    let mut out = empty(device, dtype, len)?;
    if len == 0 {
        return Ok(out);
    }
    let placed = Placed::new(op, device, dtype, read("deform_ps_roi_pool: offset", s2, l2)?)?;
    let [images, low, beyond] = placed.args()?;
    let input = read("deform_ps_roi_pool: input", s1, l1)?;
    let to = write("deform_ps_roi_pool: output", &mut out)?;
    launch!(op, "deform_ps_pool", device, dtype, Work::Elements(len), len, [input, images, low, beyond, to])?;
    Ok(out)
}

/// Gradients of input and offset, each only if the tensor takes part in the graph.
pub(super) fn backward(
    op: &DeformPool,
    input: &Tensor,
    offset: &Tensor,
    grad: &Tensor,
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let ((so, lo), (sg, lg)) = (offset.storage_and_layout(), grad.storage_and_layout());
    let (device, dtype) = (on_cuda("deform_ps_roi_pool: gradient", &sg)?.device(), grad.dtype());
    let wanted = (input.track_op(), op.moved && offset.track_op());
    if grad.elem_count() == 0 || input.elem_count() == 0 {
        let zero = |like: &Tensor| {
            Ok::<_, crate::Error>(tensor(zeros(device, dtype, like.elem_count())?, like.dims()))
        };
        let dx = wanted.0.then(|| zero(input)).transpose()?;
        return Ok((dx, wanted.1.then(|| zero(offset)).transpose()?));
    }
    let placed = Placed::new(op, device, dtype, read_storage("deform_ps_roi_pool: offset", &so, lo)?)?;
    let dy = || read_storage("deform_ps_roi_pool: gradient", &sg, lg);
    let dx = wanted.0.then(|| input_gradient(op, device, dtype, &placed, dy()?)).transpose()?;
    let doffset = if wanted.1 {
        Some(tensor(offset_gradient(op, device, input, &placed, dy()?)?, offset.dims()))
    } else {
        None
    };
    Ok((dx, doffset))
}

/// The gradient of the map. Each group of channels of an image is a map of its own on the way.
fn input_gradient(
    op: &DeformPool,
    device: &CudaDevice,
    dtype: DType,
    placed: &Placed,
    grad: Arg<'_>,
) -> Result<Tensor> {
    let ([n, h, w, c], groups, channels) = (op.grid.input, op.grid.groups(), op.grid.channels());
    let each = op.args.sample_per_part * op.args.sample_per_part;
    let all = Samples {
        images: n * groups,
        size: [h, w],
        channels,
        shared: op.grid.runs,
        group_in: channels,
        number: op.cells() * each * op.grid.runs,
        each,
    };
    let mut places = all.places(device, dtype)?;
    let [images, low, beyond] = placed.args()?;
    launch!(
        op,
        "deform_ps_cells",
        device,
        dtype,
        Work::Elements(all.number),
        all.number,
        [
            images,
            low,
            beyond,
            write("deform_ps_roi_pool: cells", &mut places.cells)?,
            write("deform_ps_roi_pool: weights", &mut places.weights)?,
            count(all.cells()?),
        ]
    )?;
    let mut out = empty(device, dtype, n * h * w * c)?;
    all.add_up(device, dtype, grad, places, write("deform_ps_roi_pool: input gradient", &mut out)?)?;
    let out = tensor(out, (n, groups, h, w, channels));
    if groups == 1 {
        return Ok(out.reshape((n, h, w, c))?);
    }
    Ok(out.permute((0, 2, 3, 4, 1))?.contiguous()?.reshape((n, h, w, c))?)
}

fn offset_gradient(
    op: &DeformPool,
    device: &CudaDevice,
    input: &Tensor,
    placed: &Placed,
    grad: Arg<'_>,
) -> Result<CudaStorage> {
    let (s, l) = input.storage_and_layout();
    let (dtype, parts) = (input.dtype(), op.images.len() * op.grid.runs * op.parts * op.parts);
    let mut out = empty(device, dtype, 2 * parts)?;
    let [images, low, beyond] = placed.args()?;
    launch!(
        op,
        "deform_ps_offset",
        device,
        dtype,
        Work::Blocks(parts.div_ceil(WARPS)),
        parts,
        [
            read_storage("deform_ps_roi_pool: input", &s, l)?,
            images,
            read_all("deform_ps_roi_pool: boxes", &placed.sides)?,
            low,
            beyond,
            grad,
            write("deform_ps_roi_pool: offset gradient", &mut out)?,
            Arg::Real64(op.args.trans_std),
        ]
    )?;
    Ok(out)
}
