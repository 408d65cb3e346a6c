//! Where a run happens: device, threads, folders, ranks.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{DType, Device};
use vision_core::dist::{Collective, Single};

use crate::sinks::{Count, Silent, Watch};

/// What a recipe may know about the machine and the run. None of it changes a result, but for the number of ranks: each
/// adds a batch to every step.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Context {
    /// Device of parameters and batches.
    pub device: Device,
    /// Element type of parameters.
    pub dtype: DType,
    /// Threads of the global pool.
    pub threads: usize,
    /// Worker threads of a loader used for evaluation. Training uses `run.workers` of the configuration.
    pub workers: usize,
    /// The run folder; files a recipe writes of its own belong below it.
    pub out: PathBuf,
    /// How many broken samples a loader may leave out before it reports an error.
    pub skip_broken: usize,
    /// Set to stop training after the current step. Long evaluations may look at it too.
    pub interrupt: Arc<AtomicBool>,
    /// The ranks that train together; [`Single`] if there is only this one. A recipe hands it to layers that work
    /// on the batch of all ranks, and exchanges with it what it keeps besides parameters.
    pub collective: Arc<dyn Collective>,
    /// Who watches long work besides training.
    pub watch: Arc<dyn Watch>,
}

impl Context {
    /// A context on `device` that writes below `out`, with the threads of the current pool.
    pub fn new(device: Device, out: impl Into<PathBuf>) -> Self {
        Self {
            device,
            dtype: DType::F32,
            threads: rayon::current_num_threads(),
            workers: 0,
            out: out.into(),
            skip_broken: 0,
            interrupt: Arc::new(AtomicBool::new(false)),
            collective: Arc::new(Single),
            watch: Arc::new(Silent),
        }
    }

    /// The same context with `workers` loader threads.
    #[must_use]
    pub fn with_workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// The same context with room for `skip_broken` broken samples.
    #[must_use]
    pub fn with_skip_broken(mut self, skip_broken: usize) -> Self {
        self.skip_broken = skip_broken;
        self
    }

    /// The same context as one rank of several.
    #[must_use]
    pub fn with_collective(mut self, collective: Arc<dyn Collective>) -> Self {
        self.collective = collective;
        self
    }

    /// The ranks that train together, if they are several: what
    /// [`BatchNormConfig::collective`](vision_core::nn::BatchNormConfig::collective) takes.
    pub fn several(&self) -> Option<Arc<dyn Collective>> {
        (self.collective.world_size() > 1).then(|| Arc::clone(&self.collective))
    }

    /// Begins work of `total` parts, such as measuring so many pictures, that somebody may watch.
    pub fn count(&self, what: &str, total: usize) -> Count<'_> {
        Count::new(&*self.watch, what, total)
    }

    /// Whether somebody asked the run to stop.
    pub fn interrupted(&self) -> bool {
        self.interrupt.load(Ordering::Relaxed)
    }
}
