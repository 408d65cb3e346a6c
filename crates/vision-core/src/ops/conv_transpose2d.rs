//! Transposed two-dimensional convolution with groups: the gradient of [`conv2d`](super::conv2d()) by its input,
//! as an operation of its own.
//!
//! `out[n, o, y*sy - py + i*dy, x*sx - px + j*dx] += in[n, c, y, x] * weight[c, o', i, j]` for every tap `(i, j)`
//! that falls inside the output, plus `bias[o]`, with `o'` counted within the group of `c`. Shapes and output sizes
//! are those of PyTorch's `conv_transpose2d`: `(H - 1) s - 2 p + d (k - 1) + output_padding + 1`.
//!
//! The gradient of an input that takes part in no graph is not computed.

#[cfg(feature = "cuda")]
mod cuda;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Device, Layout, Shape, Tensor};

#[cfg(feature = "cuda")]
use super::conv2d::cuda::bias_backward;
use super::conv2d::{Conv2dArgs, Epilogue, Geometry, kernels};
use super::support::{
    Float, check_device, check_dims, check_dtype, check_float, check_result, check_same_device, column_sums,
    cpu_slice, dispatch_float, storage_slice,
};
use crate::FeatureMap;
use crate::error::{Error, Result};

/// How the window of [`conv_transpose2d`] moves over the output. Pairs are (vertical, horizontal).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvTranspose2dArgs {
    /// Distance in the output between the windows of neighbouring input pixels, at least 1.
    pub stride: [usize; 2],
    /// Rows and columns cut off on each side of the output.
    pub padding: [usize; 2],
    /// Rows and columns added at the far side of the output; less than the stride or the dilation.
    pub output_padding: [usize; 2],
    /// Distance between the taps of the kernel, at least 1.
    pub dilation: [usize; 2],
    /// Number of groups the channels fall into.
    pub groups: usize,
}

impl Default for ConvTranspose2dArgs {
    fn default() -> Self {
        Self { stride: [1, 1], padding: [0, 0], output_padding: [0, 0], dilation: [1, 1], groups: 1 }
    }
}

impl ConvTranspose2dArgs {
    /// The same stride and padding along both axes, no dilation, one group.
    pub fn square(stride: usize, padding: usize) -> Self {
        Self { stride: [stride; 2], padding: [padding; 2], ..Self::default() }
    }

    /// Output pixels along `axis` from `size` input pixels.
    fn output_size(&self, axis: usize, size: usize, kernel: usize) -> Result<usize> {
        let (stride, dilation) = (self.stride[axis], self.dilation[axis]);
        let extra = self.output_padding[axis];
        if extra >= stride.max(dilation) {
            return Err(Error::argument(
                "conv_transpose2d: output_padding",
                format!("{extra} is not less than the stride {stride} or the dilation {dilation}"),
            ));
        }
        let windows = size.checked_sub(1).and_then(|steps| steps.checked_mul(stride));
        let reach = (kernel - 1).checked_mul(dilation).and_then(|reach| reach.checked_add(extra + 1));
        let full = windows.zip(reach).and_then(|(windows, reach)| windows.checked_add(reach));
        let cut = self.padding[axis].checked_mul(2);
        full.zip(cut).and_then(|(full, cut)| full.checked_sub(cut)).filter(|&size| size > 0).ok_or_else(
            || {
                Error::argument(
                    "conv_transpose2d: input",
                    format!("{size} pixels with padding {} leave no output", self.padding[axis]),
                )
            },
        )
    }
}

/// Convolves `input`, `(N, C, H, W)`, with `weight`, `(C, O / groups, kh, kw)`, transposed, and adds `bias`, `(O)`.
///
/// Returns `(N, O, OH, OW)`. Differentiable in all three tensors.
///
/// # Errors
/// If shapes, element types (`f32` or `f64`, all the same) or devices do not fit, a stride or dilation is 0, the
/// output padding is too large, or no output is left.
pub fn conv_transpose2d(
    input: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    args: &ConvTranspose2dArgs,
) -> Result<Tensor> {
    if input.rank() != 4 {
        return Err(Error::shape("conv_transpose2d: input", "(N, C, H, W)", input.dims()));
    }
    conv_transpose2d_nhwc(&FeatureMap::from_nchw(input)?, weight, bias, args)?.to_nchw()
}

/// [`conv_transpose2d`] of a feature map; `weight` stays `(C, O / groups, kh, kw)`.
///
/// # Errors
/// As [`conv_transpose2d`].
pub fn conv_transpose2d_nhwc(
    input: &FeatureMap,
    weight: &Tensor,
    bias: Option<&Tensor>,
    args: &ConvTranspose2dArgs,
) -> Result<FeatureMap> {
    let (batch, height, width, channels) = input.dims()?;
    let input = input.nhwc();
    check_float("conv_transpose2d: input", input)?;
    check_dtype("conv_transpose2d: weight", weight, input.dtype())?;
    check_device("conv_transpose2d: input", input)?;
    check_same_device("conv_transpose2d: weight", weight, input)?;
    let op = ConvTranspose { geometry: geometry([batch, height, width, channels], weight, args)? };
    let weight = weight.contiguous()?;
    let out = match bias {
        None => input.apply_op2(&weight, op)?,
        Some(bias) => {
            check_dtype("conv_transpose2d: bias", bias, input.dtype())?;
            check_same_device("conv_transpose2d: bias", bias, input)?;
            check_dims("conv_transpose2d: bias", bias, &[op.geometry.in_channels])?;
            input.apply_op3(&weight, &bias.contiguous()?, op)?
        }
    };
    FeatureMap::from_nhwc(out)
}

/// The convolution whose gradient this is: from our output to our input.
fn geometry(
    [batch, height, width, channels]: [usize; 4],
    weight: &Tensor,
    args: &ConvTranspose2dArgs,
) -> Result<Geometry> {
    let wrong = |expected: String| Error::shape("conv_transpose2d: weight", expected, weight.dims());
    let &[weight_in, group_out, kh, kw] = weight.dims() else {
        return Err(wrong("(C, O / groups, kh, kw)".to_string()));
    };
    for (name, pair) in [("stride", args.stride), ("dilation", args.dilation)] {
        if pair.contains(&0) {
            return Err(Error::argument(format!("conv_transpose2d: {name}"), format!("{pair:?} contains 0")));
        }
    }
    if args.groups == 0 || channels % args.groups != 0 {
        return Err(Error::argument(
            "conv_transpose2d: groups",
            format!("{} does not divide {channels} input channels", args.groups),
        ));
    }
    if weight_in != channels || weight.elem_count() == 0 {
        return Err(wrong(format!("({channels}, O / groups, kh, kw) with no axis empty")));
    }
    let input = [args.output_size(0, height, kh)?, args.output_size(1, width, kw)?];
    let in_channels = group_out * args.groups;
    check_result("conv_transpose2d: stride", &[batch, input[0], input[1], in_channels])?;
    Ok(Geometry {
        batch,
        input,
        output: [height, width],
        in_channels,
        out_channels: channels,
        kernel: [kh, kw],
        args: Conv2dArgs {
            stride: args.stride,
            padding: args.padding,
            dilation: args.dilation,
            groups: args.groups,
        },
    })
}

struct ConvTranspose {
    geometry: Geometry,
}

impl ConvTranspose {
    fn forward(
        &self,
        (s1, l1): (&CpuStorage, &Layout),
        (s2, l2): (&CpuStorage, &Layout),
        bias: Option<(&CpuStorage, &Layout)>,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        dispatch_float!("conv_transpose2d: input", s1.dtype(), T => {
            let input = cpu_slice::<T>("conv_transpose2d: input", s1, l1)?;
            let weight = cpu_slice::<T>("conv_transpose2d: weight", s2, l2)?;
            let bias = bias.map(|(s, l)| cpu_slice::<T>("conv_transpose2d: bias", s, l)).transpose()?;
            let out = kernels::data_gradient(&self.geometry, weight, input, bias);
            Ok((T::to_cpu_storage_owned(out), Shape::from(self.geometry.input_dims().as_slice())))
        })
    }

    fn backward<T: Float>(
        &self,
        input: &Tensor,
        weight: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (sg, lg) = grad.storage_and_layout();
        let dy = storage_slice::<T>("conv_transpose2d: gradient", &sg, lg)?;
        let dx = if input.track_op() {
            let (s, l) = weight.storage_and_layout();
            let weight = storage_slice::<T>("conv_transpose2d: weight", &s, l)?;
            let dx = kernels::forward(&self.geometry, dy, weight, Epilogue::NONE);
            Some(Tensor::from_vec(dx, self.geometry.output_dims().as_slice(), &Device::Cpu)?)
        } else {
            None
        };
        let dw = if weight.track_op() {
            let (s, l) = input.storage_and_layout();
            let input = storage_slice::<T>("conv_transpose2d: input", &s, l)?;
            let dw = kernels::weight_gradient(&self.geometry, dy, input);
            Some(Tensor::from_vec(dw, weight.dims(), &Device::Cpu)?)
        } else {
            None
        };
        Ok((dx, dw))
    }
}

impl CustomOp2 for ConvTranspose {
    fn name(&self) -> &'static str {
        "conv_transpose2d"
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
        let out = cuda::forward(&self.geometry, (s1, l1), (s2, l2), None)?;
        Ok((out, Shape::from(self.geometry.input_dims().as_slice())))
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
        dispatch_float!("conv_transpose2d: gradient", grad.dtype(), T => {
            Ok(self.backward::<T>(input, weight, &grad)?)
        })
    }
}

impl CustomOp3 for ConvTranspose {
    fn name(&self) -> &'static str {
        "conv_transpose2d"
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
        let out = cuda::forward(&self.geometry, (s1, l1), (s2, l2), Some((s3, l3)))?;
        Ok((out, Shape::from(self.geometry.input_dims().as_slice())))
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
            let db = bias.track_op().then(|| bias_backward(&grad, self.geometry.in_channels));
            return Ok((dx, dw, db.transpose()?));
        }
        dispatch_float!("conv_transpose2d: gradient", grad.dtype(), T => {
            let (dx, dw) = self.backward::<T>(input, weight, &grad)?;
            let db = if bias.track_op() {
                let (s, l) = grad.storage_and_layout();
                let channels = self.geometry.in_channels;
                let sums = column_sums(storage_slice::<T>("conv_transpose2d: gradient", &s, l)?, channels);
                let sums: Vec<T> = sums.into_iter().map(<T as candle_core::WithDType>::from_f64).collect();
                Some(Tensor::from_vec(sums, channels, &Device::Cpu)?)
            } else {
                None
            };
            Ok((dx, dw, db))
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Var};

    use super::*;
    use crate::rng::Key;
    use crate::testing::{assert_close, gradcheck};

    const CPU: Device = Device::Cpu;

    fn normal(name: &str, shape: &[usize]) -> Tensor {
        Key::new(11).fold(name).normal(shape, 0.0, 1.0, DType::F64, &CPU).unwrap()
    }

    #[test]
    fn a_single_pixel_becomes_the_kernel() {
        let x = Tensor::new(&[[[[2.0f32]]]], &CPU).unwrap();
        let w = Tensor::arange(0f32, 9.0, &CPU).unwrap().reshape((1, 1, 3, 3)).unwrap();
        let args = ConvTranspose2dArgs { output_padding: [1, 0], ..ConvTranspose2dArgs::square(2, 1) };
        let bias = Tensor::new(&[0.5f32], &CPU).unwrap();
        let y = conv_transpose2d(&x, &w, Some(&bias), &args).unwrap();
        assert_eq!(y.dims(), [1, 1, 2, 1]);
        assert_eq!(y.flatten_all().unwrap().to_vec1::<f32>().unwrap(), [8.5, 14.5]);
    }

    #[test]
    fn gradients() {
        let square = ConvTranspose2dArgs::square;
        for (x, w, args) in [
            ([2, 3, 4, 3], [3, 2, 3, 3], square(1, 1)),
            ([1, 4, 3, 4], [4, 3, 4, 4], square(2, 1)),
            (
                [2, 4, 3, 2],
                [4, 1, 3, 2],
                ConvTranspose2dArgs { groups: 2, output_padding: [1, 0], ..square(2, 1) },
            ),
            (
                [1, 2, 3, 3],
                [2, 2, 2, 3],
                ConvTranspose2dArgs { stride: [3, 1], dilation: [1, 2], padding: [0, 2], ..square(1, 0) },
            ),
            ([1, 3, 3, 3], [3, 1, 3, 3], ConvTranspose2dArgs { groups: 3, ..square(2, 1) }),
        ] {
            let inputs = [normal("x", &x), normal("w", &w), normal("b", &[w[1] * args.groups])];
            gradcheck(|t| conv_transpose2d(&t[0], &t[1], Some(&t[2]), &args), &inputs, 1e-4, 1e-7).unwrap();
        }
    }

    #[test]
    fn strided_and_empty_inputs() {
        let x = normal("x", &[2, 5, 4, 3]).transpose(1, 3).unwrap();
        let w = normal("w", &[2, 3, 3, 3]).transpose(0, 1).unwrap();
        let args = ConvTranspose2dArgs::square(2, 1);
        let want = conv_transpose2d(&x.contiguous().unwrap(), &w.contiguous().unwrap(), None, &args).unwrap();
        assert_close(&conv_transpose2d(&x, &w, None, &args).unwrap(), &want, 0.0, 0.0).unwrap();
        let empty = Var::zeros((0, 3, 4, 5), DType::F64, &CPU).unwrap();
        let y = conv_transpose2d(&empty, &w, None, &args).unwrap();
        assert_eq!(y.dims(), [0, 2, 7, 9]);
        assert_eq!(y.sum_all().unwrap().backward().unwrap().get(&empty).unwrap().dims(), [0, 3, 4, 5]);
    }

    #[test]
    fn wrong_arguments_are_named() {
        let (x, w) = (normal("x", &[1, 4, 3, 3]), normal("w", &[4, 2, 3, 3]));
        let problem = |x: &Tensor, w: &Tensor, args: ConvTranspose2dArgs| {
            conv_transpose2d(x, w, None, &args).unwrap_err().to_string()
        };
        let plain = ConvTranspose2dArgs::default();
        assert!(problem(&x, &w, ConvTranspose2dArgs { stride: [0, 1], ..plain }).contains("stride"));
        assert!(
            problem(&x, &w, ConvTranspose2dArgs { output_padding: [1, 0], ..plain })
                .contains("output_padding")
        );
        assert!(problem(&x, &w, ConvTranspose2dArgs { groups: 3, ..plain }).contains("groups"));
        assert!(problem(&x, &w, ConvTranspose2dArgs { padding: [3, 3], ..plain }).contains("input"));
        assert!(problem(&x, &normal("w", &[3, 2, 3, 3]), plain).contains("weight"));
        assert!(problem(&normal("x", &[4, 3, 3]), &w, plain).contains("input"));
        let bias = normal("b", &[3]);
        assert!(conv_transpose2d(&x, &w, Some(&bias), &plain).unwrap_err().to_string().contains("bias"));
    }
}
