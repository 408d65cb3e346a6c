//! Residual networks (He et al., "Deep Residual Learning for Image Recognition", 2015).
//!
//! Names and shapes of parameters are torchvision's (`conv1`, `bn1`, `layer1.0.conv1`,
//! `layer1.0.downsample.0`, `fc`), so its weight files load. As there, a bottleneck strides in its 3x3
//! convolution ("v1.5").

mod block;

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::{Backbone, FeatureInfo};
use crate::error::{Error, Result};
use crate::nn::{BatchNorm2d, BatchNormConfig, Conv2d, ConvNorm, Linear, WeightInit};
use crate::ops::{Conv2dArgs, Pool2dArgs, adaptive_avg_pool2d_nhwc, max_pool2d_nhwc};
use crate::{FeatureMap, Pass};
use block::{Block, BlockConfig, Kind};

/// Number of layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// 18 layers of basic blocks.
    R18,
    /// 34 layers of basic blocks.
    R34,
    /// 50 layers of bottlenecks.
    R50,
    /// 101 layers of bottlenecks.
    R101,
    /// 152 layers of bottlenecks.
    R152,
}

impl Depth {
    /// Blocks per stage.
    fn blocks(self) -> [usize; 4] {
        match self {
            Self::R18 => [2, 2, 2, 2],
            Self::R34 | Self::R50 => [3, 4, 6, 3],
            Self::R101 => [3, 4, 23, 3],
            Self::R152 => [3, 8, 36, 3],
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::R18 | Self::R34 => Kind::Basic,
            Self::R50 | Self::R101 | Self::R152 => Kind::Bottleneck,
        }
    }
}

/// What comes before the first stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stem {
    /// 7x7 convolution of stride 2 and 3x3 max pooling of stride 2.
    ImageNet,
    /// 3x3 convolution of stride 1, no pooling.
    Cifar,
}

/// Shape of a [`ResNet`].
#[derive(Clone, Debug, PartialEq)]
pub struct ResNetConfig {
    /// Number of layers.
    pub depth: Depth,
    /// What comes before the first stage.
    pub stem: Stem,
    /// Channels of the pictures.
    pub in_channels: usize,
    /// Channels of the stem; the inner channels of the stages are 1, 2, 4 and 8 times as many.
    pub width: usize,
    /// Initial weights of the convolutions. `None` chooses what is usual for the stem: Kaiming's normal
    /// distribution over the fan-out for ImageNet (torchvision), PyTorch's uniform default for CIFAR.
    pub init: Option<WeightInit>,
    /// Whether the last normalisation of each block starts with weight 0, so that blocks start as identity.
    pub zero_init_residual: bool,
    /// Constants of the normalisations.
    pub norm: BatchNormConfig,
}

impl Default for ResNetConfig {
    /// torchvision's ResNet-50.
    fn default() -> Self {
        Self {
            depth: Depth::R50,
            stem: Stem::ImageNet,
            in_channels: 3,
            width: 64,
            init: None,
            zero_init_residual: false,
            norm: BatchNormConfig::default(),
        }
    }
}

/// A residual network without its classifier.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use vision_core::backbones::resnet::{Depth, ResNet, ResNetConfig, Stem};
/// use vision_core::{FeatureMap, Pass, params::ParamStore, rng::Key};
/// # fn main() -> vision_core::Result<()> {
/// let config = ResNetConfig { depth: Depth::R18, stem: Stem::Cifar, width: 8, ..ResNetConfig::default() };
/// let params = ParamStore::new(Key::new(1), DType::F32, &Device::Cpu);
/// let net = ResNet::new(&config, params.var_builder())?;
/// let pictures = FeatureMap::from_nchw(&Tensor::zeros((2, 3, 32, 32), DType::F32, &Device::Cpu)?)?;
/// let maps = net.forward_features(&pictures, &Pass::eval())?;
/// assert_eq!(maps.len(), 5);
/// assert_eq!(maps[4].dims()?, (2, 4, 4, 64));
/// assert_eq!(net.pooled(&maps[4])?.dims(), [2, 64]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ResNet {
    stem: ConvNorm,
    pool: Option<Pool2dArgs>,
    stages: Vec<Vec<Block>>,
    info: Vec<FeatureInfo>,
    out_channels: usize,
}

impl ResNet {
    /// Builds the network with the parameters of `vb`.
    ///
    /// # Errors
    /// If the width or the number of input channels is 0, or `vb` cannot give a parameter of the right
    /// shape.
    #[allow(clippy::needless_pass_by_value, reason = "builders are passed by value throughout candle")]
    pub fn new(config: &ResNetConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let width = config.width;
        for (name, value) in [("width", width), ("in_channels", config.in_channels)] {
            if value == 0 {
                return Err(Error::argument(format!("ResNet: {name}"), "must be at least 1"));
            }
        }
        let (kernel, args, pool, usual) = match config.stem {
            Stem::ImageNet => (
                7,
                Conv2dArgs::square(2, 3),
                Some(Pool2dArgs::square(3, 2, 1)),
                WeightInit::KaimingNormalFanOut,
            ),
            Stem::Cifar => (3, Conv2dArgs::square(1, 1), None, WeightInit::Uniform),
        };
        let init = config.init.unwrap_or(usual);
        let channels = [config.in_channels, width];
        let conv1 = Conv2d::with_init(channels, [kernel; 2], args, false, init, vb.pp("conv1"))?;
        let stem = ConvNorm::new(conv1, BatchNorm2d::new(width, &config.norm, vb.pp("bn1"))?);
        let mut stride = args.stride[0];
        let mut info = vec![FeatureInfo { name: "stem".to_owned(), channels: width, stride }];
        stride *= pool.map_or(1, |pool| pool.stride[0]);

        let kind = config.depth.kind();
        let mut in_channels = width;
        let mut stages = Vec::new();
        for (stage, &count) in config.depth.blocks().iter().enumerate() {
            let name = format!("layer{}", stage + 1);
            let planes = width << stage;
            let mut blocks = Vec::with_capacity(count);
            for index in 0..count {
                let block = BlockConfig {
                    kind,
                    in_channels,
                    planes,
                    stride: if stage > 0 && index == 0 { 2 } else { 1 },
                    init,
                    zero_init_residual: config.zero_init_residual,
                    norm: config.norm.clone(),
                };
                stride *= block.stride;
                in_channels = block.out_channels();
                blocks.push(Block::new(&block, &vb.pp(&name).pp(index))?);
            }
            info.push(FeatureInfo { name, channels: in_channels, stride });
            stages.push(blocks);
        }
        Ok(Self { stem, pool, stages, info, out_channels: in_channels })
    }

    /// The maps after the stem (after its ReLU, before pooling) and after each of the four stages.
    ///
    /// # Errors
    /// If the picture has another number of channels, or is so small that training meets a single value
    /// per channel.
    pub fn forward_features(&self, input: &FeatureMap, pass: &Pass) -> Result<Vec<FeatureMap>> {
        let stem = self.stem.forward_relu(input, pass)?;
        let mut x = match &self.pool {
            Some(pool) => max_pool2d_nhwc(&stem, pool)?,
            None => stem.clone(),
        };
        let mut maps = vec![stem];
        for stage in &self.stages {
            for block in stage {
                x = block.forward(&x, pass)?;
            }
            maps.push(x.clone());
        }
        Ok(maps)
    }

    /// The global average of a map, `(N, C)`.
    ///
    /// # Errors
    /// If the map has no pixels.
    pub fn pooled(&self, map: &FeatureMap) -> Result<Tensor> {
        let (n, _, _, c) = map.dims()?;
        Ok(adaptive_avg_pool2d_nhwc(map, [1, 1])?.nhwc().reshape((n, c))?)
    }

    /// Name, channels and stride of each map.
    pub fn info(&self) -> &[FeatureInfo] {
        &self.info
    }

    /// Channels of the last map.
    pub fn out_channels(&self) -> usize {
        self.out_channels
    }
}

impl Backbone for ResNet {
    fn features(&self, input: &FeatureMap, pass: &Pass) -> Result<Vec<FeatureMap>> {
        self.forward_features(input, pass)
    }

    fn info(&self) -> &[FeatureInfo] {
        &self.info
    }
}

/// A [`ResNet`] with global average pooling and the linear layer `fc`: torchvision's `resnet18` to
/// `resnet152`.
#[derive(Clone, Debug)]
pub struct ResNetClassifier {
    backbone: ResNet,
    fc: Linear,
}

impl ResNetClassifier {
    /// Builds network and classifier with the parameters of `vb`.
    ///
    /// # Errors
    /// As [`ResNet::new`].
    #[allow(clippy::needless_pass_by_value, reason = "builders are passed by value throughout candle")]
    pub fn new(config: &ResNetConfig, num_classes: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let backbone = ResNet::new(config, vb.clone())?;
        let fc = Linear::new(backbone.out_channels(), num_classes, true, vb.pp("fc"))?;
        Ok(Self { backbone, fc })
    }

    /// Scores of the classes before softmax, `(N, classes)`.
    ///
    /// # Errors
    /// As [`ResNet::forward_features`].
    pub fn forward(&self, input: &FeatureMap, pass: &Pass) -> Result<Tensor> {
        let maps = self.backbone.forward_features(input, pass)?;
        let last =
            maps.last().ok_or_else(|| Error::argument("ResNetClassifier", "the network has no stages"))?;
        Ok(pass.settle(self.fc.forward(&self.backbone.pooled(last)?)?))
    }

    /// The network without its classifier.
    pub fn backbone(&self) -> &ResNet {
        &self.backbone
    }

    /// The classifier.
    pub fn fc(&self) -> &Linear {
        &self.fc
    }
}

#[cfg(test)]
mod tests;
