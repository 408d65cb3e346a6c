//! Operations over ranks, as threads of this process that share a batch.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Tensor, Var};
use vision_core::dist::{Collective, Threads};
use vision_core::{FeatureMap, ops};

use crate::case::{Case, Outputs};

/// How long ranks wait for each other.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a rank has after its passes.
struct Shard {
    output: Tensor,
    running: [Tensor; 2],
    /// Of its part of the input, and of weight and bias: its share of their sums over the ranks.
    grads: Option<[Tensor; 3]>,
}

/// Batch normalisation over `world_size` ranks, of `shards` pictures each or of as many as divide the batch. The
/// reference sees the whole batch.
pub(super) fn batch_norm(case: &Case) -> Result<Outputs> {
    let world = case.args.usize("world_size", 1)?;
    let args = ops::BatchNormArgs {
        training: case.args.bool("training", false)?,
        momentum: case.args.f64("momentum", 0.1)?,
        eps: case.args.f64("eps", 1e-5)?,
        ..ops::BatchNormArgs::default()
    };
    let names = ["input", "weight", "bias", "running_mean", "running_var"];
    let [input, weight, bias, mean, var] = names.map(|name| case.input(name).map(|x| x.detach()));
    let (input, parameters, running) = (input?, [weight?, bias?], [mean?, var?]);
    let batch = input.dim(0)?;
    let mut sizes = case.args.counts("shards")?;
    if sizes.is_empty() {
        sizes = (0..world).map(|rank| ((rank + 1) * batch / world - rank * batch / world) as u64).collect();
    }
    ensure!(
        sizes.len() == world && sizes.iter().sum::<u64>() == batch as u64,
        "shards {sizes:?} are not {world} parts of a batch of {batch}"
    );
    let upstream = case.expected("grad.").next().is_some().then(|| case.upstream("output")).transpose()?;

    let work = |ranks: Threads| -> Result<Shard> {
        let rank = ranks.rank();
        let first = sizes[..rank].iter().sum::<u64>() as usize;
        let part = |x: &Tensor| x.narrow(0, first, sizes[rank] as usize)?.contiguous();
        let input = Var::from_tensor(&part(&input)?)?;
        let own = |x: &Tensor| Var::from_tensor(&x.copy()?);
        let [weight, bias] = [own(&parameters[0])?, own(&parameters[1])?];
        let [running_mean, running_var] = [own(&running[0])?, own(&running[1])?];
        let stats = ops::BatchStats { running_mean: &running_mean, running_var: &running_var };
        let collective: Arc<dyn Collective> = Arc::new(ranks);
        let between = ops::BatchNormRanks { collective: &collective, name: "batch_norm" };
        let map = FeatureMap::from_nchw(&input)?;
        let output =
            ops::sync_batch_norm_nhwc(&map, &weight, &bias, stats, &args, None, between)?.to_nchw()?;
        let grads = match &upstream {
            None => None,
            Some(upstream) => {
                let store = (&output * part(upstream)?)?.sum_all()?.backward()?;
                let of = |x: &Var| store.get(x).cloned().context("a gradient is missing");
                Some([of(&input)?, of(&weight)?, of(&bias)?])
            }
        };
        let running = [running_mean.as_detached_tensor(), running_var.as_detached_tensor()];
        Ok(Shard { output: output.detach(), running, grads })
    };
    let mut shards = Vec::with_capacity(world);
    for shard in Threads::run(world, PATIENCE, work) {
        let Ok(shard) = shard else { bail!("a rank panicked") };
        shards.push(shard?);
    }
    join(&shards)
}

/// The whole batch from its shards.
fn join(shards: &[Shard]) -> Result<Outputs> {
    let Some(first) = shards.first() else { bail!("there are no ranks") };
    let parts: Vec<&Tensor> = shards.iter().map(|shard| &shard.output).collect();
    let mut outputs = Outputs::one(Tensor::cat(&parts, 0)?);
    for (at, name) in ["running_mean", "running_var"].into_iter().enumerate() {
        for other in shards {
            let apart = (&other.running[at] - &first.running[at])?.sqr()?.sum_all()?;
            ensure!(apart.to_dtype(DType::F64)?.to_scalar::<f64>()? == 0.0, "{name} differs between ranks");
        }
        outputs = outputs.with(name, first.running[at].clone());
    }
    let grads: Vec<&[Tensor; 3]> = shards.iter().filter_map(|shard| shard.grads.as_ref()).collect();
    if let Some((&head, rest)) = grads.split_first() {
        let inputs: Vec<&Tensor> = grads.iter().map(|[input, ..]| input).collect();
        outputs.grads.insert("in.input".to_owned(), Tensor::cat(&inputs, 0)?);
        for (at, name) in [(1, "in.weight"), (2, "in.bias")] {
            let sum = rest.iter().try_fold(head[at].clone(), |sum, grads| sum + &grads[at])?;
            outputs.grads.insert(name.to_owned(), sum);
        }
    }
    Ok(outputs)
}
