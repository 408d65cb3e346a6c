//! Affine layer.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::WeightInit;
use crate::error::Result;
use crate::ops;

/// `y = x W^T + b` over the last axis, with parameters `weight`, `(out, in)`, and `bias`, `(out)`.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// Takes the parameters from `vb`; new ones start as in PyTorch, uniform in `±1 / sqrt(inputs)`.
    ///
    /// # Errors
    /// If `vb` cannot give a parameter of the right shape.
    #[allow(clippy::needless_pass_by_value, reason = "builders are passed by value throughout candle")]
    pub fn new(inputs: usize, outputs: usize, bias: bool, vb: VarBuilder<'_>) -> Result<Self> {
        let init = WeightInit::Uniform;
        let weight = vb.get_with_hints((outputs, inputs), "weight", init.weight(inputs, outputs))?;
        let bias = if bias { Some(vb.get_with_hints(outputs, "bias", init.bias(inputs))?) } else { None };
        Ok(Self { weight, bias })
    }

    /// `(.., in)` to `(.., out)`.
    ///
    /// # Errors
    /// If the shape or element type of the input does not fit.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor> {
        ops::linear(input, &self.weight, self.bias.as_ref())
    }

    /// The weight, `(out, in)`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The bias, `(out)`.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }
}

impl candle_core::Module for Linear {
    fn forward(&self, input: &Tensor) -> candle_core::Result<Tensor> {
        Ok(Linear::forward(self, input)?)
    }
}
