//! The layers before the first stage.

use candle_nn::VarBuilder;

use super::ResNetConfig;
use crate::error::Result;
use crate::nn::{BatchNorm2d, Conv2d, ConvNorm, WeightInit};
use crate::ops::{Conv2dArgs, Pool2dArgs};

/// What comes before the first stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stem {
    /// 7x7 convolution of stride 2 and 3x3 max pooling of stride 2.
    ImageNet,
    /// 3x3 convolution of stride 1, no pooling.
    Cifar,
    /// Three 3x3 convolutions with 1, 1 and 2 times the width, the first of stride 2, and the pooling of `ImageNet`:
    /// `resnet50s` and its kin. Their parameters are `conv1.0`, `conv1.1`, `conv1.3`, `conv1.4`, `conv1.6` and `bn1`.
    Deep,
    /// [`Stem::Deep`] with half the channels: `resnet50c` and its kin.
    DeepNarrow,
}

impl Stem {
    /// The convolutions: kernel size, stride and output channels.
    pub(super) fn layers(self, width: usize) -> Vec<(usize, usize, usize)> {
        match self {
            Self::ImageNet => vec![(7, 2, width)],
            Self::Cifar => vec![(3, 1, width)],
            Self::Deep => vec![(3, 2, width), (3, 1, width), (3, 1, 2 * width)],
            Self::DeepNarrow => vec![(3, 2, width / 2), (3, 1, width / 2), (3, 1, width)],
        }
    }

    pub(super) fn pool(self) -> Option<Pool2dArgs> {
        match self {
            Self::ImageNet | Self::Deep | Self::DeepNarrow => Some(Pool2dArgs::square(3, 2, 1)),
            Self::Cifar => None,
        }
    }

    /// Builds the convolutions, each with its normalisation.
    pub(super) fn build(
        self,
        config: &ResNetConfig,
        init: WeightInit,
        vb: &VarBuilder<'_>,
    ) -> Result<Vec<ConvNorm>> {
        let layers = self.layers(config.width);
        let mut channels = config.in_channels;
        let mut built = Vec::with_capacity(layers.len());
        for (i, &(kernel, stride, out)) in layers.iter().enumerate() {
            let conv1 = vb.pp("conv1");
            // Counted as in a sequence of convolution, normalisation and ReLU; the last normalisation stands outside.
            let conv = if layers.len() == 1 { conv1.clone() } else { conv1.pp(3 * i) };
            let norm = if i + 1 == layers.len() { vb.pp("bn1") } else { conv1.pp(3 * i + 1) };
            let args = Conv2dArgs::square(stride, kernel / 2);
            let conv = Conv2d::with_init([channels, out], [kernel; 2], args, false, init, conv)?;
            built.push(ConvNorm::new(conv, BatchNorm2d::new(out, &config.norm, norm)?));
            channels = out;
        }
        Ok(built)
    }
}
