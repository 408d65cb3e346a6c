//! A small backbone, for pictures of about 64 pixels and for tests.

use candle_nn::VarBuilder;
use vision_core::backbones::{Backbone, FeatureInfo};
use vision_core::nn::{BatchNorm2d, BatchNormConfig, Conv2d, ConvNorm, WeightInit};
use vision_core::ops::Conv2dArgs;
use vision_core::{FeatureMap, Pass};

use crate::error::Result;

/// Four 3x3 convolutions with normalisation and ReLU: `width` channels at half the size, then three times `2 width` at a
/// quarter. An output sees 31 pixels along each axis, so it cannot know what is further away.
///
/// Parameters are `conv1`, `bn1` to `conv4`, `bn4`.
#[derive(Clone, Debug)]
pub struct SmallBody {
    layers: Vec<ConvNorm>,
    info: Vec<FeatureInfo>,
}

impl SmallBody {
    /// A network for pictures of `in_channels` channels.
    ///
    /// # Errors
    /// If `vb` cannot give a parameter of the right shape.
    #[allow(clippy::needless_pass_by_value, reason = "builders are passed by value throughout candle")]
    pub fn new(in_channels: usize, width: usize, norm: &BatchNormConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let (mut layers, mut info) = (Vec::new(), Vec::new());
        let (mut channels, mut reduced) = (in_channels, 1);
        for (number, (stride, out)) in (1..).zip([(2, width), (2, 2 * width), (1, 2 * width), (1, 2 * width)])
        {
            let (conv, args) = (vb.pp(format!("conv{number}")), Conv2dArgs::square(stride, 1));
            let init = WeightInit::KaimingNormalFanOut;
            let conv = Conv2d::with_init([channels, out], [3, 3], args, false, init, conv)?;
            let norm = BatchNorm2d::new(out, norm, vb.pp(format!("bn{number}")))?;
            layers.push(ConvNorm::new(conv, norm));
            (channels, reduced) = (out, reduced * stride);
            info.push(FeatureInfo { name: format!("conv{number}"), channels: out, stride: reduced });
        }
        Ok(Self { layers, info })
    }
}

impl Backbone for SmallBody {
    fn features(&self, input: &FeatureMap, pass: &Pass) -> vision_core::Result<Vec<FeatureMap>> {
        let mut maps: Vec<FeatureMap> = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let map = layer.forward_relu(maps.last().unwrap_or(input), pass)?;
            maps.push(map);
        }
        Ok(maps)
    }

    fn info(&self) -> &[FeatureInfo] {
        &self.info
    }
}
