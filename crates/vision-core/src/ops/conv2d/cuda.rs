//! [`super::conv2d()`] and its gradients on a CUDA device.
//!
//! One group is a matrix product over windows laid out in memory, in pieces of whole pictures so that they never
//! take more than [`MOST_WINDOWS`]; 1 x 1 convolutions need no windows. Several groups are summed directly. With feature
//! `cudnn` cuDNN is asked first, and this is for what it cannot do.

#[cfg(feature = "cudnn")]
mod library;
mod tensors;

use candle_core::backend::BackendStorage;
use candle_core::{CudaDevice, CudaStorage, DType, Layout};

pub(in crate::ops) use self::tensors::bias_backward;
pub(super) use self::tensors::{backward, forward_op, inference};
use super::Geometry;
use crate::cuda::{
    Arg, Gemm, Kernels, Work, column_sums, count, empty, int, nothing, ptx, read_all, read_range, write,
    write_range, zeros,
};
use crate::error::Result;

const KERNELS: Kernels = Kernels { name: "conv2d", ptx: ptx::CONV2D };

/// Elements of the windows in memory at a time, but for pictures that are larger by themselves.
const MOST_WINDOWS: usize = 1 << 26;

/// A buffer and where a tensor lies in it.
pub(in crate::ops) type Part<'a> = (&'a CudaStorage, std::ops::Range<usize>);

/// What follows a convolution, as in [`super::AfterConv`].
#[derive(Default)]
pub(in crate::ops) struct After<'a> {
    pub(in crate::ops) scale: Option<Part<'a>>,
    pub(in crate::ops) shift: Option<Part<'a>>,
    pub(in crate::ops) residual: Option<Part<'a>>,
    pub(in crate::ops) relu: bool,
}

/// Where a contiguous tensor lies in its buffer.
pub(in crate::ops) fn place<'a>(what: &str, storage: &'a CudaStorage, layout: &Layout) -> Result<Part<'a>> {
    let (start, end) = layout
        .contiguous_offsets()
        .ok_or_else(|| crate::Error::argument(what, "the tensor must be contiguous"))?;
    Ok((storage, start..end))
}

fn read<'a>(what: &str, part: &Part<'a>) -> Result<Arg<'a>> {
    read_range(what, part.0, part.1.clone())
}

/// The numbers of a geometry in the order the kernels declare them.
macro_rules! launch {
    ($function:expr, $g:expr, $batch:expr, $device:expr, $dtype:expr, $work:expr, [$($arg:expr),+ $(,)?]) => {{
        let g: &Geometry = $g;
        KERNELS.launch($device, $function, $dtype, $work, [
            $($arg,)+
            count($batch),
            count(g.input[0]),
            count(g.input[1]),
            count(g.in_channels),
            count(g.output[0]),
            count(g.output[1]),
            count(g.out_channels),
            count(g.kernel[0]),
            count(g.kernel[1]),
            count(g.args.groups),
            count(g.args.stride[0]),
            count(g.args.stride[1]),
            int(g.args.padding[0]),
            int(g.args.padding[1]),
            count(g.args.dilation[0]),
            count(g.args.dilation[1]),
        ])
    }};
}

impl Geometry {
    /// Elements of the windows of one target pixel.
    fn window_len(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.in_channels
    }

    /// Target pixels of one picture.
    fn output_area(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Whether the map already is the matrix of windows.
    fn windows_are_pixels(&self) -> bool {
        self.kernel == [1, 1] && self.args.stride == [1, 1] && self.args.padding == [0, 0]
    }

    /// Pictures whose windows lie in memory at a time.
    fn pictures(&self) -> usize {
        let one = (self.output_area() * self.window_len()).max(1);
        (MOST_WINDOWS / one).clamp(1, self.batch.max(1))
    }

    fn input_len(&self) -> usize {
        self.input[0] * self.input[1] * self.in_channels
    }

    fn output_len(&self) -> usize {
        self.output_area() * self.out_channels
    }
}

/// Weights as `(O, kh, kw, C / groups)`.
fn pack(g: &Geometry, weight: &Part<'_>, device: &CudaDevice, dtype: DType) -> Result<CudaStorage> {
    let (channels, taps) = (g.in_channels / g.args.groups, g.kernel[0] * g.kernel[1]);
    let len = g.out_channels * channels * taps;
    let mut packed = empty(device, dtype, len)?;
    let args = [
        read("conv2d: weight", weight)?,
        write("conv2d: weight", &mut packed)?,
        count(channels),
        count(taps),
        count(len),
    ];
    KERNELS.launch(device, "conv2d_pack", dtype, Work::Elements(len), args)?;
    Ok(packed)
}

/// Runs `each` with the first picture and the number of pictures of every piece of the batch.
fn pieces(g: &Geometry, mut each: impl FnMut(usize, usize) -> Result<()>) -> Result<()> {
    let step = if g.windows_are_pixels() { g.batch.max(1) } else { g.pictures() };
    (0..g.batch).step_by(step).try_for_each(|first| each(first, step.min(g.batch - first)))
}

/// `(N, OH, OW, O)`.
pub(in crate::ops) fn forward(
    g: &Geometry,
    input: &Part<'_>,
    weight: &Part<'_>,
    after: &After<'_>,
) -> Result<CudaStorage> {
    let (device, dtype) = (input.0.device(), input.0.dtype());
    let len = g.batch * g.output_len();
    let mut out = empty(device, dtype, len)?;
    if len == 0 {
        return Ok(out);
    }
    if g.in_channels == 0 {
        out = zeros(device, dtype, len)?;
    } else {
        let packed = pack(g, weight, device, dtype)?;
        #[cfg(feature = "cudnn")]
        let done = library::forward(g, input, &packed, &mut out)?;
        #[cfg(not(feature = "cudnn"))]
        let done = false;
        if !done {
            products(g, input, &packed, &mut out)?;
        }
    }
    apply(after, &mut out, g.out_channels, len)?;
    Ok(out)
}

/// Products of windows and packed weights.
fn products(g: &Geometry, input: &Part<'_>, packed: &CudaStorage, out: &mut CudaStorage) -> Result<()> {
    let (device, dtype, len) = (input.0.device(), input.0.dtype(), g.batch * g.output_len());
    if g.args.groups > 1 {
        return launch!(
            "conv2d_grouped",
            g,
            g.batch,
            device,
            dtype,
            Work::Elements(len),
            [
                read("conv2d: input", input)?,
                read_all("conv2d: weight", packed)?,
                write("conv2d: output", out)?,
                count(len),
            ]
        );
    }
    pieces(g, |first, pictures| {
        let rows = pictures * g.output_area();
        let windows = windows(g, input, first, pictures)?;
        let windows = windows.as_arg(g, input, first, pictures)?;
        let to = first * g.output_len()..(first + pictures) * g.output_len();
        let gemm = Gemm {
            sizes: [rows, g.out_channels, g.window_len()],
            a_transposed: false,
            b_transposed: true,
            accumulate: false,
        };
        let mut out = write_range("conv2d: output", out, to)?;
        gemm.run(device, &windows, &read_all("conv2d: weight", packed)?, &mut out)
    })
}

/// A buffer that a kernel may do without.
fn read_optional<'a>(what: &str, part: Option<&Part<'a>>) -> Result<Arg<'a>> {
    part.map_or(Ok(nothing()), |part| read(what, part))
}

/// Applies what follows a convolution to `len` results.
pub(in crate::ops) fn apply(
    after: &After<'_>,
    out: &mut CudaStorage,
    channels: usize,
    len: usize,
) -> Result<()> {
    if after.scale.is_none() && after.shift.is_none() && after.residual.is_none() && !after.relu {
        return Ok(());
    }
    let (device, dtype) = (out.device().clone(), out.dtype());
    let args = [
        write("conv2d: output", out)?,
        read_optional("conv2d: scale", after.scale.as_ref())?,
        read_optional("conv2d: shift", after.shift.as_ref())?,
        read_optional("conv2d: residual", after.residual.as_ref())?,
        count(usize::from(after.relu)),
        count(channels),
        count(len),
    ];
    KERNELS.launch(&device, "conv2d_after", dtype, Work::Elements(len), args)
}

/// The windows of some pictures: the map itself, or a copy.
enum Windows {
    Pixels,
    Copied(CudaStorage),
}

impl Windows {
    fn as_arg<'a>(
        &'a self,
        g: &Geometry,
        input: &Part<'a>,
        first: usize,
        pictures: usize,
    ) -> Result<Arg<'a>> {
        match self {
            Self::Copied(windows) => read_all("conv2d: windows", windows),
            Self::Pixels => {
                let from = input.1.start + first * g.input_len();
                read_range("conv2d: input", input.0, from..from + pictures * g.input_len())
            }
        }
    }
}

fn windows(g: &Geometry, input: &Part<'_>, first: usize, pictures: usize) -> Result<Windows> {
    if g.windows_are_pixels() {
        return Ok(Windows::Pixels);
    }
    let (device, dtype) = (input.0.device(), input.0.dtype());
    let pixels = pictures * g.output_area();
    let len = pixels * g.window_len();
    let mut windows = empty(device, dtype, len)?;
    launch!(
        "conv2d_windows",
        g,
        g.batch,
        device,
        dtype,
        Work::Elements(len),
        [
            read("conv2d: input", input)?,
            write("conv2d: windows", &mut windows)?,
            count(first * g.output_area()),
            count(len),
        ]
    )?;
    Ok(Windows::Copied(windows))
}

/// The gradient of the map, `(N, H, W, C)`, plus `bias` per channel.
pub(in crate::ops) fn data_gradient(
    g: &Geometry,
    weight: &Part<'_>,
    grad: &Part<'_>,
    bias: Option<&Part<'_>>,
) -> Result<CudaStorage> {
    let (device, dtype) = (grad.0.device(), grad.0.dtype());
    let len = g.batch * g.input_len();
    let mut out = empty(device, dtype, len)?;
    if len == 0 {
        return Ok(out);
    }
    let packed = pack(g, weight, device, dtype)?;
    #[cfg(feature = "cudnn")]
    if library::data_gradient(g, &packed, grad, &mut out)? {
        let after = After { shift: bias.cloned(), ..After::default() };
        apply(&after, &mut out, g.in_channels, len)?;
        return Ok(out);
    }
    let bias_arg = || read_optional("conv2d: bias", bias);
    if g.args.groups > 1 {
        launch!(
            "conv2d_grouped_data",
            g,
            g.batch,
            device,
            dtype,
            Work::Elements(len),
            [
                read("conv2d: gradient", grad)?,
                read_all("conv2d: weight", &packed)?,
                bias_arg()?,
                write("conv2d: input gradient", &mut out)?,
                count(len),
            ]
        )?;
        return Ok(out);
    }
    pieces(g, |first, pictures| {
        let rows = pictures * g.output_area();
        let gemm = Gemm {
            sizes: [rows, g.window_len(), g.out_channels],
            a_transposed: false,
            b_transposed: false,
            accumulate: false,
        };
        let from = grad.1.start + first * g.output_len();
        let grad = read_range("conv2d: gradient", grad.0, from..from + pictures * g.output_len())?;
        let packed = read_all("conv2d: weight", &packed)?;
        let (start, part) = (first * g.input_len(), pictures * g.input_len());
        let mut to = write_range("conv2d: input gradient", &mut out, start..start + part)?;
        if g.windows_are_pixels() && bias.is_none() {
            return gemm.run(device, &grad, &packed, &mut to);
        }
        let mut windows = empty(device, dtype, rows * g.window_len())?;
        gemm.run(device, &grad, &packed, &mut write("conv2d: windows", &mut windows)?)?;
        launch!(
            "conv2d_windows_gradient",
            g,
            pictures,
            device,
            dtype,
            Work::Elements(part),
            [read_all("conv2d: windows", &windows)?, bias_arg()?, to, count(part)]
        )
    })?;
    Ok(out)
}

/// The gradient of the weights, `(O, C / groups, kh, kw)`.
pub(in crate::ops) fn weight_gradient(
    g: &Geometry,
    input: &Part<'_>,
    grad: &Part<'_>,
) -> Result<CudaStorage> {
    let (device, dtype) = (input.0.device(), input.0.dtype());
    let (channels, taps) = (g.in_channels / g.args.groups, g.kernel[0] * g.kernel[1]);
    let len = g.out_channels * channels * taps;
    let mut out = empty(device, dtype, len)?;
    #[cfg(feature = "cudnn")]
    let by_library = library::weight_gradient(g, input, grad)?;
    #[cfg(not(feature = "cudnn"))]
    let by_library: Option<CudaStorage> = None;
    if g.args.groups > 1 && by_library.is_none() {
        launch!(
            "conv2d_grouped_weight",
            g,
            g.batch,
            device,
            dtype,
            Work::Blocks(len),
            [
                read("conv2d: input", input)?,
                read("conv2d: gradient", grad)?,
                write("conv2d: weight gradient", &mut out)?,
            ]
        )?;
        return Ok(out);
    }
    let packed = match by_library {
        Some(packed) => packed,
        None => weight_products(g, input, grad)?,
    };
    let args = [
        read_all("conv2d: weight gradient", &packed)?,
        write("conv2d: weight gradient", &mut out)?,
        count(channels),
        count(taps),
        count(len),
    ];
    KERNELS.launch(device, "conv2d_unpack", dtype, Work::Elements(len), args)?;
    Ok(out)
}

/// Products of gradient and windows, `(O, kh, kw, C)`.
fn weight_products(g: &Geometry, input: &Part<'_>, grad: &Part<'_>) -> Result<CudaStorage> {
    let (device, dtype) = (input.0.device(), input.0.dtype());
    let mut packed = zeros(device, dtype, g.out_channels * g.window_len())?;
    if g.batch * g.output_len() == 0 {
        return Ok(packed);
    }
    pieces(g, |first, pictures| {
        let rows = pictures * g.output_area();
        let windows = windows(g, input, first, pictures)?;
        let windows = windows.as_arg(g, input, first, pictures)?;
        let from = grad.1.start + first * g.output_len();
        let grad = read_range("conv2d: gradient", grad.0, from..from + pictures * g.output_len())?;
        let gemm = Gemm {
            sizes: [g.out_channels, g.window_len(), rows],
            a_transposed: true,
            b_transposed: false,
            accumulate: true,
        };
        gemm.run(device, &grad, &windows, &mut write("conv2d: weight gradient", &mut packed)?)
    })?;
    Ok(packed)
}

/// The gradient of the bias: `grad` summed over all pixels.
pub(in crate::ops) fn bias_gradient(grad: &Part<'_>, channels: usize) -> Result<CudaStorage> {
    let rows = grad.1.len() / channels.max(1);
    column_sums(grad.0.device(), grad.0.dtype(), read("conv2d: gradient", grad)?, [rows, channels])
}
