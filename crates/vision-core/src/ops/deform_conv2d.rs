//! Deformable convolution: a convolution whose taps read between pixels, where a second map says.
//!
//! `out[n, o, y, x] = bias[o] + sum over c, i, j of weight[o, c, i, j] * m * in(n, c', py, px)` with
//! `py = y*sy - pad_y + i*dy + offset[n, 2 k, y, x]`, `px` likewise with `offset[n, 2 k + 1, y, x]`, tap
//! `k = i * kw + j` and `m = mask[n, k, y, x]`, or 1 without a mask. `in` is interpolated bilinearly. The
//! channels fall into `G` offset groups with offsets and masks of their own, `2 kh kw` and `kh kw` channels
//! each, and into `C / weight.dim(1)` groups as in [`super::conv2d`]; both follow from the shapes.
//!
//! Two rules for positions outside the pixels' centres are in use, and weights trained with one are wrong with
//! the other; see [`DeformBorder`]. [`DeformBorder::Zeros`] is torchvision 0.29's `deform_conv2d`.
//! [`DeformBorder::Clamped`] is `DeformableConvolution` of `MXNet` 1.x, which the paper's code was written for
//! (Dai et al., "Deformable convolutional networks", 2017). The mask is from its second version (Zhu et al.,
//! 2019).
//!
//! A position that is not a number gives NaN with [`DeformBorder::Zeros`] and 0 with
//! [`DeformBorder::Clamped`]; an infinite one gives 0 and no gradient (torchvision's gradient there is NaN).
//!
//! The columns (taps times channels per output pixel) are made in blocks and multiplied at once, backward
//! again, so that they take a few megabytes whatever the size of the map.

#[cfg(feature = "cuda")]
mod cuda;
mod kernels;
mod reader;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, Device, Layout, Shape, Tensor};

use self::kernels::{Wanted, backward, forward};
use super::conv2d::output_size;
use super::support::{
    check_device, check_dims, check_dtype, check_float, check_result, check_same_device, cpu_slice,
    dispatch_float, storage_slice,
};
use crate::FeatureMap;
use crate::error::{Error, Result};

/// What a tap reads at and beyond the edge of the map, of `H` rows (and likewise columns).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeformBorder {
    /// The map continues with zeros: values fade out over one pixel, from row 0 to -1 and from `H - 1` to `H`.
    #[default]
    Zeros,
    /// Rows in `[0, H)` are inside, where those beyond `H - 1` read row `H - 1`; all others are zero.
    Clamped,
}

/// How the window of [`deform_conv2d`] moves. Pairs are (vertical, horizontal).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeformConv2dArgs {
    /// Distance between windows in pixels, at least 1.
    pub stride: [usize; 2],
    /// Rows and columns that windows may start before the map.
    pub padding: [usize; 2],
    /// Distance between the taps of the kernel before offsets, at least 1.
    pub dilation: [usize; 2],
    /// What a tap reads outside the map.
    pub border: DeformBorder,
}

impl Default for DeformConv2dArgs {
    fn default() -> Self {
        Self { stride: [1, 1], padding: [0, 0], dilation: [1, 1], border: DeformBorder::Zeros }
    }
}

/// Convolves `input`, `(N, C, H, W)`, with `weight`, `(O, C / groups, kh, kw)`, at positions moved by `offset`,
/// `(N, 2 G kh kw, OH, OW)`, scales what each tap reads by `mask`, `(N, G kh kw, OH, OW)`, and adds `bias`,
/// `(O)`.
///
/// Returns `(N, O, OH, OW)`. Differentiable in all five tensors.
///
/// # Errors
/// If shapes, element types (`f32` or `f64`, all the same) or devices do not fit, a stride or dilation is 0, or
/// the padded input is smaller than the kernel.
pub fn deform_conv2d(
    input: &Tensor,
    offset: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    mask: Option<&Tensor>,
    args: &DeformConv2dArgs,
) -> Result<Tensor> {
    let map = |name: &str, tensor: &Tensor| {
        if tensor.rank() == 4 {
            FeatureMap::from_nchw(tensor)
        } else {
            Err(Error::shape(format!("deform_conv2d: {name}"), "rank 4", tensor.dims()))
        }
    };
    let mask = mask.map(|mask| map("mask", mask)).transpose()?;
    let (input, offset) = (map("input", input)?, map("offset", offset)?);
    deform_conv2d_nhwc(&input, &offset, weight, bias, mask.as_ref(), args)?.to_nchw()
}

/// [`deform_conv2d`] of feature maps, offsets and masks included; `weight` stays `(O, C / groups, kh, kw)`.
///
/// # Errors
/// As [`deform_conv2d`].
pub fn deform_conv2d_nhwc(
    input: &FeatureMap,
    offset: &FeatureMap,
    weight: &Tensor,
    bias: Option<&Tensor>,
    mask: Option<&FeatureMap>,
    args: &DeformConv2dArgs,
) -> Result<FeatureMap> {
    let (input, offset) = (input.nhwc(), offset.nhwc());
    check_float("deform_conv2d: input", input)?;
    check_device("deform_conv2d: input", input)?;
    let others = [("offset", Some(offset)), ("weight", Some(weight)), ("bias", bias)];
    for (name, tensor) in others.into_iter().chain([("mask", mask.map(FeatureMap::nhwc))]) {
        if let Some(tensor) = tensor {
            check_dtype(&format!("deform_conv2d: {name}"), tensor, input.dtype())?;
            check_same_device(&format!("deform_conv2d: {name}"), tensor, input)?;
        }
    }
    let geometry = Geometry::new(input, offset, weight, bias.is_some(), mask.is_some(), args)?;
    let rows = geometry.out_channels;
    // Three tensors are what a custom op takes: places with masks, weights with bias.
    let places = match mask {
        None => offset.clone(),
        Some(mask) => {
            let [n, oh, ow, _] = geometry.place_dims();
            let channels = geometry.offset_groups * geometry.taps();
            check_dims("deform_conv2d: mask as (N, OH, OW, G kh kw)", mask.nhwc(), &[n, oh, ow, channels])?;
            if offset.elem_count() == 0 && offset.device().is_cuda() {
                // The tensor library asks a CUDA device to copy nothing, which is an error there.
                Tensor::zeros(geometry.place_dims().as_slice(), offset.dtype(), offset.device())?
            } else {
                Tensor::cat(&[offset, mask.nhwc()], 3)?
            }
        }
    };
    let weight = weight.reshape((rows, ()))?;
    let weight = match bias {
        None => weight.contiguous()?,
        Some(bias) => {
            check_dims("deform_conv2d: bias", bias, &[rows])?;
            Tensor::cat(&[&weight, &bias.reshape((rows, 1))?], 1)?
        }
    };
    let out = input.apply_op3(&places.contiguous()?, &weight, DeformConv { geometry })?;
    FeatureMap::from_nhwc(out)
}

/// Sizes of one deformable convolution, all checked.
#[derive(Clone, Copy, Debug)]
struct Geometry {
    args: DeformConv2dArgs,
    batch: usize,
    input: [usize; 2],
    output: [usize; 2],
    in_channels: usize,
    out_channels: usize,
    kernel: [usize; 2],
    groups: usize,
    offset_groups: usize,
    biased: bool,
    masked: bool,
}

impl Geometry {
    fn new(
        input: &Tensor,
        offset: &Tensor,
        weight: &Tensor,
        biased: bool,
        masked: bool,
        args: &DeformConv2dArgs,
    ) -> Result<Self> {
        let (batch, height, width, in_channels) = input.dims4()?;
        let &[out_channels, group_in, kh, kw] = weight.dims() else {
            return Err(Error::shape("deform_conv2d: weight", "(O, C / groups, kh, kw)", weight.dims()));
        };
        for (name, pair) in [("stride", args.stride), ("dilation", args.dilation)] {
            if pair.contains(&0) {
                return Err(Error::argument(
                    format!("deform_conv2d: {name}"),
                    format!("{pair:?} contains 0"),
                ));
            }
        }
        let fits = weight.elem_count() > 0 && in_channels > 0 && in_channels % group_in == 0;
        let groups = if fits { in_channels / group_in } else { 0 };
        if groups == 0 || out_channels % groups != 0 {
            return Err(Error::shape(
                "deform_conv2d: weight",
                format!("(O, I, kh, kw), no axis empty, with {in_channels} / I groups that divide O"),
                weight.dims(),
            ));
        }
        let along = |axis: usize, size, kernel| {
            let window = [kernel, args.padding[axis], args.dilation[axis], args.stride[axis]];
            output_size("deform_conv2d", size, window)
        };
        let output = [along(0, height, kh)?, along(1, width, kw)?];
        check_result("deform_conv2d: padding", &[batch, output[0], output[1], out_channels])?;
        let channels = offset.dims4()?.3;
        let offset_groups = channels / (2 * kh * kw);
        let wanted = [batch, output[0], output[1], offset_groups * 2 * kh * kw];
        if offset_groups == 0 || in_channels % offset_groups != 0 || offset.dims() != wanted {
            return Err(Error::shape(
                "deform_conv2d: offset as (N, OH, OW, 2 G kh kw)",
                format!(
                    "({batch}, {}, {}, {} G), G dividing {in_channels}",
                    output[0],
                    output[1],
                    2 * kh * kw
                ),
                offset.dims(),
            ));
        }
        Ok(Self {
            args: *args,
            batch,
            input: [height, width],
            output,
            in_channels,
            out_channels,
            kernel: [kh, kw],
            groups,
            offset_groups,
            biased,
            masked,
        })
    }

    fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Input channels per group.
    fn group_in(&self) -> usize {
        self.in_channels / self.groups
    }

    /// Output channels per group.
    fn group_out(&self) -> usize {
        self.out_channels / self.groups
    }

    /// Output pixels of all images.
    fn pixels(&self) -> usize {
        self.batch * self.output[0] * self.output[1]
    }

    /// Offsets, then masks, per output pixel.
    fn place_len(&self) -> usize {
        self.offset_groups * self.taps() * if self.masked { 3 } else { 2 }
    }

    /// Weights, then bias, per output channel.
    fn weight_len(&self) -> usize {
        self.group_in() * self.taps() + usize::from(self.biased)
    }

    fn place_dims(&self) -> [usize; 4] {
        [self.batch, self.output[0], self.output[1], self.place_len()]
    }

    fn output_dims(&self) -> [usize; 4] {
        [self.batch, self.output[0], self.output[1], self.out_channels]
    }
}

struct DeformConv {
    geometry: Geometry,
}

impl CustomOp3 for DeformConv {
    fn name(&self) -> &'static str {
        "deform_conv2d"
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
        dispatch_float!("deform_conv2d: input", s1.dtype(), T => {
            let input = cpu_slice::<T>("deform_conv2d: input", s1, l1)?;
            let places = cpu_slice::<T>("deform_conv2d: offset", s2, l2)?;
            let weight = cpu_slice::<T>("deform_conv2d: weight", s3, l3)?;
            let out = forward(&self.geometry, input, places, weight);
            Ok((T::to_cpu_storage_owned(out), Shape::from(self.geometry.output_dims().as_slice())))
        })
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
        let out = cuda::forward(&self.geometry, (s1, l1), (s2, l2), (s3, l3))?;
        Ok((out, Shape::from(self.geometry.output_dims().as_slice())))
    }

    fn bwd(
        &self,
        input: &Tensor,
        places: &Tensor,
        weight: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        #[cfg(feature = "cuda")]
        if grad.device().is_cuda() {
            let [dx, dp, dw] = cuda::backward(&self.geometry, input, places, weight, &grad)?;
            return Ok((dx, dp, dw));
        }
        let ((sx, lx), (sp, lp)) = (input.storage_and_layout(), places.storage_and_layout());
        let ((sw, lw), (sg, lg)) = (weight.storage_and_layout(), grad.storage_and_layout());
        dispatch_float!("deform_conv2d: gradient", grad.dtype(), T => {
            let wanted = Wanted {
                input: input.track_op(),
                places: places.track_op(),
                weight: weight.track_op(),
            };
            let gradients = backward(
                &self.geometry,
                storage_slice::<T>("deform_conv2d: input", &sx, lx)?,
                storage_slice::<T>("deform_conv2d: offset", &sp, lp)?,
                storage_slice::<T>("deform_conv2d: weight", &sw, lw)?,
                storage_slice::<T>("deform_conv2d: gradient", &sg, lg)?,
                wanted,
            );
            let tensor = |wanted: bool, values: Vec<T>, like: &Tensor| {
                wanted.then(|| Tensor::from_vec(values, like.dims(), &Device::Cpu)).transpose()
            };
            Ok((
                tensor(wanted.input, gradients.input, input)?,
                tensor(wanted.places, gradients.places, places)?,
                tensor(wanted.weight, gradients.weight, weight)?,
            ))
        })
    }
}

#[cfg(test)]
mod tests;
