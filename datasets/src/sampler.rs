//! Which samples form a batch.

use crate::{Error, Result, SampleRng};

/// Decides the batches of an epoch. Random, sequential, by size; it knows numbers, not samples.
pub trait Sampler: Send + Sync {
    /// The batches that `rank` of `world` ranks works on in `epoch`, in order. Over all ranks every
    /// index occurs once (except what a sampler drops by design). Empty unless `rank < world`.
    fn batches(&self, epoch: u64, rank: usize, world: usize) -> Vec<Vec<usize>>;

    /// How many batches [`batches`](Self::batches) gives, the same in every epoch.
    fn batches_per_epoch(&self, rank: usize, world: usize) -> usize {
        self.batches(0, rank, world).len()
    }
}

/// Every index once, in an order drawn anew each epoch from (seed, epoch).
///
/// `batch_size` is per rank. The order is cut into global batches of `batch_size * world`, and each of
/// those into one consecutive piece per rank, of lengths that differ by at most one; so all ranks have
/// the same number of batches, and the union over ranks of batch `i` does not depend on how many ranks
/// share a global batch of that size. A remainder too small to give every rank a sample joins the global
/// batch before it.
#[derive(Debug, Clone)]
pub struct RandomSampler {
    len: usize,
    batch_size: usize,
    seed: u64,
    drop_last: bool,
}

impl RandomSampler {
    /// Batches of `batch_size` per rank over `0..len`. With `drop_last`, a last global batch that is not
    /// full is left out.
    ///
    /// # Errors
    /// If `batch_size` is 0.
    pub fn new(len: usize, batch_size: usize, seed: u64, drop_last: bool) -> Result<Self> {
        check_batch_size(batch_size)?;
        Ok(Self { len, batch_size, seed, drop_last })
    }
}

impl Sampler for RandomSampler {
    fn batches(&self, epoch: u64, rank: usize, world: usize) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..self.len).collect();
        SampleRng::keyed("order", self.seed, epoch, 0).shuffle(&mut order);
        global_batches(self.len, self.batch_size, self.drop_last, world)
            .into_iter()
            .filter_map(|(from, to)| order.get(from..to).and_then(|global| share(global, rank, world)))
            .map(<[usize]>::to_vec)
            .collect()
    }

    fn batches_per_epoch(&self, rank: usize, world: usize) -> usize {
        count(self.len, self.batch_size, self.drop_last, rank, world)
    }
}

/// `0, 1, 2, …` in batches; for evaluation. Ranks share each global batch as in [`RandomSampler`].
#[derive(Debug, Clone)]
pub struct SequentialSampler {
    len: usize,
    batch_size: usize,
}

impl SequentialSampler {
    /// Batches of `batch_size` per rank over `0..len`; the last one may be smaller.
    ///
    /// # Errors
    /// If `batch_size` is 0.
    pub fn new(len: usize, batch_size: usize) -> Result<Self> {
        check_batch_size(batch_size)?;
        Ok(Self { len, batch_size })
    }
}

impl Sampler for SequentialSampler {
    fn batches(&self, _epoch: u64, rank: usize, world: usize) -> Vec<Vec<usize>> {
        let order: Vec<usize> = (0..self.len).collect();
        global_batches(self.len, self.batch_size, false, world)
            .into_iter()
            .filter_map(|(from, to)| order.get(from..to).and_then(|global| share(global, rank, world)))
            .map(<[usize]>::to_vec)
            .collect()
    }

    fn batches_per_epoch(&self, rank: usize, world: usize) -> usize {
        count(self.len, self.batch_size, false, rank, world)
    }
}

fn check_batch_size(batch_size: usize) -> Result<()> {
    if batch_size == 0 {
        return Err(Error::argument("batch_size", "0, must be at least 1"));
    }
    Ok(())
}

/// Ranges of the global batches.
fn global_batches(len: usize, batch_size: usize, drop_last: bool, world: usize) -> Vec<(usize, usize)> {
    let Some(global) = batch_size.checked_mul(world).filter(|&size| size > 0) else {
        // No ranks, or a batch beyond any length: one batch of everything, or none.
        return if world == 0 || len == 0 || drop_last { Vec::new() } else { vec![(0, len)] };
    };
    let mut ranges: Vec<(usize, usize)> =
        (0..len / global).map(|batch| (batch * global, (batch + 1) * global)).collect();
    let rest = len % global;
    if rest > 0 && !drop_last {
        match ranges.last_mut() {
            Some(last) if rest < world => last.1 = len,
            _ => ranges.push((len - rest, len)),
        }
    }
    ranges
}

/// The piece of a global batch that belongs to `rank`; `None` if it is empty.
fn share(global: &[usize], rank: usize, world: usize) -> Option<&[usize]> {
    if rank >= world {
        return None;
    }
    let (base, extra) = (global.len() / world, global.len() % world);
    let from = rank * base + rank.min(extra);
    let to = from + base + usize::from(rank < extra);
    global.get(from..to).filter(|piece| !piece.is_empty())
}

fn count(len: usize, batch_size: usize, drop_last: bool, rank: usize, world: usize) -> usize {
    if rank >= world {
        return 0;
    }
    global_batches(len, batch_size, drop_last, world)
        .into_iter()
        // A rank beyond the samples of the only batch has nothing to do.
        .filter(|(from, to)| to - from > rank)
        .count()
}
