//! Gradients of accumulated batches.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};
use vision_core::dist::average_gradients;

use super::ranks::Ranks;
use crate::error::Result;
use crate::optim::{Optimiser, clip_grad_norm};

/// Sums of gradients by parameter name, for one phase of one optimiser step.
#[derive(Debug, Default)]
pub(super) struct Gradients {
    sums: BTreeMap<String, Tensor>,
    batches: usize,
}

impl Gradients {
    /// Differentiates `loss` and adds the gradients of the optimiser's parameters. Others are dropped.
    pub(super) fn add(&mut self, loss: &Tensor, optimiser: &Optimiser) -> Result<()> {
        let mut store = loss.backward()?;
        for (name, var) in optimiser.params() {
            let Some(grad) = store.remove(var.as_tensor()) else { continue };
            // Cut off here: the graph would keep every activation alive until the step is done.
            let grad = grad.detach();
            let sum = match self.sums.remove(name) {
                None => grad,
                Some(sum) => (sum + grad)?,
            };
            self.sums.insert(name.to_owned(), sum);
        }
        self.batches += 1;
        Ok(())
    }

    /// Averages over batches and ranks, clips, and updates the parameters. Without a batch nothing happens. Returns
    /// the norm before clipping if `clip_norm` is given; if that is not finite, nothing is updated.
    pub(super) fn apply(
        &mut self,
        optimiser: &mut Optimiser,
        ranks: &Ranks,
        factor: f64,
        clip_norm: Option<f64>,
    ) -> Result<Option<f64>> {
        let batches = std::mem::take(&mut self.batches);
        let mut grads = std::mem::take(&mut self.sums);
        if batches == 0 {
            return Ok(None);
        }
        if batches > 1 {
            for grad in grads.values_mut() {
                *grad = (&*grad / batches as f64)?;
            }
        }
        if ranks.several() {
            let params: Vec<(String, Var)> =
                optimiser.params().map(|(name, var)| (name.to_owned(), var.clone())).collect();
            average_gradients(&*ranks.0, &params, &mut grads, None)?;
        }
        let norm = match clip_norm {
            None => None,
            Some(max_norm) => Some(clip_grad_norm(&mut grads, max_norm)?),
        };
        if norm.is_none_or(f64::is_finite) {
            optimiser.step(&grads, factor)?;
        }
        Ok(norm)
    }
}
