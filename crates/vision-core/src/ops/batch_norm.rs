//! Batch normalisation over `(N, H, W)` per channel, optionally with a residual and ReLU behind it.
//!
//! `y = (x - mean) / sqrt(var + eps) * weight + bias`. In training, mean and (biased) variance are those of
//! the batch and gradients flow through them; the running ones move by `momentum` towards the mean and
//! the *unbiased* variance, as in PyTorch, unless [`RunningVar`] says otherwise. Otherwise the running statistics are
//! used.
//!
//! [`batch_norm_nhwc`] can add a residual and apply ReLU in the same pass over memory. [`sync_batch_norm_nhwc`] takes
//! the batch to be that of all ranks, as PyTorch's `SyncBatchNorm`.

#[cfg(feature = "cuda")]
mod cuda;
mod kernels;
mod op;
mod sync;

use std::sync::Arc;

use candle_core::{DType, Tensor, Var};
use serde::{Deserialize, Serialize};

use super::support::{
    check_device, check_dims, check_dtype, check_float, check_same_device, dispatch_float, storage_slice,
};
use crate::FeatureMap;
use crate::dist::Collective;
use crate::error::{Error, Result};
use kernels::Moments;
use op::{Norm, Source};

/// Running statistics of [`batch_norm`], both `(C)`.
///
/// Training moves them towards those of the batch, in place, so they must be variables then. They are
/// constants otherwise: no gradient flows to them.
#[derive(Clone, Copy, Debug)]
pub struct BatchStats<'a> {
    /// Running mean.
    pub running_mean: &'a Tensor,
    /// Running variance, unbiased or not as [`BatchNormArgs::running_var`] says.
    pub running_var: &'a Tensor,
}

/// Which variance of `n` values the running one moves towards. The values are always normalised with the biased one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunningVar {
    /// Divided by `n - 1`: PyTorch's, also in its `SyncBatchNorm`.
    #[default]
    Unbiased,
    /// Divided by `n`: the synchronised normalisation of PyTorch-Encoding from release 1.0 on.
    Biased,
}

impl RunningVar {
    /// What the biased variance of `count` values is multiplied with.
    fn factor(self, count: f64) -> f64 {
        match self {
            Self::Unbiased => count / (count - 1.0),
            Self::Biased => 1.0,
        }
    }
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
    /// What the running variance is.
    pub running_var: RunningVar,
}

impl Default for BatchNormArgs {
    /// Evaluation with PyTorch's constants.
    fn default() -> Self {
        Self { training: false, momentum: 0.1, eps: 1e-5, relu: false, running_var: RunningVar::Unbiased }
    }
}

/// The ranks between which [`sync_batch_norm_nhwc`] exchanges sums.
#[derive(Clone, Copy, Debug)]
pub struct BatchNormRanks<'a> {
    /// Connection with the other ranks.
    pub collective: &'a Arc<dyn Collective>,
    /// What is normalised, such as the path of the layer: errors name it, and it is the same on all ranks.
    pub name: &'a str,
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
    let args = BatchNormArgs { training, momentum, eps, ..BatchNormArgs::default() };
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
    run(input, [weight, bias], stats, args, residual, None)
}

/// [`batch_norm_nhwc`] whose batch in training is that of all ranks together; outside of training nothing is
/// exchanged.
///
/// Mean, variance and their gradients are those of the whole batch, and all ranks update their running statistics
/// alike. The gradients of weight and bias stay those of this rank's part; averaging them is a matter of the
/// training step ([`crate::dist::average_gradients`]). The parts may differ in size, and may be empty on some ranks.
///
/// Every rank calls this, and every rank runs `backward` or none does: where the input needs a gradient, the ranks
/// meet there again. Never call it, or that `backward`, inside a closure on rayon's pool (see [`crate::dist`]).
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use candle_core::{Device, Tensor, Var};
/// use vision_core::FeatureMap;
/// use vision_core::dist::{Collective, Threads};
/// use vision_core::ops::{BatchNormArgs, BatchNormRanks, BatchStats, sync_batch_norm_nhwc};
///
/// // Rank 0 holds 1, rank 1 holds 3: the mean is 2, the variance 1.
/// let results = Threads::run(2, Duration::from_secs(5), |ranks| -> vision_core::Result<Vec<f64>> {
///     let collective: Arc<dyn Collective> = Arc::new(ranks);
///     let x = Tensor::new(&[[[[1.0 + 2.0 * collective.rank() as f64]]]], &Device::Cpu)?;
///     let [one, zero] = [Tensor::new(&[1.0], &Device::Cpu)?, Tensor::new(&[0.0], &Device::Cpu)?];
///     let [mean, var] = [Var::from_tensor(&zero)?, Var::from_tensor(&one)?];
///     let stats = BatchStats { running_mean: &mean, running_var: &var };
///     let args = BatchNormArgs { training: true, eps: 0.0, ..BatchNormArgs::default() };
///     let ranks = BatchNormRanks { collective: &collective, name: "bn1" };
///     let y = sync_batch_norm_nhwc(&FeatureMap::from_nhwc(x)?, &one, &zero, stats, &args, None, ranks)?;
///     Ok(y.nhwc().flatten_all()?.to_vec1()?)
/// });
/// for (result, want) in results.into_iter().zip([-1.0, 1.0]) {
///     assert_eq!(result.map_err(|_| "a rank panicked")??, [want]);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// As [`batch_norm_nhwc`], where a single value per channel counts over all ranks, and if the ranks do not come
/// together or differ in their number of channels. Wrong arguments of one rank fail there before it meets the
/// others, which then miss it.
pub fn sync_batch_norm_nhwc(
    input: &FeatureMap,
    weight: &Tensor,
    bias: &Tensor,
    stats: BatchStats<'_>,
    args: &BatchNormArgs,
    residual: Option<&FeatureMap>,
    ranks: BatchNormRanks<'_>,
) -> Result<FeatureMap> {
    run(input, [weight, bias], stats, args, residual, Some(ranks))
}

fn run(
    input: &FeatureMap,
    [weight, bias]: [&Tensor; 2],
    stats: BatchStats<'_>,
    args: &BatchNormArgs,
    residual: Option<&FeatureMap>,
    ranks: Option<BatchNormRanks<'_>>,
) -> Result<FeatureMap> {
    let (_, _, _, channels) = input.dims()?;
    let input = input.nhwc();
    check_float("batch_norm: input", input)?;
    check_device("batch_norm: input", input)?;
    for (what, tensor) in [
        ("batch_norm: weight", weight),
        ("batch_norm: bias", bias),
        ("batch_norm: running_mean", stats.running_mean),
        ("batch_norm: running_var", stats.running_var),
    ] {
        check_dims(what, tensor, &[channels])?;
        check_dtype(what, tensor, input.dtype())?;
        check_same_device(what, tensor, input)?;
    }
    let residual = residual.map(FeatureMap::nhwc);
    if let Some(residual) = residual {
        check_dims("batch_norm: residual", residual, input.dims())?;
        check_dtype("batch_norm: residual", residual, input.dtype())?;
        check_same_device("batch_norm: residual", residual, input)?;
    }
    if !(args.eps >= 0.0 && args.eps.is_finite()) {
        return Err(Error::argument("batch_norm: eps", format!("{} is not a finite number >= 0", args.eps)));
    }
    if !(0.0..=1.0).contains(&args.momentum) {
        return Err(Error::argument("batch_norm: momentum", format!("{} is outside [0, 1]", args.momentum)));
    }
    let mut update = None;
    let source = if args.training {
        update = Some((
            variable("batch_norm: running_mean", stats.running_mean)?,
            variable("batch_norm: running_var", stats.running_var)?,
        ));
        Source::batch(ranks)
    } else {
        Source::Running
    };
    #[cfg(feature = "cuda")]
    if input.device().is_cuda() {
        let weight_bias = Tensor::stack(&[weight, bias], 0)?;
        let update = update.map(|(mean, var)| [mean, var]);
        let out = cuda::run(input, &weight_bias, stats, args, residual, source, update)?;
        return FeatureMap::from_nhwc(out);
    }
    let moments = match source {
        Source::Running => {
            Some(Moments::new(0.0, to_f64(stats.running_mean)?, to_f64(stats.running_var)?, args.eps))
        }
        Source::Batch => batch_moments(input, channels, args.eps)?,
        Source::Ranks { ref collective, ref name } => {
            let mine = batch_moments(input, channels, args.eps)?;
            sync::moments(collective.as_ref(), name, mine.as_ref(), channels, args.eps)?
        }
    };
    let update = update.zip(moments.as_ref().map(|m| (m.count, m.mean.clone(), m.var.clone())));
    if update.as_ref().is_some_and(|(_, (count, ..))| *count == 1.0) {
        return Err(Error::argument(
            "batch_norm: input",
            "batch statistics need more than one value per channel",
        ));
    }
    let op = Norm { channels, relu: args.relu, source, moments };
    let weight_bias = Tensor::stack(&[weight, bias], 0)?;
    let out = match residual {
        None => input.apply_op2(&weight_bias, op)?,
        Some(residual) => input.apply_op3(&weight_bias, residual, op)?,
    };
    // Empty batches leave no moments behind.
    if let Some(((running_mean, running_var), (count, mean, var))) = update {
        let factor = args.running_var.factor(count);
        move_towards(&running_mean, mean.into_iter(), args.momentum)?;
        move_towards(&running_var, var.into_iter().map(|v| v * factor), args.momentum)?;
    }
    FeatureMap::from_nhwc(out)
}

/// Mean and variance of a map, `None` if it is empty.
fn batch_moments(input: &Tensor, channels: usize, eps: f64) -> Result<Option<Moments>> {
    if input.elem_count() == 0 {
        return Ok(None);
    }
    let (storage, layout) = input.storage_and_layout();
    dispatch_float!("batch_norm: input", input.dtype(), T => {
        let input = storage_slice::<T>("batch_norm: input", &storage, layout)?;
        Ok(Some(kernels::moments(input, channels, eps)))
    })
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

#[cfg(test)]
mod sync_tests;
#[cfg(test)]
mod tests;
