//! [`super::gather_scores`] on a CUDA device.

use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, DType, Layout, Tensor};

use crate::cuda::{
    Kernels, Work, count, empty, on_cuda, ptx, read, read_all, read_storage, real, tensor, upload, write,
    zeros,
};
use crate::error::Result;

const KERNELS: Kernels = Kernels { name: "gather_scores", ptx: ptx::GATHER_SCORES };

/// Warps of a block.
const WARPS: usize = 8;
/// Scores that a block of the gradient adds up, `SEGMENT` of the kernel file.
const SEGMENT: usize = 512;

/// The first position of a contiguous `u32` tensor whose element is not below `rows`, and that element.
///
/// One number comes back to the host, not the index.
pub(super) fn first_beyond(what: &str, index: &Tensor, rows: usize) -> Result<Option<(usize, u32)>> {
    let n = index.elem_count();
    if n == 0 {
        return Ok(None);
    }
    let first = {
        let (s, l) = index.storage_and_layout();
        let device = on_cuda(what, &s)?.device();
        let mut first = upload(device, &[u32::MAX])?;
        let args = [read_storage(what, &s, l)?, write(what, &mut first)?, count(n), count(rows)];
        KERNELS.launch(device, "first_beyond", DType::F32, Work::Elements(n), args)?;
        tensor(first, 1)
    };
    match first.to_vec1::<u32>()?[..] {
        [at] if at != u32::MAX => {
            let value = index.flatten_all()?.get(at as usize)?.to_scalar()?;
            Ok(Some((at as usize, value)))
        }
        _ => Ok(None),
    }
}

pub(super) fn forward(
    features: (&CudaStorage, &Layout),
    bank: (&CudaStorage, &Layout),
    index: (&CudaStorage, &Layout),
    scale: f64,
) -> Result<CudaStorage> {
    let (device, dtype) = (features.0.device(), features.0.dtype());
    let ((_, width), (_, columns)) = (features.1.shape().dims2()?, index.1.shape().dims2()?);
    let n = index.1.shape().elem_count();
    let mut scores = empty(device, dtype, n)?;
    if n == 0 {
        return Ok(scores);
    }
    let args = [
        read("gather_scores: features", features.0, features.1)?,
        read("gather_scores: bank", bank.0, bank.1)?,
        read("gather_scores: index", index.0, index.1)?,
        write("gather_scores: scores", &mut scores)?,
        count(n),
        count(columns),
        count(width),
        real(dtype, scale),
    ];
    KERNELS.launch(device, "gather_scores", dtype, Work::Blocks(n.div_ceil(WARPS)), args)?;
    Ok(scores)
}

/// The gradient of the features; `grad` is contiguous.
pub(super) fn gradient(
    features: &Tensor,
    bank: &Tensor,
    index: &Tensor,
    grad: &Tensor,
    scale: f64,
) -> Result<Tensor> {
    let ((vs, vl), (is, il), (gs, gl)) =
        (bank.storage_and_layout(), index.storage_and_layout(), grad.storage_and_layout());
    let device = on_cuda("gather_scores: bank", &vs)?.device();
    let ((batch, width), (_, columns)) = (features.dims2()?, index.dims2()?);
    let dtype = features.dtype();
    if batch * width == 0 || columns == 0 {
        return Ok(tensor(zeros(device, dtype, batch * width)?, features.shape()));
    }
    let segments = columns.div_ceil(SEGMENT);
    let mut partial = empty(device, dtype, batch * segments * width)?;
    let args = [
        read_storage("gather_scores: gradient", &gs, gl)?,
        read_storage("gather_scores: bank", &vs, vl)?,
        read_storage("gather_scores: index", &is, il)?,
        write("gather_scores: partial", &mut partial)?,
        count(columns),
        count(width),
    ];
    KERNELS.launch(device, "gather_scores_gradient", dtype, Work::Grid(batch, segments), args)?;
    let mut df = empty(device, dtype, batch * width)?;
    let args = [
        read_all("gather_scores: partial", &partial)?,
        write("gather_scores: gradient", &mut df)?,
        count(batch * width),
        count(segments),
        count(width),
        real(dtype, scale),
    ];
    KERNELS.launch(device, "gather_scores_finish", dtype, Work::Elements(batch * width), args)?;
    Ok(tensor(df, features.shape()))
}
