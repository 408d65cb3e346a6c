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

    /// Kernel size, stride and output channels of the branch's convolutions.
    fn layers(&self) -> Vec<(usize, usize, usize)> {
        let (planes, stride) = (self.planes, self.stride);
        match self.kind {
            Kind::Basic => vec![(3, stride, planes), (3, 1, planes)],
            Kind::Bottleneck => vec![(1, 1, planes), (3, stride, planes), (1, 1, 4 * planes)],
        }
    }

    fn conv(&self, channels: [usize; 2], kernel: usize, stride: usize, vb: VarBuilder<'_>) -> Result<Conv2d> {
        let args = Conv2dArgs::square(stride, kernel / 2);
        Conv2d::with_init(channels, [kernel; 2], args, false, self.init, vb)
    }
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
        for (i, &(kernel, stride, out)) in layers.iter().enumerate() {
            let number = i + 1;
            let conv = config.conv([channels, out], kernel, stride, vb.pp(format!("conv{number}")))?;
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
            let conv = config.conv([config.in_channels, channels], 1, config.stride, vb.pp(0))?;
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
}
