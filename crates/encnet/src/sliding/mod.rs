//! Evaluation of whole pictures at several scales by overlapping windows, as the authors do it.
//!
//! For each scale `s`:
//! 1. The normalised picture is resized (bilinear, corners aligned) so that its longer side has `ceil(base s)` pixels.
//! 2. It is covered by windows of `crop x crop` pixels, two thirds of that apart; what lies beyond the picture is black
//!    before normalisation, `-mean / std` after it.
//! 3. A window's logits and those of its mirror image, turned back, are added and exponentiated: no softmax. Where
//!    windows overlap, the results are averaged.
//! 4. The map is resized to the picture (bilinear, corners aligned) and the maps of all scales are added.
//!
//! The class of a pixel is the largest sum. Taken literally, exponentials of two logits overflow `f32` once their sum
//! exceeds 88.7, and infinity times a weight of 0 in the last resize is NaN. Here numbers are kept as `exp(l) v`, with a
//! factor of its own for every pixel: a common factor of all classes of a pixel changes no decision, so results are those
//! of the original wherever that is finite, and finite everywhere else.
//!
//! Everything but the network runs on the CPU, on plain memory.

mod canvas;
mod scores;
mod windows;

use serde::{Deserialize, Serialize};
use vision_core::FeatureMap;
use vision_core::ops::{InterpolateArgs, ResizeTo, interpolate_nhwc};

use self::canvas::Canvas;
use self::windows::Window;
use crate::error::{Error, Result};

pub use scores::Scores;
pub use windows::{scaled_size, window_starts};

/// How the results of the windows of a pixel are put together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fusion {
    /// Exponentials of the sum of the logits of a window and its mirror image: the authors' code. Confident windows and
    /// scales count more.
    #[default]
    Exp,
    /// Means of probabilities, as mmsegmentation.
    Softmax,
}

/// Scales, windows, and what becomes of their results. The defaults are the authors' for PASCAL-Context.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use encnet::sliding::SlidingConfig;
/// use vision_core::FeatureMap;
/// # fn main() -> encnet::Result<()> {
/// let config = SlidingConfig { base_size: 52, crop_size: 48, ..SlidingConfig::default() };
/// assert_eq!(config.forwards(40, 61), 32);
/// let picture = FeatureMap::from_nhwc(Tensor::zeros((1, 40, 61, 3), candle_core::DType::F32, &Device::Cpu)?)?;
/// // A network that finds every pixel to be of its second class.
/// let scores = config.scores(&picture, &[0.0; 3], 2, |windows| {
///     let (n, h, w, _) = windows.dims()?;
///     let one = Tensor::new(&[0f32, 1.0], &Device::Cpu)?.broadcast_as((n, h, w, 2))?;
///     Ok(FeatureMap::from_nhwc(one)?)
/// })?;
/// assert!(scores.argmax().iter().all(|&class| class == 1));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SlidingConfig {
    /// Factors on `base_size`, positive. One scale and a large crop is a plain evaluation.
    pub scales: Vec<f64>,
    /// Pixels of the longer side at scale 1; 520, and 640 for ADE20K with a ResNet-101.
    pub base_size: usize,
    /// Side of a window; 480, and 576 for ADE20K with a ResNet-101. At least 2.
    pub crop_size: usize,
    /// Whether every window is looked at in the mirror too.
    pub flip: bool,
    /// How results are put together.
    pub fusion: Fusion,
    /// Windows, mirror images counted, that the network gets at once. Changes memory and time, not what is computed.
    pub batch: usize,
}

impl Default for SlidingConfig {
    fn default() -> Self {
        Self {
            scales: vec![0.5, 0.75, 1.0, 1.25, 1.5, 1.75],
            base_size: 520,
            crop_size: 480,
            flip: true,
            fusion: Fusion::Exp,
            batch: 2,
        }
    }
}

impl SlidingConfig {
    /// Checks the ranges; `prefix` is the key of this table, such as `eval.sliding`.
    ///
    /// # Errors
    /// Names the first field that is wrong.
    pub fn validate(&self, prefix: &str) -> Result<()> {
        let fail = |key: &str, problem: &str| Err(Error::config(format!("{prefix}.{key}"), problem));
        if self.scales.is_empty() || !self.scales.iter().all(|scale| scale.is_finite() && *scale > 0.0) {
            return fail("scales", "must be one or more positive finite numbers");
        }
        if self.base_size == 0 {
            return fail("base_size", "must be at least 1");
        }
        if self.crop_size < 2 {
            return fail("crop_size", "must be at least 2");
        }
        let largest = self.scales.iter().fold(0.0f64, |a, &b| a.max(b)) * self.base_size as f64;
        if largest > LONGEST || self.crop_size as f64 > LONGEST {
            return fail("base_size", "leads to pictures of more than 65536 pixels along a side");
        }
        if self.batch == 0 {
            return fail("batch", "must be at least 1");
        }
        Ok(())
    }

    /// How often the network is applied to one window of a picture of this size, mirror images counted.
    pub fn forwards(&self, height: usize, width: usize) -> usize {
        let windows: usize = self
            .scales
            .iter()
            .map(|&scale| {
                let [h, w] = scaled_size(height, width, (self.base_size as f64 * scale).ceil() as usize);
                window_starts(h, self.crop_size).len() * window_starts(w, self.crop_size).len()
            })
            .sum();
        windows * if self.flip { 2 } else { 1 }
    }

    /// The scores of all classes at all pixels of `picture`, `(1, H, W, C)` in `f32` on the CPU, normalised.
    ///
    /// `fill` is what a black pixel becomes in normalisation, `-mean / std`. `logits` is the network: windows
    /// `(N, crop, crop, C)` to logits `(N, crop, crop, classes)`; it copies to and from its device itself. No more than
    /// [`SlidingConfig::batch`] windows are handed over at once.
    ///
    /// # Errors
    /// If a setting is out of range, the picture has another shape or no pixels, the network fails, returns another
    /// shape, or returns NaN.
    pub fn scores(
        &self,
        picture: &FeatureMap,
        fill: &[f32],
        classes: usize,
        mut logits: impl FnMut(&FeatureMap) -> Result<FeatureMap>,
    ) -> Result<Scores> {
        self.validate("sliding")?;
        let (batch, height, width, channels) = picture.dims()?;
        if batch != 1 || height == 0 || width == 0 || channels != fill.len() {
            let expected = format!("(1, H, W, {})", fill.len());
            return Err(Error::size("sliding: picture", expected, format!("{:?}", picture.nhwc().dims())));
        }
        let mut scores = Scores::new(height, width, classes);
        for &scale in &self.scales {
            let [h, w] = scaled_size(height, width, (self.base_size as f64 * scale).ceil() as usize);
            let resized =
                interpolate_nhwc(picture, ResizeTo::Size([h, w]), &InterpolateArgs::bilinear(true))?;
            let pixels: Vec<f32> = resized.nhwc().flatten_all()?.to_vec1()?;
            let canvas = self.canvas(&pixels, [h, w], fill, classes, &mut logits)?;
            scores.add(&canvas);
        }
        Ok(scores)
    }

    /// The averaged results of the windows of one scale.
    fn canvas(
        &self,
        pixels: &[f32],
        size: [usize; 2],
        fill: &[f32],
        classes: usize,
        logits: &mut impl FnMut(&FeatureMap) -> Result<FeatureMap>,
    ) -> Result<Canvas> {
        let crop = self.crop_size;
        let windows = Window::cover(size, crop);
        let mut canvas = Canvas::new(size, classes);
        let views = if self.flip { 2 } else { 1 };
        // A window and its mirror image stay together.
        for windows in windows.chunks((self.batch / views).max(1)) {
            let mut outputs = Vec::with_capacity(windows.len() * views);
            let inputs: Vec<(&Window, bool)> =
                windows.iter().flat_map(|window| (0..views).map(move |view| (window, view == 1))).collect();
            for inputs in inputs.chunks(self.batch) {
                let input = windows::gather(pixels, size, crop, fill, inputs)?;
                let output = logits(&input)?;
                let expected = [inputs.len(), crop, crop, classes];
                if output.nhwc().dims() != expected {
                    let got = format!("{:?}", output.nhwc().dims());
                    return Err(Error::size("sliding: logits", format!("{expected:?}"), got));
                }
                let values: Vec<f32> = output.nhwc().flatten_all()?.to_vec1()?;
                outputs.extend(values.chunks(crop * crop * classes.max(1)).map(<[f32]>::to_vec));
            }
            for (window, views) in windows.iter().zip(outputs.chunks(views)) {
                canvas.add(window, crop, &views[0], views.get(1).map(Vec::as_slice), self.fusion)?;
            }
        }
        canvas.average();
        Ok(canvas)
    }
}

/// Longest side of a resized picture or window.
const LONGEST: f64 = 65536.0;

#[cfg(test)]
mod tests;
