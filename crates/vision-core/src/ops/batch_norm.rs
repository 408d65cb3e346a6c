//! Batch normalisation over `(N, H, W)` per channel, optionally with a residual and ReLU behind it.
//!
//! `y = (x - mean) / sqrt(var + eps) * weight + bias`. In training, mean and (biased) variance are those of
//! the batch and gradients flow through them; the running ones move by `momentum` towards the mean and
//! the *unbiased* variance, as in PyTorch. Otherwise the running statistics are used.
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

/// Running statistics of [`batch_norm`], both `(C)`.
///
/// Training moves them towards those of the batch, in place, so they must be variables then. They are
/// constants otherwise: no gradient flows to them.
#[derive(Clone, Copy, Debug)]
pub struct BatchStats<'a> {
    /// Running mean.
    pub running_mean: &'a Tensor,
    /// Running unbiased variance.
    pub running_var: &'a Tensor,
}

/// How [`batch_norm_nhwc`] works.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNormArgs {
    /// Whether to normalise with the statistics of the batch and to update the running ones.
    pub training: bool,
    /// Share of the batch in the new running statistics, in `[0, 1]`.
    pub momentum: f64,
    /// Added to the variance, at least 0.
    pub eps: f64,
    /// Whether to apply ReLU last.
    pub relu: bool,
}

impl Default for BatchNormArgs {
    /// Evaluation with PyTorch's constants.
    fn default() -> Self {
        Self { training: false, momentum: 0.1, eps: 1e-5, relu: false }
    }
}

/// Normalises `input`, `(N, C, H, W)`, with `weight` and `bias`, `(C)`.
///
/// `momentum` is the share of the batch in the new running statistics and `eps` is added to the variance.
/// An empty batch gives an empty result and leaves the running statistics alone.
///
/// # Errors
/// If shapes, element types (`f32` or `f64`, all the same) or devices do not fit, `eps` or the momentum is
/// out of range, or training has a single value per channel or running statistics that are no variables.
pub fn batch_norm(
    input: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    stats: BatchStats<'_>,
    training: bool,
    momentum: f64,
    eps: f64,
) -> Result<Tensor> {
    if input.rank() != 4 {
        return Err(Error::shape("batch_norm: input", "(N, C, H, W)", input.dims()));
    }
    let args = BatchNormArgs { training, momentum, eps, relu: false };
    batch_norm_nhwc(&FeatureMap::from_nchw(input)?, weight, bias, stats, &args, None)?.to_nchw()
}

/// [`batch_norm`] of a feature map; adds `residual`, a map of the same shape, and applies ReLU in the same
/// pass if asked to.
///
/// # Errors
/// As [`batch_norm`], and if the residual differs from the input in shape or type.
pub fn batch_norm_nhwc(
    input: &FeatureMap,
    weight: &Tensor,
    bias: &Tensor,
    stats: BatchStats<'_>,
    args: &BatchNormArgs,
    residual: Option<&FeatureMap>,
) -> Result<FeatureMap> {
    let (batch, height, width, channels) = input.dims()?;
    let input = input.nhwc();
    check_float("batch_norm: input", input)?;
    check_cpu("batch_norm: input", input)?;
    for (what, tensor) in [
        ("batch_norm: weight", weight),
        ("batch_norm: bias", bias),
        ("batch_norm: running_mean", stats.running_mean),
        ("batch_norm: running_var", stats.running_var),
    ] {
        check_dims(what, tensor, &[channels])?;
        check_dtype(what, tensor, input.dtype())?;
        check_cpu(what, tensor)?;
    }
    if !(args.eps >= 0.0 && args.eps.is_finite()) {
        return Err(Error::argument("batch_norm: eps", format!("{} is not a finite number >= 0", args.eps)));
    }
    if !(0.0..=1.0).contains(&args.momentum) {
        return Err(Error::argument("batch_norm: momentum", format!("{} is outside [0, 1]", args.momentum)));
    }
    let values = batch * height * width;
    let moments = Arc::new(OnceLock::new());
    let mut update = None;
    if args.training {
        if values == 1 {
            return Err(Error::argument(
                "batch_norm: input",
                "batch statistics need more than one value per channel",
            ));
        }
        update = Some((
            variable("batch_norm: running_mean", stats.running_mean)?,
            variable("batch_norm: running_var", stats.running_var)?,
        ));
    } else {
        let (mean, var) = (to_f64(stats.running_mean)?, to_f64(stats.running_var)?);
        let _ = moments.set(Moments::new(mean, var, args.eps));
    }
    let op = Norm {
        channels,
        eps: args.eps,
        relu: args.relu,
        from_batch: args.training,
        moments: moments.clone(),
    };
    let weight_bias = Tensor::stack(&[weight, bias], 0)?;
    let out = match residual {
        None => input.apply_op2(&weight_bias, op)?,
        Some(residual) => {
            let residual = residual.nhwc();
            check_dims("batch_norm: residual", residual, input.dims())?;
            check_dtype("batch_norm: residual", residual, input.dtype())?;
            check_cpu("batch_norm: residual", residual)?;
            input.apply_op3(&weight_bias, residual, op)?
        }
    };
    // Empty batches leave no moments behind.
    if let (Some((mean, var)), Some(moments)) = (update, moments.get()) {
        let unbias = values as f64 / (values as f64 - 1.0);
        move_towards(&mean, moments.mean.iter().copied(), args.momentum)?;
        move_towards(&var, moments.var.iter().map(|v| v * unbias), args.momentum)?;
    }
    FeatureMap::from_nhwc(out)
}

/// The variable behind `tensor`, sharing its memory.
fn variable(what: &str, tensor: &Tensor) -> Result<Var> {
    if tensor.is_variable() {
        Ok(Var::from_tensor(tensor)?)
    } else {
        Err(Error::argument(what, "training updates it in place, so it must be a variable"))
    }
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
