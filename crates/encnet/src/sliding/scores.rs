//! What a whole picture gets.

use rayon::prelude::*;

use super::canvas::{Canvas, merge};
use crate::argmax::argmax;

/// Scores of all classes at all pixels: class `c` of pixel `p` has `values[p, c] exp(logs[p])`.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    height: usize,
    width: usize,
    classes: usize,
    values: Vec<f32>,
    logs: Vec<f32>,
}

impl Scores {
    pub(super) fn new(height: usize, width: usize, classes: usize) -> Self {
        let pixels = height * width;
        Self {
            height,
            width,
            classes,
            values: vec![0.0; pixels * classes],
            logs: vec![f32::NEG_INFINITY; pixels],
        }
    }

    /// Height and width in pixels.
    pub fn size(&self) -> [usize; 2] {
        [self.height, self.width]
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The class with the largest score of each pixel, in row-major order; among equals the first.
    pub fn argmax(&self) -> Vec<u32> {
        argmax(&self.values, self.classes)
    }

    /// Shares of the classes at each pixel, `(H, W, classes)`: scores over their sum.
    pub fn shares(&self) -> Vec<f32> {
        let mut shares = self.values.clone();
        shares.par_chunks_mut(self.classes.max(1)).with_min_len(1 << 10).for_each(|values| {
            let sum: f32 = values.iter().sum();
            if sum > 0.0 {
                for value in values {
                    *value /= sum;
                }
            }
        });
        shares
    }

    /// The scores themselves, `(H, W, classes)`; those beyond `f32` are infinite.
    pub fn to_vec(&self) -> Vec<f32> {
        let mut scores = self.values.clone();
        scores.par_chunks_mut(self.classes.max(1)).zip(&self.logs).for_each(|(values, &log)| {
            let factor = f64::from(log).exp();
            for value in values {
                *value = (f64::from(*value) * factor) as f32;
            }
        });
        scores
    }

    /// Adds the map of one scale, resized with corners aligned.
    pub(super) fn add(&mut self, canvas: &Canvas) {
        let ([height, width], classes) = (canvas.size, self.classes);
        let (ys, xs) = (taps(height, self.height), taps(width, self.width));
        if classes == 0 || self.width == 0 {
            return;
        }
        let rows = self.values.par_chunks_mut(self.width * classes).zip(self.logs.par_chunks_mut(self.width));
        rows.zip(&ys).for_each(|((values, logs), y)| {
            let mut mixture = vec![0.0; classes];
            for ((values, log), x) in values.chunks_exact_mut(classes).zip(logs).zip(&xs) {
                let corners = [(y.low, x.low), (y.low, x.high), (y.high, x.low), (y.high, x.high)];
                let pixels = corners.map(|(y, x)| y * width + x);
                let weights =
                    [y.rest() * x.rest(), y.rest() * x.share, y.share * x.rest(), y.share * x.share];
                // The largest factor among the pixels that count.
                let top = pixels.iter().zip(weights).filter(|(_, weight)| *weight > 0.0);
                let top = top.fold(f32::NEG_INFINITY, |top, (&pixel, _)| top.max(canvas.logs[pixel]));
                mixture.fill(0.0);
                for (&pixel, weight) in pixels.iter().zip(weights) {
                    if weight > 0.0 {
                        let factor = weight * (canvas.logs[pixel] - top).exp();
                        let from = &canvas.values[pixel * classes..(pixel + 1) * classes];
                        for (mixture, from) in mixture.iter_mut().zip(from) {
                            *mixture += factor * from;
                        }
                    }
                }
                merge(values, log, &mixture, top);
            }
        });
    }
}

/// Between which pixels an output pixel lies.
struct Tap {
    low: usize,
    high: usize,
    /// Weight of `high`.
    share: f32,
}

impl Tap {
    fn rest(&self) -> f32 {
        1.0 - self.share
    }
}

/// The taps of all output pixels along an axis, corners aligned.
fn taps(input: usize, output: usize) -> Vec<Tap> {
    // In f64: beside a pixel that is much larger, it matters whether a weight is nothing or almost nothing.
    let scale = if output > 1 { (input - 1) as f64 / (output - 1) as f64 } else { 0.0 };
    (0..output)
        .map(|index| {
            let at = scale * index as f64;
            let low = (at as usize).min(input - 1);
            Tap { low, high: (low + 1).min(input - 1), share: (at - low as f64).clamp(0.0, 1.0) as f32 }
        })
        .collect()
}
