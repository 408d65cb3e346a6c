//! Convolution layer.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::WeightInit;
use crate::FeatureMap;
use crate::error::{Error, Result};
use crate::ops::{AfterConv, Conv2dArgs, PackedConvWeight, conv2d_inference_nhwc, conv2d_nhwc};

/// A convolution with parameters `weight`, `(out, in / groups, kh, kw)`, and `bias`, `(out)`.
#[derive(Clone, Debug)]
pub struct Conv2d {
    weight: PackedConvWeight,
    bias: Option<Tensor>,
    args: Conv2dArgs,
}

impl Conv2d {
    /// Takes the parameters from `vb`; new ones start as in PyTorch ([`WeightInit::Uniform`]).
    ///
    /// # Errors
    /// If the groups do not divide the channels, or `vb` cannot give a parameter of the right shape.
    pub fn new(
        in_channels: usize,
        out_channels: usize,
        kernel: [usize; 2],
        args: Conv2dArgs,
        bias: bool,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        Self::with_init([in_channels, out_channels], kernel, args, bias, WeightInit::default(), vb)
    }

    /// [`Conv2d::new`] with chosen initial values; `channels` are those of input and output.
    ///
    /// # Errors
    /// As [`Conv2d::new`].
    #[allow(clippy::needless_pass_by_value, reason = "builders are passed by value throughout candle")]
    pub fn with_init(
        channels: [usize; 2],
        kernel: [usize; 2],
        args: Conv2dArgs,
        bias: bool,
        init: WeightInit,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let ([inputs, outputs], groups) = (channels, args.groups);
        if groups == 0 || inputs % groups != 0 || outputs % groups != 0 {
            return Err(Error::argument(
                format!("Conv2d `{}`: groups", vb.prefix()),
                format!("{groups} does not divide {inputs} input and {outputs} output channels"),
            ));
        }
        let area = kernel[0] * kernel[1];
        let (fan_in, fan_out) = (inputs / groups * area, outputs * area);
        let shape = (outputs, inputs / groups, kernel[0], kernel[1]);
        let weight = vb.get_with_hints(shape, "weight", init.weight(fan_in, fan_out))?;
        let bias = if bias { Some(vb.get_with_hints(outputs, "bias", init.bias(fan_in))?) } else { None };
        Ok(Self { weight: PackedConvWeight::new(weight), bias, args })
    }

    /// Convolves a map.
    ///
    /// # Errors
    /// If the map has another number of channels or is smaller than the kernel.
    pub fn forward(&self, input: &FeatureMap) -> Result<FeatureMap> {
        conv2d_nhwc(input, self.weight(), self.bias.as_ref(), &self.args)
    }

    /// Convolves a map without a gradient and without the layer's own bias, followed by `after`.
    ///
    /// Weights that are no variables are brought into the order of the kernels once; see [`PackedConvWeight`].
    ///
    /// # Errors
    /// As [`conv2d_inference_nhwc`].
    pub fn forward_inference(&self, input: &FeatureMap, after: &AfterConv<'_>) -> Result<FeatureMap> {
        conv2d_inference_nhwc(input, &self.weight, &self.args, after)
    }

    /// The weight, `(out, in / groups, kh, kw)`.
    pub fn weight(&self) -> &Tensor {
        self.weight.weight()
    }

    /// The bias, `(out)`.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// Stride, padding, dilation and groups.
    pub fn args(&self) -> &Conv2dArgs {
        &self.args
    }
}
