//! [`super::linear`] on a CUDA device.

use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, Layout, Tensor};

use crate::cuda::{Gemm, empty, on_cuda, read, read_storage, tensor, write, zeros};
use crate::error::{Error, Result};
use crate::ops::conv2d::cuda::{After, apply, place};

/// `(rows, out)`, where `rows` are those of the input of `width` columns.
pub(super) fn forward(
    (xs, xl): (&CudaStorage, &Layout),
    (ws, wl): (&CudaStorage, &Layout),
    bias: Option<(&CudaStorage, &Layout)>,
    [rows, out, width]: [usize; 3],
) -> Result<CudaStorage> {
    let (device, dtype, len) = (xs.device(), xs.dtype(), rows * out);
    // A product over nothing writes nothing.
    let mut y = if width == 0 { zeros(device, dtype, len)? } else { empty(device, dtype, len)? };
    let gemm = Gemm { sizes: [rows, out, width], a_transposed: false, b_transposed: true, accumulate: false };
    let (x, w) = (read("linear: input", xs, xl)?, read("linear: weight", ws, wl)?);
    gemm.run(device, &x, &w, &mut write("linear: output", &mut y)?)?;
    let shift = bias.map(|(s, l)| place("linear: bias", s, l)).transpose()?;
    apply(&After { shift, ..After::default() }, &mut y, out, len)?;
    Ok(y)
}

/// Gradients of input and weight, each only if the tensor takes part in the graph.
pub(super) fn backward(x: &Tensor, w: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let (out, width) = w.dims2()?;
    let rows = grad.elem_count() / out.max(1);
    let ((xs, xl), (ws, wl)) = (x.storage_and_layout(), w.storage_and_layout());
    let (gs, gl) = grad.storage_and_layout();
    let device = on_cuda("linear: gradient", &gs)?.device();
    let g = || read_storage("linear: gradient", &gs, gl);
    let dx = x.track_op().then(|| {
        let mut dx = zeros(device, grad.dtype(), x.elem_count())?;
        let gemm =
            Gemm { sizes: [rows, width, out], a_transposed: false, b_transposed: false, accumulate: false };
        let w = read_storage("linear: weight", &ws, wl)?;
        gemm.run(device, &g()?, &w, &mut write("linear: input gradient", &mut dx)?)?;
        Ok::<_, Error>(tensor(dx, x.shape()))
    });
    let dw = w.track_op().then(|| {
        let mut dw = zeros(device, grad.dtype(), w.elem_count())?;
        let gemm =
            Gemm { sizes: [out, width, rows], a_transposed: true, b_transposed: false, accumulate: false };
        let x = read_storage("linear: input", &xs, xl)?;
        gemm.run(device, &g()?, &x, &mut write("linear: weight gradient", &mut dw)?)?;
        Ok::<_, Error>(tensor(dw, w.shape()))
    });
    Ok((dx.transpose()?, dw.transpose()?))
}
