//! Batch normalisation over `(N, H, W)` per channel, optionally with a residual and ReLU behind it.
//!
//! `y = (x - mean) / sqrt(var + eps) * weight + bias`. In training, mean and (biased) variance are those of
//! the batch and gradients flow through them; running statistics move by `momentum` towards the mean and
//! the *unbiased* variance, as in PyTorch. Otherwise mean and variance are given constants.
//!
//! [`batch_norm_nhwc`] can add a residual and apply ReLU in the same pass over memory.

mod kernels;

use std::sync::{Arc, OnceLock};

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, DType, Device, Layout, Shape, Tensor, Var};

use super::support::{
    Float, check_cpu, check_dims, check_dtype, check_float, cpu_slice, dispatch_float, storage_slice,
};
use crate::FeatureMap;
use crate::error::{Error, Result};
use kernels::{Backward, Moments};

/// Running statistics that training moves towards those of each batch.
#[derive(Clone, Copy, Debug)]
pub struct RunningStats<'a> {
    /// Running mean, `(C)`, updated in place.
    pub mean: &'a Var,
    /// Running unbiased variance, `(C)`, updated in place.
    pub var: &'a Var,
    /// Share of the new batch, in `[0, 1]`.
    pub momentum: f64,
}

/// Where mean and variance of [`batch_norm`] come from.
#[derive(Clone, Copy, Debug)]
pub enum BatchStats<'a> {
    /// From the batch (training); running statistics are updated if given.
    Batch(Option<RunningStats<'a>>),
    /// Given, and constant: no gradient flows to them (evaluation, frozen layers).
    Fixed {
        /// Mean, `(C)`.
        mean: &'a Tensor,
        /// Variance, `(C)`.
        var: &'a Tensor,
    },
}

/// What [`batch_norm_nhwc`] does with the normalised map before writing it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// A map of the same shape to add.
    pub residual: Option<&'a FeatureMap>,
    /// Whether to apply ReLU last.
    pub relu: bool,
}

/// Normalises `input`, `(N, C, H, W)`, with `weight` and `bias`, `(C)`.
///
/// An empty batch gives an empty result and leaves the running statistics alone.
///
/// # Errors
/// If shapes, element types (`f32` or `f64`, all the same) or devices do not fit, `eps` or the momentum is
/// out of range, or batch statistics are asked for with a single value per channel.
pub fn batch_norm(
    input: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    stats: &BatchStats<'_>,
    eps: f64,
) -> Result<Tensor> {
    if input.rank() != 4 {
        return Err(Error::shape("batch_norm: input", "(N, C, H, W)", input.dims()));
    }
    let input = FeatureMap::from_nchw(input)?;
    batch_norm_nhwc(&input, weight, bias, stats, eps, &Epilogue::default())?.to_nchw()
}

/// [`batch_norm`] of a feature map, with an optional residual and ReLU in the same pass.
///
/// # Errors
/// As [`batch_norm`], and if the residual differs from the input in shape or type.
pub fn batch_norm_nhwc(
    input: &FeatureMap,
    weight: &Tensor,
    bias: &Tensor,
    stats: &BatchStats<'_>,
    eps: f64,
    epilogue: &Epilogue<'_>,
) -> Result<FeatureMap> {
    let (batch, height, width, channels) = input.dims()?;
    let input = input.nhwc();
    check_float("batch_norm: input", input)?;
    check_cpu("batch_norm: input", input)?;
    let check_vector = |what: &str, tensor: &Tensor| -> Result<()> {
        check_dims(what, tensor, &[channels])?;
        check_dtype(what, tensor, input.dtype())?;
        check_cpu(what, tensor)
    };
    check_vector("batch_norm: weight", weight)?;
    check_vector("batch_norm: bias", bias)?;
    if !(eps >= 0.0 && eps.is_finite()) {
        return Err(Error::argument("batch_norm: eps", format!("{eps} is not a finite number >= 0")));
    }
    let values = batch * height * width;
    let moments = Arc::new(OnceLock::new());
    match stats {
        BatchStats::Batch(running) => {
            if values == 1 {
                return Err(Error::argument(
                    "batch_norm: input",
                    "batch statistics need more than one value per channel",
                ));
            }
            if let Some(running) = running {
                check_vector("batch_norm: running mean", running.mean)?;
                check_vector("batch_norm: running variance", running.var)?;
                if !(0.0..=1.0).contains(&running.momentum) {
                    let problem = format!("{} is outside [0, 1]", running.momentum);
                    return Err(Error::argument("batch_norm: momentum", problem));
                }
            }
        }
        BatchStats::Fixed { mean, var } => {
            check_vector("batch_norm: mean", mean)?;
            check_vector("batch_norm: variance", var)?;
            let _ = moments.set(Moments::new(to_f64(mean)?, to_f64(var)?, eps));
        }
    }
    let op = Norm {
        channels,
        eps,
        relu: epilogue.relu,
        from_batch: matches!(stats, BatchStats::Batch(_)),
        moments: moments.clone(),
    };
    let weight_bias = Tensor::stack(&[weight, bias], 0)?;
    let out = match epilogue.residual {
        None => input.apply_op2(&weight_bias, op)?,
        Some(residual) => {
            let residual = residual.nhwc();
            check_dims("batch_norm: residual", residual, input.dims())?;
            check_dtype("batch_norm: residual", residual, input.dtype())?;
            check_cpu("batch_norm: residual", residual)?;
            input.apply_op3(&weight_bias, residual, op)?
        }
    };
    if let (BatchStats::Batch(Some(running)), Some(moments)) = (stats, moments.get()) {
        // Empty batches leave no moments behind.
        let unbias = values as f64 / (values as f64 - 1.0);
        move_towards(running.mean, moments.mean.iter().copied(), running.momentum)?;
        move_towards(running.var, moments.var.iter().map(|v| v * unbias), running.momentum)?;
    }
    FeatureMap::from_nhwc(out)
}

fn to_f64(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(tensor.to_dtype(DType::F64)?.to_vec1()?)
}

/// `running += momentum * (target - running)`, in place.
fn move_towards(running: &Var, target: impl Iterator<Item = f64>, momentum: f64) -> Result<()> {
    let new: Vec<f64> =
        to_f64(running)?.into_iter().zip(target).map(|(r, t)| (1.0 - momentum) * r + momentum * t).collect();
    let new = Tensor::from_vec(new, running.dims(), running.device())?.to_dtype(running.dtype())?;
    Ok(running.set(&new)?)
}

struct Norm {
    channels: usize,
    eps: f64,
    relu: bool,
    /// Whether mean and variance are functions of the input.
    from_batch: bool,
    /// Set before the forward pass if given, by it otherwise: three numbers per channel.
    moments: Arc<OnceLock<Moments>>,
}

/// Gradients of input, weight with bias, and residual.
type Gradients = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

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
            if input.is_empty() {
                return Ok((T::to_cpu_storage_owned(Vec::new()), l1.shape().clone()));
            }
            let moments = self.moments.get_or_init(|| kernels::moments(input, self.channels, self.eps));
            let out = kernels::normalise(input, moments, weight_bias, residual, self.relu);
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
        let Some(moments) = self.moments.get() else {
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
        let parameters =
            (weight_bias.track_op() || need_input && self.from_batch).then(|| pass.parameter_gradients());
        let dx = if need_input {
            let through_moments = parameters.as_deref().filter(|_| self.from_batch);
            Some(tensor(pass.input_gradient(through_moments), input)?)
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

#[cfg(test)]
mod tests;
