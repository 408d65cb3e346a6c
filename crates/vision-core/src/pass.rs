//! What a forward pass needs to know besides its input.

use candle_core::Tensor;

use crate::rng::Key;

/// How a model runs: with or without training behaviour and gradients, and the source of its random choices.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// Batch statistics and dropout are on.
    pub train: bool,
    /// Gradients may be asked for. Without, layers that are given the pass fold what they can and keep nothing: what
    /// they return is a constant, also if their parameters are variables. Single operations and [`crate::nn::Linear`]
    /// are given none; a model ends with [`Pass::settle`].
    pub graph: bool,
    /// Key of every random choice made in this pass.
    pub key: Key,
}

impl Pass {
    /// A pass without training behaviour: running statistics, nothing random. Gradients still flow.
    pub fn eval() -> Self {
        Self { train: false, graph: true, key: Key::new(0) }
    }

    /// [`Pass::eval`] without gradients: faster, and in a fraction of the memory.
    pub fn inference() -> Self {
        Self { graph: false, ..Self::eval() }
    }

    /// A pass for training with the random key of this step.
    pub fn train(key: Key) -> Self {
        Self { train: true, graph: true, key }
    }

    /// What a model returns: `output` itself, or cut off from its graph if no gradients will be asked for.
    pub fn settle(&self, output: Tensor) -> Tensor {
        if self.graph { output } else { output.detach() }
    }
}
