//! From data sets to batches.

use std::sync::Arc;

use vision_datasets::{
    DataRoot, Dataset, LabelledSet, Loader, RandomSampler, SequentialSampler, Split, open_set,
};
use vision_train::LabelledBatch;

use super::config::Config;
use crate::error::{Error, Result};

/// A set of any format.
pub type AnySet = Arc<dyn LabelledSet>;

/// Opens one split of the set in the configuration.
///
/// # Errors
/// If the set is missing or broken, has no pictures, another number of classes than the model, or in the training part a
/// picture without a class.
pub fn open(config: &Config, data: &DataRoot, split: Split) -> Result<AnySet> {
    let (name, classes) = (&config.data.name, config.model.classes);
    let set = open_set(&config.data.spec(split), data.dir.as_deref())?;
    if set.is_empty() {
        return Err(Error::size(format!("{name} ({split})"), "at least one picture", 0));
    }
    if set.class_names().len() != classes {
        let problem = format!("is {classes}, but {name} ({split}) has {}", set.class_names().len());
        return Err(Error::config("model.classes", problem));
    }
    if split == Split::Train
        && let Some(at) = set.labels().iter().position(|&label| label < 0)
    {
        return Err(Error::config("data.name", format!("{} has no class to learn", set.sample_name(at))));
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
