//! Pooling of boxes from the map whose resolution fits each, as torchvision's `MultiScaleRoIAlign` 0.29.
//!
//! A box of area `A` is read from level `floor(k0 + log2(sqrt(A) / s0) + 1e-6)`, moved to the nearest level there is: a
//! map of stride `2^k` is level `k`, and with `k0 = 4` and `s0 = 224` a box of 224 x 224 pixels is read at stride 16
//! (Lin et al., 2017, equation 1). torchvision infers strides from the first pictures that it sees; here they are given.

use candle_core::{DType, Device, Tensor};
use vision_core::FeatureMap;
use vision_core::ops::{RoiAlignArgs, roi_align_nhwc};

use crate::candidates::{rounded, sides};
use crate::error::{Error, Result, at_least_one};

/// Added to the level of a box before it is rounded down, so that boxes of exactly `s0` pixels get theirs.
const EPSILON: f64 = 1e-6;

/// Constants of a [`RoiPooler`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoiPoolerConfig {
    /// Rows and columns of a pooled map.
    pub output_size: usize,
    /// Samples per cell along each axis; 0 for as many as it has pixels.
    pub sampling_ratio: usize,
    /// Side of a square, in pixels, that is read from the canonical level.
    pub canonical_size: f64,
    /// That level, the logarithm of a stride.
    pub canonical_level: i32,
}

impl Default for RoiPoolerConfig {
    /// 7 x 7 cells of 2 x 2 samples; 224 pixels at level 4.
    fn default() -> Self {
        Self { output_size: 7, sampling_ratio: 2, canonical_size: 224., canonical_level: 4 }
    }
}

/// Pools boxes from the maps of a pyramid.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use vision_core::FeatureMap;
/// use vision_detect::{RoiPooler, RoiPoolerConfig};
/// # fn main() -> vision_detect::Result<()> {
/// let pooler = RoiPooler::new(&[4, 8], RoiPoolerConfig::default())?;
/// let map = |h, w| FeatureMap::from_nhwc(Tensor::ones((1, h, w, 3), DType::F32, &Device::Cpu)?);
/// let boxes = Tensor::new(&[[0_f32, 0., 30., 20.], [5., 5., 100., 90.]], &Device::Cpu)?;
/// let pooled = pooler.forward(&[map(32, 40)?, map(16, 20)?], &[boxes])?;
/// assert_eq!(pooled.dims()?, (2, 7, 7, 3));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RoiPooler {
    strides: Vec<usize>,
    config: RoiPoolerConfig,
}

impl RoiPooler {
    /// A pooler over maps of these strides: the pixels of a picture per pixel of the map, from fine to coarse.
    ///
    /// # Errors
    /// If there are no maps, strides are not rising powers of two, or a size of the configuration is not above 0.
    pub fn new(strides: &[usize], config: RoiPoolerConfig) -> Result<Self> {
        let rising = strides.is_sorted_by(|a, b| a < b);
        if strides.is_empty() || !rising || strides.iter().any(|stride| !stride.is_power_of_two()) {
            let problem = format!("{strides:?} are not rising powers of two");
            return Err(Error::config("pooler: strides", problem));
        }
        at_least_one("pooler.output_size", config.output_size)?;
        if !(config.canonical_size > 0. && config.canonical_size.is_finite()) {
            let problem = format!("{} is not above 0", config.canonical_size);
            return Err(Error::config("pooler.canonical_size", problem));
        }
        Ok(Self { strides: strides.to_vec(), config })
    }

    /// The pooled boxes of all pictures, one picture after the other, `(K, PH, PW, C)`, from maps `(N, H, W, C)` and the
    /// `boxes` `(K, 4)` of each of the `N` pictures, in pixels of the picture.
    ///
    /// Differentiable in the maps.
    ///
    /// # Errors
    /// If there are not as many maps as strides or as many lists of boxes as pictures, if a box is not finite or inside
    /// out, or as [`roi_align_nhwc`].
    pub fn forward(&self, maps: &[FeatureMap], boxes: &[Tensor]) -> Result<FeatureMap> {
        Error::check_count("pooler: maps", self.strides.len(), maps.len())?;
        let Some(first) = maps.first() else { return Err(Error::size("pooler: maps", "at least 1", 0)) };
        let (batch, _, _, channels) = first.dims()?;
        Error::check_count("pooler: lists of boxes", batch, boxes.len())?;
        let (dtype, device) = (first.nhwc().dtype(), first.nhwc().device());

        // Rows of picture and box for each map, and where they come from.
        let mut regions = vec![Vec::<f64>::new(); maps.len()];
        let mut origins = vec![Vec::<u32>::new(); maps.len()];
        let mut count = 0_u32;
        for (image, boxes) in boxes.iter().enumerate() {
            if !matches!(boxes.dims(), [_, 4]) {
                let what = format!("pooler: boxes of picture {image}");
                return Err(Error::size(what, "(K, 4)", format!("{:?}", boxes.dims())));
            }
            for (index, sides) in sides(boxes)?.into_iter().enumerate() {
                let level = self.level(sides, index, dtype)?;
                if let (Some(regions), Some(origins)) = (regions.get_mut(level), origins.get_mut(level)) {
                    regions.push(image as f64);
                    regions.extend(sides);
                    origins.push(count);
                }
                count += 1;
            }
        }

        let mut pooled = Vec::with_capacity(maps.len());
        for ((map, &stride), regions) in maps.iter().zip(&self.strides).zip(regions) {
            if regions.is_empty() {
                continue;
            }
            let args = RoiAlignArgs {
                output_size: [self.config.output_size; 2],
                spatial_scale: 1. / stride as f64,
                sampling_ratio: self.config.sampling_ratio,
                aligned: false,
            };
            let shape = (regions.len() / 5, 5);
            let rows = Tensor::from_vec(regions, shape, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)?;
            pooled.push(roi_align_nhwc(map, &rows, &args)?.nhwc().clone());
        }
        if pooled.is_empty() {
            let shape = (0, self.config.output_size, self.config.output_size, channels);
            return Ok(FeatureMap::from_nhwc(Tensor::zeros(shape, dtype, device)?)?);
        }
        let pooled = Tensor::cat(&pooled, 0)?;
        let origins: Vec<u32> = origins.concat();
        if origins.is_sorted() {
            return Ok(FeatureMap::from_nhwc(pooled)?);
        }
        let mut rows: Vec<u32> = (0..count).collect();
        rows.sort_unstable_by_key(|&row| origins.get(row as usize));
        let rows = Tensor::new(rows, &Device::Cpu)?.to_device(device)?;
        Ok(FeatureMap::from_nhwc(pooled.index_select(&rows, 0)?)?)
    }

    /// The number of the map that a box is read from.
    fn level(&self, sides: [f64; 4], index: usize, dtype: DType) -> Result<usize> {
        let [x1, y1, x2, y2] = sides;
        let finite = sides.iter().all(|side| side.is_finite());
        if !finite || x2 < x1 || y2 < y1 {
            let (what, values) = ("pooler: box".to_owned(), sides.to_vec());
            let expected = "finite, with x1 <= x2 and y1 <= y2";
            return Err(Error::NotFinite { what, index, values, expected });
        }
        let round = rounded(dtype);
        let area = round(round(x2 - x1) * round(y2 - y1));
        let ratio = round(round(area.sqrt()) / self.config.canonical_size);
        let above = round(f64::from(self.config.canonical_level) + round(ratio.log2()));
        let level = round(above + round(EPSILON)).floor();
        // A map of stride 2^k is level k; a box without area is at minus infinity.
        let log2 = |stride: &usize| f64::from(stride.trailing_zeros());
        let fit = self.strides.iter().position(|stride| log2(stride) >= level);
        Ok(fit.unwrap_or(self.strides.len() - 1))
    }
}
