//! The passes of a convolution by cuDNN. Each says whether cuDNN has done it; where it has not, for the reasons that
//! [`crate::cuda::cudnn`] names, nothing was written and our own kernels have to.

use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;

use super::{Part, read};
use crate::cuda::cudnn::{Convolution, Pass};
use crate::cuda::{empty, read_all, write};
use crate::error::Result;
use crate::ops::conv2d::Geometry;

impl Geometry {
    fn for_library(&self) -> Convolution {
        let ([h, w], [oh, ow], [kh, kw]) = (self.input, self.output, self.kernel);
        Convolution {
            input: [self.batch, self.in_channels, h, w],
            weight: [self.out_channels, self.in_channels / self.args.groups, kh, kw],
            output: [self.batch, self.out_channels, oh, ow],
            padding: self.args.padding,
            stride: self.args.stride,
            dilation: self.args.dilation,
            groups: self.args.groups,
        }
    }
}

pub(super) fn forward(
    g: &Geometry,
    input: &Part<'_>,
    packed: &CudaStorage,
    out: &mut CudaStorage,
) -> Result<bool> {
    let sizes = g.for_library();
    if !sizes.suits(input.0.dtype()) {
        return Ok(false);
    }
    let (x, w) = (read("conv2d: input", input)?, read_all("conv2d: weight", packed)?);
    sizes.run(input.0.device(), Pass::Forward, &x, &w, &mut write("conv2d: output", out)?)
}

pub(super) fn data_gradient(
    g: &Geometry,
    packed: &CudaStorage,
    grad: &Part<'_>,
    out: &mut CudaStorage,
) -> Result<bool> {
    let sizes = g.for_library();
    if !sizes.suits(grad.0.dtype()) {
        return Ok(false);
    }
    let (w, dy) = (read_all("conv2d: weight", packed)?, read("conv2d: gradient", grad)?);
    sizes.run(grad.0.device(), Pass::Data, &w, &dy, &mut write("conv2d: input gradient", out)?)
}

/// `(O, kh, kw, C / groups)`.
pub(super) fn weight_gradient(
    g: &Geometry,
    input: &Part<'_>,
    grad: &Part<'_>,
) -> Result<Option<CudaStorage>> {
    let (sizes, device, dtype) = (g.for_library(), input.0.device(), input.0.dtype());
    if !sizes.suits(dtype) {
        return Ok(None);
    }
    let mut out = empty(device, dtype, sizes.weight.iter().product())?;
    let (x, dy) = (read("conv2d: input", input)?, read("conv2d: gradient", grad)?);
    let done = sizes.run(device, Pass::Weight, &x, &dy, &mut write("conv2d: weight gradient", &mut out)?)?;
    Ok(done.then_some(out))
}
