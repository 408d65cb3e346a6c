//! Optimisers.

pub mod adam;
mod clip;
mod groups;
pub mod sgd;

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};
use serde::{Deserialize, Serialize};
use vision_weights::StateDict;

pub use self::adam::{Adam, AdamConfig};
pub use self::clip::{clip_grad_norm, grad_norm};
pub use self::sgd::{Sgd, SgdConfig};
use crate::error::{Problem, Result};
use crate::recipe::ParamGroup;

/// An optimiser and its constants, as a configuration chooses it.
///
/// ```toml
/// [optimiser]
/// kind = "adam"
/// lr = 3e-4
/// weight_decay = 0.05
/// decoupled_weight_decay = true
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum OptimiserConfig {
    /// [`Sgd`].
    Sgd(SgdConfig),
    /// [`Adam`], and AdamW if its weight decay is decoupled.
    Adam(AdamConfig),
}

impl From<SgdConfig> for OptimiserConfig {
    fn from(config: SgdConfig) -> Self {
        Self::Sgd(config)
    }
}

impl From<AdamConfig> for OptimiserConfig {
    fn from(config: AdamConfig) -> Self {
        Self::Adam(config)
    }
}

impl OptimiserConfig {
    /// Base learning rate.
    pub fn lr(&self) -> f64 {
        match self {
            Self::Sgd(config) => config.lr,
            Self::Adam(config) => config.lr,
        }
    }

    /// Weight decay for the groups that a recipe does not exempt.
    pub fn weight_decay(&self) -> f64 {
        match self {
            Self::Sgd(config) => config.weight_decay,
            Self::Adam(config) => config.weight_decay,
        }
    }

    /// Checks ranges; `prefix` is the key of this table, such as `optimiser`.
    pub fn problems(&self, prefix: &str) -> Vec<Problem> {
        match self {
            Self::Sgd(config) => config.problems(prefix),
            Self::Adam(config) => config.problems(prefix),
        }
    }
}

/// The optimiser of a run.
#[derive(Debug)]
pub enum Optimiser {
    /// Stochastic gradient descent.
    Sgd(Sgd),
    /// Adam and AdamW.
    Adam(Adam),
}

impl Optimiser {
    /// The optimiser that `config` chooses, before its first step.
    ///
    /// # Errors
    /// If the constants are out of range or a parameter is in two groups.
    pub fn new(config: OptimiserConfig, groups: Vec<ParamGroup>) -> Result<Self> {
        Ok(match config {
            OptimiserConfig::Sgd(config) => Self::Sgd(Sgd::new(config, groups)?),
            OptimiserConfig::Adam(config) => Self::Adam(Adam::new(config, groups)?),
        })
    }

    /// The groups.
    pub fn groups(&self) -> &[ParamGroup] {
        match self {
            Self::Sgd(inner) => inner.groups(),
            Self::Adam(inner) => inner.groups(),
        }
    }

    /// Every parameter, by group order.
    pub fn params(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.groups().iter().flat_map(|group| group.params.iter().map(|(name, var)| (name.as_str(), var)))
    }

    /// Updates the parameters in place. `grads` holds a gradient for each name that has one; `factor` is
    /// that of the schedule.
    ///
    /// # Errors
    /// If a gradient has another shape than its parameter.
    pub fn step(&mut self, grads: &BTreeMap<String, Tensor>, factor: f64) -> Result<()> {
        match self {
            Self::Sgd(inner) => inner.step(grads, factor),
            Self::Adam(inner) => inner.step(grads, factor),
        }
    }

    /// What has to be saved to go on exactly.
    ///
    /// # Errors
    /// If a tensor cannot be read from its device.
    pub fn state(&self) -> Result<StateDict> {
        match self {
            Self::Sgd(inner) => inner.state(),
            Self::Adam(inner) => inner.state(),
        }
    }

    /// Puts back what [`Optimiser::state`] returned.
    ///
    /// # Errors
    /// If an entry does not belong to this optimiser.
    pub fn restore(&mut self, state: &StateDict) -> Result<()> {
        match self {
            Self::Sgd(inner) => inner.restore(state),
            Self::Adam(inner) => inner.restore(state),
        }
    }
}
