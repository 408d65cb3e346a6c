//! Same batches whatever the workers do, and errors that say what happened.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use vision_datasets::{
    Dataset, Error, Fingerprint, Labelled, Loader, LoaderConfig, RandomSampler, Result, SampleRng, Sampler,
    SequentialSampler, Transform,
};

/// The sample's number and a random number, after a wait that depends on the sample.
struct Draw;

impl Transform<Labelled> for Draw {
    type Out = (usize, u32);
    fn apply(&self, sample: Labelled, rng: &mut SampleRng) -> Result<(usize, u32)> {
        std::thread::sleep(Duration::from_micros((sample.index as u64 * 7919) % 300));
        Ok((sample.index, rng.next_u32()))
    }
}

type Batch = Vec<(usize, u32)>;

/// A set of which some samples are broken or panic.
struct Fragile {
    len: usize,
    broken: Vec<usize>,
    panics: Option<usize>,
    reads: AtomicUsize,
}

impl Fragile {
    fn new(len: usize) -> Self {
        Self { len, broken: Vec::new(), panics: None, reads: AtomicUsize::new(0) }
    }
}

impl Dataset for Fragile {
    type Sample = usize;
    fn len(&self) -> usize {
        self.len
    }
    fn get(&self, index: usize) -> Result<usize> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        assert_ne!(Some(index), self.panics, "cannot digest this");
        if self.broken.contains(&index) {
            return Err(Error::Index { set: "fragile".into(), index, len: self.len });
        }
        Ok(index)
    }
    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::builder("fragile").finish(self.len)
    }
    fn sample_name(&self, index: usize) -> String {
        format!("pictures/{index}.jpg")
    }
}

struct Same;

impl Transform<usize> for Same {
    type Out = usize;
    fn apply(&self, sample: usize, _rng: &mut SampleRng) -> Result<usize> {
        Ok(sample)
    }
}

fn config(workers: usize, prefetch: usize, skip_broken: usize) -> LoaderConfig {
    LoaderConfig { workers, prefetch, seed: 11, skip_broken }
}

fn draws(workers: usize, prefetch: usize) -> Loader<Batch> {
    let sampler = RandomSampler::new(53, 4, 5, false).unwrap();
    Loader::new(
        Arc::new(common::greys(53)),
        Arc::new(Draw),
        Arc::new(Ok),
        Arc::new(sampler),
        config(workers, prefetch, 0),
    )
}

fn fragile(set: Fragile, workers: usize, skip_broken: usize) -> (Arc<Fragile>, Loader<Vec<usize>>) {
    let set = Arc::new(set);
    let sampler = SequentialSampler::new(set.len, 3).unwrap();
    let loader = Loader::new(
        Arc::clone(&set) as Arc<dyn Dataset<Sample = usize>>,
        Arc::new(Same),
        Arc::new(Ok),
        Arc::new(sampler),
        config(workers, 2, skip_broken),
    );
    (set, loader)
}

#[test]
fn any_number_of_workers_gives_the_same_batches() {
    let of = |workers, prefetch, start| -> Vec<Batch> {
        draws(workers, prefetch).epoch(2, start).map(Result::unwrap).collect()
    };
    let want = of(0, 0, 0);
    assert_eq!(want.len(), 14);
    let order: Vec<Vec<usize>> = want.iter().map(|b| b.iter().map(|(index, _)| *index).collect()).collect();
    assert_eq!(order, RandomSampler::new(53, 4, 5, false).unwrap().batches(2, 0, 1));
    for (workers, prefetch) in [(1, 0), (1, 8), (2, 1), (3, 4), (7, 2), (40, 100)] {
        assert_eq!(of(workers, prefetch, 0), want, "{workers} workers");
        assert_eq!(of(workers, prefetch, 5), want[5..], "{workers} workers, start at 5");
    }
    let other: Vec<Batch> = draws(2, 2).epoch(3, 0).map(Result::unwrap).collect();
    assert_ne!(other, want);
}

#[test]
fn skipped_batches_are_not_read() {
    for workers in [0, 2] {
        let (set, loader) = fragile(Fragile::new(30), workers, 0);
        let rest: Vec<Vec<usize>> = loader.epoch(0, 8).map(Result::unwrap).collect();
        assert_eq!(rest, [vec![24, 25, 26], vec![27, 28, 29]]);
        assert_eq!(set.reads.load(Ordering::SeqCst), 6);
        assert_eq!(loader.epoch(0, 10).count() + loader.epoch(0, 99).count(), 0);
    }
}

#[test]
fn prefetch_is_bounded() {
    let (set, loader) = fragile(Fragile::new(3000), 2, 0);
    let mut iter = loader.epoch(0, 0);
    iter.next().unwrap().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    // 1 taken; per worker at most 1 waiting and 1 in hand, each of 3 samples.
    let read = set.reads.load(Ordering::SeqCst);
    assert!(read <= 3 * 5, "{read}");
}

#[test]
fn dropping_early_stops_the_workers() {
    let (set, loader) = fragile(Fragile::new(100_000), 4, 0);
    for taken in [0, 1, 5] {
        let mut iter = loader.epoch(0, 0);
        for _ in 0..taken {
            iter.next().unwrap().unwrap();
        }
        drop(iter);
        // All threads are joined, so nothing reads any more.
        let read = set.reads.load(Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(set.reads.load(Ordering::SeqCst), read);
    }
}

#[test]
fn a_broken_sample_is_named_and_ends_the_epoch() {
    for workers in [0, 1, 3] {
        let (_, loader) = fragile(Fragile { broken: vec![4], ..Fragile::new(12) }, workers, 0);
        let mut iter = loader.epoch(0, 0);
        assert_eq!(iter.next().unwrap().unwrap(), [0, 1, 2]);
        let error = iter.next().unwrap().unwrap_err();
        assert!(matches!(&error, Error::Sample { index: 4, .. }), "{error}");
        assert!(error.to_string().contains("pictures/4.jpg"), "{error}");
        assert!(iter.next().is_none());
        // It is not forgiven in the next epoch.
        assert!(loader.epoch(1, 0).any(|batch| batch.is_err()));
    }
}

#[test]
fn n_broken_samples_may_be_skipped() {
    for workers in [0, 2] {
        let broken = vec![1, 6, 7, 8];
        let (_, loader) = fragile(Fragile { broken: broken.clone(), ..Fragile::new(12) }, workers, 4);
        for epoch in 0..3 {
            let batches: Vec<Vec<usize>> = loader.epoch(epoch, 0).map(Result::unwrap).collect();
            // The batch of which nothing is left is not delivered.
            assert_eq!(batches, [vec![0, 2], vec![3, 4, 5], vec![9, 10, 11]]);
        }
        let (_, loader) = fragile(Fragile { broken, ..Fragile::new(12) }, workers, 3);
        for epoch in 0..2 {
            let outcome: Vec<_> = loader.epoch(epoch, 0).collect();
            assert_eq!(outcome.len(), 3);
            let error = outcome[2].as_ref().unwrap_err();
            assert!(matches!(error, Error::TooManyBroken { found: 4, allowed: 3, .. }), "{error}");
            assert!(error.to_string().contains("pictures/8.jpg"), "{error}");
        }
    }
}

#[test]
fn panics_become_errors() {
    for workers in [0, 2] {
        // Being allowed to skip broken samples does not hide a bug.
        let (_, loader) = fragile(Fragile { panics: Some(4), ..Fragile::new(12) }, workers, 9);
        let outcome: Vec<_> = loader.epoch(0, 0).collect();
        assert_eq!(outcome.len(), 2);
        let message = outcome[1].as_ref().unwrap_err().to_string();
        assert!(message.contains("pictures/4.jpg") && message.contains("cannot digest"), "{message}");
    }
}

#[test]
fn errors_and_panics_of_collate_come_through() {
    let with = |collate: Arc<dyn Fn(Vec<usize>) -> Result<usize> + Send + Sync>| {
        let sampler = SequentialSampler::new(6, 3).unwrap();
        let loader = Loader::new(
            Arc::new(Fragile::new(6)),
            Arc::new(Same),
            collate,
            Arc::new(sampler),
            config(2, 2, 9),
        );
        loader.epoch(0, 0).next().unwrap().unwrap_err().to_string()
    };
    let message = with(Arc::new(|_| Err(Error::Argument { name: "size".into(), problem: "uneven".into() })));
    assert_eq!(message, "size: uneven");
    let message = with(Arc::new(|_| panic!("no {}", "room")));
    assert!(message.contains("starts with sample number 0") && message.contains("no room"), "{message}");
}

#[test]
fn shards_cover_the_set() {
    let of = |rank| {
        let loader = draws(2, 2).with_shard(rank, 3).unwrap();
        let batches: Vec<Batch> = loader.epoch(0, 0).map(Result::unwrap).collect();
        assert_eq!(batches.len(), loader.batches_per_epoch());
        batches
    };
    let mut all: Vec<usize> = (0..3).flat_map(of).flatten().map(|(index, _)| index).collect();
    all.sort_unstable();
    assert_eq!(all, (0..53).collect::<Vec<_>>());
    assert!(draws(0, 0).with_shard(3, 3).is_err());
    assert!(draws(0, 0).fingerprint().as_str().starts_with("greys:"));
}
