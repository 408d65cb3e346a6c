//! The residual blocks.

use candle_nn::VarBuilder;

use crate::error::{Error, Result};
use crate::nn::{BatchNorm2d, BatchNormConfig, Conv2d, ConvNorm, WeightInit};
use crate::ops::Conv2dArgs;
use crate::{FeatureMap, Pass};

/// The two designs of a residual branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Two 3x3 convolutions.
    Basic,
    /// 1x1, 3x3 and 1x1 convolutions; the last has four times the channels.
    Bottleneck,
}

/// Shape of a [`Block`].
pub(super) struct BlockConfig {
    pub(super) kind: Kind,
    pub(super) in_channels: usize,
    /// Channels of the 3x3 convolutions.
    pub(super) planes: usize,
    pub(super) stride: usize,
    /// Dilation of the first 3x3 convolution.
    pub(super) first_dilation: usize,
    /// Dilation of a second 3x3 convolution.
    pub(super) dilation: usize,
    pub(super) init: WeightInit,
    pub(super) zero_init_residual: bool,
    pub(super) norm: BatchNormConfig,
}

impl BlockConfig {
    pub(super) fn out_channels(&self) -> usize {
        match self.kind {
            Kind::Basic => self.planes,
            Kind::Bottleneck => self.planes * 4,
        }
    }

    /// The branch's convolutions.
    fn layers(&self) -> Vec<Layer> {
        let (planes, stride) = (self.planes, self.stride);
        let pointwise = |out| Layer { kernel: 1, stride: 1, dilation: 1, out };
        let first = Layer { kernel: 3, stride, dilation: self.first_dilation, out: planes };
        match self.kind {
            Kind::Basic => vec![first, Layer { stride: 1, dilation: self.dilation, ..first }],
            Kind::Bottleneck => vec![pointwise(planes), first, pointwise(4 * planes)],
        }
    }

    fn conv(&self, in_channels: usize, layer: Layer, vb: VarBuilder<'_>) -> Result<Conv2d> {
        let Layer { kernel, stride, dilation, out } = layer;
        let padding = dilation * (kernel / 2);
        let args = Conv2dArgs { dilation: [dilation; 2], ..Conv2dArgs::square(stride, padding) };
        Conv2d::with_init([in_channels, out], [kernel; 2], args, false, self.init, vb)
    }
}

/// A convolution of a block.
#[derive(Clone, Copy)]
struct Layer {
    kernel: usize,
    stride: usize,
    dilation: usize,
    /// Output channels.
    out: usize,
}

/// `relu(branch(x) + shortcut(x))`; the branch's convolutions have ReLU between them.
#[derive(Clone, Debug)]
pub(super) struct Block {
    inner: Vec<ConvNorm>,
    last: ConvNorm,
    downsample: Option<ConvNorm>,
}

impl Block {
    pub(super) fn new(config: &BlockConfig, vb: &VarBuilder<'_>) -> Result<Self> {
        let layers = config.layers();
        let mut inner = Vec::with_capacity(layers.len());
        let mut channels = config.in_channels;
        for (i, &layer) in layers.iter().enumerate() {
            let (number, out) = (i + 1, layer.out);
            let conv = config.conv(channels, layer, vb.pp(format!("conv{number}")))?;
            let mut norm = config.norm.clone();
            if number == layers.len() && config.zero_init_residual {
                norm.weight = 0.0;
            }
            inner.push(ConvNorm::new(conv, BatchNorm2d::new(out, &norm, vb.pp(format!("bn{number}")))?));
            channels = out;
        }
        let last = inner.pop().ok_or_else(|| Error::argument("ResNet block", "has no layers"))?;
        let downsample = if config.stride == 1 && config.in_channels == channels {
            None
        } else {
            let vb = vb.pp("downsample");
            let shrink = Layer { kernel: 1, stride: config.stride, dilation: 1, out: channels };
            let conv = config.conv(config.in_channels, shrink, vb.pp(0))?;
            Some(ConvNorm::new(conv, BatchNorm2d::new(channels, &config.norm, vb.pp(1))?))
        };
        Ok(Self { inner, last, downsample })
    }

    pub(super) fn forward(&self, input: &FeatureMap, pass: &Pass) -> Result<FeatureMap> {
        let mut x = input.clone();
        for layer in &self.inner {
            x = layer.forward_relu(&x, pass)?;
        }
        match &self.downsample {
            None => self.last.forward_add_relu(&x, input, pass),
            Some(shrink) => self.last.forward_add_relu(&x, &shrink.forward(input, pass)?, pass),
        }
    }

    /// Dilations of the 3x3 convolutions.
    pub(super) fn dilations(&self) -> impl Iterator<Item = usize> + '_ {
        let convs = self.inner.iter().chain([&self.last]).map(ConvNorm::conv);
        convs.filter(|conv| conv.weight().dims().ends_with(&[3, 3])).map(|conv| conv.args().dilation[0])
    }
}
