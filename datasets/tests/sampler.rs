//! Every sample once, the same number of batches on every rank.
#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use vision_datasets::{RandomSampler, Sampler, SequentialSampler};

#[test]
fn one_rank_gets_plain_batches() {
    let sampler = SequentialSampler::new(7, 3).unwrap();
    assert_eq!(sampler.batches(4, 0, 1), [vec![0, 1, 2], vec![3, 4, 5], vec![6]]);
    let dropped = RandomSampler::new(7, 3, 0, true).unwrap();
    assert_eq!(dropped.batches(0, 0, 1).len(), 2);
    assert_eq!(dropped.batches_per_epoch(0, 1), 2);
    assert!(SequentialSampler::new(0, 3).unwrap().batches(0, 0, 1).is_empty());
    assert!(RandomSampler::new(3, 0, 0, false).is_err() && SequentialSampler::new(3, 0).is_err());
}

#[test]
fn ranks_share_global_batches() {
    let sampler = SequentialSampler::new(10, 2).unwrap();
    assert_eq!(sampler.batches(0, 0, 2), [vec![0, 1], vec![4, 5], vec![8]]);
    assert_eq!(sampler.batches(0, 1, 2), [vec![2, 3], vec![6, 7], vec![9]]);
    // One left over for two ranks: it joins the batch before.
    let sampler = SequentialSampler::new(9, 2).unwrap();
    assert_eq!(sampler.batches(0, 0, 2), [vec![0, 1], vec![4, 5, 6]]);
    assert_eq!(sampler.batches(0, 1, 2), [vec![2, 3], vec![7, 8]]);
    // Fewer samples than ranks.
    let sampler = SequentialSampler::new(1, 2).unwrap();
    assert_eq!(sampler.batches(0, 0, 2), [vec![0]]);
    assert!(sampler.batches(0, 1, 2).is_empty());
    assert!(sampler.batches(0, 2, 2).is_empty() && sampler.batches(0, 0, 0).is_empty());
}

#[test]
fn epochs_and_seeds_differ_and_repeat() {
    let sampler = |seed| RandomSampler::new(100, 10, seed, false).unwrap();
    assert_eq!(sampler(0).batches(3, 0, 1), sampler(0).batches(3, 0, 1));
    assert_ne!(sampler(0).batches(3, 0, 1), sampler(0).batches(4, 0, 1));
    assert_ne!(sampler(0).batches(3, 0, 1), sampler(1).batches(3, 0, 1));
    assert_eq!(RandomSampler::new(8, 8, 0, false).unwrap().batches(0, 0, 1), [FIRST_ORDER]);
}

const FIRST_ORDER: [usize; 8] = [6, 1, 2, 0, 3, 7, 5, 4];

proptest! {
    #[test]
    fn every_index_once_over_ranks(
        len in 0usize..200,
        batch in 1usize..20,
        world in 1usize..6,
        seed in any::<u64>(),
        epoch in 0u64..100,
        random in any::<bool>(),
    ) {
        let sampler: Box<dyn Sampler> = if random {
            Box::new(RandomSampler::new(len, batch, seed, false).unwrap())
        } else {
            Box::new(SequentialSampler::new(len, batch).unwrap())
        };
        let ranks: Vec<_> = (0..world).map(|rank| sampler.batches(epoch, rank, world)).collect();
        let mut all: Vec<usize> = ranks.iter().flatten().flatten().copied().collect();
        all.sort_unstable();
        prop_assert_eq!(all, (0..len).collect::<Vec<_>>());
        for (rank, batches) in ranks.iter().enumerate() {
            prop_assert_eq!(sampler.batches_per_epoch(rank, world), batches.len());
            // A remainder joined to the last batch gives each rank at most one more.
            prop_assert!(batches.iter().all(|b| !b.is_empty() && b.len() <= batch + 1));
            if len >= world {
                prop_assert_eq!(batches.len(), ranks[0].len());
            }
        }
    }

    #[test]
    fn drop_last_keeps_full_batches_only(len in 0usize..200, batch in 1usize..20, world in 1usize..6) {
        let sampler = RandomSampler::new(len, batch, 1, true).unwrap();
        for rank in 0..world {
            let batches = sampler.batches(0, rank, world);
            prop_assert_eq!(batches.len(), len / (batch * world));
            prop_assert!(batches.iter().all(|b| b.len() == batch));
        }
    }
}
