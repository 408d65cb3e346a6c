//! Reads, transforms and collates batches on worker threads, in a fixed order.

use std::any::Any;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};

use crate::{Dataset, Error, Fingerprint, Result, SampleRng, Sampler, Transform};

/// How a [`Loader`] works. None of this changes what a batch holds, except `seed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoaderConfig {
    /// Worker threads; 0 does the work in the thread that asks for the next batch.
    pub workers: usize,
    /// How many finished batches may wait to be fetched, over all workers; every worker keeps at least
    /// one.
    pub prefetch: usize,
    /// Seed of the random numbers that transforms draw.
    pub seed: u64,
    /// How many distinct samples may be broken before it becomes an error. A broken sample is left out
    /// of its batch and named in a warning.
    pub skip_broken: usize,
}

impl Default for LoaderConfig {
    fn default() -> Self {
        Self { workers: 2, prefetch: 4, seed: 0, skip_broken: 0 }
    }
}

/// A sample that could not be read or transformed.
struct Broken {
    index: usize,
    error: Error,
}

/// What came of one batch. `batch` is `None` if every sample of it was broken.
struct Made<B> {
    batch: Option<Result<B>>,
    broken: Vec<Broken>,
}

/// Makes the batch of the given sample numbers in the given epoch. The flag asks it to give up early.
type Make<B> = dyn Fn(u64, &[usize], &AtomicBool) -> Made<B> + Send + Sync;

/// Turns a [`Dataset`] into batches of type `B`.
///
/// A worker reads, transforms and collates a whole batch. Batches are delivered in the sampler's order,
/// and every random number is keyed by (seed, epoch, sample number), so any number of workers gives the
/// same batches.
pub struct Loader<B> {
    make: Arc<Make<B>>,
    sampler: Arc<dyn Sampler>,
    config: LoaderConfig,
    rank: usize,
    world: usize,
    fingerprint: Fingerprint,
    broken: Arc<Mutex<BTreeSet<usize>>>,
}

impl<B> std::fmt::Debug for Loader<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader")
            .field("config", &self.config)
            .field("rank", &self.rank)
            .field("world", &self.world)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

impl<B: Send + 'static> Loader<B> {
    /// A loader for one process. `collate` gets the transformed samples of a batch in the sampler's
    /// order, never an empty list.
    pub fn new<S: Send + 'static, T: Send + 'static>(
        dataset: Arc<dyn Dataset<Sample = S>>,
        transform: Arc<dyn Transform<S, Out = T>>,
        collate: Arc<dyn Fn(Vec<T>) -> Result<B> + Send + Sync>,
        sampler: Arc<dyn Sampler>,
        config: LoaderConfig,
    ) -> Self {
        let fingerprint = dataset.fingerprint();
        let seed = config.seed;
        let make: Arc<Make<B>> = Arc::new(move |epoch, indices, stop| {
            let mut samples = Vec::with_capacity(indices.len());
            let mut broken = Vec::new();
            for &index in indices {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                match one_sample(&*dataset, &*transform, seed, epoch, index) {
                    Ok(sample) => samples.push(sample),
                    Err(error @ Error::Panic { .. }) => return Made { batch: Some(Err(error)), broken },
                    Err(error) => broken.push(Broken { index, error }),
                }
            }
            if samples.is_empty() {
                return Made { batch: None, broken };
            }
            let batch = guard(|| collate(samples), || batch_name(epoch, indices));
            Made { batch: Some(batch), broken }
        });
        Self { make, sampler, config, rank: 0, world: 1, fingerprint, broken: Arc::default() }
    }

    /// The same loader as rank `rank` of `world` ranks.
    ///
    /// # Errors
    /// If `rank` is not below `world`.
    pub fn with_shard(mut self, rank: usize, world: usize) -> Result<Self> {
        if rank >= world {
            return Err(Error::argument("rank", format!("{rank}, must be below the world size {world}")));
        }
        self.rank = rank;
        self.world = world;
        Ok(self)
    }

    /// How many batches an epoch has on this rank.
    pub fn batches_per_epoch(&self) -> usize {
        self.sampler.batches_per_epoch(self.rank, self.world)
    }

    /// The fingerprint of the set that is read.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// How the loader works.
    pub fn config(&self) -> &LoaderConfig {
        &self.config
    }

    /// The batches of `epoch`, from number `start_batch` on. Skipped batches are not read, so starting in
    /// the middle costs nothing, and what follows is the same as if nothing had been skipped.
    ///
    /// Workers start at once and stop when the iterator is dropped. After an error the iterator ends.
    pub fn epoch(&self, epoch: u64, start_batch: usize) -> LoaderIter<B> {
        let mut batches = self.sampler.batches(epoch, self.rank, self.world);
        batches.drain(..start_batch.min(batches.len()));
        let batches: Arc<[Vec<usize>]> = batches.into();
        let mut iter = LoaderIter {
            make: Arc::clone(&self.make),
            epoch,
            next: 0,
            workers: Vec::new(),
            stop: Arc::new(AtomicBool::new(false)),
            failed: None,
            done: false,
            broken: Arc::clone(&self.broken),
            allowed: self.config.skip_broken,
            batches,
        };
        let workers = self.config.workers.min(iter.batches.len());
        // `prefetch` is shared out over the workers, rounded up.
        let queue = self.config.prefetch.div_ceil(workers.max(1)).max(1);
        for worker in 0..workers {
            match iter.spawn(worker, workers, queue) {
                Ok(worker) => iter.workers.push(worker),
                Err(source) => {
                    iter.failed = Some(Error::io("loader worker thread", source));
                    break;
                }
            }
        }
        iter
    }
}

struct Worker<B> {
    /// `None` once the iterator is being dropped.
    results: Option<Receiver<Made<B>>>,
    thread: Option<JoinHandle<()>>,
}

/// The batches of one epoch, in order. Made by [`Loader::epoch`].
pub struct LoaderIter<B> {
    make: Arc<Make<B>>,
    epoch: u64,
    batches: Arc<[Vec<usize>]>,
    next: usize,
    /// Worker `w` of `n` makes batches w, w+n, w+2n, …, so taking turns restores the order.
    workers: Vec<Worker<B>>,
    stop: Arc<AtomicBool>,
    failed: Option<Error>,
    done: bool,
    broken: Arc<Mutex<BTreeSet<usize>>>,
    allowed: usize,
}

impl<B> std::fmt::Debug for LoaderIter<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoaderIter")
            .field("epoch", &self.epoch)
            .field("next", &self.next)
            .field("batches", &self.batches.len())
            .field("workers", &self.workers.len())
            .finish_non_exhaustive()
    }
}

impl<B: Send + 'static> LoaderIter<B> {
    fn spawn(&self, worker: usize, workers: usize, queue: usize) -> std::io::Result<Worker<B>> {
        let (sender, receiver): (SyncSender<Made<B>>, _) = sync_channel(queue);
        let make = Arc::clone(&self.make);
        let batches = Arc::clone(&self.batches);
        let stop = Arc::clone(&self.stop);
        let epoch = self.epoch;
        let thread = std::thread::Builder::new().name(format!("loader-{worker}")).spawn(move || {
            for indices in batches.iter().skip(worker).step_by(workers) {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                // The other end is gone once the iterator is dropped.
                if sender.send(make(epoch, indices, &stop)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Worker { results: Some(receiver), thread: Some(thread) })
    }

    fn make_next(&mut self) -> Option<Made<B>> {
        let indices = self.batches.get(self.next)?;
        let made = if self.workers.is_empty() {
            (self.make)(self.epoch, indices, &self.stop)
        } else {
            let turn = self.next % self.workers.len();
            let received = self.workers.get(turn).and_then(|worker| worker.results.as_ref()?.recv().ok());
            received.unwrap_or_else(|| Made {
                batch: Some(Err(Error::Panic {
                    what: batch_name(self.epoch, indices),
                    message: "the worker thread ended early".to_owned(),
                })),
                broken: Vec::new(),
            })
        };
        self.next += 1;
        Some(made)
    }

    /// Counts broken samples; the one that goes over the limit comes back as an error.
    fn account(&self, broken: Vec<Broken>) -> Result<()> {
        let mut seen = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        for Broken { index, error } in broken {
            if seen.contains(&index) {
                continue;
            }
            // A sample over the limit is not remembered, so that it fails again in the next epoch.
            match seen.len() {
                _ if self.allowed == 0 => return Err(error),
                full if full >= self.allowed => {
                    return Err(Error::TooManyBroken {
                        found: full + 1,
                        allowed: self.allowed,
                        source: Box::new(error),
                    });
                }
                _ => seen.insert(index),
            };
            tracing::warn!(broken = seen.len(), allowed = self.allowed, "skipped {error}");
        }
        Ok(())
    }
}

impl<B: Send + 'static> Iterator for LoaderIter<B> {
    type Item = Result<B>;

    fn next(&mut self) -> Option<Result<B>> {
        if self.done {
            return None;
        }
        if let Some(error) = self.failed.take() {
            self.done = true;
            return Some(Err(error));
        }
        loop {
            let Some(made) = self.make_next() else {
                self.done = true;
                return None;
            };
            let outcome = self.account(made.broken).and_then(|()| made.batch.transpose());
            match outcome {
                Ok(Some(batch)) => return Some(Ok(batch)),
                // All samples of the batch were broken, within the limit.
                Ok(None) => {}
                Err(error) => {
                    self.done = true;
                    return Some(Err(error));
                }
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        if self.done {
            return (0, Some(0));
        }
        (0, Some(self.batches.len() - self.next + usize::from(self.failed.is_some())))
    }
}

impl<B> Drop for LoaderIter<B> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Closing every queue first lets workers that wait for room leave; only then can they be joined.
        for worker in &mut self.workers {
            worker.results = None;
        }
        for worker in &mut self.workers {
            if let Some(thread) = worker.thread.take() {
                // A panic was already turned into an error, or nobody is left to hear of it.
                let _ = thread.join();
            }
        }
    }
}

fn one_sample<S: Send, T: Send>(
    dataset: &dyn Dataset<Sample = S>,
    transform: &dyn Transform<S, Out = T>,
    seed: u64,
    epoch: u64,
    index: usize,
) -> Result<T> {
    let work = || {
        let sample = dataset.get(index)?;
        transform.apply(sample, &mut SampleRng::new(seed, epoch, index as u64))
    };
    guard(work, || format!("sample {} (number {index})", dataset.sample_name(index))).map_err(|error| {
        match error {
            panic @ Error::Panic { .. } => panic,
            source => Error::Sample { name: dataset.sample_name(index), index, source: Box::new(source) },
        }
    })
}

/// Runs `work`; a panic in it becomes an error that says what was being worked on.
fn guard<T>(work: impl FnOnce() -> Result<T>, what: impl FnOnce() -> String) -> Result<T> {
    // Whatever `work` left half done is dropped with it: data sets and transforms are shared read-only.
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result,
        Err(payload) => Err(Error::Panic { what: what(), message: panic_message(&*payload) }),
    }
}

fn panic_message(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "no message".to_owned()
    }
}

fn batch_name(epoch: u64, indices: &[usize]) -> String {
    match indices.first() {
        Some(first) => format!("the batch of epoch {epoch} that starts with sample number {first}"),
        None => format!("an empty batch of epoch {epoch}"),
    }
}
