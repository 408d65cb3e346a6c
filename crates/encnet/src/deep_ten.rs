//! Pictures of textures by their encoding alone: the head of Deep TEN (Zhang, Xue, Dana; CVPR 2017), from which this
//! paper takes its encoding layer, and the description that the CIFAR networks share with it.

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};
use vision_core::nn::{BatchNorm2d, BatchNormConfig, Conv2d, ConvNorm, Linear};
use vision_core::ops::{Conv2dArgs, EncodingArgs, encoding_nhwc, l2_normalize};
use vision_core::{FeatureMap, Pass};

use crate::encoding::codewords;
use crate::error::Result;

/// Below this length a description is divided by this instead.
const NORM_EPS: f64 = 1e-8;
/// The scale of [`Scales::Drawn`] in evaluation, the mean of those in training.
const MEAN_SCALE: f64 = -0.5;

/// Where the scales of a description come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scales {
    /// Learnt, as in the encoding layer.
    #[default]
    Learnt,
    /// Drawn from (-1, 0) anew in every training pass, one for each codeword, and -0.5 in evaluation: the regularisation
    /// that the paper's CIFAR results were trained with. The parameter `scale` is kept for weight files, and not used.
    Drawn,
}

/// A map as one vector of length one: a 1x1 convolution with bias, normalisation, ReLU, the encoding layer, and its result
/// divided by its length.
///
/// Parameters are `0` (convolution), `1` (normalisation) and `3` (codewords and scale) of a sequence.
#[derive(Clone, Debug)]
pub struct Description {
    project: ConvNorm,
    codewords: Tensor,
    scale: Tensor,
    scales: Scales,
    name: String,
}

impl Description {
    /// Of maps of `in_channels` channels, by `codes` codewords of `channels` numbers.
    ///
    /// # Errors
    /// If a size is 0, or `vb` cannot give a parameter of the right shape.
    #[allow(clippy::needless_pass_by_value, reason = "builders are passed by value throughout candle")]
    pub fn new(
        [in_channels, channels]: [usize; 2],
        codes: usize,
        scales: Scales,
        norm: &BatchNormConfig,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let conv = Conv2d::new(in_channels, channels, [1, 1], Conv2dArgs::default(), true, vb.pp(0))?;
        let project = ConvNorm::new(conv, BatchNorm2d::new(channels, norm, vb.pp(1))?);
        let vb = vb.pp(3);
        let codewords = codewords(channels, codes, &vb)?;
        let init = match scales {
            Scales::Learnt => Init::Uniform { lo: -1.0, up: 0.0 },
            Scales::Drawn => Init::Const(MEAN_SCALE),
        };
        let scale = vb.get_with_hints(codes, "scale", init)?;
        Ok(Self { project, codewords, scale, scales, name: vb.prefix() })
    }

    /// Describes maps: `(N, K channels)`.
    ///
    /// # Errors
    /// If the map has another number of channels, or no pixels.
    pub fn forward(&self, map: &FeatureMap, pass: &Pass) -> Result<Tensor> {
        let map = self.project.forward_relu(map, pass)?;
        let scale = match self.scales {
            Scales::Learnt => self.scale.clone(),
            Scales::Drawn => {
                let (dims, dtype, device) = (self.scale.dims(), self.scale.dtype(), self.scale.device());
                if pass.train {
                    pass.key.fold(&self.name).uniform(dims, -1.0, 0.0, dtype, device)?
                } else {
                    Tensor::full(MEAN_SCALE, dims, device)?.to_dtype(dtype)?
                }
            }
        };
        let encoded = encoding_nhwc(&map, &self.codewords, &scale, &EncodingArgs::default())?;
        Ok(l2_normalize(&encoded.flatten_from(1)?, NORM_EPS)?)
    }

    /// Numbers in a description.
    pub fn size(&self) -> usize {
        self.codewords.elem_count()
    }
}

/// Classes of textures from the last map of a backbone: a [`Description`] and a linear layer, with the parameters `0`,
/// `1`, `3` and `6` of a sequence.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use encnet::deep_ten::DeepTenHead;
/// use vision_core::nn::BatchNormConfig;
/// use vision_core::{FeatureMap, Pass, params::ParamStore, rng::Key};
/// # fn main() -> encnet::Result<()> {
/// let params = ParamStore::new(Key::new(1), DType::F32, &Device::Cpu);
/// let head = DeepTenHead::new([64, 8], 4, 23, &BatchNormConfig::default(), params.var_builder())?;
/// let map = FeatureMap::from_nchw(&Tensor::ones((2, 64, 7, 7), DType::F32, &Device::Cpu)?)?;
/// assert_eq!(head.forward(&map, &Pass::eval())?.dims(), [2, 23]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct DeepTenHead {
    description: Description,
    classifier: Linear,
}

impl DeepTenHead {
    /// For maps of `in_channels` channels, encoded with `channels`: 2048, 128 and 32 codes for a ResNet-50.
    ///
    /// # Errors
    /// As [`Description::new`].
    #[allow(clippy::needless_pass_by_value, reason = "builders are passed by value throughout candle")]
    pub fn new(
        [in_channels, channels]: [usize; 2],
        codes: usize,
        classes: usize,
        norm: &BatchNormConfig,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let description = Description::new([in_channels, channels], codes, Scales::Learnt, norm, vb.clone())?;
        let classifier = Linear::new(description.size(), classes, true, vb.pp(6))?;
        Ok(Self { description, classifier })
    }

    /// Logits of the classes, `(N, classes)`.
    ///
    /// # Errors
    /// As [`Description::forward`].
    pub fn forward(&self, map: &FeatureMap, pass: &Pass) -> Result<Tensor> {
        Ok(pass.settle(self.classifier.forward(&self.description.forward(map, pass)?)?))
    }
}
