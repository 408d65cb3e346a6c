//! [`super::cross_entropy`] on a CUDA device.

use candle_core::backend::BackendStorage;
use candle_core::{CudaDevice, CudaStorage, DType, Layout, Tensor};

use super::{CrossEntropy, IGNORED, Reduction, split};
use crate::cuda::{
    Arg, Kernels, Work, column_sums, count, empty, nothing, on_cuda, ptx, read, read_all, read_range,
    read_storage, tensor, upload, upload_reals, write,
};
use crate::error::Result;

const KERNELS: Kernels = Kernels { name: "cross_entropy", ptx: ptx::CROSS_ENTROPY };

/// Made by forward for backward.
pub(super) struct Saved {
    target: CudaStorage,
    weight: Option<CudaStorage>,
    /// `f64`, `(positions, 2)`: maximum of the logits, sum of `exp(logit - maximum)`.
    softmax: CudaStorage,
    total_weight: f64,
}

/// A buffer that a kernel may do without.
fn optional<'a>(what: &str, storage: Option<&'a CudaStorage>) -> Result<Arg<'a>> {
    storage.map_or(Ok(nothing()), |storage| read_all(what, storage))
}

/// The result, of one element or one for each position, and what backward needs.
pub(super) fn forward(op: &CrossEntropy, s: &CudaStorage, l: &Layout) -> Result<(CudaStorage, Saved)> {
    let (device, dtype, positions) = (s.device(), s.dtype(), op.target.len());
    let (classes, inner) = split(l.dims());
    let target = upload(device, &op.target)?;
    let weight = op.weight.as_ref().map(|w| upload_reals(device, DType::F64, w)).transpose()?;
    let mut losses = empty(device, DType::F64, positions)?;
    let mut softmax = empty(device, DType::F64, 2 * positions)?;
    let (even, total) = op.even_share(classes);
    let x = read("cross_entropy: logits", s, l)?;
    let targets = read_all("cross_entropy: target", &target)?;
    let weights = optional("cross_entropy: weight", weight.as_ref())?;
    let sums = write("cross_entropy: sums", &mut softmax)?;
    let to = write("cross_entropy: losses", &mut losses)?;
    let reals = [op.smoothing, even, total].map(Arg::Real64);
    let [smoothing, even, total] = reals;
    if inner == 1 {
        let args = [x, targets, weights, to, sums, smoothing, even, total, count(classes)];
        KERNELS.launch(device, "cross_entropy_rows", dtype, Work::Blocks(positions), args)?;
    } else {
        let sizes = [count(classes), count(inner), count(positions)];
        let [a, b, c] = sizes;
        let args = [x, targets, weights, to, sums, smoothing, even, total, a, b, c];
        KERNELS.launch(device, "cross_entropy", dtype, Work::Elements(positions), args)?;
    }
    let valid = op.target.iter().filter(|&&y| y != IGNORED);
    let total_weight = valid.map(|&y| op.weight_of(y)).sum::<f64>();
    let out = match op.reduction {
        Reduction::None => finish(device, dtype, &losses, positions, 1.0)?,
        reduction => {
            let losses = read_range("cross_entropy: losses", &losses, 0..positions)?;
            let sum = column_sums(device, DType::F64, losses, [positions, 1])?;
            finish(device, dtype, &sum, 1, if reduction == Reduction::Mean { total_weight } else { 1.0 })?
        }
    };
    Ok((out, Saved { target, weight, softmax, total_weight }))
}

/// `losses / total` in the element type.
fn finish(
    device: &CudaDevice,
    dtype: DType,
    losses: &CudaStorage,
    len: usize,
    total: f64,
) -> Result<CudaStorage> {
    let mut out = empty(device, dtype, len)?;
    let args = [
        read_all("cross_entropy: losses", losses)?,
        write("cross_entropy: result", &mut out)?,
        Arg::Real64(total),
        count(len),
    ];
    KERNELS.launch(device, "cross_entropy_finish", dtype, Work::Elements(len), args)?;
    Ok(out)
}

pub(super) fn gradient(op: &CrossEntropy, saved: &Saved, logits: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let (classes, inner) = split(logits.dims());
    let ((xs, xl), (gs, gl)) = (logits.storage_and_layout(), grad.storage_and_layout());
    let device = on_cuda("cross_entropy: logits", &xs)?.device();
    let (dtype, len) = (logits.dtype(), logits.elem_count());
    let mut dx = empty(device, dtype, len)?;
    let (even, total_weight) = op.even_share(classes);
    let total = if op.reduction == Reduction::Mean { saved.total_weight } else { 1.0 };
    let args = [
        read_storage("cross_entropy: logits", &xs, xl)?,
        read_all("cross_entropy: target", &saved.target)?,
        optional("cross_entropy: weight", saved.weight.as_ref())?,
        read_all("cross_entropy: sums", &saved.softmax)?,
        read_storage("cross_entropy: gradient", &gs, gl)?,
        write("cross_entropy: logit gradient", &mut dx)?,
        Arg::Real64(op.smoothing),
        Arg::Real64(even),
        Arg::Real64(total_weight),
        Arg::Real64(total),
        count(usize::from(op.reduction == Reduction::None)),
        count(classes),
        count(inner),
        count(len),
    ];
    KERNELS.launch(device, "cross_entropy_gradient", dtype, Work::Elements(len), args)?;
    Ok(tensor(dx, logits.shape()))
}
