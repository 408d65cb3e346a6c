//! The functions of [`super`] for what custom ops and tensors hold.

use candle_core::{CudaStorage, Layout, Tensor};

use super::{After, bias_gradient, data_gradient, forward, place, weight_gradient};
use crate::cuda::{on_cuda, tensor};
use crate::error::Result;
use crate::ops::conv2d::{AfterConv, Geometry};

/// [`forward`] of what a custom op gets, with a bias.
pub(in crate::ops::conv2d) fn forward_op(
    g: &Geometry,
    (s1, l1): (&CudaStorage, &Layout),
    (s2, l2): (&CudaStorage, &Layout),
    bias: Option<(&CudaStorage, &Layout)>,
) -> Result<CudaStorage> {
    let shift = bias.map(|(s, l)| place("conv2d: bias", s, l)).transpose()?;
    let after = After { shift, ..After::default() };
    forward(g, &place("conv2d: input", s1, l1)?, &place("conv2d: weight", s2, l2)?, &after)
}

/// [`forward`] of tensors, `weight` being contiguous.
pub(in crate::ops::conv2d) fn inference(
    g: &Geometry,
    input: &Tensor,
    weight: &Tensor,
    after: &AfterConv<'_>,
) -> Result<CudaStorage> {
    let vector = |tensor: Option<&Tensor>| tensor.map(Tensor::contiguous).transpose();
    let (scale, shift) = (vector(after.scale)?, vector(after.shift)?);
    let ((si, li), (sw, lw)) = (input.storage_and_layout(), weight.storage_and_layout());
    let scale = scale.as_ref().map(Tensor::storage_and_layout);
    let shift = shift.as_ref().map(Tensor::storage_and_layout);
    let residual = after.residual.map(|map| map.nhwc().storage_and_layout());
    macro_rules! part {
        ($what:expr, $option:expr) => {
            $option.as_ref().map(|(s, l)| place($what, on_cuda($what, s)?, l)).transpose()?
        };
    }
    let after = After {
        scale: part!("conv2d: scale", scale),
        shift: part!("conv2d: shift", shift),
        residual: part!("conv2d: residual", residual),
        relu: after.relu,
    };
    let input = place("conv2d: input", on_cuda("conv2d: input", &si)?, li)?;
    let weight = place("conv2d: weight", on_cuda("conv2d: weight", &sw)?, lw)?;
    forward(g, &input, &weight, &after)
}

/// Gradients of input and weight, each only if the tensor takes part in the graph.
pub(in crate::ops::conv2d) fn backward(
    g: &Geometry,
    input: &Tensor,
    weight: &Tensor,
    grad: &Tensor,
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let ((si, li), (sw, lw)) = (input.storage_and_layout(), weight.storage_and_layout());
    let (sg, lg) = grad.storage_and_layout();
    let grad = place("conv2d: gradient", on_cuda("conv2d: gradient", &sg)?, lg)?;
    let dx = input.track_op().then(|| {
        let weight = place("conv2d: weight", on_cuda("conv2d: weight", &sw)?, lw)?;
        Ok::<_, crate::Error>(tensor(data_gradient(g, &weight, &grad, None)?, input.dims()))
    });
    let dw = weight.track_op().then(|| {
        let input = place("conv2d: input", on_cuda("conv2d: input", &si)?, li)?;
        Ok::<_, crate::Error>(tensor(weight_gradient(g, &input, &grad)?, weight.dims()))
    });
    Ok((dx.transpose()?, dw.transpose()?))
}

/// The gradient of the bias.
pub(in crate::ops) fn bias_backward(grad: &Tensor, channels: usize) -> Result<Tensor> {
    let (s, l) = grad.storage_and_layout();
    let grad = place("conv2d: gradient", on_cuda("conv2d: gradient", &s)?, l)?;
    Ok(tensor(bias_gradient(&grad, channels)?, channels))
}
