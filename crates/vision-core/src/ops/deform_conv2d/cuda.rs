//! [`super::deform_conv2d`] and its gradients on a CUDA device.
//!
//! What the taps read is laid out in memory, `(groups, output pixels, taps, C / groups)`, and multiplied with the
//! weights, in pieces of whole images.

use candle_core::backend::BackendStorage;
use candle_core::{CudaDevice, CudaStorage, DType, Layout, Tensor};

use super::{DeformBorder, Geometry};
use crate::cuda::{
    Arg, Gemm, Kernels, Samples, Work, column_sums, count, empty, nothing, on_cuda, ptx, read, read_all,
    read_range, read_storage, tensor, write, write_range, zeros,
};
use crate::error::{Error, Result};

const KERNELS: Kernels = Kernels { name: "deform_conv2d", ptx: ptx::DEFORM_CONV2D };

/// Elements of the columns in memory at a time, but for images that are larger by themselves.
const MOST_COLUMNS: usize = 1 << 26;
/// Warps of a block, each of which has a sample.
const WARPS: usize = 8;

/// A piece of the batch: whole images.
#[derive(Clone, Copy)]
struct Piece<'a> {
    g: &'a Geometry,
    device: &'a CudaDevice,
    dtype: DType,
    first: usize,
    images: usize,
}

/// Launches a kernel with the numbers that all of a piece take behind their buffers.
macro_rules! launch {
    ($piece:expr, $function:expr, $work:expr, $len:expr, [$($arg:expr),+ $(,)?]) => {{
        let piece: &Piece<'_> = $piece;
        let g = piece.g;
        KERNELS.launch(piece.device, $function, piece.dtype, $work, [
            $($arg,)+
            count(piece.first * g.area()),
            count(piece.rows()),
            count(g.input[0]),
            count(g.input[1]),
            count(g.in_channels),
            count(g.output[0]),
            count(g.output[1]),
            count(g.kernel[0]),
            count(g.kernel[1]),
            count(g.groups),
            count(g.offset_groups),
            count(usize::from(g.masked)),
            count(usize::from(g.args.border == DeformBorder::Clamped)),
            count(g.args.stride[0]),
            count(g.args.stride[1]),
            g.padding(0)?,
            g.padding(1)?,
            count(g.args.dilation[0]),
            count(g.args.dilation[1]),
            count($len),
        ])
    }};
}

impl Geometry {
    /// Output pixels of an image.
    fn area(&self) -> usize {
        self.output[0] * self.output[1]
    }

    fn input_len(&self) -> usize {
        self.input[0] * self.input[1] * self.in_channels
    }

    /// The padding as an `int`, if all positions of taps are such numbers.
    fn padding(&self, axis: usize) -> Result<Arg<'static>> {
        let padding = self.args.padding[axis];
        // No tap lies beyond the padded map.
        let last = i32::try_from(2 * padding + self.input[axis]);
        match (i32::try_from(padding), last) {
            (Ok(padding), Ok(_)) => Ok(Arg::Int(padding)),
            _ => Err(Error::argument(
                "deform_conv2d: padding",
                format!("{padding} is too large for a CUDA device"),
            )),
        }
    }

    /// The pieces that a batch falls into.
    fn pieces<'a>(&'a self, device: &'a CudaDevice, dtype: DType) -> impl Iterator<Item = Piece<'a>> {
        let columns = self.area() * self.taps() * self.in_channels;
        let step = (MOST_COLUMNS / columns.max(1)).clamp(1, self.batch.max(1));
        (0..self.batch).step_by(step).map(move |first| {
            let images = step.min(self.batch - first);
            Piece { g: self, device, dtype, first, images }
        })
    }

    /// Weights as `(O, taps, C / groups)`.
    fn pack(&self, device: &CudaDevice, dtype: DType, weight: Arg<'_>) -> Result<CudaStorage> {
        let len = self.out_channels * self.taps() * self.group_in();
        let mut packed = empty(device, dtype, len)?;
        let args = [
            weight,
            write("deform_conv2d: weight", &mut packed)?,
            count(self.taps()),
            count(self.group_in()),
            count(self.weight_len()),
            count(len),
        ];
        KERNELS.launch(device, "deform_conv2d_pack", dtype, Work::Elements(len), args)?;
        Ok(packed)
    }
}

/// Exchanges the first two axes of `(rows, groups, len)`.
fn exchange(
    device: &CudaDevice,
    dtype: DType,
    x: Arg<'_>,
    [rows, groups, len]: [usize; 3],
    y: Arg<'_>,
) -> Result<()> {
    let all = rows * groups * len;
    let args = [x, y, count(rows), count(groups), count(len), count(all)];
    KERNELS.launch(device, "deform_conv2d_exchange", dtype, Work::Elements(all), args)
}

impl Piece<'_> {
    /// Output pixels.
    fn rows(&self) -> usize {
        self.images * self.g.area()
    }

    /// What all taps of a group of channels read, per output pixel.
    fn row_len(&self) -> usize {
        self.g.taps() * self.g.group_in()
    }

    /// Where the output of the piece lies.
    fn output(&self) -> std::ops::Range<usize> {
        let len = self.g.area() * self.g.out_channels;
        self.first * len..(self.first + self.images) * len
    }

    fn empty(&self, len: usize) -> Result<CudaStorage> {
        empty(self.device, self.dtype, len)
    }

    fn columns(&self, input: Arg<'_>, places: Arg<'_>) -> Result<CudaStorage> {
        let len = self.g.groups * self.rows() * self.row_len();
        let mut columns = self.empty(len)?;
        let to = write("deform_conv2d: columns", &mut columns)?;
        launch!(self, "deform_conv2d_columns", Work::Elements(len), len, [input, places, to])?;
        Ok(columns)
    }

    /// Products of the columns with the weights, and the bias, as `(rows, O)` to `out`.
    fn output_of(
        &self,
        columns: &CudaStorage,
        packed: &CudaStorage,
        weight: Arg<'_>,
        out: &mut CudaStorage,
    ) -> Result<()> {
        let (g, rows, og, len) = (self.g, self.rows(), self.g.group_out(), self.row_len());
        let product =
            Gemm { sizes: [rows, og, len], a_transposed: false, b_transposed: true, accumulate: false };
        let what = "deform_conv2d: output";
        if g.groups == 1 {
            let (a, b) = (read_all("deform_conv2d: columns", columns)?, read_all(what, packed)?);
            product.run(self.device, &a, &b, &mut write_range(what, out, self.output())?)?;
        } else {
            let mut products = self.empty(rows * g.out_channels)?;
            for group in 0..g.groups {
                let a = read_range(what, columns, group * rows * len..(group + 1) * rows * len)?;
                let b = read_range(what, packed, group * og * len..(group + 1) * og * len)?;
                let to = group * rows * og..(group + 1) * rows * og;
                product.run(self.device, &a, &b, &mut write_range(what, &mut products, to)?)?;
            }
            let to = write_range(what, out, self.output())?;
            let sizes = [g.groups, rows, og];
            exchange(self.device, self.dtype, read_all(what, &products)?, sizes, to)?;
        }
        if g.biased {
            let all = rows * g.out_channels;
            let to = write_range(what, out, self.output())?;
            let args = [to, weight, count(g.out_channels), count(g.weight_len()), count(all)];
            KERNELS.launch(self.device, "deform_conv2d_bias", self.dtype, Work::Elements(all), args)?;
        }
        Ok(())
    }

    /// Adds to the gradient of the weights, `(O, taps, C / groups)`; the first piece writes it.
    fn weight_gradient(
        &self,
        columns: &CudaStorage,
        grad: &Groups<'_>,
        packed: &mut CudaStorage,
    ) -> Result<()> {
        let (rows, og, len) = (self.rows(), self.g.group_out(), self.row_len());
        for group in 0..self.g.groups {
            let what = "deform_conv2d: weight gradient";
            let b = read_range(what, columns, group * rows * len..(group + 1) * rows * len)?;
            let to = group * og * len..(group + 1) * og * len;
            let product = Gemm {
                sizes: [og, len, rows],
                a_transposed: true,
                b_transposed: false,
                accumulate: self.first > 0,
            };
            product.run(self.device, &grad.group(self, group)?, &b, &mut write_range(what, packed, to)?)?;
        }
        Ok(())
    }

    /// Gradients of the columns: the output's gradient times the weights.
    fn column_gradients(&self, grad: &Groups<'_>, packed: &CudaStorage) -> Result<CudaStorage> {
        let (rows, og, len) = (self.rows(), self.g.group_out(), self.row_len());
        let mut out = self.empty(self.g.groups * rows * len)?;
        for group in 0..self.g.groups {
            let what = "deform_conv2d: column gradients";
            let b = read_range(what, packed, group * og * len..(group + 1) * og * len)?;
            let to = group * rows * len..(group + 1) * rows * len;
            let product =
                Gemm { sizes: [rows, len, og], a_transposed: false, b_transposed: false, accumulate: false };
            product.run(self.device, &grad.group(self, group)?, &b, &mut write_range(what, &mut out, to)?)?;
        }
        Ok(out)
    }

    /// Writes the gradient of offsets and masks.
    fn place_gradient(
        &self,
        input: Arg<'_>,
        places: Arg<'_>,
        column_grads: &CudaStorage,
        out: &mut CudaStorage,
    ) -> Result<()> {
        let samples = self.rows() * self.g.taps() * self.g.offset_groups;
        let grads = read_all("deform_conv2d: column gradients", column_grads)?;
        let args = (input, places, grads, write("deform_conv2d: offset gradient", out)?);
        let work = Work::Blocks(samples.div_ceil(WARPS));
        launch!(self, "deform_conv2d_places", work, samples, [args.0, args.1, args.2, args.3])
    }

    /// Writes the gradient of the images of the piece.
    fn input_gradient(
        &self,
        places: Arg<'_>,
        column_grads: &CudaStorage,
        out: &mut CudaStorage,
    ) -> Result<()> {
        let g = self.g;
        let all = Samples {
            images: self.images,
            size: g.input,
            channels: g.in_channels,
            shared: g.offset_groups,
            group_in: g.group_in(),
            number: self.rows() * g.taps() * g.offset_groups,
            each: 1,
        };
        let mut found = all.places(self.device, self.dtype)?;
        let cells = write("deform_conv2d: cells", &mut found.cells)?;
        let weights = write("deform_conv2d: weights", &mut found.weights)?;
        let args = (places, cells, weights, count(all.cells()?));
        let work = Work::Elements(all.number);
        launch!(self, "deform_conv2d_cells", work, all.number, [args.0, args.1, args.2, args.3])?;
        let grads = read_all("deform_conv2d: column gradients", column_grads)?;
        let to = self.first * g.input_len()..(self.first + self.images) * g.input_len();
        let out = write_range("deform_conv2d: input gradient", out, to)?;
        all.add_up(self.device, self.dtype, grads, found, out)
    }
}

/// The gradient of the output of a piece, by groups.
struct Groups<'a> {
    grad: (&'a CudaStorage, usize),
    /// `(groups, rows, O / groups)`, if that differs from what is given.
    exchanged: Option<CudaStorage>,
}

impl<'a> Groups<'a> {
    fn new(piece: &Piece<'_>, storage: &'a CudaStorage, start: usize) -> Result<Self> {
        let g = piece.g;
        let exchanged = if g.groups == 1 {
            None
        } else {
            let mut out = piece.empty(piece.rows() * g.out_channels)?;
            let what = "deform_conv2d: gradient";
            let range = start + piece.output().start..start + piece.output().end;
            let sizes = [piece.rows(), g.groups, g.group_out()];
            let grad = read_range(what, storage, range)?;
            exchange(piece.device, piece.dtype, grad, sizes, write(what, &mut out)?)?;
            Some(out)
        };
        Ok(Self { grad: (storage, start + piece.output().start), exchanged })
    }

    fn group(&self, piece: &Piece<'_>, group: usize) -> Result<Arg<'_>> {
        let len = piece.rows() * piece.g.group_out();
        let (storage, start) = match &self.exchanged {
            Some(exchanged) => (exchanged, group * len),
            None => self.grad,
        };
        read_range("deform_conv2d: gradient", storage, start..start + len)
    }
}

/// `(N, OH, OW, O)`.
pub(super) fn forward(
    g: &Geometry,
    (s1, l1): (&CudaStorage, &Layout),
    (s2, l2): (&CudaStorage, &Layout),
    (s3, l3): (&CudaStorage, &Layout),
) -> Result<CudaStorage> {
    let (device, dtype) = (s1.device(), s1.dtype());
    let mut out = empty(device, dtype, g.pixels() * g.out_channels)?;
    let weight = || read("deform_conv2d: weight", s3, l3);
    let packed = g.pack(device, dtype, weight()?)?;
    for piece in g.pieces(device, dtype) {
        let (input, places) = (read("deform_conv2d: input", s1, l1)?, read("deform_conv2d: offset", s2, l2)?);
        piece.output_of(&piece.columns(input, places)?, &packed, weight()?, &mut out)?;
    }
    Ok(out)
}

/// Gradients of input, places and weight, each only if the tensor takes part in the graph.
pub(super) fn backward(
    g: &Geometry,
    input: &Tensor,
    places: &Tensor,
    weight: &Tensor,
    grad: &Tensor,
) -> Result<[Option<Tensor>; 3]> {
    let ((sx, lx), (sp, lp)) = (input.storage_and_layout(), places.storage_and_layout());
    let ((sw, lw), (sg, lg)) = (weight.storage_and_layout(), grad.storage_and_layout());
    let what = "deform_conv2d: gradient";
    let (grads, dtype) = (on_cuda(what, &sg)?, grad.dtype());
    let (device, start) = (grads.device(), lg.start_offset());
    let zeros_for = |like: &Tensor| {
        let wanted = like.track_op();
        wanted.then(|| zeros(device, dtype, like.elem_count())).transpose()
    };
    // Without output pixels there are no pieces, without input pixels only the bias has a gradient.
    let mut dx = zeros_for(input)?;
    let mut dp = zeros_for(places)?;
    let mut dw = weight
        .track_op()
        .then(|| zeros(device, dtype, g.out_channels * g.taps() * g.group_in()))
        .transpose()?;
    let packed = g.pack(device, dtype, read_storage("deform_conv2d: weight", &sw, lw)?)?;
    if input.elem_count() > 0 {
        let image = || read_storage("deform_conv2d: input", &sx, lx);
        let at = || read_storage("deform_conv2d: offset", &sp, lp);
        for piece in g.pieces(device, dtype) {
            let grad = Groups::new(&piece, grads, start)?;
            if let Some(dw) = &mut dw {
                piece.weight_gradient(&piece.columns(image()?, at()?)?, &grad, dw)?;
            }
            if dx.is_some() || dp.is_some() {
                let column_grads = piece.column_gradients(&grad, &packed)?;
                if let Some(dp) = &mut dp {
                    piece.place_gradient(image()?, at()?, &column_grads, dp)?;
                }
                if let Some(dx) = &mut dx {
                    piece.input_gradient(at()?, &column_grads, dx)?;
                }
            }
        }
    }
    let dw = dw.map(|packed| unpack(g, device, &packed, grad)).transpose()?;
    Ok([dx.map(|dx| tensor(dx, input.dims())), dp.map(|dp| tensor(dp, places.dims())), dw])
}

/// The gradient of the weights in their own order, with that of the bias behind each row if there is one.
fn unpack(g: &Geometry, device: &CudaDevice, packed: &CudaStorage, grad: &Tensor) -> Result<Tensor> {
    let (s, l) = grad.storage_and_layout();
    let (dtype, len) = (grad.dtype(), g.out_channels * g.weight_len());
    let bias = match g.biased {
        false => None,
        true if grad.elem_count() == 0 => Some(zeros(device, dtype, g.out_channels)?),
        true => {
            let grad = read_storage("deform_conv2d: gradient", &s, l)?;
            Some(column_sums(device, dtype, grad, [g.pixels(), g.out_channels])?)
        }
    };
    let mut out = empty(device, dtype, len)?;
    let args = [
        read_all("deform_conv2d: weight gradient", packed)?,
        bias.as_ref().map_or(Ok(nothing()), |bias| read_all("deform_conv2d: bias gradient", bias))?,
        write("deform_conv2d: weight gradient", &mut out)?,
        count(g.taps()),
        count(g.group_in()),
        count(g.weight_len()),
        count(len),
    ];
    KERNELS.launch(device, "deform_conv2d_unpack", dtype, Work::Elements(len), args)?;
    Ok(tensor(out, (g.out_channels, g.weight_len())))
}
