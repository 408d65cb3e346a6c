//! [`super::encoding`] on a CUDA device: products of matrices come from cuBLAS, the rest from our kernels.

use candle_core::backend::BackendStorage;
use candle_core::{CudaDevice, CudaStorage, DType, Layout, Tensor};

use super::kernels::Wanted;
use crate::cuda::{
    Arg, Gemm, Kernels, Work, count, empty, on_cuda, ptx, read, read_all, read_range, read_storage, real,
    tensor, write, write_range, zeros,
};
use crate::error::{Error, Result};

const KERNELS: Kernels = Kernels { name: "encoding", ptx: ptx::ENCODING };

/// Positions of a block, `POSITIONS` of the kernel file.
const POSITIONS: usize = 8;

/// Made by forward for backward.
pub(super) struct Kept {
    /// `(B, N, K)`
    assignments: CudaStorage,
    /// Squared lengths of the positions, `(B, N)`.
    squares: CudaStorage,
    /// Sums of the assignments over the positions, `(B, K)`, in double.
    mass: CudaStorage,
}

/// Sizes of one call.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    positions: usize,
    channels: usize,
    codes: usize,
    factor: f64,
}

impl Sizes {
    fn new(x: &Layout, codewords: &Layout, normalize: bool) -> Result<Self> {
        let ((batch, positions, channels), (codes, _)) = (x.shape().dims3()?, codewords.shape().dims2()?);
        let factor = if normalize { 1.0 / channels as f64 } else { 1.0 };
        Ok(Self { batch, positions, channels, codes, factor })
    }

    fn rows(&self) -> usize {
        self.batch * self.positions
    }
}

/// The part of picture `b` of a tensor with `len` elements for each.
fn picture<'a>(what: &str, (s, l): (&'a CudaStorage, &Layout), b: usize, len: usize) -> Result<Arg<'a>> {
    let (start, _) =
        l.contiguous_offsets().ok_or_else(|| Error::argument(what, "the tensor must be contiguous"))?;
    read_range(what, s, start + b * len..start + (b + 1) * len)
}

/// Products of the rows `i % period` of `a` with the rows `i < rows` of `b`.
fn dots(
    device: &CudaDevice,
    dtype: DType,
    [a, b]: [Arg<'_>; 2],
    [rows, width, period]: [usize; 3],
) -> Result<CudaStorage> {
    let mut out = empty(device, dtype, rows)?;
    let args = [a, b, write("encoding: products", &mut out)?, count(width), count(period)];
    KERNELS.launch(device, "encoding_dots", dtype, Work::Blocks(rows), args)?;
    Ok(out)
}

/// The encoded pictures, and what backward needs.
pub(super) fn forward(
    x: (&CudaStorage, &Layout),
    codewords: (&CudaStorage, &Layout),
    scale: (&CudaStorage, &Layout),
    normalize: bool,
) -> Result<(CudaStorage, Kept)> {
    let sizes = Sizes::new(x.1, codewords.1, normalize)?;
    let Sizes { batch, positions, channels, codes, factor } = sizes;
    let (device, dtype, rows) = (x.0.device(), x.0.dtype(), sizes.rows());
    let features = || read("encoding: input", x.0, x.1);
    let centres = || read("encoding: codewords", codewords.0, codewords.1);

    let lengths = dots(device, dtype, [centres()?, centres()?], [codes, channels, codes])?;
    let mut assignments = empty(device, dtype, rows * codes)?;
    let product =
        Gemm { sizes: [rows, codes, channels], a_transposed: false, b_transposed: true, accumulate: false };
    product.run(device, &features()?, &centres()?, &mut write("encoding: assignments", &mut assignments)?)?;
    let mut squares = empty(device, dtype, rows)?;
    let args = [
        features()?,
        read_all("encoding: lengths", &lengths)?,
        read("encoding: scale", scale.0, scale.1)?,
        write("encoding: assignments", &mut assignments)?,
        write("encoding: lengths", &mut squares)?,
        count(rows),
        count(channels),
        count(codes),
        real(dtype, factor),
    ];
    KERNELS.launch(device, "encoding_assign", dtype, Work::Blocks(rows.div_ceil(POSITIONS)), args)?;

    let mut mass = empty(device, DType::F64, batch * codes)?;
    let args = [
        read_all("encoding: assignments", &assignments)?,
        write("encoding: sums", &mut mass)?,
        count(positions),
        count(codes),
    ];
    KERNELS.launch(device, "encoding_mass", dtype, Work::Blocks(batch * codes), args)?;
    let (len, each) = (batch * codes * channels, codes * channels);
    let mut encoded = empty(device, dtype, len)?;
    let product = Gemm {
        sizes: [codes, channels, positions],
        a_transposed: true,
        b_transposed: false,
        accumulate: false,
    };
    for b in 0..batch {
        let shares = b * positions * codes..(b + 1) * positions * codes;
        product.run(
            device,
            &read_range("encoding: assignments", &assignments, shares)?,
            &picture("encoding: input", x, b, positions * channels)?,
            &mut write_range("encoding: output", &mut encoded, b * each..(b + 1) * each)?,
        )?;
    }
    let args = [
        centres()?,
        read_all("encoding: sums", &mass)?,
        write("encoding: output", &mut encoded)?,
        count(len),
        count(channels),
        count(codes),
    ];
    KERNELS.launch(device, "encoding_finish", dtype, Work::Elements(len), args)?;
    Ok((encoded, Kept { assignments, squares, mass }))
}

/// The gradients of input, codewords and scale, for the contiguous tensors input, codewords, scale and upstream gradient.
pub(super) fn backward(
    kept: &Kept,
    [x, codewords, scale, grad]: [&Tensor; 4],
    wanted: Wanted,
    normalize: bool,
) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
    let ((xs, xl), (cs, cl)) = (x.storage_and_layout(), codewords.storage_and_layout());
    let ((ss, sl), (gs, gl)) = (scale.storage_and_layout(), grad.storage_and_layout());
    let (x_on, g_on) = (on_cuda("encoding: input", &xs)?, on_cuda("encoding: gradient", &gs)?);
    let sizes = Sizes::new(xl, cl, normalize)?;
    let Sizes { batch, positions, channels, codes, factor } = sizes;
    let (device, dtype, rows) = (x_on.device(), x.dtype(), sizes.rows());
    let features = || read("encoding: input", x_on, xl);
    let centres = || read_storage("encoding: codewords", &cs, cl);
    let scales = || read_storage("encoding: scale", &ss, sl);
    let upstream = || read("encoding: gradient", g_on, gl);

    let offset = dots(device, dtype, [centres()?, upstream()?], [batch * codes, channels, codes])?;
    let mut pulls = empty(device, dtype, rows * codes)?;
    let each = positions * codes;
    let product = Gemm {
        sizes: [positions, codes, channels],
        a_transposed: false,
        b_transposed: true,
        accumulate: false,
    };
    for b in 0..batch {
        product.run(
            device,
            &picture("encoding: input", (x_on, xl), b, positions * channels)?,
            &picture("encoding: gradient", (g_on, gl), b, codes * channels)?,
            &mut write_range("encoding: pulls", &mut pulls, b * each..(b + 1) * each)?,
        )?;
    }
    let (mut distant, mut own) = (empty(device, dtype, rows * codes)?, empty(device, dtype, rows)?);
    let args = [
        read_all("encoding: assignments", &kept.assignments)?,
        read_all("encoding: offsets", &offset)?,
        scales()?,
        write("encoding: pulls", &mut pulls)?,
        write("encoding: factors", &mut distant)?,
        write("encoding: factors", &mut own)?,
        count(rows),
        count(positions),
        count(codes),
        real(dtype, factor),
    ];
    KERNELS.launch(device, "encoding_pull", dtype, Work::Blocks(rows.div_ceil(POSITIONS)), args)?;

    let mut dx = None;
    if wanted.input {
        let (len, of_one) = (rows * channels, positions * channels);
        let mut out = empty(device, dtype, len)?;
        let mut product = Gemm {
            sizes: [positions, channels, codes],
            a_transposed: false,
            b_transposed: false,
            accumulate: false,
        };
        for b in 0..batch {
            product.run(
                device,
                &read_range("encoding: assignments", &kept.assignments, b * each..(b + 1) * each)?,
                &picture("encoding: gradient", (g_on, gl), b, codes * channels)?,
                &mut write_range("encoding: input gradient", &mut out, b * of_one..(b + 1) * of_one)?,
            )?;
        }
        product = Gemm { sizes: [rows, channels, codes], accumulate: true, ..product };
        let factors = read_all("encoding: factors", &distant)?;
        product.run(device, &factors, &centres()?, &mut write("encoding: input gradient", &mut out)?)?;
        let args = [
            features()?,
            read_all("encoding: factors", &own)?,
            write("encoding: input gradient", &mut out)?,
            count(len),
            count(channels),
        ];
        KERNELS.launch(device, "encoding_own", dtype, Work::Elements(len), args)?;
        dx = Some(tensor(out, x.shape()));
    }
    if !wanted.codes {
        return Ok((dx, None, None));
    }
    // A product over an empty batch writes nothing.
    let mut sums = zeros(device, dtype, codes * channels)?;
    let product =
        Gemm { sizes: [codes, channels, rows], a_transposed: true, b_transposed: false, accumulate: false };
    let q = read_all("encoding: pulls", &pulls)?;
    product.run(device, &q, &features()?, &mut write("encoding: sums", &mut sums)?)?;
    let (mut dc, mut ds) = (empty(device, dtype, codes * channels)?, empty(device, dtype, codes)?);
    let args = [
        q,
        read_all("encoding: lengths", &kept.squares)?,
        centres()?,
        scales()?,
        read_all("encoding: sums", &sums)?,
        read_all("encoding: masses", &kept.mass)?,
        upstream()?,
        write("encoding: codeword gradient", &mut dc)?,
        write("encoding: scale gradient", &mut ds)?,
        count(rows),
        count(batch),
        count(channels),
        count(codes),
        Arg::Real64(factor),
    ];
    KERNELS.launch(device, "encoding_codes", dtype, Work::Blocks(codes), args)?;
    Ok((dx, Some(tensor(dc, codewords.shape())), Some(tensor(ds, scale.shape()))))
}
