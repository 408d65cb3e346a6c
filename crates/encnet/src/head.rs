//! What stands behind the backbone (§3.3): the EncNet head, and the FCN head that is its baseline and auxiliary.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use vision_core::nn::{BatchNorm2d, BatchNormConfig, Conv2d, ConvNorm, Dropout};
use vision_core::ops::{self, AfterConv, Conv2dArgs};
use vision_core::{FeatureMap, Pass};

use crate::config::{ContextConfig, DropoutKind, HeadConfig};
use crate::context::{Context, ContextOutput};
use crate::error::{Error, Result};

/// Convolution, normalisation and ReLU, with parameters `0` and `1` of a sequence.
fn conv_norm(
    channels: [usize; 2],
    kernel: usize,
    norm: &BatchNormConfig,
    vb: &VarBuilder<'_>,
) -> Result<ConvNorm> {
    let args = Conv2dArgs::square(1, kernel / 2);
    let conv = Conv2d::new(channels[0], channels[1], [kernel; 2], args, false, vb.pp(0))?;
    Ok(ConvNorm::new(conv, BatchNorm2d::new(channels[1], norm, vb.pp(1))?))
}

/// Dropout of maps, of single numbers or whole channels.
#[derive(Clone, Debug)]
struct MapDropout {
    layer: Dropout,
    kind: DropoutKind,
}

impl MapDropout {
    fn new(config: &HeadConfig, name: String) -> Result<Self> {
        Ok(Self { layer: Dropout::new(name, config.dropout)?, kind: config.dropout_kind })
    }

    fn forward(&self, map: &FeatureMap, pass: &Pass) -> Result<FeatureMap> {
        if !pass.train || self.layer.p() == 0.0 {
            return Ok(map.clone());
        }
        match self.kind {
            DropoutKind::Element => Ok(self.layer.forward_map(map, pass)?),
            DropoutKind::Channel => {
                let (n, _, _, c) = map.dims()?;
                let ones = Tensor::ones((n, 1, 1, c), map.nhwc().dtype(), map.nhwc().device())?;
                let factors = self.layer.forward(&ones, pass)?;
                Ok(FeatureMap::from_nhwc(map.nhwc().broadcast_mul(&factors)?)?)
            }
        }
    }
}

/// The last convolution: one logit per class.
#[derive(Clone, Debug)]
struct Classifier(Conv2d);

impl Classifier {
    fn new(channels: usize, classes: usize, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Self(Conv2d::new(channels, classes, [1, 1], Conv2dArgs::default(), true, vb)?))
    }

    fn forward(&self, map: &FeatureMap, pass: &Pass) -> Result<FeatureMap> {
        if pass.graph {
            return Ok(self.0.forward(map)?);
        }
        let shift = self.0.bias().map(Tensor::detach);
        let after = AfterConv { shift: shift.as_ref(), ..AfterConv::default() };
        Ok(self.0.forward_inference(map, &after)?)
    }
}

/// 3x3 convolution to a quarter of the channels, dropout, classifier: with parameters `conv5.0`, `conv5.1` and
/// `conv5.4`.
#[derive(Clone, Debug)]
pub struct FcnHead {
    conv5: ConvNorm,
    dropout: MapDropout,
    classifier: Classifier,
}

impl FcnHead {
    /// A head for maps of `in_channels` channels.
    ///
    /// # Errors
    /// If the configuration is out of range, or `vb` cannot give a parameter of the right shape.
    #[allow(clippy::needless_pass_by_value, reason = "builders are passed by value throughout candle")]
    pub fn new(
        in_channels: usize,
        classes: usize,
        config: &HeadConfig,
        norm: &BatchNormConfig,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let (channels, vb) = ((in_channels / 4).max(1), vb.pp("conv5"));
        Ok(Self {
            conv5: conv_norm([in_channels, channels], 3, norm, &vb)?,
            dropout: MapDropout::new(config, format!("{}.3", vb.prefix()))?,
            classifier: Classifier::new(channels, classes, vb.pp(4))?,
        })
    }

    /// The logits of a map, `(N, H, W, classes)`, as large as the map.
    ///
    /// # Errors
    /// If the map has another number of channels.
    pub fn forward(&self, map: &FeatureMap, pass: &Pass) -> Result<FeatureMap> {
        let map = self.conv5.forward_relu(map, pass)?;
        self.classifier.forward(&self.dropout.forward(&map, pass)?, pass)
    }
}

/// The head of EncNet: 3x3 convolution, lateral connections, context encoding, dropout, classifier.
///
/// Parameters are `conv5`, `connect.0`, `connect.1`, `fusion`, `encmodule` and `conv6.1`, as in the authors' code.
#[derive(Clone, Debug)]
pub struct EncHead {
    conv5: ConvNorm,
    /// Of the second and third stage.
    connect: Vec<ConvNorm>,
    fusion: Option<ConvNorm>,
    context: Context,
    dropout: MapDropout,
    classifier: Classifier,
}

/// What an [`EncHead`] gives.
#[derive(Clone, Debug)]
pub struct HeadOutput {
    /// Logits, `(N, H, W, classes)`, as large as the map.
    pub logits: FeatureMap,
    /// What the context encoding module gave.
    pub context: ContextOutput,
}

impl EncHead {
    /// A head for stages of `in_channels` channels, of the second, third and last stage.
    ///
    /// # Errors
    /// If the configuration is out of range, or `vb` cannot give a parameter of the right shape.
    #[allow(clippy::needless_pass_by_value, reason = "builders are passed by value throughout candle")]
    pub fn new(
        in_channels: [usize; 3],
        classes: usize,
        config: &HeadConfig,
        context: &ContextConfig,
        norm: &BatchNormConfig,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let [second, third, last] = in_channels;
        let channels = config.channels;
        let (mut connect, mut fusion) = (Vec::new(), None);
        if config.lateral {
            for (i, stage) in [second, third].into_iter().enumerate() {
                connect.push(conv_norm([stage, channels], 1, norm, &vb.pp("connect").pp(i))?);
            }
            fusion = Some(conv_norm([3 * channels, channels], 3, norm, &vb.pp("fusion"))?);
        }
        let conv6 = vb.pp("conv6");
        Ok(Self {
            conv5: conv_norm([last, channels], 3, norm, &vb.pp("conv5"))?,
            connect,
            fusion,
            context: Context::new(channels, classes, context, norm, vb.pp("encmodule"))?,
            dropout: MapDropout::new(config, format!("{}.0", conv6.prefix()))?,
            classifier: Classifier::new(channels, classes, conv6.pp(1))?,
        })
    }

    /// Logits and context for the maps of the second, third and last stage. The first two are only used by lateral
    /// connections, and must be as large as the last one then.
    ///
    /// # Errors
    /// If a map has another number of channels, or lateral maps have another size.
    pub fn forward(&self, stages: [&FeatureMap; 3], pass: &Pass) -> Result<HeadOutput> {
        let context = self.context.forward(&self.fused(stages, pass)?, pass)?;
        let logits = self.classifier.forward(&self.dropout.forward(&context.map, pass)?, pass)?;
        Ok(HeadOutput { logits, context })
    }

    /// The map whose context is encoded.
    ///
    /// # Errors
    /// As [`EncHead::forward`].
    pub fn fused(&self, [second, third, last]: [&FeatureMap; 3], pass: &Pass) -> Result<FeatureMap> {
        let map = self.conv5.forward_relu(last, pass)?;
        let Some(fusion) = &self.fusion else { return Ok(map) };
        let mut parts = vec![map];
        for (stage, (layer, lateral)) in self.connect.iter().zip([second, third]).enumerate() {
            let (got, want) = (lateral.dims()?, last.dims()?);
            if (got.0, got.1, got.2) != (want.0, want.1, want.2) {
                return Err(Error::size(
                    format!("map of stage {}, for a lateral connection", stage + 2),
                    format!("({}, {}, {}, ..), as the last stage", want.0, want.1, want.2),
                    format!("{got:?}"),
                ));
            }
            parts.push(layer.forward_relu(lateral, pass)?);
        }
        let parts: Vec<&Tensor> = parts.iter().map(FeatureMap::nhwc).collect();
        Ok(fusion.forward_relu(&FeatureMap::from_nhwc(Tensor::cat(&parts, 3)?)?, pass)?)
    }

    /// The context encoding module.
    pub fn context(&self) -> &Context {
        &self.context
    }
}

/// `map` enlarged to `[height, width]`.
///
/// # Errors
/// If the map has no pixels.
pub fn enlarge(map: &FeatureMap, size: [usize; 2], align_corners: bool) -> Result<FeatureMap> {
    let args = ops::InterpolateArgs::bilinear(align_corners);
    Ok(ops::interpolate_nhwc(map, ops::ResizeTo::Size(size), &args)?)
}
