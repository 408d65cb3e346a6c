//! [`super::conv_transpose2d()`] on a CUDA device: the convolution's own functions in other roles.

use candle_core::{CudaStorage, Layout, Tensor};

use crate::cuda::{on_cuda, tensor};
use crate::error::{Error, Result};
use crate::ops::conv2d::Geometry;
use crate::ops::conv2d::cuda::{After, data_gradient, forward as convolve, place, weight_gradient};

/// `(N, OH, OW, O)` with a bias.
pub(super) fn forward(
    g: &Geometry,
    (s1, l1): (&CudaStorage, &Layout),
    (s2, l2): (&CudaStorage, &Layout),
    bias: Option<(&CudaStorage, &Layout)>,
) -> Result<CudaStorage> {
    let input = place("conv_transpose2d: input", s1, l1)?;
    let weight = place("conv_transpose2d: weight", s2, l2)?;
    let bias = bias.map(|(s, l)| place("conv_transpose2d: bias", s, l)).transpose()?;
    data_gradient(g, &weight, &input, bias.as_ref())
}

/// Gradients of input and weight, each only if the tensor takes part in the graph.
pub(super) fn backward(
    g: &Geometry,
    input: &Tensor,
    weight: &Tensor,
    grad: &Tensor,
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let ((si, li), (sw, lw)) = (input.storage_and_layout(), weight.storage_and_layout());
    let (sg, lg) = grad.storage_and_layout();
    let what = "conv_transpose2d: gradient";
    let grad = place(what, on_cuda(what, &sg)?, lg)?;
    let dx = input.track_op().then(|| {
        let what = "conv_transpose2d: weight";
        let weight = place(what, on_cuda(what, &sw)?, lw)?;
        Ok::<_, Error>(tensor(convolve(g, &grad, &weight, &After::default())?, input.dims()))
    });
    let dw = weight.track_op().then(|| {
        let what = "conv_transpose2d: input";
        let input = place(what, on_cuda(what, &si)?, li)?;
        Ok::<_, Error>(tensor(weight_gradient(g, &grad, &input)?, weight.dims()))
    });
    Ok((dx.transpose()?, dw.transpose()?))
}
