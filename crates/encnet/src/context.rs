//! The context encoding module (§3.1, Fig. 2): factors for the channels of a map, and the classes in the picture.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use vision_core::nn::{BatchNorm2d, BatchNormConfig, Conv2d, ConvNorm, Linear};
use vision_core::ops::{Conv2dArgs, EncodingArgs, adaptive_avg_pool2d_nhwc, relu_nhwc};
use vision_core::{FeatureMap, Pass};

use crate::config::{Aggregate, ContextConfig, Gate, Projection};
use crate::encoding::Encoding;
use crate::error::Result;

/// From a map to one vector that says what is in it: projection, encoding, batch normalisation over the codes, ReLU,
/// and the sum or mean over the codes.
///
/// Parameters are named as in the authors' code, `encoding.0` (convolution), `encoding.1` (its normalisation),
/// `encoding.3` (codewords and scale) and `encoding.4` (normalisation), whatever part of them there is. Without codes the
/// vector is the mean over all positions of what would have been encoded.
#[derive(Clone, Debug)]
pub struct ContextEncoder {
    projection: Option<ConvNorm>,
    codes: Option<(Encoding, BatchNorm2d)>,
    aggregate: Aggregate,
}

impl ContextEncoder {
    /// An encoder of maps of `channels` channels.
    ///
    /// # Errors
    /// If `vb` cannot give a parameter of the right shape.
    #[allow(clippy::needless_pass_by_value, reason = "builders are passed by value throughout candle")]
    pub fn new(
        channels: usize,
        config: &ContextConfig,
        norm: &BatchNormConfig,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let vb = vb.pp("encoding");
        let projection = match config.projection {
            Projection::None => None,
            Projection::Norm => Some(pointwise(channels, norm, &vb)?),
            Projection::LocalNorm => {
                let local = BatchNormConfig { collective: None, ..norm.clone() };
                Some(pointwise(channels, &local, &vb)?)
            }
        };
        let codes = if config.codes == 0 {
            None
        } else {
            let args = EncodingArgs { normalize_distance: config.normalize_distance };
            let layer = Encoding::new(channels, config.codes, args, vb.pp(3))?;
            Some((layer, BatchNorm2d::new(config.codes, norm, vb.pp(4))?))
        };
        Ok(Self { projection, codes, aggregate: config.aggregate })
    }

    /// The vectors of maps `(N, H, W, D)`: `(N, D)`.
    ///
    /// # Errors
    /// If the map has another number of channels, or no pixels.
    pub fn forward(&self, map: &FeatureMap, pass: &Pass) -> Result<Tensor> {
        let projected = self.project(map, pass)?;
        let Some((layer, norm)) = &self.codes else {
            let (n, _, _, d) = projected.dims()?;
            return Ok(adaptive_avg_pool2d_nhwc(&projected, [1, 1])?.nhwc().reshape((n, d))?);
        };
        // The codes are the channels of the normalisation.
        let by_code = layer.forward(&projected)?.transpose(1, 2)?.unsqueeze(1)?;
        let by_code = norm.forward_relu(&FeatureMap::from_nhwc(by_code)?, pass.train)?;
        let by_code = by_code.nhwc().squeeze(1)?;
        Ok(match self.aggregate {
            Aggregate::Sum => by_code.sum(2)?,
            Aggregate::Mean => by_code.mean(2)?,
        })
    }

    /// The encoding layer, if there are codes.
    pub fn encoding(&self) -> Option<&Encoding> {
        self.codes.as_ref().map(|(layer, _)| layer)
    }

    /// What the encoding layer is given for `map`.
    ///
    /// # Errors
    /// If the map has another number of channels.
    pub fn project(&self, map: &FeatureMap, pass: &Pass) -> Result<FeatureMap> {
        Ok(match &self.projection {
            Some(projection) => projection.forward_relu(map, pass)?,
            None => map.clone(),
        })
    }
}

fn pointwise(channels: usize, norm: &BatchNormConfig, vb: &VarBuilder<'_>) -> Result<ConvNorm> {
    let conv = Conv2d::new(channels, channels, [1, 1], Conv2dArgs::default(), false, vb.pp(0))?;
    Ok(ConvNorm::new(conv, BatchNorm2d::new(channels, norm, vb.pp(1))?))
}

/// A [`ContextEncoder`] with what uses its vector: a gate on the map's channels, and a prediction of the classes.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use encnet::Context;
/// use encnet::config::ContextConfig;
/// use vision_core::nn::BatchNormConfig;
/// use vision_core::{FeatureMap, Pass, params::ParamStore, rng::Key};
/// # fn main() -> encnet::Result<()> {
/// let params = ParamStore::new(Key::new(1), DType::F32, &Device::Cpu);
/// let (config, norm) = (ContextConfig::default(), BatchNormConfig::default());
/// let module = Context::new(16, 5, &config, &norm, params.var_builder())?;
/// let map = FeatureMap::from_nchw(&Tensor::ones((2, 16, 6, 6), DType::F32, &Device::Cpu)?)?;
/// let output = module.forward(&map, &Pass::eval())?;
/// assert_eq!(output.map.dims()?, (2, 6, 6, 16));
/// assert_eq!(output.class_logits.map(|logits| logits.dims().to_vec()), Some(vec![2, 5]));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Context {
    encoder: ContextEncoder,
    fc: Linear,
    selayer: Option<Linear>,
    gate: Gate,
}

/// What a [`Context`] gives.
#[derive(Clone, Debug)]
pub struct ContextOutput {
    /// The map with its channels weighted.
    pub map: FeatureMap,
    /// What the map holds, `(N, D)`: the input of the two below.
    pub vector: Tensor,
    /// The factors of the channels, `(N, D)`, in (0, 1).
    pub gate: Tensor,
    /// Logits of each class being in the picture, `(N, classes)`, if the module predicts them.
    pub class_logits: Option<Tensor>,
}

impl Context {
    /// A module for maps of `channels` channels, with parameters `encoding`, `fc.0` and `selayer`.
    ///
    /// # Errors
    /// If `vb` cannot give a parameter of the right shape.
    pub fn new(
        channels: usize,
        classes: usize,
        config: &ContextConfig,
        norm: &BatchNormConfig,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let fc = Linear::new(channels, channels, true, vb.pp("fc").pp(0))?;
        let selayer = if config.predict_classes {
            Some(Linear::new(channels, classes, true, vb.pp("selayer"))?)
        } else {
            None
        };
        let encoder = ContextEncoder::new(channels, config, norm, vb)?;
        Ok(Self { encoder, fc, selayer, gate: config.gate })
    }

    /// Weights the channels of a map `(N, H, W, D)` by what is in it.
    ///
    /// # Errors
    /// If the map has another number of channels, or no pixels.
    pub fn forward(&self, map: &FeatureMap, pass: &Pass) -> Result<ContextOutput> {
        let vector = self.encoder.forward(map, pass)?;
        let gate = candle_nn::ops::sigmoid(&self.fc.forward(&vector)?)?;
        let class_logits = self.selayer.as_ref().map(|layer| layer.forward(&vector)).transpose()?;
        Ok(ContextOutput { map: weigh(map, &gate, self.gate)?, vector, gate, class_logits })
    }

    /// The part that makes the vector.
    pub fn encoder(&self) -> &ContextEncoder {
        &self.encoder
    }
}

/// What `gate`, `(N, D)`, does to `map`.
fn weigh(map: &FeatureMap, gate: &Tensor, kind: Gate) -> Result<FeatureMap> {
    let (n, d) = gate.dims2()?;
    // `x + x g` as one product.
    let factors = match kind {
        Gate::Plain => gate.clone(),
        Gate::Residual | Gate::ResidualRelu => (gate + 1.0)?,
    };
    let weighed = map.nhwc().broadcast_mul(&factors.reshape((n, 1, 1, d))?)?;
    let weighed = FeatureMap::from_nhwc(weighed)?;
    Ok(if kind == Gate::ResidualRelu { relu_nhwc(&weighed)? } else { weighed })
}

/// The supervision of the third stage by the paper's text: a second encoder behind a 3x3 convolution, of which only the
/// prediction of the classes is used. A reconstruction; the text does not say how that stage is projected.
///
/// Parameters are `conv5.0`, `conv5.1`, `encmodule.encoding` and `encmodule.selayer`.
#[derive(Clone, Debug)]
pub struct ContextSupervision {
    conv5: ConvNorm,
    encoder: ContextEncoder,
    selayer: Linear,
}

impl ContextSupervision {
    /// For maps of `in_channels` channels, encoded with `channels`.
    ///
    /// # Errors
    /// If `vb` cannot give a parameter of the right shape.
    #[allow(clippy::needless_pass_by_value, reason = "builders are passed by value throughout candle")]
    pub fn new(
        [in_channels, channels]: [usize; 2],
        classes: usize,
        config: &ContextConfig,
        norm: &BatchNormConfig,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let conv = vb.pp("conv5");
        let (kernel, args) = ([3, 3], Conv2dArgs::square(1, 1));
        let conv5 = ConvNorm::new(
            Conv2d::new(in_channels, channels, kernel, args, false, conv.pp(0))?,
            BatchNorm2d::new(channels, norm, conv.pp(1))?,
        );
        let module = vb.pp("encmodule");
        let selayer = Linear::new(channels, classes, true, module.pp("selayer"))?;
        Ok(Self { conv5, encoder: ContextEncoder::new(channels, config, norm, module)?, selayer })
    }

    /// Logits of each class being in the picture, `(N, classes)`.
    ///
    /// # Errors
    /// If the map has another number of channels, or no pixels.
    pub fn forward(&self, map: &FeatureMap, pass: &Pass) -> Result<Tensor> {
        let map = self.conv5.forward_relu(map, pass)?;
        Ok(self.selayer.forward(&self.encoder.forward(&map, pass)?)?)
    }
}
