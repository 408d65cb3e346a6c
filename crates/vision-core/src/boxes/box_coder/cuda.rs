//! [`super::BoxCoder`] on a CUDA device.

use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, DType, Layout, Tensor};

use super::BoxCoder;
use crate::cuda::{Arg, Kernels, Work, count, empty, on_cuda, ptx, read, read_storage, real, tensor, write};
use crate::error::Result;
use crate::ops::BoxExtent;

const KERNELS: Kernels = Kernels { name: "box_coder", ptx: ptx::BOX_CODER };

impl BoxCoder {
    /// Weights and margin, as the kernels declare them.
    fn numbers(&self, dtype: DType) -> [Arg<'static>; 5] {
        let [wx, wy, ww, wh] = self.weights;
        let margin = match self.extent {
            BoxExtent::Continuous => 0.0,
            BoxExtent::Inclusive => 1.0,
        };
        [wx, wy, ww, wh, margin].map(|number| real(dtype, number))
    }
}

/// Offsets of contiguous boxes from as many contiguous anchors.
pub(super) fn encode(coder: &BoxCoder, boxes: &Tensor, anchors: &Tensor) -> Result<Tensor> {
    let ((s1, l1), (s2, l2)) = (boxes.storage_and_layout(), anchors.storage_and_layout());
    let (device, dtype, n) =
        (on_cuda("box_coder.encode: boxes", &s1)?.device(), boxes.dtype(), boxes.dims()[0]);
    let mut out = empty(device, dtype, n * 4)?;
    let [wx, wy, ww, wh, margin] = coder.numbers(dtype);
    let args = [
        read_storage("box_coder.encode: boxes", &s1, l1)?,
        read_storage("box_coder.encode: anchors", &s2, l2)?,
        write("box_coder.encode: offsets", &mut out)?,
        count(n),
        wx,
        wy,
        ww,
        wh,
        margin,
    ];
    KERNELS.launch(device, "box_encode", dtype, Work::Elements(n), args)?;
    Ok(tensor(out, (n, 4)))
}

/// Boxes of contiguous offsets.
pub(super) fn decode(
    coder: &BoxCoder,
    (s1, l1): (&CudaStorage, &Layout),
    (s2, l2): (&CudaStorage, &Layout),
) -> Result<CudaStorage> {
    let (device, dtype, len) = (s1.device(), s1.dtype(), l1.shape().elem_count());
    let mut out = empty(device, dtype, len)?;
    let [wx, wy, ww, wh, margin] = coder.numbers(dtype);
    let args = [
        read("box_coder.decode: deltas", s1, l1)?,
        read("box_coder.decode: anchors", s2, l2)?,
        write("box_coder.decode: boxes", &mut out)?,
        count(len / 4),
        count(l1.dims()[1] / 4),
        real(dtype, coder.clip),
        wx,
        wy,
        ww,
        wh,
        margin,
    ];
    KERNELS.launch(device, "box_decode", dtype, Work::Elements(len / 4), args)?;
    Ok(out)
}

/// The gradient of the offsets.
pub(super) fn gradient(coder: &BoxCoder, deltas: &Tensor, anchors: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let ((s1, l1), (s2, l2)) = (deltas.storage_and_layout(), anchors.storage_and_layout());
    let (sg, lg) = grad.storage_and_layout();
    let device = on_cuda("box_coder.decode: gradient", &sg)?.device();
    let (dtype, len) = (grad.dtype(), deltas.elem_count());
    let mut out = empty(device, dtype, len)?;
    let [wx, wy, ww, wh, margin] = coder.numbers(dtype);
    let args = [
        read_storage("box_coder.decode: deltas", &s1, l1)?,
        read_storage("box_coder.decode: anchors", &s2, l2)?,
        read_storage("box_coder.decode: gradient", &sg, lg)?,
        write("box_coder.decode: offset gradient", &mut out)?,
        count(len / 4),
        count(deltas.dims()[1] / 4),
        real(dtype, coder.clip),
        wx,
        wy,
        ww,
        wh,
        margin,
    ];
    KERNELS.launch(device, "box_decode_gradient", dtype, Work::Elements(len / 4), args)?;
    Ok(tensor(out, deltas.shape()))
}
