//! Stochastic gradient descent as `torch.optim.SGD` defines it.
//!
//! For a parameter `p` with gradient `g`, weight decay `w`, momentum `m`, dampening `d` and rate `lr`:
//! `g += w p`; `b = g` at the first update of `p` and `b = m b + (1 - d) g` afterwards; the direction is
//! `g + m b` with Nesterov and `b` without; `p -= lr * direction`. Without momentum the direction is `g`.
//! A parameter without a gradient is left alone, its momentum too.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};
use serde::{Deserialize, Serialize};
use vision_core::ops::{SgdStepArgs, sgd_step};
use vision_weights::StateDict;

use super::groups::{Groups, check_shape, from_array, to_array};
use crate::error::{Problem, Result};
use crate::recipe::ParamGroup;

/// Constants of SGD. The defaults are PyTorch's, with the rate 0.1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SgdConfig {
    /// Base learning rate, before schedule and group multiplier; above 0.
    pub lr: f64,
    /// Factor on the previous direction; 0 to below 1.
    pub momentum: f64,
    /// How much of the new gradient is kept out of the momentum; 0 to 1.
    pub dampening: f64,
    /// L2 penalty added to the gradient. Groups carry their own; recipes usually hand this one on.
    pub weight_decay: f64,
    /// Look ahead along the momentum. Needs momentum and no dampening.
    pub nesterov: bool,
}

impl Default for SgdConfig {
    fn default() -> Self {
        Self { lr: 0.1, momentum: 0.0, dampening: 0.0, weight_decay: 0.0, nesterov: false }
    }
}

impl SgdConfig {
    /// Checks ranges; `prefix` is the key of this table, such as `sgd`.
    pub fn problems(&self, prefix: &str) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut check = |ok: bool, key: &str, problem: &str| {
            if !ok {
                problems.push(Problem::new(format!("{prefix}.{key}"), problem));
            }
        };
        check(self.lr > 0.0 && self.lr.is_finite(), "lr", "must be a positive finite number");
        check((0.0..1.0).contains(&self.momentum), "momentum", "must lie in 0 to below 1");
        check((0.0..=1.0).contains(&self.dampening), "dampening", "must lie in 0 to 1");
        check(
            self.weight_decay >= 0.0 && self.weight_decay.is_finite(),
            "weight_decay",
            "must be 0 or a positive finite number",
        );
        check(
            !self.nesterov || (self.momentum > 0.0 && self.dampening == 0.0),
            "nesterov",
            "needs momentum above 0 and dampening 0",
        );
        problems
    }
}

/// The optimiser: groups of parameters and their momentum.
#[derive(Debug)]
pub struct Sgd {
    config: SgdConfig,
    groups: Groups,
    momentum: BTreeMap<String, Tensor>,
}

impl Sgd {
    /// An optimiser without momentum yet.
    ///
    /// # Errors
    /// If the constants are out of range or a parameter is in two groups.
    pub fn new(config: SgdConfig, groups: Vec<ParamGroup>) -> Result<Self> {
        let groups = Groups::new(groups, config.problems("sgd"))?;
        Ok(Self { config, groups, momentum: BTreeMap::new() })
    }

    /// The groups.
    pub fn groups(&self) -> &[ParamGroup] {
        self.groups.as_slice()
    }

    /// The constants.
    pub fn config(&self) -> &SgdConfig {
        &self.config
    }

    /// Every parameter, by group order.
    pub fn params(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.groups.params()
    }

    /// Updates the parameters in place. `grads` holds a gradient for each name that has one; `factor` is
    /// that of the schedule.
    ///
    /// # Errors
    /// If a gradient has another shape than its parameter.
    pub fn step(&mut self, grads: &BTreeMap<String, Tensor>, factor: f64) -> Result<()> {
        let SgdConfig { lr, momentum, dampening, nesterov, .. } = self.config;
        for item in self.groups.with_gradients(grads) {
            let (group, name, var, grad) = item?;
            let first = momentum != 0.0 && !self.momentum.contains_key(name);
            if first {
                self.momentum.insert(name.to_owned(), var.as_detached_tensor().zeros_like()?);
            }
            let args = SgdStepArgs {
                lr: lr * factor * group.lr_mult,
                momentum,
                dampening,
                weight_decay: group.weight_decay,
                nesterov,
                first,
            };
            sgd_step(var, grad, self.momentum.get(name), &args)?;
        }
        Ok(())
    }

    /// The momentum, as `NAME.momentum_buffer`.
    ///
    /// # Errors
    /// If a tensor cannot be read from its device.
    pub fn state(&self) -> Result<StateDict> {
        let mut state = StateDict::new();
        for (name, buffer) in &self.momentum {
            state.insert(format!("{name}.momentum_buffer"), to_array(buffer)?);
        }
        Ok(state)
    }

    /// Puts back what [`Sgd::state`] returned.
    ///
    /// # Errors
    /// If an entry belongs to no parameter of this optimiser or has another shape.
    pub fn restore(&mut self, state: &StateDict) -> Result<()> {
        let mut momentum = BTreeMap::new();
        for (key, array) in &state.tensors {
            let (name, _, var) = self.groups.owner(key, &["momentum_buffer"])?;
            check_shape(key, array, var.dims())?;
            momentum.insert(name.to_owned(), from_array(array, var.as_tensor())?);
        }
        self.momentum = momentum;
        Ok(())
    }
}
