//! The objective: cross entropy of the pixels, the auxiliary head's, and the SE-loss (paper §3.3).

use candle_core::Tensor;
use vision_core::FeatureMap;
use vision_core::ops::{CrossEntropyArgs, Reduction, cross_entropy};

use crate::config::LossConfig;
use crate::error::{Error, Result};
use crate::model::Output;
use crate::se::{CheckedLabels, se_loss};

/// What the loss of a batch is made of.
#[derive(Clone, Debug)]
pub struct Losses {
    /// `main + w_aux aux + w_se (se + aux_se)`, as [`LossConfig`] weighs them.
    pub total: Tensor,
    /// Mean cross entropy of the pixels with a class; 0 if there are none.
    pub main: Tensor,
    /// The same for the auxiliary head, if there is one with a weight.
    pub aux: Option<Tensor>,
    /// The SE-loss, if the model predicts classes and it has a weight.
    pub se: Option<Tensor>,
    /// That of the third stage, likewise.
    pub aux_se: Option<Tensor>,
    /// Number of pixels with a class. Without any, `main` and `aux` are 0 and have no gradient, where the authors' code
    /// goes on with NaN; a training run should count how often that happens.
    pub pixels: usize,
}

/// Compares the output of a model with labels.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use encnet::config::{Arch, BackboneConfig, HeadConfig, LossConfig, ModelConfig};
/// use encnet::{Criterion, EncNet};
/// use vision_core::{Pass, params::ParamStore, rng::Key};
/// # fn main() -> encnet::Result<()> {
/// let backbone = BackboneConfig { arch: Arch::Small, width: 8, ..BackboneConfig::default() };
/// let head = HeadConfig { channels: 16, ..HeadConfig::default() };
/// let config = ModelConfig { classes: 5, backbone, head, ..ModelConfig::default() };
/// let params = ParamStore::new(Key::new(1), DType::F32, &Device::Cpu);
/// let model = EncNet::new(&config, params.var_builder())?;
/// let criterion = Criterion::new(&LossConfig::default(), config.classes)?;
///
/// let pictures = Tensor::zeros((2, 3, 32, 32), DType::F32, &Device::Cpu)?;
/// let labels = Tensor::zeros((2, 32, 32), DType::I64, &Device::Cpu)?;
/// let output = model.forward(&pictures, &Pass::train(Key::new(2)))?;
/// let losses = criterion.losses(&output, &labels)?;
/// let gradients = losses.total.backward()?;
/// # assert!(params.trainable().iter().all(|(_, var)| gradients.get(var).is_some()));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Criterion {
    config: LossConfig,
    classes: usize,
}

impl Criterion {
    /// The objective for so many classes.
    ///
    /// # Errors
    /// If a weight is negative or not finite, or the ignored label is a class.
    pub fn new(config: &LossConfig, classes: usize) -> Result<Self> {
        config.validate(classes)?;
        Ok(Self { config: *config, classes })
    }

    /// The losses of `output` against `labels`, `(N, H, W)` of type `i64` or `u32`, on any device.
    ///
    /// A part with weight 0 is left out and not computed.
    ///
    /// # Errors
    /// If a label is neither a class nor the ignored one, or the shapes do not fit.
    pub fn losses(&self, output: &Output, labels: &Tensor) -> Result<Losses> {
        let checked = CheckedLabels::new(labels, self.classes, self.config.ignore)?;
        let pixels = checked.pixels();
        let main = self.pixels(&output.main, labels, pixels)?;
        let aux = match &output.aux {
            Some(map) if self.config.auxiliary > 0.0 => Some(self.pixels(map, labels, pixels)?),
            _ => None,
        };
        let (mut se, mut aux_se) = (None, None);
        if self.config.se > 0.0 {
            let presence = checked.presence()?;
            let loss = |logits: Option<&Tensor>| logits.map(|x| se_loss(x, &presence)).transpose();
            (se, aux_se) = (loss(output.se_logits.as_ref())?, loss(output.aux_se_logits.as_ref())?);
        }
        let mut total = main.clone();
        let parts = [(&aux, self.config.auxiliary), (&se, self.config.se), (&aux_se, self.config.se)];
        for (part, weight) in parts {
            if let Some(part) = part {
                total = (total + (part * weight)?)?;
            }
        }
        Ok(Losses { total, main, aux, se, aux_se, pixels })
    }

    /// Mean cross entropy over the `count` pixels that have a class, or 0.
    fn pixels(&self, logits: &FeatureMap, labels: &Tensor, count: usize) -> Result<Tensor> {
        let (n, h, w, classes) = logits.dims()?;
        if labels.dims() != [n, h, w] || classes != self.classes {
            return Err(Error::size(
                "logits",
                format!("{:?} and {} classes", labels.dims(), self.classes),
                format!("{:?}", logits.nhwc().dims()),
            ));
        }
        let args = CrossEntropyArgs {
            ignore_index: self.config.ignore,
            // The mean of nothing is not a number; its sum is 0, and so is the gradient of that.
            reduction: if count == 0 { Reduction::Sum } else { Reduction::Mean },
            ..CrossEntropyArgs::default()
        };
        let rows = n * h * w;
        Ok(cross_entropy(&logits.nhwc().reshape((rows, classes))?, &labels.reshape(rows)?, &args)?)
    }
}
