//! Batch normalisation layer.

use std::sync::Arc;

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};

use crate::FeatureMap;
use crate::dist::Collective;
use crate::error::Result;
use crate::ops::{
    BatchNormArgs, BatchNormRanks, BatchStats, RunningVar, batch_norm_nhwc, sync_batch_norm_nhwc,
};

/// Constants of [`BatchNorm2d`].
#[derive(Clone, Debug)]
pub struct BatchNormConfig {
    /// Added to the variance.
    pub eps: f64,
    /// Share of the batch in the new running statistics, in `[0, 1]`.
    pub momentum: f64,
    /// Whether to use the running statistics in training as well, and leave them alone.
    pub frozen: bool,
    /// Which variance the running one moves towards.
    pub running_var: RunningVar,
    /// Initial weight: 1, or 0 for the last normalisation of a residual branch that is to start as identity.
    pub weight: f64,
    /// The ranks whose batches count as one in training, as in PyTorch's `SyncBatchNorm`; `None` for this rank's
    /// alone. All ranks then run the same passes, forward and backward.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use vision_core::backbones::resnet::ResNetConfig;
    /// use vision_core::dist::Single;
    /// use vision_core::nn::BatchNormConfig;
    /// let norm = BatchNormConfig { collective: Some(Arc::new(Single)), ..BatchNormConfig::default() };
    /// let config = ResNetConfig { norm, ..ResNetConfig::default() };
    /// # assert_eq!(config, config.clone());
    /// ```
    pub collective: Option<Arc<dyn Collective>>,
}

impl PartialEq for BatchNormConfig {
    /// Collectives are equal if they are the same object.
    fn eq(&self, other: &Self) -> bool {
        let address = |config: &Self| config.collective.as_ref().map(|ranks| Arc::as_ptr(ranks).cast::<()>());
        (self.eps, self.momentum, self.frozen, self.running_var, self.weight, address(self))
            == (other.eps, other.momentum, other.frozen, other.running_var, other.weight, address(other))
    }
}

impl Default for BatchNormConfig {
    /// PyTorch's defaults: 1e-5, 0.1, not frozen, unbiased, weight 1, each rank for itself.
    fn default() -> Self {
        let running_var = RunningVar::Unbiased;
        Self { eps: 1e-5, momentum: 0.1, frozen: false, running_var, weight: 1.0, collective: None }
    }
}

/// Batch normalisation with parameters `weight` and `bias` and buffers `running_mean` and `running_var`.
///
/// PyTorch's counter `num_batches_tracked` is not kept: nothing here reads it.
#[derive(Clone, Debug)]
pub struct BatchNorm2d {
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    config: BatchNormConfig,
    /// Where the parameters come from; names the layer to other ranks.
    name: String,
}

impl BatchNorm2d {
    /// Takes parameters and buffers from `vb`.
    ///
    /// The layer is frozen if the configuration says so or if `vb` gives running statistics that are not
    /// variables, as a frozen prefix of a [`crate::params::ParamStore`] does.
    ///
    /// # Errors
    /// If `vb` cannot give a tensor of the right shape.
    #[allow(clippy::needless_pass_by_value, reason = "builders are passed by value throughout candle")]
    pub fn new(channels: usize, config: &BatchNormConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let get = |name: &str, value: f64| vb.get_with_hints(channels, name, Init::Const(value));
        let mut layer = Self {
            weight: get("weight", config.weight)?,
            bias: get("bias", 0.0)?,
            running_mean: get("running_mean", 0.0)?,
            running_var: get("running_var", 1.0)?,
            config: config.clone(),
            name: vb.prefix(),
        };
        layer.config.frozen |= !layer.running_mean.is_variable() || !layer.running_var.is_variable();
        Ok(layer)
    }

    /// Normalises a map with the statistics of the batch if `train` and not frozen, else with the running
    /// ones.
    ///
    /// # Errors
    /// If the map has another number of channels, training meets a single value per channel, or other ranks do not
    /// come together with this one.
    pub fn forward(&self, input: &FeatureMap, train: bool) -> Result<FeatureMap> {
        self.run(input, train, None, false)
    }

    /// [`BatchNorm2d::forward`] followed by ReLU, in one pass.
    ///
    /// # Errors
    /// As [`BatchNorm2d::forward`].
    pub fn forward_relu(&self, input: &FeatureMap, train: bool) -> Result<FeatureMap> {
        self.run(input, train, None, true)
    }

    /// [`BatchNorm2d::forward`], plus `residual`, followed by ReLU, in one pass.
    ///
    /// # Errors
    /// As [`BatchNorm2d::forward`], and if the residual has another shape.
    pub fn forward_add_relu(
        &self,
        input: &FeatureMap,
        residual: &FeatureMap,
        train: bool,
    ) -> Result<FeatureMap> {
        self.run(input, train, Some(residual), true)
    }

    /// What the layer does with its running statistics: `x * scale + shift` per channel, as constants.
    ///
    /// # Errors
    /// If the tensor library reports one.
    pub fn scale_and_shift(&self) -> Result<(Tensor, Tensor)> {
        let (mean, var) = (self.running_mean.detach(), self.running_var.detach());
        let scale = (self.weight.detach() / (var + self.config.eps)?.sqrt()?)?;
        let shift = (self.bias.detach() - (mean * &scale)?)?;
        Ok((scale, shift))
    }

    fn run(
        &self,
        input: &FeatureMap,
        train: bool,
        residual: Option<&FeatureMap>,
        relu: bool,
    ) -> Result<FeatureMap> {
        let stats = BatchStats { running_mean: &self.running_mean, running_var: &self.running_var };
        let args = BatchNormArgs {
            training: train && !self.config.frozen,
            momentum: self.config.momentum,
            eps: self.config.eps,
            relu,
            running_var: self.config.running_var,
        };
        match &self.config.collective {
            None => batch_norm_nhwc(input, &self.weight, &self.bias, stats, &args, residual),
            Some(collective) => {
                let ranks = BatchNormRanks { collective, name: &self.name };
                sync_batch_norm_nhwc(input, &self.weight, &self.bias, stats, &args, residual, ranks)
            }
        }
    }
}
