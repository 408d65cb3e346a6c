//! Batches of pictures with a class each.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use vision_core::Result;
use vision_datasets::transforms::{LabelledPixels, Pipeline, Pixels};
use vision_datasets::{LabelledSet, Loader, LoaderConfig, Sampler};

use crate::tensor::to_tensor_nhwc;

/// Some pictures as numbers, with the class of each.
///
/// ```
/// use candle_core::Device;
/// use vision_datasets::transforms::{LabelledPixels, Pixels};
/// use vision_train::LabelledBatch;
///
/// let picture = |index| LabelledPixels {
///     pixels: Pixels { data: vec![0.5; 4 * 6 * 3], height: 4, width: 6, channels: 3 },
///     label: 7,
///     index,
///     name: format!("picture {index}"),
/// };
/// let batch = LabelledBatch::collate(vec![picture(0), picture(1)])?;
/// assert_eq!(batch.pictures(&Device::Cpu)?.dims(), [2, 3, 4, 6]);
/// assert_eq!(batch.targets(&Device::Cpu)?.to_vec1::<i64>()?, [7, 7]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct LabelledBatch {
    /// Normalised values, all of one size.
    pub pixels: Vec<Pixels>,
    /// Number of each picture in its set.
    pub index: Vec<usize>,
    /// Class of each picture; -1 if unknown.
    pub labels: Vec<i64>,
    /// What to call each picture in messages.
    pub names: Vec<String>,
}

impl LabelledBatch {
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
                    "is {} x {} after its transforms, others in the batch are {} x {}; add an operation that fixes the \
                     size",
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

    /// Batches of `set`, in the order of `sampler`, changed by `pipeline`.
    pub fn loader(
        set: Arc<dyn LabelledSet>,
        pipeline: Pipeline,
        sampler: impl Sampler + 'static,
        config: LoaderConfig,
    ) -> Loader<Self> {
        Loader::new(set, Arc::new(pipeline), Arc::new(Self::collate), Arc::new(sampler), config)
    }

    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// The pictures as `(N, 3, H, W)`: a view of channels-last values, which the networks use as they are.
    ///
    /// # Errors
    /// If the batch is empty or the copy to the device fails.
    pub fn pictures(&self, device: &Device) -> Result<Tensor> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_of_two_sizes_are_refused_by_name() {
        let sample = |name: &str, width: usize| LabelledPixels {
            pixels: Pixels { data: vec![0.0; 2 * width * 3], height: 2, width, channels: 3 },
            label: 0,
            index: 0,
            name: name.to_owned(),
        };
        let error = LabelledBatch::collate(vec![sample("a", 3), sample("b", 4)]).unwrap_err().to_string();
        assert!(error.contains('b') && error.contains("4 x 2") && error.contains("3 x 2"), "{error}");
        assert!(LabelledBatch::collate(Vec::new()).unwrap().is_empty());
    }
}
