//! Two-dimensional convolution (cross-correlation) with groups.
//!
//! `out[n, o, y, x] = bias[o] + sum over c, i, j of weight[o, c, i, j] * in[n, c', y*sy - py + i*dy,
//! x*sx - px + j*dx]`, with zeros outside the input and `c'` counted within the group of `o`. Shapes and
//! output sizes are those of PyTorch's `conv2d`: `floor((H + 2 p - d (k - 1) - 1) / s) + 1`.
//!
//! The gradient of an input that takes part in no graph, such as a picture, is not computed.

#[cfg(feature = "cuda")]
pub(super) mod cuda;
mod depthwise;
pub(super) mod gemm;
mod inference;
pub(super) mod kernels;
mod panels;
mod product;
mod transpose;
mod weight_gradient;
mod windows;
mod winograd;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Device, Layout, Shape, Tensor};

pub use self::inference::{AfterConv, PackedConvWeight, conv2d_inference_nhwc};
pub(super) use self::product::Epilogue;
use super::support::{
    Float, check_device, check_dims, check_dtype, check_float, check_result, check_same_device, column_sums,
    cpu_slice, dispatch_float, storage_slice,
};
use crate::FeatureMap;
use crate::error::{Error, Result};

/// How the window of [`conv2d`] moves. Pairs are (vertical, horizontal).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dArgs {
    /// Distance between windows in pixels, at least 1.
    pub stride: [usize; 2],
    /// Rows and columns of zeros added on each side.
    pub padding: [usize; 2],
    /// Distance between the taps of the kernel, at least 1.
    pub dilation: [usize; 2],
    /// Number of groups the channels fall into; divides both channel counts.
    pub groups: usize,
}

impl Default for Conv2dArgs {
    fn default() -> Self {
        Self { stride: [1, 1], padding: [0, 0], dilation: [1, 1], groups: 1 }
    }
}

impl Conv2dArgs {
    /// The same stride and padding along both axes, no dilation, one group.
    pub fn square(stride: usize, padding: usize) -> Self {
        Self { stride: [stride; 2], padding: [padding; 2], ..Self::default() }
    }
}

/// Number of windows of extent `dilation * (kernel - 1) + 1` along an axis, or what is wrong with the input of `op`.
/// Kernel, dilation and stride are at least 1.
pub(super) fn output_size(
    op: &str,
    size: usize,
    [kernel, padding, dilation, stride]: [usize; 4],
) -> Result<usize> {
    let padded = padding.checked_mul(2).and_then(|p| p.checked_add(size));
    let extent = (kernel - 1).checked_mul(dilation).and_then(|e| e.checked_add(1));
    match (padded, extent) {
        (Some(padded), Some(extent)) if extent <= padded && isize::try_from(padded).is_ok() => {
            Ok((padded - extent) / stride + 1)
        }
        _ => Err(Error::argument(
            format!("{op}: input"),
            format!(
                "{size} pixels with padding {padding} are fewer than a kernel of {kernel} with dilation {dilation}"
            ),
        )),
    }
}

/// Sizes of one convolution, all checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub(super) batch: usize,
    pub(super) input: [usize; 2],
    pub(super) output: [usize; 2],
    pub(super) in_channels: usize,
    pub(super) out_channels: usize,
    pub(super) kernel: [usize; 2],
    pub(super) args: Conv2dArgs,
}

impl Geometry {
    fn new(input: &Tensor, weight: &Tensor, args: &Conv2dArgs) -> Result<Self> {
        let &[batch, height, width, in_channels] = input.dims() else {
            return Err(Error::shape("conv2d: input", "rank 4", input.dims()));
        };
        let &[out_channels, weight_in, kh, kw] = weight.dims() else {
            return Err(Error::shape("conv2d: weight", "(O, C / groups, kh, kw)", weight.dims()));
        };
        for (name, pair) in [("stride", args.stride), ("dilation", args.dilation)] {
            if pair.contains(&0) {
                return Err(Error::argument(format!("conv2d: {name}"), format!("{pair:?} contains 0")));
            }
        }
        let groups = args.groups;
        if groups == 0 || in_channels % groups != 0 || out_channels % groups != 0 {
            return Err(Error::argument(
                "conv2d: groups",
                format!("{groups} does not divide {in_channels} input and {out_channels} output channels"),
            ));
        }
        if weight_in != in_channels / groups || weight.elem_count() == 0 {
            return Err(Error::shape(
                "conv2d: weight",
                format!("(O, {}, kh, kw) with no axis empty", in_channels / groups),
                weight.dims(),
            ));
        }
        let along = |axis: usize, size, kernel| {
            let window = [kernel, args.padding[axis], args.dilation[axis], args.stride[axis]];
            output_size("conv2d", size, window)
        };
        let output = [along(0, height, kh)?, along(1, width, kw)?];
        check_result("conv2d: padding", &[batch, output[0], output[1], out_channels])?;
        Ok(Self {
            batch,
            input: [height, width],
            output,
            in_channels,
            out_channels,
            kernel: [kh, kw],
            args: *args,
        })
    }

    fn groups(&self) -> usize {
        self.args.groups
    }

    /// Input channels per group.
    fn group_in(&self) -> usize {
        self.in_channels / self.args.groups
    }

    /// Output channels per group.
    fn group_out(&self) -> usize {
        self.out_channels / self.args.groups
    }

    pub(super) fn input_dims(&self) -> [usize; 4] {
        [self.batch, self.input[0], self.input[1], self.in_channels]
    }

    pub(super) fn output_dims(&self) -> [usize; 4] {
        [self.batch, self.output[0], self.output[1], self.out_channels]
    }
}

/// Convolves `input`, `(N, C, H, W)`, with `weight`, `(O, C / groups, kh, kw)`, and adds `bias`, `(O)`.
///
/// Returns `(N, O, OH, OW)`. Differentiable in all three tensors.
///
/// # Errors
/// If shapes, element types (`f32` or `f64`, all the same) or devices do not fit, a stride or dilation is
/// 0, or the padded input is smaller than the kernel.
pub fn conv2d(input: &Tensor, weight: &Tensor, bias: Option<&Tensor>, args: &Conv2dArgs) -> Result<Tensor> {
    if input.rank() != 4 {
        return Err(Error::shape("conv2d: input", "(N, C, H, W)", input.dims()));
    }
    conv2d_nhwc(&FeatureMap::from_nchw(input)?, weight, bias, args)?.to_nchw()
}

/// [`conv2d`] of a feature map; `weight` stays `(O, C / groups, kh, kw)`.
///
/// # Errors
/// As [`conv2d`].
pub fn conv2d_nhwc(
    input: &FeatureMap,
    weight: &Tensor,
    bias: Option<&Tensor>,
    args: &Conv2dArgs,
) -> Result<FeatureMap> {
    let input = input.nhwc();
    check_float("conv2d: input", input)?;
    check_dtype("conv2d: weight", weight, input.dtype())?;
    check_device("conv2d: input", input)?;
    check_same_device("conv2d: weight", weight, input)?;
    let op = Conv { geometry: Geometry::new(input, weight, args)? };
    let weight = weight.contiguous()?;
    let out = match bias {
        None => input.apply_op2(&weight, op)?,
        Some(bias) => {
            check_dtype("conv2d: bias", bias, input.dtype())?;
            check_same_device("conv2d: bias", bias, input)?;
            check_dims("conv2d: bias", bias, &[op.geometry.out_channels])?;
            input.apply_op3(&weight, &bias.contiguous()?, op)?
        }
    };
    FeatureMap::from_nhwc(out)
}

struct Conv {
    geometry: Geometry,
}

impl Conv {
    fn forward(
        &self,
        (s1, l1): (&CpuStorage, &Layout),
        (s2, l2): (&CpuStorage, &Layout),
        bias: Option<(&CpuStorage, &Layout)>,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        dispatch_float!("conv2d: input", s1.dtype(), T => {
            let input = cpu_slice::<T>("conv2d: input", s1, l1)?;
            let weight = cpu_slice::<T>("conv2d: weight", s2, l2)?;
            let bias = bias.map(|(s, l)| cpu_slice::<T>("conv2d: bias", s, l)).transpose()?;
            let out = kernels::forward(&self.geometry, input, weight, Epilogue { bias, ..Epilogue::NONE });
            Ok((T::to_cpu_storage_owned(out), Shape::from(self.geometry.output_dims().as_slice())))
        })
    }

    /// Gradients of input and weight, each only if the tensor takes part in the graph.
    fn backward<T: Float>(
        &self,
        input: &Tensor,
        weight: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (sg, lg) = grad.storage_and_layout();
        let dy = storage_slice::<T>("conv2d: gradient", &sg, lg)?;
        let dx = if input.track_op() {
            let (s, l) = weight.storage_and_layout();
            let dx = kernels::data_gradient(
                &self.geometry,
                storage_slice::<T>("conv2d: weight", &s, l)?,
                dy,
                None,
            );
            Some(Tensor::from_vec(dx, self.geometry.input_dims().as_slice(), &Device::Cpu)?)
        } else {
            None
        };
        let dw = if weight.track_op() {
            let (s, l) = input.storage_and_layout();
            let dw =
                kernels::weight_gradient(&self.geometry, storage_slice::<T>("conv2d: input", &s, l)?, dy);
            Some(Tensor::from_vec(dw, weight.dims(), &Device::Cpu)?)
        } else {
            None
        };
        Ok((dx, dw))
    }

    fn bias_gradient<T: Float>(&self, grad: &Tensor) -> Result<Tensor> {
        let (s, l) = grad.storage_and_layout();
        let channels = self.geometry.out_channels;
        let sums = column_sums(storage_slice::<T>("conv2d: gradient", &s, l)?, channels);
        let sums: Vec<T> = sums.into_iter().map(T::from_f64).collect();
        Ok(Tensor::from_vec(sums, channels, &Device::Cpu)?)
    }
}

impl CustomOp2 for Conv {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        self.forward((s1, l1), (s2, l2), None)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        let out = cuda::forward_op(&self.geometry, (s1, l1), (s2, l2), None)?;
        Ok((out, Shape::from(self.geometry.output_dims().as_slice())))
    }

    fn bwd(
        &self,
        input: &Tensor,
        weight: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        #[cfg(feature = "cuda")]
        if grad.device().is_cuda() {
            return Ok(cuda::backward(&self.geometry, input, weight, &grad)?);
        }
        dispatch_float!("conv2d: gradient", grad.dtype(), T => Ok(self.backward::<T>(input, weight, &grad)?))
    }
}

impl CustomOp3 for Conv {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        self.forward((s1, l1), (s2, l2), Some((s3, l3)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
        s3: &CudaStorage,
        l3: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        let out = cuda::forward_op(&self.geometry, (s1, l1), (s2, l2), Some((s3, l3)))?;
        Ok((out, Shape::from(self.geometry.output_dims().as_slice())))
    }

    fn bwd(
        &self,
        input: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        #[cfg(feature = "cuda")]
        if grad.device().is_cuda() {
            let (dx, dw) = cuda::backward(&self.geometry, input, weight, &grad)?;
            let db = bias.track_op().then(|| cuda::bias_backward(&grad, self.geometry.out_channels));
            return Ok((dx, dw, db.transpose()?));
        }
        dispatch_float!("conv2d: gradient", grad.dtype(), T => {
            let (dx, dw) = self.backward::<T>(input, weight, &grad)?;
            let db = if bias.track_op() { Some(self.bias_gradient::<T>(&grad)?) } else { None };
            Ok((dx, dw, db))
        })
    }
}

#[cfg(test)]
mod tests;
