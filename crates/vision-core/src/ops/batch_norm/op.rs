//! Batch normalisation as an operation of the graph, with its gradient.

use std::borrow::Cow;
use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Device, Layout, Shape, Tensor};

use super::kernels::{self, Backward, Moments};
use super::{BatchNormRanks, sync};
use crate::dist::Collective;
use crate::error::Result;
use crate::ops::support::{Float, cpu_slice, dispatch_float, storage_slice};

/// Where mean and variance come from.
pub(super) enum Source {
    /// The running statistics: they are constants.
    Running,
    /// The input.
    Batch,
    /// The inputs of all ranks.
    Ranks { collective: Arc<dyn Collective>, name: String },
}

impl Source {
    pub(super) fn batch(ranks: Option<BatchNormRanks<'_>>) -> Self {
        match ranks {
            None => Self::Batch,
            Some(BatchNormRanks { collective, name }) => {
                Self::Ranks { collective: collective.clone(), name: name.to_owned() }
            }
        }
    }
}

/// Normalisation as an operation of the graph.
pub(super) struct Norm {
    pub(super) channels: usize,
    pub(super) relu: bool,
    pub(super) source: Source,
    /// Three numbers per channel; `None` if the batch is empty.
    pub(super) moments: Option<Moments>,
}

/// Gradients of input, weight with bias, and residual.
pub(super) type Gradients = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

impl Norm {
    fn forward(
        &self,
        (s1, l1): (&CpuStorage, &Layout),
        (s2, l2): (&CpuStorage, &Layout),
        residual: Option<(&CpuStorage, &Layout)>,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        dispatch_float!("batch_norm: input", s1.dtype(), T => {
            let input = cpu_slice::<T>("batch_norm: input", s1, l1)?;
            let weight_bias = cpu_slice::<T>("batch_norm: weight", s2, l2)?;
            let residual = residual.map(|(s, l)| cpu_slice::<T>("batch_norm: residual", s, l)).transpose()?;
            let out = match &self.moments {
                None => Vec::new(),
                Some(moments) => kernels::normalise(input, moments, weight_bias, residual, self.relu),
            };
            Ok((T::to_cpu_storage_owned(out), l1.shape().clone()))
        })
    }

    fn backward<T: Float>(
        &self,
        input: &Tensor,
        weight_bias: &Tensor,
        residual: Option<&Tensor>,
        res: &Tensor,
        grad: &Tensor,
    ) -> Result<Gradients> {
        let Some(moments) = &self.moments else {
            // Nothing went through: the batch was empty.
            let residual = residual.map(Tensor::zeros_like).transpose()?;
            return Ok((Some(input.zeros_like()?), Some(weight_bias.zeros_like()?), residual));
        };
        let (sx, lx) = input.storage_and_layout();
        let (sw, lw) = weight_bias.storage_and_layout();
        let (sy, ly) = res.storage_and_layout();
        let (sg, lg) = grad.storage_and_layout();
        let output = storage_slice::<T>("batch_norm: output", &sy, ly)?;
        let pass = Backward {
            input: storage_slice::<T>("batch_norm: input", &sx, lx)?,
            output: self.relu.then_some(output),
            grad: storage_slice::<T>("batch_norm: gradient", &sg, lg)?,
            weight: &storage_slice::<T>("batch_norm: weight", &sw, lw)?[..self.channels],
            moments,
        };
        let tensor = |values: Vec<T>, like: &Tensor| Tensor::from_vec(values, like.dims(), &Device::Cpu);
        let need_input = input.track_op();
        let through_moments = need_input && !matches!(self.source, Source::Running);
        let parameters = (weight_bias.track_op() || through_moments).then(|| pass.parameter_gradients());
        let dx = if need_input {
            let sums = match (&parameters, &self.source) {
                (_, Source::Running) | (None, _) => None,
                (Some(mine), Source::Batch) => Some(Cow::Borrowed(mine)),
                (Some(mine), Source::Ranks { collective, name }) => {
                    Some(Cow::Owned(sync::sums(collective.as_ref(), name, mine)?))
                }
            };
            Some(tensor(pass.input_gradient(sums.as_ref().map(|sums| sums.as_slice())), input)?)
        } else {
            None
        };
        let dw = match parameters {
            Some(sums) if weight_bias.track_op() => {
                Some(tensor(sums.into_iter().map(T::from_f64).collect(), weight_bias)?)
            }
            _ => None,
        };
        let dr = match residual {
            Some(residual) if residual.track_op() => {
                // Without ReLU the residual's gradient is the output's own.
                Some(if self.relu { tensor(pass.residual_gradient(), residual)? } else { grad.clone() })
            }
            _ => None,
        };
        Ok((dx, dw, dr))
    }
}

impl CustomOp2 for Norm {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        self.forward((s1, l1), (s2, l2), None)
    }

    fn bwd(
        &self,
        input: &Tensor,
        weight_bias: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        dispatch_float!("batch_norm: gradient", grad.dtype(), T => {
            let (dx, dw, _) = self.backward::<T>(input, weight_bias, None, res, &grad)?;
            Ok((dx, dw))
        })
    }
}

impl CustomOp3 for Norm {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        self.forward((s1, l1), (s2, l2), Some((s3, l3)))
    }

    fn bwd(
        &self,
        input: &Tensor,
        weight_bias: &Tensor,
        residual: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<Gradients> {
        let grad = grad.contiguous()?;
        dispatch_float!("batch_norm: gradient", grad.dtype(), T => {
            Ok(self.backward::<T>(input, weight_bias, Some(residual), res, &grad)?)
        })
    }
}
