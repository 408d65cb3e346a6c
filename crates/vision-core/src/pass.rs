//! What a forward pass needs to know besides its input.

use crate::rng::Key;

/// How a model runs: with or without training behaviour and gradients, and the source of its random choices.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// Batch statistics and dropout are on.
    pub train: bool,
    /// Gradients may be asked for. Without, layers fold what they can and keep nothing: what a layer returns is a
    /// constant, also if its parameters are variables.
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
}
