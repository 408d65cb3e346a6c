//! Initial values of layers.

use candle_nn::Init;

/// How weights of a convolution or a linear layer start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightInit {
    /// PyTorch's default: weights and biases uniform in `±1 / sqrt(fan_in)`.
    #[default]
    Uniform,
    /// Weights normal with variance `2 / fan_out`, biases 0: ResNets for ImageNet (He et al. 2015).
    KaimingNormalFanOut,
}

impl WeightInit {
    /// Initial weights of a layer in which an output depends on `fan_in` numbers and an input on `fan_out`.
    pub(super) fn weight(self, fan_in: usize, fan_out: usize) -> Init {
        match self {
            Self::Uniform => uniform(fan_in),
            Self::KaimingNormalFanOut => {
                Init::Randn { mean: 0.0, stdev: (2.0 / fan_out.max(1) as f64).sqrt() }
            }
        }
    }

    /// Initial bias of such a layer.
    pub(super) fn bias(self, fan_in: usize) -> Init {
        match self {
            Self::Uniform => uniform(fan_in),
            Self::KaimingNormalFanOut => Init::Const(0.0),
        }
    }
}

fn uniform(fan_in: usize) -> Init {
    let bound = 1.0 / (fan_in.max(1) as f64).sqrt();
    Init::Uniform { lo: -bound, up: bound }
}
