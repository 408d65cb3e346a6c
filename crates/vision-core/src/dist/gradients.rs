//! Data-parallel gradients: each rank differentiates the loss of its shard of the batch.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor, Var};

use super::{Collective, Values};
use crate::error::{Error, Result};
use crate::ops::support::{Float, check_dims, check_dtype, check_float, dispatch_float};

/// `loss`, the mean over the `items` of this rank's shard, times `world_size * items / (items of all ranks)`.
///
/// Differentiate the result and call [`average_gradients`] without a weight: what comes out is the gradient of the mean
/// over the whole batch, however unequal the shards are. This must happen before `backward` where gradients of
/// different ranks meet inside it, as in synchronised batch normalisation; where they do not, a weight for
/// [`average_gradients`] does the same.
///
/// A rank without items goes through `backward` as well, because the others wait for it there. Its loss may be NaN.
///
/// # Errors
/// If no rank has items, the loss is no scalar, or the ranks do not come together.
pub fn weigh_loss(collective: &dyn Collective, loss: &Tensor, items: usize) -> Result<Tensor> {
    check_dims("weigh_loss: loss", loss, &[])?;
    let mut total = [items as f64];
    collective.all_reduce("loss.items", Values::F64(&mut total))?;
    if total[0] == 0.0 {
        return Err(Error::argument("weigh_loss: items", "are 0 on all ranks"));
    }
    let factor = collective.world_size() as f64 * items as f64 / total[0];
    // A product with a tensor: candle cuts the graph at a constant factor of 0, and with it the calls of `backward`.
    Ok(loss.mul(&Tensor::new(factor, loss.device())?.to_dtype(loss.dtype())?)?)
}

/// Replaces the gradients of this rank by their means over all ranks, as PyTorch's `DistributedDataParallel` does.
///
/// `params` are the same on all ranks, in the same order, as [`crate::params::ParamStore::trainable`] gives them;
/// `grads` holds gradients by name. One that is missing counts as 0 unless all ranks miss it, and others are left as
/// they are. With a `weight` the mean is weighted: `sum(weight * grad) / sum(weight)`; where the loss is a mean over
/// the shard, the size of the shard is the weight that gives the gradient of the whole batch's mean. A rank of
/// weight 0 adds nothing, whatever its gradients are. With synchronised batch normalisation use [`weigh_loss`]
/// instead of a weight.
///
/// ```
/// use std::{collections::BTreeMap, time::Duration};
/// use candle_core::{DType, Device, Var};
/// use vision_core::dist::{Collective, Threads, average_gradients};
///
/// let means = Threads::run(2, Duration::from_secs(5), |ranks| -> vision_core::Result<f64> {
///     let x = Var::new(&[1.0 + ranks.rank() as f64], &Device::Cpu)?;
///     let gradients = x.sqr()?.sum_all()?.backward()?;
///     let mut named: BTreeMap<_, _> =
///         gradients.get(&x).into_iter().map(|gradient| ("x".to_owned(), gradient.clone())).collect();
///     average_gradients(&ranks, &[("x".to_owned(), x)], &mut named, None)?;
///     Ok(named["x"].to_vec1::<f64>()?[0])
/// });
/// for mean in means {
///     assert_eq!(mean.map_err(|_| "a rank panicked")??, 3.0);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// If a weight is negative or not finite, all are 0, a gradient has another shape or type than its parameter, the
/// ranks have different parameters, or they do not come together. Wrong weights and different numbers of parameters
/// fail on all ranks.
pub fn average_gradients(
    collective: &dyn Collective,
    params: &[(String, Var)],
    grads: &mut BTreeMap<String, Tensor>,
    weight: Option<f64>,
) -> Result<()> {
    // Checked before the first call: a rank that stops halfway makes the others wait.
    for (name, var) in params {
        if let Some(grad) = grads.get(name) {
            let what = || format!("average_gradients: gradient of {name}");
            check_dims(&what(), grad, var.dims())?;
            check_dtype(&what(), grad, var.dtype())?;
            check_float(&what(), grad)?;
        }
    }
    let call = if weight.is_some() { "gradients.weighted" } else { "gradients" };
    let mut mine = vec![weight.unwrap_or(1.0)];
    mine.extend(params.iter().map(|(name, _)| f64::from(u8::from(grads.contains_key(name)))));
    let all = collective.all_gather(call, &mine)?;
    let mut total = 0.0;
    for (rank, theirs) in all.iter().enumerate() {
        if theirs.len() != mine.len() {
            return Err(Error::argument(
                "average_gradients: params",
                format!("{} here, but {} on rank {rank}", params.len(), theirs.len().saturating_sub(1)),
            ));
        }
        let weight = theirs[0];
        if !(weight >= 0.0 && weight.is_finite()) {
            return Err(Error::argument(
                "average_gradients: weight",
                format!("{weight} of rank {rank} is not a finite number >= 0"),
            ));
        }
        total += weight;
    }
    if total == 0.0 {
        return Err(Error::argument("average_gradients: weight", "is 0 on all ranks"));
    }
    for (index, (name, var)) in params.iter().enumerate() {
        if all.iter().all(|theirs| theirs[index + 1] == 0.0) {
            continue;
        }
        let grad = grads.get(name).filter(|_| mine[0] > 0.0);
        let mean = dispatch_float!("average_gradients: gradient", var.dtype(), T => {
            mean::<T>(collective, name, grad, var, mine[0], total)
        })?;
        grads.insert(name.clone(), mean);
    }
    Ok(())
}

/// Gives every rank the values that rank `root` has for `params`: parameters, or buffers such as running statistics.
///
/// Integers are exchanged as `f64`, exact up to 2^53.
///
/// # Errors
/// If the ranks have different parameters or do not come together, or the tensor library reports an error.
pub fn broadcast_params(collective: &dyn Collective, params: &[(String, Var)], root: usize) -> Result<()> {
    for (name, var) in params {
        let flat = var.as_detached_tensor().flatten_all()?;
        let sent = match var.dtype() {
            DType::F32 => {
                let mut values = flat.to_vec1::<f32>()?;
                collective.broadcast(name, Values::F32(&mut values), root)?;
                Tensor::from_vec(values, var.dims(), var.device())?
            }
            dtype => {
                let mut values = flat.to_dtype(DType::F64)?.to_vec1::<f64>()?;
                collective.broadcast(name, Values::F64(&mut values), root)?;
                Tensor::from_vec(values, var.dims(), var.device())?.to_dtype(dtype)?
            }
        };
        if collective.rank() != root {
            var.set(&sent)?;
        }
    }
    Ok(())
}

/// `sum(weight * grad) / total` over the ranks.
fn mean<T: Exchanged>(
    collective: &dyn Collective,
    name: &str,
    grad: Option<&Tensor>,
    like: &Tensor,
    weight: f64,
    total: f64,
) -> Result<Tensor> {
    let mut values = match grad {
        None => vec![T::ZERO; like.elem_count()],
        Some(grad) => grad.flatten_all()?.to_vec1::<T>()?,
    };
    if weight != 1.0 {
        let weight = T::from_f64(weight);
        for value in &mut values {
            *value *= weight;
        }
    }
    collective.all_reduce(name, T::values(&mut values))?;
    let total = T::from_f64(total);
    for value in &mut values {
        *value /= total;
    }
    Ok(Tensor::from_vec(values, like.dims(), like.device())?)
}

/// Floats that [`Values`] takes.
trait Exchanged: Float {
    fn values(values: &mut [Self]) -> Values<'_>;
}

impl Exchanged for f32 {
    fn values(values: &mut [Self]) -> Values<'_> {
        Values::F32(values)
    }
}

impl Exchanged for f64 {
    fn values(values: &mut [Self]) -> Values<'_> {
        Values::F64(values)
    }
}
