//! The networks for CIFAR (paper §4.4): 14 layers whose blocks weigh their channels by an encoding, and the plain ones.
//!
//! The module in the blocks is not that of segmentation: it encodes a quarter of the channels, takes all `K D` numbers
//! divided by their length instead of their mean over the codes, and multiplies without adding the map itself.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};
use vision_core::nn::{BatchNorm2d, BatchNormConfig, Conv2d, ConvNorm, Linear};
use vision_core::ops::{Conv2dArgs, adaptive_avg_pool2d_nhwc, relu_nhwc};
use vision_core::{FeatureMap, Pass};

use crate::deep_ten::{Description, Scales};
use crate::error::{Error, Result};

/// Channels of a block per channel that is encoded.
const REDUCTION: usize = 4;

/// Shape of a [`CifarNet`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CifarConfig {
    /// The first stage has 16 times as many channels: 4 for the paper's 64d, 8 for 128d.
    pub widen: usize,
    /// `K`: 16 for 16k64d, 32 for 32k128d. 0 is the plain network, of pre-activation blocks.
    pub codes: usize,
    /// Whether scales are drawn in training instead of learnt ([`Scales::Drawn`]), as in the paper's results.
    pub draw_scales: bool,
    /// Number of classes.
    pub classes: usize,
}

impl Default for CifarConfig {
    /// The best of the paper, 32k128d.
    fn default() -> Self {
        Self { widen: 8, codes: 32, draw_scales: true, classes: 10 }
    }
}

impl CifarConfig {
    /// 16k64d of the paper.
    pub fn small() -> Self {
        Self { widen: 4, codes: 16, ..Self::default() }
    }

    /// The plain network of so many times 16 channels.
    pub fn plain(widen: usize) -> Self {
        Self { widen, codes: 0, draw_scales: false, ..Self::default() }
    }
}

/// Factors of the channels of a map by its [`Description`], `x * sigmoid(W d + b)`, with parameters `fc.0`, `fc.1`,
/// `fc.3` and `fc.6`.
#[derive(Clone, Debug)]
pub struct EncLayer {
    description: Description,
    linear: Linear,
}

impl EncLayer {
    /// A layer for maps of `channels` channels, of which a quarter is encoded.
    ///
    /// # Errors
    /// If there are fewer than four channels or no codes, or `vb` cannot give a parameter of the right shape.
    #[allow(clippy::needless_pass_by_value, reason = "builders are passed by value throughout candle")]
    pub fn new(
        channels: usize,
        codes: usize,
        scales: Scales,
        norm: &BatchNormConfig,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let vb = vb.pp("fc");
        let description =
            Description::new([channels, channels / REDUCTION], codes, scales, norm, vb.clone())?;
        let linear = Linear::new(description.size(), channels, true, vb.pp(6))?;
        Ok(Self { description, linear })
    }

    /// Weighs the channels of a map.
    ///
    /// # Errors
    /// If the map has another number of channels, or no pixels.
    pub fn forward(&self, map: &FeatureMap, pass: &Pass) -> Result<FeatureMap> {
        let gate = candle_nn::ops::sigmoid(&self.linear.forward(&self.description.forward(map, pass)?)?)?;
        let (n, c) = gate.dims2()?;
        Ok(FeatureMap::from_nhwc(map.nhwc().broadcast_mul(&gate.reshape((n, 1, 1, c))?)?)?)
    }
}

/// A residual block.
#[derive(Clone, Debug)]
enum Block {
    /// `relu(enc(bn(conv(relu(bn(conv(x)))))) + shortcut(x))`
    Enc { conv1: ConvNorm, conv2: ConvNorm, enc: Box<EncLayer>, shortcut: Option<Conv2d> },
    /// `conv(relu(bn(conv(relu(bn(x)))))) + shortcut(x)`
    Plain { bn1: BatchNorm2d, conv1: ConvNorm, conv2: Conv2d, shortcut: Option<Conv2d> },
}

impl Block {
    fn new(
        config: &CifarConfig,
        [inputs, planes]: [usize; 2],
        stride: usize,
        norm: &BatchNormConfig,
        vb: &VarBuilder<'_>,
    ) -> Result<Self> {
        let conv = |inputs, stride, name: &str| {
            let args = Conv2dArgs::square(stride, 1);
            Conv2d::new(inputs, planes, [3, 3], args, false, vb.pp(name))
        };
        let bn = |channels, name: &str| BatchNorm2d::new(channels, norm, vb.pp(name));
        let shortcut = if stride == 1 && inputs == planes {
            None
        } else {
            let args = Conv2dArgs::square(stride, 0);
            Some(Conv2d::new(inputs, planes, [1, 1], args, true, vb.pp("shortcut"))?)
        };
        if config.codes == 0 {
            return Ok(Self::Plain {
                bn1: bn(inputs, "bn1")?,
                conv1: ConvNorm::new(conv(inputs, stride, "conv1")?, bn(planes, "bn2")?),
                conv2: conv(planes, 1, "conv2")?,
                shortcut,
            });
        }
        let scales = if config.draw_scales { Scales::Drawn } else { Scales::Learnt };
        Ok(Self::Enc {
            conv1: ConvNorm::new(conv(inputs, stride, "conv1")?, bn(planes, "bn1")?),
            conv2: ConvNorm::new(conv(planes, 1, "conv2")?, bn(planes, "bn2")?),
            enc: Box::new(EncLayer::new(planes, config.codes, scales, norm, vb.pp("enc"))?),
            shortcut,
        })
    }

    fn forward(&self, x: &FeatureMap, pass: &Pass) -> Result<FeatureMap> {
        let (branch, shortcut) = match self {
            Self::Enc { conv1, conv2, enc, shortcut } => {
                let branch = conv2.forward(&conv1.forward_relu(x, pass)?, pass)?;
                (enc.forward(&branch, pass)?, shortcut)
            }
            Self::Plain { bn1, conv1, conv2, shortcut } => {
                let branch = conv1.forward_relu(&bn1.forward_relu(x, pass.train)?, pass)?;
                (conv2.forward(&branch)?, shortcut)
            }
        };
        let sum = match shortcut {
            None => (branch.nhwc() + x.nhwc())?,
            Some(conv) => (branch.nhwc() + conv.forward(x)?.nhwc())?,
        };
        let sum = FeatureMap::from_nhwc(sum)?;
        Ok(if matches!(self, Self::Enc { .. }) { relu_nhwc(&sum)? } else { sum })
    }
}

/// A residual network of 14 layers for pictures of 32 pixels.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use encnet::cifar::{CifarConfig, CifarNet};
/// use vision_core::{Pass, params::ParamStore, rng::Key};
/// # fn main() -> encnet::Result<()> {
/// let config = CifarConfig { widen: 1, codes: 4, ..CifarConfig::default() };
/// let params = ParamStore::new(Key::new(1), DType::F32, &Device::Cpu);
/// let net = CifarNet::new(&config, params.var_builder())?;
/// let pictures = Tensor::zeros((2, 3, 32, 32), DType::F32, &Device::Cpu)?;
/// assert_eq!(net.forward(&pictures, &Pass::inference())?.dims(), [2, 10]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct CifarNet {
    stem: ConvNorm,
    blocks: Vec<Block>,
    norm: BatchNorm2d,
    fc: Linear,
}

impl CifarNet {
    /// Builds the network; each rank normalises by itself.
    ///
    /// # Errors
    /// If a size is 0, or `vb` cannot give a parameter of the right shape.
    pub fn new(config: &CifarConfig, vb: VarBuilder<'_>) -> Result<Self> {
        Self::with_norm(config, &BatchNormConfig::default(), vb)
    }

    /// [`CifarNet::new`] with chosen constants of batch normalisation.
    ///
    /// # Errors
    /// As [`CifarNet::new`].
    #[allow(clippy::needless_pass_by_value, reason = "candle's layers take their builder by value")]
    pub fn with_norm(config: &CifarConfig, norm: &BatchNormConfig, vb: VarBuilder<'_>) -> Result<Self> {
        for (key, value) in [("widen", config.widen), ("classes", config.classes)] {
            if value == 0 {
                return Err(Error::config(key, "must be at least 1"));
            }
        }
        let width = 16 * config.widen;
        let conv = Conv2d::new(3, width, [3, 3], Conv2dArgs::square(1, 1), true, vb.pp("conv1"))?;
        let stem = ConvNorm::new(conv, BatchNorm2d::new(width, norm, vb.pp("bn1"))?);
        let (mut blocks, mut channels) = (Vec::new(), width);
        for stage in 0..3 {
            let planes = width << stage;
            for index in 0..2 {
                let stride = if stage > 0 && index == 0 { 2 } else { 1 };
                let at = vb.pp(format!("layer{}", stage + 1)).pp(index);
                blocks.push(Block::new(config, [channels, planes], stride, norm, &at)?);
                channels = planes;
            }
        }
        let norm = BatchNorm2d::new(channels, norm, vb.pp("bn2"))?;
        Ok(Self { stem, blocks, norm, fc: Linear::new(channels, config.classes, true, vb.pp("fc"))? })
    }

    /// Logits of the classes, `(N, classes)`, for pictures `(N, 3, H, W)`.
    ///
    /// # Errors
    /// If the pictures have another number of channels, or no pixels.
    pub fn forward(&self, pictures: &Tensor, pass: &Pass) -> Result<Tensor> {
        let mut x = self.stem.forward_relu(&FeatureMap::from_nchw(pictures)?, pass)?;
        for block in &self.blocks {
            x = block.forward(&x, pass)?;
        }
        let x = self.norm.forward_relu(&x, pass.train)?;
        let (n, _, _, c) = x.dims()?;
        let pooled = adaptive_avg_pool2d_nhwc(&x, [1, 1])?.nhwc().reshape((n, c))?;
        Ok(pass.settle(self.fc.forward(&pooled)?))
    }
}
