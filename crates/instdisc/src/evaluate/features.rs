//! One vector per picture of a set.

use candle_core::Tensor;
use rayon::prelude::*;
use vision_core::{FeatureMap, Pass, ops};
use vision_image::{Filter, Image, resize};
use vision_train::Context;

use crate::config::train::{Config, FeatureKind};
use crate::data::{self, AnySet};
use crate::error::{Error, Result};
use crate::index::FlatIndex;
use crate::model::InstDisc;

/// Vectors of a set, in its order, with the classes and names of its pictures.
#[derive(Clone, Debug)]
pub struct Features {
    /// Length of a vector.
    pub dim: usize,
    /// The vectors, one after the other.
    pub rows: Vec<f32>,
    /// Class of each picture; -1 if unknown.
    pub labels: Vec<i64>,
    /// Name of each picture.
    pub names: Vec<String>,
    /// The data they were made from.
    pub fingerprint: String,
}

impl Features {
    /// Number of vectors.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Other vectors for the same pictures.
    ///
    /// # Errors
    /// If there is not one vector per picture.
    pub fn with_rows(&self, dim: usize, rows: Vec<f32>) -> Result<Self> {
        if rows.len() != dim * self.len() {
            return Err(Error::size("features", dim * self.len(), rows.len()));
        }
        Ok(Self { dim, rows, ..self.clone() })
    }

    /// Every vector divided by its length.
    ///
    /// # Errors
    /// If a vector is not finite or has length zero.
    pub fn normalised(mut self) -> Result<Self> {
        for (row, values) in self.rows.chunks_exact_mut(self.dim.max(1)).enumerate() {
            let length = values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
            if !(length > 0.0 && length.is_finite()) {
                return Err(Error::BadRow { what: format!("features of {}", self.names[row]), row });
            }
            for value in values {
                *value = (f64::from(*value) / length) as f32;
            }
        }
        Ok(self)
    }

    /// The mean vector.
    pub fn mean(&self) -> Vec<f32> {
        let mut sum = vec![0f64; self.dim];
        for row in self.rows.chunks_exact(self.dim.max(1)) {
            for (sum, value) in sum.iter_mut().zip(row) {
                *sum += f64::from(*value);
            }
        }
        sum.into_iter().map(|sum| (sum / self.len().max(1) as f64) as f32).collect()
    }

    /// Every vector minus `mean`, normalised again.
    ///
    /// # Errors
    /// If `mean` has another length, or a vector equals it.
    pub fn centred(mut self, mean: &[f32]) -> Result<Self> {
        if mean.len() != self.dim {
            return Err(Error::size("mean", self.dim, mean.len()));
        }
        for row in self.rows.chunks_exact_mut(self.dim.max(1)) {
            for (value, mean) in row.iter_mut().zip(mean) {
                *value -= mean;
            }
        }
        self.normalised()
    }

    /// The vectors at `index`.
    #[must_use]
    pub fn select(&self, index: &[usize]) -> Self {
        Self {
            dim: self.dim,
            rows: index.iter().flat_map(|&i| self.row(i).iter().copied()).collect(),
            labels: index.iter().map(|&i| self.labels[i]).collect(),
            names: index.iter().map(|&i| self.names[i].clone()).collect(),
            fingerprint: self.fingerprint.clone(),
        }
    }

    /// One vector.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.rows[index * self.dim..(index + 1) * self.dim]
    }

    /// These vectors, then those of `other`.
    ///
    /// # Errors
    /// If the vectors have another length.
    pub fn followed_by(mut self, other: &Self) -> Result<Self> {
        if self.dim != other.dim {
            return Err(Error::size("features", self.dim, other.dim));
        }
        self.rows.extend_from_slice(&other.rows);
        self.labels.extend_from_slice(&other.labels);
        self.names.extend_from_slice(&other.names);
        self.fingerprint = format!("{}+{}", self.fingerprint, other.fingerprint);
        Ok(self)
    }

    /// A search index over these vectors.
    ///
    /// # Errors
    /// If a vector is not finite.
    pub fn index(&self) -> Result<FlatIndex> {
        Ok(FlatIndex::new(self.dim, self.rows.clone())?
            .with_labels(self.labels.clone())?
            .with_names(self.names.clone())?
            .with_fingerprint(self.fingerprint.clone()))
    }
}

/// The network's vector of every picture of `set`, by the test transform and with running statistics. The
/// memory bank is neither read nor written.
///
/// # Errors
/// If a picture cannot be read, or a vector is not finite.
pub fn embed(model: &InstDisc, cfg: &Config, set: &AnySet, ctx: &Context) -> Result<Features> {
    let loader = data::test_loader(cfg, set.clone(), ctx.workers)?;
    let mut features = Features {
        dim: 0,
        rows: Vec::new(),
        labels: Vec::with_capacity(set.len()),
        names: Vec::with_capacity(set.len()),
        fingerprint: set.fingerprint().to_string(),
    };
    let mut count = ctx.count("embedding", set.len());
    for batch in loader.epoch(0, 0) {
        let batch = batch?;
        count.add(batch.len());
        let output = model.forward(&batch.pictures(&ctx.device)?.to_dtype(ctx.dtype)?, &Pass::inference())?;
        let stage = match cfg.eval.features {
            FeatureKind::Embedding | FeatureKind::Pooled => None,
            FeatureKind::Conv1 => Some(0),
            FeatureKind::Layer1 => Some(1),
            FeatureKind::Layer2 => Some(2),
            FeatureKind::Layer3 => Some(3),
            FeatureKind::Layer4 => Some(4),
        };
        let vectors = match stage.and_then(|stage| output.stages.get(stage)) {
            Some(map) => ops::l2_normalize(&flat_map(map)?, 1e-12)?,
            None if cfg.eval.features == FeatureKind::Pooled => ops::l2_normalize(&output.pooled, 1e-12)?,
            None => output.embedding,
        };
        features.dim = vectors.dims2()?.1;
        features.rows.extend(vectors.to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1::<f32>()?);
        features.labels.extend(batch.labels);
        features.names.extend(batch.names);
    }
    if let Some(at) = features.rows.iter().position(|v| !v.is_finite()) {
        let row = at / features.dim;
        return Err(Error::BadRow { what: format!("features of {}", features.names[row]), row });
    }
    Ok(features)
}

/// A map pooled to at most 8 x 8 places, as one vector per picture.
fn flat_map(map: &FeatureMap) -> Result<Tensor> {
    const SIDE: usize = 8;
    let (_, height, width, _) = map.dims()?;
    let pooled = ops::adaptive_avg_pool2d_nhwc(map, [height.min(SIDE), width.min(SIDE)])?;
    Ok(pooled.nhwc().flatten_from(1)?)
}

/// The pixels themselves as vectors, values within 0 and 1: the floor any feature has to rise above.
///
/// Pictures keep their own size if all of them share it, else they get the size of the network's input.
///
/// # Errors
/// If a picture cannot be read, or sizes differ and no transform fixes them.
pub fn raw_pixels(cfg: &Config, set: &AnySet) -> Result<Features> {
    let samples = (0..set.len()).into_par_iter().map(|index| set.get(index)).collect::<Vec<_>>();
    let samples = samples.into_iter().collect::<vision_datasets::Result<Vec<_>>>()?;
    let native = samples.first().map(|s| (s.image.width(), s.image.height()));
    let shared = samples.iter().all(|s| Some((s.image.width(), s.image.height())) == native);
    let fixed = cfg.data.test_pipeline().output_size();
    let pixels = |image: &Image| -> Result<Vec<f32>> {
        let rgb = match (shared, fixed) {
            (true, _) => image.to_rgb(),
            (false, Some([width, height])) => resize(&image.to_rgb(), width, height, Filter::Bilinear)?,
            (false, None) => {
                return Err(Error::config("data.test", "must fix the size: pictures of this set differ"));
            }
        };
        Ok(rgb.data().iter().map(|&v| f32::from(v) / 255.0).collect())
    };
    let rows = samples.iter().map(|s| pixels(&s.image)).collect::<Result<Vec<_>>>()?;
    let features = Features {
        dim: rows.first().map_or(0, Vec::len),
        rows: rows.concat(),
        labels: samples.iter().map(|s| s.label).collect(),
        names: samples.iter().map(|s| s.name.clone()).collect(),
        fingerprint: set.fingerprint().to_string(),
    };
    // A black picture has no direction; a trace of grey gives it one.
    Ok(features.with_floor(1e-6))
}

impl Features {
    fn with_floor(mut self, floor: f32) -> Self {
        for value in &mut self.rows {
            *value = value.max(floor);
        }
        self
    }
}
