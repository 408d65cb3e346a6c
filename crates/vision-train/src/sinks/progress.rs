//! Telling somebody how training, or other long work, goes while it goes.

/// What is known after an optimiser step.
#[derive(Clone, Debug)]
pub struct StepInfo<'a> {
    /// Steps done in the whole run.
    pub step: u64,
    /// Epoch of this step, from 0.
    pub epoch: u64,
    /// Total loss of this step, averaged over accumulated batches.
    pub loss: f64,
    /// Base learning rate times the schedule's factor.
    pub lr: f64,
    /// Samples per second since the last logged step, or since the start.
    pub images_per_second: f64,
    /// Share of the time spent waiting for data, 0 to 1.
    pub data_wait: f64,
    /// Averages since the last logged step; empty unless this step is logged.
    pub logged: &'a [(String, f64)],
}

/// Somebody who watches a run. Libraries stay silent; the command line draws a bar.
pub trait Progress: Send {
    /// Training starts at `step` of `total`.
    fn start(&mut self, step: u64, total: u64);
    /// A step is done.
    fn step(&mut self, info: &StepInfo<'_>);
    /// Something worth a line, such as the result of an evaluation or a checkpoint.
    fn message(&mut self, text: &str);
    /// Training is over, well or not.
    fn finish(&mut self);
}

/// Somebody who watches work that is counted, such as the pictures of an evaluation.
pub trait Watch: std::fmt::Debug + Send + Sync {
    /// Work of `total` parts begins.
    fn begin(&self, what: &str, total: u64);
    /// So many parts are done.
    fn at(&self, done: u64);
    /// The work is over, well or not.
    fn end(&self);
}

/// Work that somebody watches; it is over when this is dropped.
#[derive(Debug)]
pub struct Count<'a> {
    watch: &'a dyn Watch,
    done: u64,
}

impl<'a> Count<'a> {
    /// Begins work of `total` parts.
    pub fn new(watch: &'a dyn Watch, what: &str, total: usize) -> Self {
        watch.begin(what, total as u64);
        Self { watch, done: 0 }
    }

    /// So many more parts are done.
    pub fn add(&mut self, parts: usize) {
        self.done += parts as u64;
        self.watch.at(self.done);
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.watch.end();
    }
}

/// Nobody watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn start(&mut self, _step: u64, _total: u64) {}
    fn step(&mut self, _info: &StepInfo<'_>) {}
    fn message(&mut self, _text: &str) {}
    fn finish(&mut self) {}
}

impl Watch for Silent {
    fn begin(&self, _what: &str, _total: u64) {}
    fn at(&self, _done: u64) {}
    fn end(&self) {}
}
