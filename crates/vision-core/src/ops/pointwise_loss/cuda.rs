//! Losses of element pairs on a CUDA device.

use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, DType, Layout, Shape, Tensor};

use super::{LossOp, PointLoss};
use crate::cuda::{
    Arg, Kernels, Work, count, empty, nothing, on_cuda, ptx, read, read_all, read_storage, real, tensor,
    upload_reals, write,
};
use crate::error::Result;
use crate::ops::cross_entropy::Reduction;

const KERNELS: Kernels = Kernels { name: "pointwise_loss", ptx: ptx::POINTWISE_LOSS };

/// Most partial sums; how many there are depends on the number of elements only.
const PARTS: usize = 1024;

/// Constants of a loss for its kernels.
#[derive(Default)]
pub(in crate::ops) struct Constants {
    /// Factors of the losses, contiguous, which repeat along the elements.
    pub(in crate::ops) weight: Option<Tensor>,
    /// Factors of their positive parts, likewise.
    pub(in crate::ops) pos_weight: Option<Tensor>,
    /// Where the loss changes its form.
    pub(in crate::ops) beta: f64,
}

/// Calls `work` with the constants as arguments of a kernel.
fn with_constants<R>(
    dtype: DType,
    constants: &Constants,
    work: impl FnOnce([Arg<'_>; 5]) -> Result<R>,
) -> Result<R> {
    let (weight, positive) = (
        constants.weight.as_ref().map(Tensor::storage_and_layout),
        constants.pos_weight.as_ref().map(Tensor::storage_and_layout),
    );
    let (mut a, mut b) = ((nothing(), 0), (nothing(), 0));
    if let Some((s, l)) = &weight {
        a = (read_storage("weight", s, l)?, l.shape().elem_count());
    }
    if let Some((s, l)) = &positive {
        b = (read_storage("pos_weight", s, l)?, l.shape().elem_count());
    }
    work([a.0, count(a.1), b.0, count(b.1), real(dtype, constants.beta)])
}

pub(super) fn forward<L: PointLoss>(
    op: &LossOp<L>,
    (s1, l1): (&CudaStorage, &Layout),
    (s2, l2): (&CudaStorage, &Layout),
) -> Result<(CudaStorage, Shape)> {
    let (device, dtype, n) = (s1.device(), s1.dtype(), l1.shape().elem_count());
    let divisor = if op.reduction == Reduction::Mean { n as f64 } else { 1. };
    if n == 0 && op.reduction != Reduction::None {
        return Ok((upload_reals(device, dtype, &[0. / divisor])?, ().into()));
    }
    let constants = op.loss.constants();
    let (x, t) = (read(L::NAME, s1, l1)?, read(L::NAME, s2, l2)?);
    if op.reduction == Reduction::None {
        let mut out = empty(device, dtype, n)?;
        with_constants(dtype, &constants, |[a, b, c, d, e]| {
            let args = [x, t, write(L::NAME, &mut out)?, count(n), a, b, c, d, e];
            KERNELS.launch(device, &format!("{}_each", L::NAME), dtype, Work::Elements(n), args)
        })?;
        return Ok((out, l1.shape().clone()));
    }
    let parts = n.div_ceil(1024).min(PARTS);
    let mut partial = empty(device, DType::F64, parts)?;
    with_constants(dtype, &constants, |[a, b, c, d, e]| {
        let args = [x, t, write(L::NAME, &mut partial)?, count(n), a, b, c, d, e];
        KERNELS.launch(device, &format!("{}_sums", L::NAME), dtype, Work::Blocks(parts), args)
    })?;
    let mut out = empty(device, dtype, 1)?;
    let args = [read_all(L::NAME, &partial)?, write(L::NAME, &mut out)?, count(parts), Arg::Real64(divisor)];
    KERNELS.launch(device, "finish", dtype, Work::Blocks(1), args)?;
    Ok((out, ().into()))
}

/// The gradient of the input, or of the target.
pub(super) fn gradient<L: PointLoss>(
    op: &LossOp<L>,
    input: &Tensor,
    target: &Tensor,
    grad: &Tensor,
    of_target: bool,
) -> Result<Tensor> {
    let ((xs, xl), (ts, tl), (gs, gl)) =
        (input.storage_and_layout(), target.storage_and_layout(), grad.storage_and_layout());
    let device = on_cuda(L::NAME, &xs)?.device();
    let (dtype, n) = (input.dtype(), input.elem_count());
    let mode = match op.reduction {
        Reduction::None => 0,
        Reduction::Sum => 1,
        Reduction::Mean => 2,
    };
    let mut out = empty(device, dtype, n)?;
    if n > 0 {
        with_constants(dtype, &op.loss.constants(), |[a, b, c, d, e]| {
            let args = [
                read_storage(L::NAME, &xs, xl)?,
                read_storage(L::NAME, &ts, tl)?,
                read_storage(L::NAME, &gs, gl)?,
                write(L::NAME, &mut out)?,
                count(n),
                Arg::Int(mode),
                Arg::Int(i32::from(of_target)),
                a,
                b,
                c,
                d,
                e,
            ];
            KERNELS.launch(device, &format!("{}_gradient", L::NAME), dtype, Work::Elements(n), args)
        })?;
    }
    Ok(tensor(out, input.shape()))
}
