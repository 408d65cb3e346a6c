//! From the predictions for regions to detections, as `postprocess_detections` of torchvision 0.29.
//!
//! Each region gives a box per class, moved by that class's offsets and cut off at the picture's border. Those with a low
//! score are left out, those that are too small too; boxes of one class suppress each other, and the best of all classes
//! are the detections. Equal scores stand in the order of regions, then classes.

use candle_core::{DType, Device, Tensor};
use vision_core::boxes::BoxCoder;

use crate::candidates::{Candidates, Kept, numbers, rounded, sides};
use crate::error::{Error, Result, a_number};

/// Constants of [`postprocess`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PostprocessConfig {
    /// Factors of the four offsets of a box, `(x, y, w, h)`.
    pub box_weights: [f64; 4],
    /// A detection's score, in `[0, 1]`, is larger than this.
    pub score_thresh: f64,
    /// A detection is removed if its overlap with a better one of its class is larger than this.
    pub nms_thresh: f64,
    /// Detections of a picture, at most.
    pub detections_per_img: usize,
    /// The shortest side of a detection, in pixels of the picture as the network sees it.
    pub min_size: f64,
}

impl Default for PostprocessConfig {
    /// torchvision's: weights (10, 10, 5, 5), scores above 0.05, overlaps up to 0.5, 100 detections of at least 0.01 pixels.
    fn default() -> Self {
        Self {
            box_weights: [10., 10., 5., 5.],
            score_thresh: 0.05,
            nms_thresh: 0.5,
            detections_per_img: 100,
            min_size: 1e-2,
        }
    }
}

impl PostprocessConfig {
    /// Fails if a number is out of range.
    pub(crate) fn validate(&self) -> Result<()> {
        if self.box_weights.iter().any(|weight| *weight == 0. || !weight.is_finite()) {
            let problem = format!("{:?} must be finite and not 0", self.box_weights);
            return Err(Error::config("post.box_weights", problem));
        }
        a_number("post.score_thresh", self.score_thresh)?;
        a_number("post.nms_thresh", self.nms_thresh)?;
        a_number("post.min_size", self.min_size)
    }
}

/// What was found in a picture, best first, on the CPU and without a gradient.
#[derive(Clone, Debug)]
pub struct Detections {
    /// Boxes `x1, y1, x2, y2` in pixels, `(D, 4)`; the origin is the outer corner of the first pixel.
    pub boxes: Tensor,
    /// Probabilities, `(D)`.
    pub scores: Tensor,
    /// Classes, `(D)`, of type `i64`; 0 is the background and never found.
    pub labels: Tensor,
}

impl Detections {
    /// Nothing, with boxes and scores of type `dtype`.
    pub(crate) fn none(dtype: DType) -> Result<Self> {
        Ok(Self {
            boxes: Tensor::zeros((0, 4), dtype, &Device::Cpu)?,
            scores: Tensor::zeros(0, dtype, &Device::Cpu)?,
            labels: Tensor::zeros(0, DType::I64, &Device::Cpu)?,
        })
    }
}

/// Detections of each picture, from `class_logits` `(K, classes)` and `box_regression` `(K, 4 classes)` of the regions of
/// all pictures, one picture after the other; `proposals` are the regions of each picture, `(K of it, 4)`, and
/// `image_sizes` the pictures' heights and widths in pixels.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use vision_detect::{PostprocessConfig, postprocess};
/// # fn main() -> vision_detect::Result<()> {
/// let proposals = Tensor::new(&[[10_f32, 10., 50., 40.], [12., 10., 51., 41.]], &Device::Cpu)?;
/// let logits = Tensor::new(&[[0_f32, 3.0], [0.0, 2.0]], &Device::Cpu)?;
/// let offsets = Tensor::zeros((2, 8), logits.dtype(), &Device::Cpu)?;
/// let found = postprocess(&logits, &offsets, &[proposals], &[[60, 80]], &PostprocessConfig::default())?;
/// assert_eq!(found[0].boxes.to_vec2::<f32>()?, [[10.0, 10.0, 50.0, 40.0]]);
/// assert_eq!(found[0].labels.to_vec1::<i64>()?, [1]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// If shapes do not fit, a logit or box is not a number, or a field of the configuration is out of range.
pub fn postprocess(
    class_logits: &Tensor,
    box_regression: &Tensor,
    proposals: &[Tensor],
    image_sizes: &[[usize; 2]],
    config: &PostprocessConfig,
) -> Result<Vec<Detections>> {
    config.validate()?;
    let &[count, classes] = class_logits.dims() else {
        return Err(Error::size("class_logits", "(K, classes)", format!("{:?}", class_logits.dims())));
    };
    if box_regression.dims() != [count, 4 * classes] {
        let expected = format!("({count}, {})", 4 * classes);
        return Err(Error::size("box_regression", expected, format!("{:?}", box_regression.dims())));
    }
    Error::check_count("image_sizes", proposals.len(), image_sizes.len())?;
    let mut regions = 0;
    for (image, boxes) in proposals.iter().enumerate() {
        let &[of_image, 4] = boxes.dims() else {
            return Err(Error::size(format!("proposals {image}"), "(K, 4)", format!("{:?}", boxes.dims())));
        };
        regions += of_image;
    }
    Error::check_count("proposals", count, regions)?;

    let dtype = class_logits.dtype();
    let (logits, least) = (numbers(class_logits)?, rounded(dtype)(config.score_thresh));
    let coder = BoxCoder { weights: config.box_weights, ..BoxCoder::default() };
    let mut found = Vec::with_capacity(proposals.len());
    let mut first = 0;
    for (boxes, &size) in proposals.iter().zip(image_sizes) {
        let of_image = boxes.dims().first().copied().unwrap_or(0);
        if of_image == 0 || classes == 0 {
            found.push(Detections::none(dtype)?);
            continue;
        }
        let deltas = box_regression.narrow(0, first, of_image)?.detach();
        let boxes = coder.decode(&deltas, &boxes.detach().to_device(deltas.device())?)?;
        let boxes = sides(&boxes)?;
        let mut candidates = Candidates::new("detections", dtype, size, config.min_size);
        let rows = logits.chunks_exact(classes).skip(first).zip(boxes.chunks_exact(classes));
        for (row, (logits, boxes)) in (first..).zip(rows) {
            let scores = softmax(logits, row, dtype)?;
            for (label, (score, &sides)) in scores.into_iter().zip(boxes).enumerate().skip(1) {
                if score > least {
                    candidates.add(row, sides, score, label as i64)?;
                }
            }
        }
        let Kept { boxes, scores, groups } =
            candidates.suppress(config.nms_thresh, config.detections_per_img)?;
        found.push(Detections { boxes, scores, labels: groups });
        first += of_image;
    }
    Ok(found)
}

/// Probabilities of the classes of region number `row`.
fn softmax(logits: &[f64], row: usize, dtype: DType) -> Result<Vec<f64>> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    // One infinite logit is as bad as NaN: there is no probability.
    if !largest.is_finite() || logits.iter().any(|logit| logit.is_nan()) {
        let (what, values) = ("class_logits: row".to_owned(), logits.to_vec());
        return Err(Error::NotFinite { what, index: row, values, expected: "numbers, the largest finite" });
    }
    let powers: Vec<f64> = logits.iter().map(|logit| (logit - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    Ok(powers.into_iter().map(|power| rounded(dtype)(power / sum)).collect())
}
