//! Residual networks (He et al., "Deep Residual Learning for Image Recognition", 2015).
//!
//! Names and shapes of parameters are torchvision's (`conv1`, `bn1`, `layer1.0.conv1`,
//! `layer1.0.downsample.0`, `fc`), so its weight files load. As there, a bottleneck strides in its 3x3
//! convolution ("v1.5"). The deep stems are named as in the code of context encoding (Zhang et al., 2018) and in timm,
//! whose `resnet50s` and `resnet50c` files load, and whose `output_stride` dilates in the same way.

mod block;
mod stem;

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::{Backbone, FeatureInfo};
use crate::error::{Error, Result};
use crate::nn::{BatchNormConfig, ConvNorm, Linear, WeightInit};
use crate::ops::{Pool2dArgs, adaptive_avg_pool2d_nhwc, max_pool2d_nhwc};
use crate::{FeatureMap, Pass};
use block::{Block, BlockConfig, Kind};
pub use stem::Stem;

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
    /// Pixels of the input per pixel of the last map, along each axis, at most: a power of two. Stages that would shrink
    /// their map further keep its size and dilate their 3x3 convolutions instead; the first convolution of such a stage
    /// keeps the dilation of the stage before.
    pub output_stride: usize,
    /// Whether the blocks of the last stage dilate 1, 2 and 4 times as much, the first one included.
    pub multi_grid: bool,
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
            output_stride: 32,
            multi_grid: false,
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
    stem: Vec<ConvNorm>,
    pool: Option<Pool2dArgs>,
    stages: Vec<Vec<Block>>,
    info: Vec<FeatureInfo>,
    out_channels: usize,
}

impl ResNet {
    /// Builds the network with the parameters of `vb`.
    ///
    /// # Errors
    /// If the width or the number of input channels is 0, the width has no half where the stem needs one, the output
    /// stride is no power of two or less than that of the stem, or `vb` cannot give a parameter of the right shape.
    #[allow(clippy::needless_pass_by_value, reason = "builders are passed by value throughout candle")]
    pub fn new(config: &ResNetConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let width = config.width;
        for (name, value) in [("width", width), ("in_channels", config.in_channels)] {
            if value == 0 {
                return Err(Error::argument(format!("ResNet: {name}"), "must be at least 1"));
            }
        }
        if config.stem == Stem::DeepNarrow && width % 2 == 1 {
            return Err(Error::argument("ResNet: width", format!("{width} has no half for the stem")));
        }
        let usual =
            if config.stem == Stem::Cifar { WeightInit::Uniform } else { WeightInit::KaimingNormalFanOut };
        let init = config.init.unwrap_or(usual);
        let pool = config.stem.pool();
        let stem = config.stem.build(config, init, &vb)?;
        let layers = config.stem.layers(width);
        let mut stride = layers.iter().map(|&(_, stride, _)| stride).product();
        let mut in_channels = layers.last().map_or(width, |&(.., out)| out);
        let mut info = vec![FeatureInfo { name: "stem".to_owned(), channels: in_channels, stride }];
        stride *= pool.map_or(1, |pool| pool.stride[0]);
        if !config.output_stride.is_power_of_two() || config.output_stride < stride {
            let problem = format!("{} is no power of two of at least {stride}", config.output_stride);
            return Err(Error::argument("ResNet: output_stride", problem));
        }

        let kind = config.depth.kind();
        let counts = config.depth.blocks();
        let mut dilation = 1;
        let mut stages = Vec::new();
        for (stage, &count) in counts.iter().enumerate() {
            let name = format!("layer{}", stage + 1);
            let planes = width << stage;
            let before = dilation;
            let mut stage_stride = if stage > 0 { 2 } else { 1 };
            if stride * stage_stride > config.output_stride {
                dilation *= stage_stride;
                stage_stride = 1;
            }
            let multi_grid = config.multi_grid && stage + 1 == counts.len();
            let mut blocks = Vec::with_capacity(count);
            for index in 0..count {
                let dilation = if multi_grid { dilation << index } else { dilation };
                let block = BlockConfig {
                    kind,
                    in_channels,
                    planes,
                    stride: if index == 0 { stage_stride } else { 1 },
                    first_dilation: if index == 0 && !multi_grid { before } else { dilation },
                    dilation,
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
        let mut stem = input.clone();
        for layer in &self.stem {
            stem = layer.forward_relu(&stem, pass)?;
        }
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

    /// Dilations of the 3x3 convolutions of each stage, in order.
    pub fn dilations(&self) -> Vec<Vec<usize>> {
        let stage = |blocks: &Vec<Block>| blocks.iter().flat_map(Block::dilations).collect();
        self.stages.iter().map(stage).collect()
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
