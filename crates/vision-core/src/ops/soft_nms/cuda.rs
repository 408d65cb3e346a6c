//! [`super::soft_nms`] on a CUDA device, by one block: each round depends on the one before.

use candle_core::backend::BackendStorage;
use candle_core::{DType, Tensor};

use super::{SoftNms, SoftNmsArgs, SoftNmsMethod};
use crate::cuda::{Kernels, Work, count, empty, on_cuda, ptx, read_storage, real, tensor, write};
use crate::error::{Error, Result};
use crate::ops::support::{Float, contiguous, dispatch_float};

const KERNELS: Kernels = Kernels { name: "soft_nms", ptx: ptx::SOFT_NMS };

pub(super) fn soft_nms(boxes: &Tensor, scores: &Tensor, args: &SoftNmsArgs) -> Result<SoftNms> {
    let (n, dtype) = (boxes.dims()[0], boxes.dtype());
    let (boxes, scores) = (contiguous(boxes)?, contiguous(scores)?);
    let ((bs, bl), (ss, sl)) = (boxes.storage_and_layout(), scores.storage_and_layout());
    let device = on_cuda("soft_nms: boxes", &bs)?.device();
    let (margin, threshold) = dispatch_float!("soft_nms: boxes", dtype, T => {
        let margin: T = args.extent.margin();
        Ok::<_, Error>((margin.to_f64(), T::from_f64_down(args.iou_threshold).to_f64()))
    })?;
    let mut rows = empty(device, DType::U32, n)?;
    let (mut boxes_out, mut scores_out) = (empty(device, dtype, 4 * n)?, empty(device, dtype, n)?);
    let mut left = 0;
    if n > 0 {
        let (mut columns, mut scratch) = (empty(device, dtype, 6 * n)?, empty(device, DType::U32, 3 * n)?);
        let mut number = empty(device, DType::U32, 1)?;
        let args = [
            read_storage("soft_nms: boxes", &bs, bl)?,
            read_storage("soft_nms: scores", &ss, sl)?,
            write("soft_nms: columns", &mut columns)?,
            write("soft_nms: keep", &mut rows)?,
            write("soft_nms: scratch", &mut scratch)?,
            write("soft_nms: boxes", &mut boxes_out)?,
            write("soft_nms: scores", &mut scores_out)?,
            write("soft_nms: number", &mut number)?,
            count(n),
            count(match args.method {
                SoftNmsMethod::Hard => 0,
                SoftNmsMethod::Linear => 1,
                SoftNmsMethod::Gaussian => 2,
            }),
            real(dtype, args.sigma),
            real(dtype, threshold),
            real(dtype, args.min_score),
            real(dtype, margin),
        ];
        KERNELS.launch(device, "soft_nms", dtype, Work::Blocks(1), args)?;
        left = tensor(number, 1).to_vec1::<u32>()?.iter().map(|&left| left as usize).sum();
    }
    Ok(SoftNms {
        boxes: tensor(boxes_out, (n, 4)).narrow(0, 0, left)?,
        scores: tensor(scores_out, n).narrow(0, 0, left)?,
        keep: tensor(rows, n).narrow(0, 0, left)?,
    })
}
