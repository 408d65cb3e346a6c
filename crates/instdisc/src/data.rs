//! From data sets to batches.

use std::sync::Arc;

use vision_datasets::{
    DataRoot, Dataset, LabelledSet, Loader, RandomSampler, SequentialSampler, Split, open_set,
};
use vision_train::LabelledBatch;

use crate::config::train::{Config, DataConfig};
use crate::error::{Error, Result};

/// A set of any format.
pub type AnySet = Arc<dyn LabelledSet>;

/// Opens one split of the set in the configuration.
///
/// # Errors
/// If the set is missing or broken, or has no pictures.
pub fn open(config: &DataConfig, data: &DataRoot, split: Split) -> Result<AnySet> {
    let set = open_set(&config.spec(split), data.dir.as_deref())?;
    if set.is_empty() {
        return Err(Error::size(format!("{} ({split})", config.name), "at least one picture", 0));
    }
    Ok(Arc::from(set))
}

/// Batches of `set` in random order, augmented.
///
/// # Errors
/// If the batch size is zero.
pub fn train_loader(config: &Config, set: AnySet, skip_broken: usize) -> Result<Loader<LabelledBatch>> {
    let (data, run) = (&config.data, &config.run);
    let sampler = RandomSampler::new(set.len(), data.batch_size, run.seed, data.drop_last)?;
    Ok(LabelledBatch::loader(set, data.train_pipeline(), sampler, run.train_loader(skip_broken)))
}

/// Batches of `set` in order, not augmented.
///
/// # Errors
/// If the batch size is zero.
pub fn test_loader(config: &Config, set: AnySet, workers: usize) -> Result<Loader<LabelledBatch>> {
    let sampler = SequentialSampler::new(set.len(), config.eval.batch_size)?;
    Ok(LabelledBatch::loader(set, config.data.test_pipeline(), sampler, config.run.eval_loader(workers)))
}
