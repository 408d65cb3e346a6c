//! From pictures of any size to a batch, and boxes back, as torchvision's `GeneralizedRCNNTransform` 0.29.
//!
//! A picture is normalised, then resized by the largest factor with which its shorter side has at most `min_size` pixels
//! and its longer one at most `max_size`. Sizes are rounded down, and pixels are interpolated by the ratio of the sizes.
//! Below and to the right pictures are padded with zeros, the mean colour.

use candle_core::{DType, Device, Tensor};
use vision_core::FeatureMap;
use vision_core::ops::{InterpolateArgs, ResizeTo, interpolate_nhwc};

use crate::candidates::{numbers, rounded};
use crate::error::{Error, Result, at_least_one};

/// Constants of a [`Transform`].
#[derive(Clone, Debug, PartialEq)]
pub struct TransformConfig {
    /// Pixels of the shorter side.
    pub min_size: usize,
    /// Pixels of the longer side, at most.
    pub max_size: usize,
    /// Mean of each channel, taken off.
    pub mean: Vec<f64>,
    /// Deviation of each channel, divided by; not 0.
    pub std: Vec<f64>,
    /// Sides of the batch are multiples of this.
    pub size_divisible: usize,
}

impl Default for TransformConfig {
    /// 800 to 1333 pixels, mean and deviation of ImageNet, multiples of 32.
    fn default() -> Self {
        Self {
            min_size: 800,
            max_size: 1333,
            mean: vec![0.485, 0.456, 0.406],
            std: vec![0.229, 0.224, 0.225],
            size_divisible: 32,
        }
    }
}

/// Pictures as the network sees them.
#[derive(Clone, Debug)]
pub struct ImageBatch {
    /// All pictures, padded to one size, `(N, H, W, C)`.
    pub pictures: FeatureMap,
    /// Height and width of each picture without its padding.
    pub sizes: Vec<[usize; 2]>,
    /// Height and width of each picture as it was given.
    pub original: Vec<[usize; 2]>,
}

/// Normalises, resizes and batches pictures.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use vision_detect::{Transform, TransformConfig};
/// # fn main() -> vision_detect::Result<()> {
/// let transform = Transform::new(TransformConfig { min_size: 40, max_size: 60, ..TransformConfig::default() })?;
/// let picture = Tensor::ones((3, 100, 200), DType::F32, &Device::Cpu)?;
/// let batch = transform.batch(&[picture])?;
/// assert_eq!(batch.sizes, [[30, 60]]);
/// assert_eq!(batch.pictures.dims()?, (1, 32, 64, 3));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Transform {
    config: TransformConfig,
}

impl Transform {
    /// A transform with these constants.
    ///
    /// # Errors
    /// If a size is 0, there are not as many means as deviations, one of them is not finite, or a deviation is 0.
    pub fn new(config: TransformConfig) -> Result<Self> {
        at_least_one("transform.min_size", config.min_size)?;
        at_least_one("transform.max_size", config.max_size)?;
        at_least_one("transform.size_divisible", config.size_divisible)?;
        let TransformConfig { mean, std, .. } = &config;
        Error::check_count("transform.std", mean.len(), std.len())?;
        if mean.iter().chain(std).any(|value| !value.is_finite()) || std.contains(&0.) {
            let problem = format!("{mean:?} and {std:?}: numbers must be finite, deviations not 0");
            return Err(Error::config("transform.mean, transform.std", problem));
        }
        Ok(Self { config })
    }

    /// The batch of `images`, each `(C, H, W)` with values in `[0, 1]`.
    ///
    /// # Errors
    /// If there are no pictures, one has another rank or number of channels, no pixels, or no floating type, if they are
    /// not of one type on one device, or if nothing is left of a picture after resizing.
    pub fn batch(&self, images: &[Tensor]) -> Result<ImageBatch> {
        if images.is_empty() {
            return Err(Error::size("images", "at least one picture", 0));
        }
        let (mut maps, mut sizes, mut original) = (Vec::new(), Vec::new(), Vec::new());
        for (index, image) in images.iter().enumerate() {
            let map = self.resized(image, index)?;
            let (_, height, width, _) = map.dims()?;
            sizes.push([height, width]);
            let &[.., height, width] = image.dims() else {
                return Err(Error::size("images", "(C, H, W)", format!("{:?}", image.dims())));
            };
            original.push([height, width]);
            maps.push(map);
        }
        let side = |axis: usize| -> Result<usize> {
            let longest = sizes.iter().map(|size: &[usize; 2]| size[axis]).max().unwrap_or(0);
            let multiple = longest.checked_next_multiple_of(self.config.size_divisible);
            multiple.ok_or_else(|| Error::config("transform.size_divisible", "is too large"))
        };
        let (height, width) = (side(0)?, side(1)?);
        let pad = |(map, size): (&FeatureMap, &[usize; 2])| -> Result<Tensor> {
            let rows = map.nhwc().pad_with_zeros(1, 0, height - size[0])?;
            Ok(rows.pad_with_zeros(2, 0, width - size[1])?)
        };
        let padded = maps.iter().zip(&sizes).map(pad).collect::<Result<Vec<_>>>()?;
        Ok(ImageBatch { pictures: FeatureMap::from_nhwc(Tensor::cat(&padded, 0)?)?, sizes, original })
    }

    /// A picture, normalised and resized, `(1, H, W, C)`.
    fn resized(&self, image: &Tensor, index: usize) -> Result<FeatureMap> {
        let TransformConfig { min_size, max_size, mean, std, .. } = &self.config;
        let what = || format!("images: picture {index}");
        let &[channels, height, width] = image.dims() else {
            return Err(Error::size(what(), "(C, H, W)", format!("{:?}", image.dims())));
        };
        if channels != mean.len() || height == 0 || width == 0 {
            let expected = format!("({}, H, W) with at least one pixel", mean.len());
            return Err(Error::size(what(), expected, format!("{:?}", image.dims())));
        }
        let dtype = image.dtype();
        if !matches!(dtype, DType::F32 | DType::F64) {
            return Err(Error::size(what(), "f32 or f64 in [0, 1]", format!("{dtype:?}")));
        }
        let constant =
            |values: &[f64]| Tensor::new(values, &Device::Cpu)?.to_dtype(dtype)?.to_device(image.device());
        let map = FeatureMap::from_nchw(&image.unsqueeze(0)?)?;
        let normal = map.nhwc().broadcast_sub(&constant(mean)?)?.broadcast_div(&constant(std)?)?;
        let (shorter, longer) = (height.min(width) as f64, height.max(width) as f64);
        let factor = (*min_size as f64 / shorter).min(*max_size as f64 / longer);
        let to = ResizeTo::Factor { factor: [factor; 2], recompute: true };
        Ok(interpolate_nhwc(&FeatureMap::from_nhwc(normal)?, to, &InterpolateArgs::bilinear(false))?)
    }
}

/// Boxes `(K, 4)` on a picture of size `from`, height and width, as boxes on the same picture of size `to`, on the CPU.
///
/// # Errors
/// If the boxes have another shape.
pub fn resize_boxes(boxes: &Tensor, from: [usize; 2], to: [usize; 2]) -> Result<Tensor> {
    let &[count, 4] = boxes.dims() else {
        return Err(Error::size("boxes", "(K, 4)", format!("{:?}", boxes.dims())));
    };
    // Ratios are of single precision in the reference, whatever the boxes.
    let ratio = |axis: usize| f64::from(to[axis] as f32 / from[axis] as f32);
    let factors = [ratio(1), ratio(0), ratio(1), ratio(0)];
    let round = rounded(boxes.dtype());
    let sides = numbers(boxes)?;
    let scaled: Vec<f64> =
        sides.iter().zip(factors.iter().cycle()).map(|(side, by)| round(side * by)).collect();
    Ok(Tensor::from_vec(scaled, (count, 4), &Device::Cpu)?.to_dtype(boxes.dtype())?)
}
