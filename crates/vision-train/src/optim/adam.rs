//! Adam and AdamW as `torch.optim.Adam` and `torch.optim.AdamW` define them.
//!
//! [`vision_core::ops::adam_step`] has the formula. Every parameter counts its own steps, for the correction of its
//! averages; one without a gradient is left alone, its averages and its count too.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};
use serde::{Deserialize, Serialize};
use vision_core::ops::{AdamStepArgs, adam_step};
use vision_weights::{Array, StateDict};

use super::groups::{Groups, check_shape, from_array, to_array};
use crate::error::{Error, Problem, Result};
use crate::recipe::ParamGroup;

/// Constants of Adam and AdamW. The defaults are those of PyTorch's Adam.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamConfig {
    /// Base learning rate, before schedule and group multiplier; above 0.
    pub lr: f64,
    /// Shares of the old average of gradients and of squares; 0 to below 1.
    pub betas: [f64; 2],
    /// Added to the root that is divided by; 0 or more.
    pub eps: f64,
    /// Adam: L2 penalty added to the gradient. AdamW: share of the parameter that each step takes away, times the
    /// learning rate. Groups carry their own; recipes usually hand this one on.
    pub weight_decay: f64,
    /// Whether weight decay bypasses the averages, which makes it AdamW.
    pub decoupled_weight_decay: bool,
    /// Divide by the largest average of squares so far.
    pub amsgrad: bool,
}

impl Default for AdamConfig {
    fn default() -> Self {
        Self {
            lr: 1e-3,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.0,
            decoupled_weight_decay: false,
            amsgrad: false,
        }
    }
}

impl AdamConfig {
    /// The defaults of PyTorch's AdamW.
    pub fn adamw() -> Self {
        Self { weight_decay: 0.01, decoupled_weight_decay: true, ..Self::default() }
    }

    /// Checks ranges; `prefix` is the key of this table, such as `optimiser`.
    pub fn problems(&self, prefix: &str) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut check = |ok: bool, key: &str, problem: &str| {
            if !ok {
                problems.push(Problem::new(format!("{prefix}.{key}"), problem));
            }
        };
        let natural = |x: f64| x >= 0.0 && x.is_finite();
        check(self.lr > 0.0 && self.lr.is_finite(), "lr", "must be a positive finite number");
        check(self.betas.iter().all(|beta| (0.0..1.0).contains(beta)), "betas", "must lie in 0 to below 1");
        check(natural(self.eps), "eps", "must be 0 or a positive finite number");
        check(natural(self.weight_decay), "weight_decay", "must be 0 or a positive finite number");
        problems
    }
}

/// What is kept of a parameter.
#[derive(Debug)]
struct Kept {
    /// Steps so far.
    steps: u64,
    /// Averages, one after the other, as `adam_step` takes them.
    averages: Tensor,
}

/// Names of the averages in a state, in the order of `adam_step`; the last one is there with AMSGrad only.
const AVERAGES: [&str; 3] = ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"];
const STEP: &str = "step";

/// Adam, or AdamW if its weight decay is decoupled.
#[derive(Debug)]
pub struct Adam {
    config: AdamConfig,
    groups: Groups,
    kept: BTreeMap<String, Kept>,
}

impl Adam {
    /// An optimiser that has taken no step yet.
    ///
    /// # Errors
    /// If the constants are out of range or a parameter is in two groups.
    pub fn new(config: AdamConfig, groups: Vec<ParamGroup>) -> Result<Self> {
        let groups = Groups::new(groups, config.problems("adam"))?;
        Ok(Self { config, groups, kept: BTreeMap::new() })
    }

    /// The groups.
    pub fn groups(&self) -> &[ParamGroup] {
        self.groups.as_slice()
    }

    /// The constants.
    pub fn config(&self) -> &AdamConfig {
        &self.config
    }

    /// Every parameter, by group order.
    pub fn params(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.groups.params()
    }

    fn names(&self) -> &'static [&'static str] {
        if self.config.amsgrad { &AVERAGES } else { &AVERAGES[..2] }
    }

    /// Updates the parameters in place. `grads` holds a gradient for each name that has one; `factor` is that of the
    /// schedule.
    ///
    /// # Errors
    /// If a gradient has another shape than its parameter.
    pub fn step(&mut self, grads: &BTreeMap<String, Tensor>, factor: f64) -> Result<()> {
        let AdamConfig { lr, betas, eps, decoupled_weight_decay: decoupled, amsgrad, .. } = self.config;
        let shared = AdamStepArgs { betas, eps, amsgrad, decoupled, ..AdamStepArgs::default() };
        for item in self.groups.with_gradients(grads) {
            let (group, name, var, grad) = item?;
            if !self.kept.contains_key(name) {
                let dims = [&[shared.averages()], var.dims()].concat();
                let averages = Tensor::zeros(dims, var.dtype(), var.device())?;
                self.kept.insert(name.to_owned(), Kept { steps: 0, averages });
            }
            let Some(kept) = self.kept.get_mut(name) else { continue };
            let args = AdamStepArgs {
                lr: lr * factor * group.lr_mult,
                weight_decay: group.weight_decay,
                step: kept.steps + 1,
                ..shared
            };
            adam_step(var, grad, &kept.averages, &args)?;
            kept.steps += 1;
        }
        Ok(())
    }

    /// Averages and steps, as PyTorch names them: `NAME.exp_avg`, `NAME.exp_avg_sq`, `NAME.max_exp_avg_sq` with
    /// AMSGrad, `NAME.step`.
    ///
    /// # Errors
    /// If a tensor cannot be read from its device.
    pub fn state(&self) -> Result<StateDict> {
        let mut state = StateDict::new();
        for (name, kept) in &self.kept {
            state.insert(format!("{name}.{STEP}"), Array::from_u64([], &[kept.steps])?);
            for (index, kind) in self.names().iter().enumerate() {
                state.insert(format!("{name}.{kind}"), to_array(&kept.averages.get(index)?)?);
            }
        }
        Ok(state)
    }

    /// Puts back what [`Adam::state`] returned.
    ///
    /// # Errors
    /// If an entry belongs to no parameter of this optimiser, has another shape, or is missing.
    pub fn restore(&mut self, state: &StateDict) -> Result<()> {
        let kinds = [&[STEP], self.names()].concat();
        let mut kept = BTreeMap::new();
        for key in state.tensors.keys() {
            let (name, _, var) = self.groups.owner(key, &kinds)?;
            if kept.contains_key(name) {
                continue;
            }
            let entry = |kind: &str, dims: &[usize]| {
                let key = format!("{name}.{kind}");
                let array = state.tensors.get(&key).ok_or_else(|| Error::Format {
                    what: "optimiser state".to_owned(),
                    problem: format!("`{key}` is missing"),
                })?;
                check_shape(&key, array, dims)?;
                Ok::<_, Error>(array)
            };
            let steps = entry(STEP, &[])?.to_u64()?.first().copied().unwrap_or_default();
            let averages =
                self.names().iter().map(|kind| from_array(entry(kind, var.dims())?, var.as_tensor()));
            let averages = Tensor::stack(&averages.collect::<Result<Vec<_>>>()?, 0)?.contiguous()?;
            kept.insert(name.to_owned(), Kept { steps, averages });
        }
        self.kept = kept;
        Ok(())
    }
}
