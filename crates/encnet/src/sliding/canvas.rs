//! Results of windows on the resized picture.

use rayon::prelude::*;

use super::Fusion;
use super::windows::Window;
use crate::error::{Error, Result};

/// Sums over windows: class `c` of pixel `p` has `values[p, c] exp(logs[p])`.
#[derive(Debug)]
pub(super) struct Canvas {
    pub(super) size: [usize; 2],
    pub(super) classes: usize,
    /// `(H, W, classes)`.
    pub(super) values: Vec<f32>,
    /// `(H, W)`; minus infinity where nothing was added yet.
    pub(super) logs: Vec<f32>,
    counts: Vec<u32>,
}

impl Canvas {
    pub(super) fn new(size: [usize; 2], classes: usize) -> Self {
        let pixels = size[0] * size[1];
        Self {
            size,
            classes,
            values: vec![0.0; pixels * classes],
            logs: vec![f32::NEG_INFINITY; pixels],
            counts: vec![0; pixels],
        }
    }

    /// Adds a window's logits, `(crop, crop, classes)`, and those of its mirror image.
    pub(super) fn add(
        &mut self,
        window: &Window,
        crop: usize,
        plain: &[f32],
        mirrored: Option<&[f32]>,
        fusion: Fusion,
    ) -> Result<()> {
        let (width, classes) = (self.size[1], self.classes);
        let ([y0, x0], [rows, columns]) = (window.first, window.inside);
        if classes == 0 || width == 0 {
            return Ok(());
        }
        let part = y0 * width..(y0 + rows) * width;
        let values = self.values[part.start * classes..part.end * classes].par_chunks_mut(width * classes);
        let (logs, counts) = (&mut self.logs[part.clone()], &mut self.counts[part]);
        let others = logs.par_chunks_mut(width).zip(counts.par_chunks_mut(width));
        let bad = values.zip(others).enumerate().map(|(row, (values, (logs, counts)))| {
            let pixel = |at: usize| (row * crop + at) * classes..(row * crop + at + 1) * classes;
            let (mut bad, mut result) = (false, vec![0.0; classes]);
            let values = values.chunks_exact_mut(classes).zip(logs).zip(counts).skip(x0).take(columns);
            for (column, ((values, log), count)) in values.enumerate() {
                let plain = &plain[pixel(column)];
                let mirrored = mirrored.map(|mirrored| &mirrored[pixel(crop - 1 - column)]);
                let new = match fusion {
                    Fusion::Exp => exponentials(plain, mirrored, &mut result),
                    Fusion::Softmax => probabilities(plain, mirrored, &mut result),
                };
                bad |= new.is_nan();
                merge(values, log, &result, new);
                *count += 1;
            }
            bad
        });
        if bad.reduce(|| false, |a, b| a | b) {
            return Err(Error::size("sliding: logits", "finite numbers", "NaN or infinity"));
        }
        Ok(())
    }

    /// Divides by the number of windows at each pixel.
    pub(super) fn average(&mut self) {
        let values = self.values.par_chunks_mut(self.classes.max(1)).with_min_len(1 << 10);
        values.zip(&self.counts).for_each(|(values, &count)| {
            if count > 1 {
                for value in values {
                    *value /= count as f32;
                }
            }
        });
    }
}

/// `exp(plain + mirrored)` up to the factor whose logarithm is returned, NaN if there is none.
fn exponentials(plain: &[f32], mirrored: Option<&[f32]>, out: &mut [f32]) -> f32 {
    match mirrored {
        Some(mirrored) => {
            for (out, (plain, mirrored)) in out.iter_mut().zip(plain.iter().zip(mirrored)) {
                *out = plain + mirrored;
            }
        }
        None => out.copy_from_slice(plain),
    }
    exponentiate(out)
}

/// The mean of both softmaxes; the logarithm is that of the factor 1.
fn probabilities(plain: &[f32], mirrored: Option<&[f32]>, out: &mut [f32]) -> f32 {
    let views = if mirrored.is_some() { 2.0 } else { 1.0 };
    let mut log = 0.0;
    let mut mean = vec![0.0; out.len()];
    for view in std::iter::once(plain).chain(mirrored) {
        out.copy_from_slice(view);
        log += 0.0 * exponentiate(out);
        let sum = out.iter().sum::<f32>() * views;
        for (mean, power) in mean.iter_mut().zip(&*out) {
            *mean += power / sum;
        }
    }
    out.copy_from_slice(&mean);
    log
}

/// Replaces numbers by their exponentials over the largest of these, whose logarithm it returns: NaN, if one is NaN or
/// the largest is not finite.
fn exponentiate(values: &mut [f32]) -> f32 {
    let top = values.iter().fold(f32::NEG_INFINITY, |top, &value| top.max(value));
    let mut sum = 0.0;
    for value in values.iter_mut() {
        *value = (*value - top).exp();
        sum += *value;
    }
    if sum.is_nan() || !top.is_finite() { f32::NAN } else { top }
}

/// `values exp(log) += new exp(new_log)`, all factors at most 1.
pub(super) fn merge(values: &mut [f32], log: &mut f32, new: &[f32], new_log: f32) {
    if *log == f32::NEG_INFINITY {
        values.copy_from_slice(new);
        *log = new_log;
        return;
    }
    let top = log.max(new_log);
    let (old, add) = ((*log - top).exp(), (new_log - top).exp());
    for (value, new) in values.iter_mut().zip(new) {
        *value = *value * old + new * add;
    }
    *log = top;
}
