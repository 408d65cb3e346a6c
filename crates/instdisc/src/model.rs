//! The network: a residual backbone, a linear layer, and the projection to the unit sphere (paper §3, Fig. 2).

use candle_core::Tensor;
use candle_nn::VarBuilder;
use vision_core::backbones::resnet::{Depth, ResNet, ResNetConfig, Stem};
use vision_core::nn::Linear;
use vision_core::{FeatureMap, Pass, ops};

use crate::config::{Arch, ModelConfig, StemKind};
use crate::error::{Error, Result};

/// Below this length a feature counts as zero and is divided by this instead.
const NORM_EPS: f64 = 1e-12;

/// Picture in, unit vector out.
///
/// Parameter names are torchvision's, with `fc` as the layer that makes the feature: `conv1.weight`,
/// `layer1.0.conv1.weight`, `fc.weight`.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use instdisc::InstDisc;
/// use instdisc::config::{Arch, ModelConfig, StemKind};
/// use vision_core::{Pass, params::ParamStore, rng::Key};
/// # fn main() -> instdisc::Result<()> {
/// let config = ModelConfig { arch: Arch::ResNet18, stem: StemKind::Cifar, width: 8, ..ModelConfig::default() };
/// let params = ParamStore::new(Key::new(1), DType::F32, &Device::Cpu);
/// let model = InstDisc::new(&config, params.var_builder())?;
/// let pictures = Tensor::zeros((2, 3, 32, 32), DType::F32, &Device::Cpu)?;
/// let output = model.forward(&pictures, &Pass::inference())?;
/// assert_eq!(output.embedding.dims(), [2, 128]);
/// assert_eq!(output.pooled.dims(), [2, 64]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct InstDisc {
    backbone: ResNet,
    fc: Linear,
    in_channels: usize,
}

/// What a forward pass gives.
#[derive(Clone, Debug)]
pub struct Output {
    /// Maps after the stem and each of the four stages, all after their ReLU; the stem before pooling.
    pub stages: Vec<FeatureMap>,
    /// Global average of the last stage, `(N, C)`.
    pub pooled: Tensor,
    /// The feature, `(N, D)`, of length one.
    pub embedding: Tensor,
}

impl InstDisc {
    /// Builds the network; parameters are created or read by `vb`.
    ///
    /// # Errors
    /// If the configuration has a zero, or a parameter has another shape.
    #[allow(clippy::needless_pass_by_value, reason = "candle's layers take their builder by value")]
    pub fn new(config: &ModelConfig, vb: VarBuilder<'_>) -> Result<Self> {
        for (key, value) in [
            ("model.width", config.width),
            ("model.in_channels", config.in_channels),
            ("model.embedding", config.embedding),
        ] {
            if value == 0 {
                return Err(Error::config(key, "must be at least 1"));
            }
        }
        let backbone = ResNet::new(
            &ResNetConfig {
                depth: match config.arch {
                    Arch::ResNet18 => Depth::R18,
                    Arch::ResNet34 => Depth::R34,
                    Arch::ResNet50 => Depth::R50,
                    Arch::ResNet101 => Depth::R101,
                    Arch::ResNet152 => Depth::R152,
                },
                stem: match config.stem {
                    StemKind::ImageNet => Stem::ImageNet,
                    StemKind::Cifar => Stem::Cifar,
                },
                in_channels: config.in_channels,
                width: config.width,
                ..ResNetConfig::default()
            },
            vb.clone(),
        )?;
        let fc = Linear::new(backbone.out_channels(), config.embedding, true, vb.pp("fc"))?;
        Ok(Self { backbone, fc, in_channels: config.in_channels })
    }

    /// Features of `pictures` `(N, C, H, W)`, normalised as the data asks for.
    ///
    /// # Errors
    /// If the pictures have another number of channels or are too small for the network.
    pub fn forward(&self, pictures: &Tensor, pass: &Pass) -> Result<Output> {
        match pictures.dims() {
            [_, c, _, _] if *c == self.in_channels => {}
            other => {
                return Err(Error::size(
                    "pictures",
                    format!("(N, {}, H, W)", self.in_channels),
                    format!("{other:?}"),
                ));
            }
        }
        let stages = self.backbone.forward_features(&FeatureMap::from_nchw(pictures)?, pass)?;
        let last = stages.last().ok_or_else(|| Error::size("stages", "at least one", 0))?;
        let pooled = self.backbone.pooled(last)?;
        let embedding = pass.settle(ops::l2_normalize(&self.fc.forward(&pooled)?, NORM_EPS)?);
        Ok(Output { stages, pooled, embedding })
    }
}
