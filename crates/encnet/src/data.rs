//! From data sets to batches.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use vision_datasets::transforms::{SegmentationPipeline, SegmentedPixels};
use vision_datasets::{
    DataRoot, Dataset, IGNORE_LABEL, Loader, LoaderConfig, RandomSampler, Sampler, SegmentationSet,
    SequentialSampler, Split, open_segmentation_set,
};

use crate::config::train::{Config, DataConfig};
use crate::error::{Error, Result};

/// A set of any format.
pub type AnySet = Arc<dyn SegmentationSet>;

/// Some pictures as numbers, with the class of every pixel.
#[derive(Clone, Debug)]
pub struct Batch {
    /// `(N, H, W, 3)` normalised values, row after row.
    pub pixels: Vec<f32>,
    /// `(N, H, W)` labels; [`IGNORE_LABEL`] where there is no class.
    pub labels: Vec<u8>,
    /// Height and width of every picture.
    pub size: [usize; 2],
    /// Number of each picture in its set.
    pub index: Vec<usize>,
    /// What to call each picture in messages.
    pub names: Vec<String>,
}

impl Batch {
    /// Puts samples together.
    ///
    /// # Errors
    /// If pictures have different sizes.
    pub fn collate(samples: Vec<SegmentedPixels>) -> vision_datasets::Result<Self> {
        let size = samples.first().map_or([0, 0], |s| [s.pixels.height, s.pixels.width]);
        let mut batch = Self {
            pixels: Vec::with_capacity(samples.len() * size[0] * size[1] * 3),
            labels: Vec::with_capacity(samples.len() * size[0] * size[1]),
            size,
            index: Vec::with_capacity(samples.len()),
            names: Vec::with_capacity(samples.len()),
        };
        for sample in samples {
            let got = [sample.pixels.height, sample.pixels.width];
            if got != size {
                return Err(vision_datasets::Error::Set {
                    set: sample.name,
                    problem: format!(
                        "is {} x {} after its transforms, others in the batch are {} x {}; add a crop, or take \
                         one picture at a time",
                        got[1], got[0], size[1], size[0]
                    ),
                });
            }
            batch.pixels.extend_from_slice(&sample.pixels.data);
            batch.labels.extend_from_slice(sample.labels.data());
            batch.index.push(sample.index);
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

    /// The pictures as `(N, 3, H, W)`: a view of the channels-last values, which the network uses as they are.
    ///
    /// # Errors
    /// If the copy to the device fails.
    pub fn pictures(&self, device: &Device) -> Result<Tensor> {
        let [height, width] = self.size;
        let nhwc = Tensor::from_slice(&self.pixels, (self.len(), height, width, 3), device)?;
        Ok(nhwc.permute((0, 3, 1, 2))?)
    }

    /// The labels as `(N, H, W)` of type `i64`, `ignore` where there is no class.
    ///
    /// # Errors
    /// If the copy to the device fails.
    pub fn labels(&self, ignore: i64, device: &Device) -> Result<Tensor> {
        let [height, width] = self.size;
        let label = |&label: &u8| if label == IGNORE_LABEL { ignore } else { i64::from(label) };
        let labels: Vec<i64> = self.labels.iter().map(label).collect();
        Ok(Tensor::from_vec(labels, (self.len(), height, width), device)?)
    }
}

/// Opens the part of the set in the configuration that stands for `split`.
///
/// # Errors
/// If the set is missing or broken, has no pictures, or another number of classes than the model.
pub fn open(config: &DataConfig, classes: usize, data: &DataRoot, split: Split) -> Result<AnySet> {
    let set = open_segmentation_set(&config.spec(split), data.dir.as_deref())?;
    if set.is_empty() {
        return Err(Error::size(format!("{} ({split})", config.name), "at least one picture", 0));
    }
    if set.class_names().len() != classes {
        let problem = format!("is {classes}, but {} has {}", config.name, set.class_names().len());
        return Err(Error::config("model.classes", problem));
    }
    Ok(Arc::from(set))
}

/// Batches of `set` in random order, augmented.
///
/// # Errors
/// If the batch size is zero.
pub fn train_loader(config: &Config, set: AnySet, skip_broken: usize) -> Result<Loader<Batch>> {
    let (data, run) = (&config.data, &config.run);
    let sampler = RandomSampler::new(set.len(), data.batch_size, run.seed, data.drop_last)?;
    Ok(build(set, data.train_pipeline(), sampler, run.train_loader(skip_broken)))
}

/// Batches of `set` in order, as they are measured whole. Pictures of different sizes need a batch size of 1.
///
/// # Errors
/// If the batch size is zero.
pub fn whole_loader(config: &Config, set: AnySet, workers: usize) -> Result<Loader<Batch>> {
    let sampler = SequentialSampler::new(set.len(), config.eval.batch_size)?;
    Ok(build(set, config.data.whole_pipeline(), sampler, config.run.eval_loader(workers)))
}

fn build(
    set: AnySet,
    pipeline: SegmentationPipeline,
    sampler: impl Sampler + 'static,
    config: LoaderConfig,
) -> Loader<Batch> {
    Loader::new(set, Arc::new(pipeline), Arc::new(Batch::collate), Arc::new(sampler), config)
}
