//! [`super::box_iou`] and [`super::generalized_box_iou`] on a CUDA device.

use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, Layout, Tensor};

use crate::cuda::{Kernels, Work, count, empty, on_cuda, ptx, read, read_storage, tensor, write};
use crate::error::Result;

const KERNELS: Kernels = Kernels { name: "box_iou", ptx: ptx::BOX_IOU };

pub(super) fn forward(
    (s1, l1): (&CudaStorage, &Layout),
    (s2, l2): (&CudaStorage, &Layout),
    generalized: bool,
) -> Result<CudaStorage> {
    let (device, dtype, columns) = (s1.device(), s1.dtype(), l2.dims()[0]);
    let len = l1.dims()[0] * columns;
    let mut out = empty(device, dtype, len)?;
    let args = [
        read("box_iou: boxes1", s1, l1)?,
        read("box_iou: boxes2", s2, l2)?,
        write("box_iou: output", &mut out)?,
        count(usize::from(generalized)),
        count(columns),
        count(len),
    ];
    KERNELS.launch(device, "box_iou", dtype, Work::Elements(len), args)?;
    Ok(out)
}

/// The gradient of `boxes` against `others`, whose pairs lie `steps` apart in `grad`.
pub(super) fn gradient(
    boxes: &Tensor,
    others: &Tensor,
    grad: &Tensor,
    generalized: bool,
    steps: [usize; 2],
) -> Result<Tensor> {
    let ((s, l), (so, lo)) = (boxes.storage_and_layout(), others.storage_and_layout());
    let (sg, lg) = grad.storage_and_layout();
    let (device, dtype, own) = (on_cuda("box_iou: boxes", &s)?.device(), boxes.dtype(), boxes.dims()[0]);
    let mut out = empty(device, dtype, own * 4)?;
    let args = [
        read_storage("box_iou: boxes", &s, l)?,
        read_storage("box_iou: boxes", &so, lo)?,
        read_storage("box_iou: gradient", &sg, lg)?,
        write("box_iou: box gradient", &mut out)?,
        count(usize::from(generalized)),
        count(others.dims()[0]),
        count(steps[0]),
        count(steps[1]),
    ];
    KERNELS.launch(device, "box_iou_gradient", dtype, Work::Blocks(own), args)?;
    Ok(tensor(out, boxes.shape()))
}
