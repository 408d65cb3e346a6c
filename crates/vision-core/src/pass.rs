//! What a forward pass needs to know besides its input.

use crate::rng::Key;

/// How a model runs: with or without training behaviour, and the source of its random choices.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// Batch statistics and dropout are on.
    pub train: bool,
    /// Key of every random choice made in this pass.
    pub key: Key,
}

impl Pass {
    /// A pass for inference: running statistics, nothing random.
    pub fn eval() -> Self {
        Self { train: false, key: Key::new(0) }
    }

    /// A pass for training with the random key of this step.
    pub fn train(key: Key) -> Self {
        Self { train: true, key }
    }
}
