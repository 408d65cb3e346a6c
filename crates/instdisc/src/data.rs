//! From data sets to batches.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use vision_datasets::transforms::{LabelledPixels, Pipeline};
use vision_datasets::{
    DataRoot, Dataset, LabelledSet, Loader, LoaderConfig, RandomSampler, Sampler, SequentialSampler, Split,
    open_set,
};

use crate::config::train::{Config, DataConfig};
use crate::error::{Error, Result};

/// A set of any format.
pub type AnySet = Arc<dyn LabelledSet>;

/// Some pictures as numbers.
#[derive(Clone, Debug)]
pub struct Batch {
    /// `(N, H, W, 3)` normalised values, row after row.
    pub pixels: Vec<f32>,
    /// Height and width of every picture.
    pub size: [usize; 2],
    /// Number of each picture in its set, which is its row in the memory bank.
    pub index: Vec<u32>,
    /// Class of each picture; -1 if unknown. Never used in training.
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
        let size = samples.first().map_or([0, 0], |s| [s.pixels.height, s.pixels.width]);
        let mut batch = Self {
            pixels: Vec::with_capacity(samples.len() * size[0] * size[1] * 3),
            size,
            index: Vec::with_capacity(samples.len()),
            labels: Vec::with_capacity(samples.len()),
            names: Vec::with_capacity(samples.len()),
        };
        for sample in samples {
            let got = [sample.pixels.height, sample.pixels.width];
            if got != size {
                return Err(vision_datasets::Error::Set {
                    set: sample.name,
                    problem: format!(
                        "is {} x {} after its transforms, others in the batch are {} x {}; add an \
                         operation that fixes the size",
                        got[1], got[0], size[1], size[0]
                    ),
                });
            }
            let index = u32::try_from(sample.index).map_err(|_too_large| vision_datasets::Error::Set {
                set: sample.name.clone(),
                problem: "its number does not fit in 32 bits".to_owned(),
            })?;
            batch.pixels.extend_from_slice(&sample.pixels.data);
            batch.index.push(index);
            batch.labels.push(sample.label);
            batch.names.push(sample.name);
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

    /// The pictures as `(N, 3, H, W)`: a view of the channels-last values, which the network uses as they
    /// are.
    ///
    /// # Errors
    /// If the copy to the device fails.
    pub fn tensor(&self, device: &Device) -> Result<Tensor> {
        let [height, width] = self.size;
        let nhwc = Tensor::from_slice(&self.pixels, (self.len(), height, width, 3), device)?;
        Ok(nhwc.permute((0, 3, 1, 2))?)
    }
}

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
