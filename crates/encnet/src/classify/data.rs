//! From data sets to batches.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use vision_datasets::transforms::{LabelledPixels, Pipeline, Pixels};
use vision_datasets::{
    DataRoot, Dataset, LabelledSet, Loader, LoaderConfig, RandomSampler, Sampler, SequentialSampler, Split,
    open_set,
};
use vision_train::to_tensor_nhwc;

use super::config::Config;
use crate::error::{Error, Result};

/// A set of any format.
pub type AnySet = Arc<dyn LabelledSet>;

/// Some pictures as numbers.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Normalised values, all of one size.
    pub pixels: Vec<Pixels>,
    /// Number of each picture in its set.
    pub index: Vec<usize>,
    /// Class of each picture; -1 if unknown.
    pub labels: Vec<i64>,
    /// What to call each picture in messages.
    pub names: Vec<String>,
}

impl Batch {
    /// Puts samples together.
    ///
    /// # Errors
    /// If pictures have different sizes.
    pub fn collate(samples: Vec<LabelledPixels>) -> vision_datasets::Result<Self> {
        let mut batch = Self::default();
        for LabelledPixels { pixels, label, index, name } in samples {
            if let Some(first) = batch.pixels.first()
                && (first.height, first.width) != (pixels.height, pixels.width)
            {
                let problem = format!(
                    "is {} x {} after data.augment, others in the batch are {} x {}",
                    pixels.width, pixels.height, first.width, first.height
                );
                return Err(vision_datasets::Error::Set { set: name, problem });
            }
            batch.pixels.push(pixels);
            batch.index.push(index);
            batch.labels.push(label);
            batch.names.push(name);
        }
        Ok(batch)
    }

    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// The pictures as `(N, 3, H, W)`: a view of channels-last values, which the network uses as they are.
    ///
    /// # Errors
    /// If the batch is empty or the copy to the device fails.
    pub fn pictures(&self, device: &Device) -> vision_train::Result<Tensor> {
        Ok(to_tensor_nhwc(&self.pixels, device)?.permute((0, 3, 1, 2))?)
    }

    /// The classes as `(N)` of type `i64`.
    ///
    /// # Errors
    /// If the copy to the device fails.
    pub fn targets(&self, device: &Device) -> Result<Tensor> {
        Ok(Tensor::from_slice(&self.labels, self.labels.len(), device)?)
    }
}

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
pub fn train_loader(config: &Config, set: AnySet, skip_broken: usize) -> Result<Loader<Batch>> {
    let sampler =
        RandomSampler::new(set.len(), config.data.batch_size, config.run.seed, config.data.drop_last)?;
    let loader = LoaderConfig {
        workers: config.run.workers,
        prefetch: config.run.prefetch,
        seed: config.run.seed,
        skip_broken,
    };
    Ok(build(set, config.data.train_pipeline(), Arc::new(sampler), loader))
}

/// Batches of `set` in order, not augmented.
///
/// # Errors
/// If the batch size is zero.
pub fn test_loader(config: &Config, set: AnySet, workers: usize) -> Result<Loader<Batch>> {
    let sampler = SequentialSampler::new(set.len(), config.eval.batch_size)?;
    let loader = LoaderConfig { workers, prefetch: 4, seed: config.run.seed, skip_broken: 0 };
    Ok(build(set, config.data.test_pipeline(), Arc::new(sampler), loader))
}

fn build(set: AnySet, pipeline: Pipeline, sampler: Arc<dyn Sampler>, config: LoaderConfig) -> Loader<Batch> {
    Loader::new(set, Arc::new(pipeline), Arc::new(Batch::collate), sampler, config)
}
