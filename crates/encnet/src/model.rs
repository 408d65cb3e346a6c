//! The network: a dilated backbone, a head, and what supervises the third stage (paper §3.3).

use candle_core::Tensor;
use candle_nn::VarBuilder;
use vision_core::backbones::Backbone;
use vision_core::backbones::resnet::{Depth, ResNet, ResNetConfig, Stem};
use vision_core::nn::BatchNormConfig;
use vision_core::{FeatureMap, Pass};

use crate::body::SmallBody;
use crate::config::{Arch, Auxiliary, BackboneConfig, Method, ModelConfig, StemKind};
use crate::context::{ContextOutput, ContextSupervision};
use crate::encoding::Encoding;
use crate::error::{Error, Result};
use crate::head::{EncHead, FcnHead, enlarge};

/// `EncNet` or its baseline, as [`Method`] says: pictures in, logits for every pixel out.
///
/// Parameter names are those of the authors' code: `pretrained.conv1.0.weight`, `head.encmodule.encoding.3.codewords`,
/// `auxlayer.conv5.0.weight`; see [`crate::weights`] for others.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use encnet::EncNet;
/// use encnet::config::{Arch, BackboneConfig, HeadConfig, ModelConfig};
/// use vision_core::{Pass, params::ParamStore, rng::Key};
/// # fn main() -> encnet::Result<()> {
/// let backbone = BackboneConfig { arch: Arch::Small, width: 8, ..BackboneConfig::default() };
/// let head = HeadConfig { channels: 16, ..HeadConfig::default() };
/// let config = ModelConfig { classes: 5, backbone, head, ..ModelConfig::default() };
/// let params = ParamStore::new(Key::new(1), DType::F32, &Device::Cpu);
/// let model = EncNet::new(&config, params.var_builder())?;
/// let pictures = Tensor::zeros((2, 3, 33, 47), DType::F32, &Device::Cpu)?;
/// let output = model.forward(&pictures, &Pass::inference())?;
/// assert_eq!(output.main.dims()?, (2, 33, 47, 5));
/// assert_eq!(output.se_logits.map(|logits| logits.dims().to_vec()), Some(vec![2, 5]));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct EncNet {
    body: Body,
    head: Head,
    auxiliary: Option<Supervision>,
    in_channels: usize,
    classes: usize,
    align_corners: bool,
}

#[derive(Debug)]
enum Body {
    ResNet(ResNet),
    Small(SmallBody),
}

#[derive(Debug)]
enum Head {
    Enc(Box<EncHead>),
    Fcn(Box<FcnHead>),
}

#[derive(Debug)]
enum Supervision {
    Fcn(Box<FcnHead>),
    Context(Box<ContextSupervision>),
}

/// What a forward pass gives. Logits of pixels are as large as the pictures.
#[derive(Clone, Debug)]
pub struct Output {
    /// Logits of every pixel, `(N, H, W, classes)`.
    pub main: FeatureMap,
    /// Logits of each class being in the picture, `(N, classes)`, if the model predicts them.
    pub se_logits: Option<Tensor>,
    /// Logits of the auxiliary head, `(N, H, W, classes)`, if there is one.
    pub aux: Option<FeatureMap>,
    /// As `se_logits`, from the third stage ([`Auxiliary::Context`]).
    pub aux_se_logits: Option<Tensor>,
    /// Vector, gate and weighted map of the context encoding module, if there is one.
    pub context: Option<ContextOutput>,
    /// All maps of the backbone, from fine to coarse.
    pub stages: Vec<FeatureMap>,
}

impl EncNet {
    /// Builds the network; parameters are created or read by `vb`, and each rank normalises by itself, as
    /// [`ModelConfig::norm`] says.
    ///
    /// # Errors
    /// If the configuration is out of range, or a parameter has another shape.
    pub fn new(config: &ModelConfig, vb: VarBuilder<'_>) -> Result<Self> {
        Self::with_norm(config, &config.norm(), vb)
    }

    /// [`EncNet::new`] with chosen constants of batch normalisation instead of [`ModelConfig::norm`]; `norm.collective`
    /// makes it synchronised, as the paper trains.
    ///
    /// # Errors
    /// As [`EncNet::new`].
    #[allow(clippy::needless_pass_by_value, reason = "candle's layers take their builder by value")]
    pub fn with_norm(config: &ModelConfig, norm: &BatchNormConfig, vb: VarBuilder<'_>) -> Result<Self> {
        config.validate()?;
        let body = Body::new(&config.backbone, norm, vb.pp("pretrained"))?;
        let [second, third, last] = last_three(body.backbone().info(), |info| info.channels)?;
        let (classes, head) = (config.classes, &config.head);
        let at = vb.pp("head");
        let built = match config.method {
            Method::EncNet => {
                let stages = [second, third, last];
                Head::Enc(Box::new(EncHead::new(stages, classes, head, &config.context, norm, at)?))
            }
            Method::Fcn => Head::Fcn(Box::new(FcnHead::new(last, classes, head, norm, at)?)),
        };
        let at = vb.pp("auxlayer");
        let auxiliary = match head.auxiliary {
            Auxiliary::None => None,
            Auxiliary::Fcn => {
                let second = FcnHead::new(third, classes, head, norm, at)?;
                Some(Supervision::Fcn(Box::new(second)))
            }
            Auxiliary::Context => {
                let channels = [third, head.channels];
                let second = ContextSupervision::new(channels, classes, &config.context, norm, at)?;
                Some(Supervision::Context(Box::new(second)))
            }
        };
        let (in_channels, align_corners) = (config.backbone.in_channels, head.align_corners);
        Ok(Self { body, head: built, auxiliary, in_channels, classes, align_corners })
    }

    /// Everything the model gives for `pictures` `(N, C, H, W)`, normalised as the data asks for.
    ///
    /// # Errors
    /// If the pictures have another number of channels or no pixels.
    pub fn forward(&self, pictures: &Tensor, pass: &Pass) -> Result<Output> {
        let size = self.size(pictures)?;
        let stages = self.backbone().features(&FeatureMap::from_nchw(pictures)?, pass)?;
        let maps = last_three(&stages, Clone::clone)?;
        let (logits, context) = self.logits(&maps, pass)?;
        let (mut aux, mut aux_se_logits) = (None, None);
        match &self.auxiliary {
            None => {}
            Some(Supervision::Fcn(head)) => {
                aux = Some(self.enlarged(&head.forward(&maps[1], pass)?, size, pass)?);
            }
            Some(Supervision::Context(second)) => {
                aux_se_logits = Some(pass.settle(second.forward(&maps[1], pass)?));
            }
        }
        let se_logits = context.as_ref().and_then(|context| context.class_logits.clone());
        Ok(Output {
            main: self.enlarged(&logits, size, pass)?,
            se_logits: se_logits.map(|logits| pass.settle(logits)),
            aux,
            aux_se_logits,
            context,
            stages,
        })
    }

    /// The logits of every pixel alone, `(N, H, W, classes)`: what [`EncNet::forward`] calls `main`, without the work for
    /// what only training needs.
    ///
    /// # Errors
    /// As [`EncNet::forward`].
    pub fn predict(&self, pictures: &Tensor, pass: &Pass) -> Result<FeatureMap> {
        let size = self.size(pictures)?;
        let stages = self.backbone().features(&FeatureMap::from_nchw(pictures)?, pass)?;
        let (logits, _) = self.logits(&last_three(&stages, Clone::clone)?, pass)?;
        self.enlarged(&logits, size, pass)
    }

    /// The network in front.
    pub fn backbone(&self) -> &dyn Backbone {
        self.body.backbone()
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The encoding layer and the map that it encodes for `pictures`; `None` for a model without codewords.
    ///
    /// # Errors
    /// As [`EncNet::forward`].
    pub fn encoded(&self, pictures: &Tensor, pass: &Pass) -> Result<Option<(&Encoding, FeatureMap)>> {
        self.size(pictures)?;
        let Head::Enc(head) = &self.head else { return Ok(None) };
        let encoder = head.context().encoder();
        let Some(encoding) = encoder.encoding() else { return Ok(None) };
        let stages = self.backbone().features(&FeatureMap::from_nchw(pictures)?, pass)?;
        let [second, third, last] = last_three(&stages, Clone::clone)?;
        let map = encoder.project(&head.fused([&second, &third, &last], pass)?, pass)?;
        Ok(Some((encoding, FeatureMap::from_nhwc(pass.settle(map.nhwc().clone()))?)))
    }

    /// The head with the context encoding module; an FCN has none.
    pub fn enc_head(&self) -> Option<&EncHead> {
        match &self.head {
            Head::Enc(head) => Some(head),
            Head::Fcn(_) => None,
        }
    }

    fn logits(
        &self,
        [second, third, last]: &[FeatureMap; 3],
        pass: &Pass,
    ) -> Result<(FeatureMap, Option<ContextOutput>)> {
        match &self.head {
            Head::Fcn(head) => Ok((head.forward(last, pass)?, None)),
            Head::Enc(head) => {
                let output = head.forward([second, third, last], pass)?;
                Ok((output.logits, Some(output.context)))
            }
        }
    }

    fn enlarged(&self, logits: &FeatureMap, size: [usize; 2], pass: &Pass) -> Result<FeatureMap> {
        let logits = enlarge(logits, size, self.align_corners)?;
        Ok(FeatureMap::from_nhwc(pass.settle(logits.nhwc().clone()))?)
    }

    /// Height and width of the pictures.
    fn size(&self, pictures: &Tensor) -> Result<[usize; 2]> {
        match *pictures.dims() {
            [_, c, h, w] if c == self.in_channels && h > 0 && w > 0 => Ok([h, w]),
            ref other => Err(Error::size(
                "pictures",
                format!("(N, {}, H, W) with at least one pixel", self.in_channels),
                format!("{other:?}"),
            )),
        }
    }
}

impl Body {
    fn new(config: &BackboneConfig, norm: &BatchNormConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let depth = match config.arch {
            Arch::ResNet18 => Depth::R18,
            Arch::ResNet34 => Depth::R34,
            Arch::ResNet50 => Depth::R50,
            Arch::ResNet101 => Depth::R101,
            Arch::ResNet152 => Depth::R152,
            Arch::Small => {
                return Ok(Self::Small(SmallBody::new(config.in_channels, config.width, norm, vb)?));
            }
        };
        let stem = match config.stem {
            StemKind::Deep => Stem::Deep,
            StemKind::DeepNarrow => Stem::DeepNarrow,
            StemKind::Plain => Stem::ImageNet,
        };
        let config = ResNetConfig {
            depth,
            stem,
            in_channels: config.in_channels,
            width: config.width,
            output_stride: 8,
            multi_grid: config.multi_grid,
            norm: norm.clone(),
            ..ResNetConfig::default()
        };
        Ok(Self::ResNet(ResNet::new(&config, vb)?))
    }

    fn backbone(&self) -> &dyn Backbone {
        match self {
            Self::ResNet(net) => net,
            Self::Small(net) => net,
        }
    }
}

/// Something of the last three stages.
fn last_three<T, R>(stages: &[T], get: impl Fn(&T) -> R) -> Result<[R; 3]> {
    match stages {
        [.., second, third, last] => Ok([get(second), get(third), get(last)]),
        _ => Err(Error::size("stages of the backbone", "at least 3", stages.len())),
    }
}
