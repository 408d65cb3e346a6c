//! What ranks exchange in synchronised batch normalisation.

use super::kernels::Moments;
use crate::dist::{Collective, Values};
use crate::error::{Error, Result};

/// Moments of the inputs of all ranks, from those of each; `None` where a rank has no values, or none has any.
///
/// Ranks gather count, mean and variance and combine them by differences of means (Chan et al. 1979), so
/// nothing cancels when means are large, and one call is enough. A rank that is alone with its values gets its own
/// moments back, bit for bit.
pub(super) fn moments(
    collective: &dyn Collective,
    name: &str,
    mine: Option<&Moments>,
    channels: usize,
    eps: f64,
) -> Result<Option<Moments>> {
    let mut message = vec![0.0; 1 + 2 * channels];
    if let Some(mine) = mine {
        message[0] = mine.count;
        message[1..=channels].copy_from_slice(&mine.mean);
        message[1 + channels..].copy_from_slice(&mine.var);
    }
    let all = collective.all_gather(&format!("{name}.moments"), &message)?;
    if let Some(rank) = all.iter().position(|theirs| theirs.len() != message.len()) {
        return Err(Error::argument(
            "batch_norm: input",
            format!("`{name}` has {channels} channels here, but {} on rank {rank}", all[rank].len() / 2),
        ));
    }
    let filled: Vec<&Vec<f64>> = all.iter().filter(|theirs| theirs[0] > 0.0).collect();
    let Some(first) = filled.first() else { return Ok(None) };
    let count: f64 = filled.iter().map(|theirs| theirs[0]).sum();
    let shares: Vec<f64> = filled.iter().map(|theirs| theirs[0] / count).collect();
    let mut mean = Vec::with_capacity(channels);
    let mut var = Vec::with_capacity(channels);
    for channel in 0..channels {
        let origin = first[1 + channel];
        let parts = || shares.iter().zip(&filled);
        let shift: f64 = parts().map(|(share, theirs)| share * (theirs[1 + channel] - origin)).sum();
        let spread = |theirs: &[f64]| (theirs[1 + channel] - origin) - shift;
        mean.push(origin + shift);
        var.push(
            parts()
                .map(|(share, theirs)| {
                    share * (theirs[1 + channels + channel] + spread(theirs) * spread(theirs))
                })
                .sum(),
        );
    }
    Ok(Some(Moments::new(count, mean, var, eps)))
}

/// The sums of backward over all ranks.
pub(super) fn sums(collective: &dyn Collective, name: &str, mine: &[f64]) -> Result<Vec<f64>> {
    let mut all = mine.to_vec();
    collective.all_reduce(&format!("{name}.gradient_sums"), Values::F64(&mut all))?;
    Ok(all)
}
