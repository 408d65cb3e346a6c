//! The loops over tiles.

use std::ops::Range;

use rayon::prelude::*;

use super::exp::Score;
use crate::ops::conv2d::gemm::{Matrix, multiply};

/// Features one task works on.
const BATCH: usize = 64;
/// Bank rows of one matrix product.
const TILE: usize = 512;
/// Parts of the bank that tasks work on at the same time, at most: each needs its own partial gradient.
const SEGMENTS: usize = 16;

/// What backward needs to know about one row of the softmax.
#[derive(Clone, Copy)]
pub(super) struct Softmax {
    /// The largest logit.
    top: f64,
    /// The sum of `exp(logit - top)`.
    sum: f64,
}

/// A softmax over a part of the bank.
#[derive(Clone, Copy)]
struct Partial<T> {
    top: T,
    sum: f64,
    /// The logit of the target, if it is in this part, else 0.
    hit: f64,
}

/// Slices and sizes of one call.
pub(super) struct Problem<'a, T> {
    /// `(B, width)`
    pub(super) features: &'a [T],
    /// `(rows, width)`
    pub(super) bank: &'a [T],
    /// `(B,)`, all below `rows`.
    pub(super) target: &'a [u32],
    pub(super) rows: usize,
    pub(super) width: usize,
    pub(super) scale: T,
}

impl<T: Score> Problem<'_, T> {
    /// The loss of every feature, and its softmax for the backward pass.
    pub(super) fn losses(&self) -> (Vec<T>, Vec<Softmax>) {
        let segments = self.segments();
        let partials: Vec<Vec<Partial<T>>> = self.for_all(&segments, |batch, rows| self.scan(batch, rows));
        let mut losses = Vec::with_capacity(self.target.len());
        let mut saved = Vec::with_capacity(self.target.len());
        for (block, partials) in partials.chunks(segments.len().max(1)).enumerate() {
            for i in 0..self.batch(block).len() {
                let parts = || partials.iter().map(|part| part[i]);
                let top = parts().fold(T::NEG_INFINITY, |top, part| larger(top, part.top)).to_f64();
                let sum: f64 = parts().map(|part| part.sum * (part.top.to_f64() - top).exp()).sum();
                let hit: f64 = parts().map(|part| part.hit).sum();
                losses.push(T::from_f64(sum.ln() + (top - hit)));
                saved.push(Softmax { top, sum });
            }
        }
        (losses, saved)
    }

    /// The gradient of the features for the gradient `g` of the losses.
    pub(super) fn gradient(&self, softmax: &[Softmax], g: &[T]) -> Vec<T> {
        let segments = self.segments();
        let partials = self.for_all(&segments, |batch, rows| self.pull(batch, rows, softmax));
        let mut df = vec![T::ZERO; self.features.len()];
        if df.is_empty() {
            return df;
        }
        for (block, partials) in partials.chunks(segments.len()).enumerate() {
            let batch = self.batch(block);
            let df = &mut df[batch.start * self.width..batch.end * self.width];
            for partial in partials {
                for (df, &part) in df.iter_mut().zip(partial) {
                    *df += part;
                }
            }
            for (df, &g) in df.chunks_mut(self.width).zip(&g[batch]) {
                for df in df {
                    *df *= g * self.scale;
                }
            }
        }
        df
    }

    /// The parts of the bank. They depend on its size only.
    fn segments(&self) -> Vec<Range<usize>> {
        let size = self.rows.div_ceil(SEGMENTS).next_multiple_of(TILE).max(2 * TILE);
        (0..self.rows.div_ceil(size)).map(|i| i * size..((i + 1) * size).min(self.rows)).collect()
    }

    fn batch(&self, block: usize) -> Range<usize> {
        block * BATCH..((block + 1) * BATCH).min(self.target.len())
    }

    /// `work` for every block of features and every segment, in parallel; segments change fastest.
    fn for_all<R: Send>(
        &self,
        segments: &[Range<usize>],
        work: impl Fn(Range<usize>, Range<usize>) -> R + Sync,
    ) -> Vec<R> {
        let blocks = self.target.len().div_ceil(BATCH);
        (0..blocks * segments.len())
            .into_par_iter()
            .map(|task| work(self.batch(task / segments.len()), segments[task % segments.len()].clone()))
            .collect()
    }

    /// The logits of a block of features and a tile of bank rows, in rows of `tile.len()`.
    fn logits(&self, batch: &Range<usize>, tile: &Range<usize>, out: &mut [T]) {
        let features = Matrix::rows(&self.features[batch.start * self.width..], self.width);
        let bank = Matrix::rows(&self.bank[tile.start * self.width..], self.width).transposed();
        multiply([batch.len(), self.width, tile.len()], features, bank, out, tile.len(), false);
        for x in out.iter_mut().take(batch.len() * tile.len()) {
            *x *= self.scale;
        }
    }

    /// Running maximum and sum over a part of the bank.
    fn scan(&self, batch: Range<usize>, rows: Range<usize>) -> Vec<Partial<T>> {
        let mut partials = vec![Partial { top: T::NEG_INFINITY, sum: 0., hit: 0. }; batch.len()];
        let mut logits = vec![T::ZERO; batch.len() * TILE];
        for tile in tiles(&rows) {
            self.logits(&batch, &tile, &mut logits);
            let each =
                partials.iter_mut().zip(logits.chunks_mut(tile.len())).zip(&self.target[batch.clone()]);
            for ((partial, logits), &y) in each {
                if tile.contains(&(y as usize)) {
                    partial.hit = logits[y as usize - tile.start].to_f64();
                }
                let top = larger(maximum(logits), partial.top);
                shifted_exp(logits, top);
                partial.sum = partial.sum * (partial.top - top).exp().to_f64() + sum(logits);
                partial.top = top;
            }
        }
        partials
    }

    /// `sum over j of (p[b, j] - [j = target]) bank[j]` over a part of the bank.
    fn pull(&self, batch: Range<usize>, rows: Range<usize>, softmax: &[Softmax]) -> Vec<T> {
        let mut total = vec![T::ZERO; batch.len() * self.width];
        let mut logits = vec![T::ZERO; batch.len() * TILE];
        if total.is_empty() {
            return total;
        }
        for tile in tiles(&rows) {
            self.logits(&batch, &tile, &mut logits);
            let each =
                logits.chunks_mut(tile.len()).zip(&softmax[batch.clone()]).zip(&self.target[batch.clone()]);
            for ((logits, softmax), &y) in each {
                shifted_exp(logits, T::from_f64(softmax.top));
                let factor = T::from_f64(1. / softmax.sum);
                for p in &mut *logits {
                    *p *= factor;
                }
                if tile.contains(&(y as usize)) {
                    logits[y as usize - tile.start] -= T::ONE;
                }
            }
            let bank = Matrix::rows(&self.bank[tile.start * self.width..], self.width);
            let p = Matrix::rows(&logits, tile.len());
            multiply([batch.len(), tile.len(), self.width], p, bank, &mut total, self.width, true);
        }
        total
    }
}

fn tiles(rows: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
    let end = rows.end;
    rows.clone().step_by(TILE).map(move |start| start..(start + TILE).min(end))
}

const LANES: usize = 16;

/// The larger one; the first if the second is NaN.
fn larger<T: Score>(a: T, b: T) -> T {
    if b > a { b } else { a }
}

fn maximum<T: Score>(values: &[T]) -> T {
    let mut tops = [T::NEG_INFINITY; LANES];
    let (parts, rest) = values.as_chunks::<LANES>();
    for part in parts {
        for (top, &x) in tops.iter_mut().zip(part) {
            *top = larger(*top, x);
        }
    }
    tops.iter().chain(rest).fold(T::NEG_INFINITY, |top, &x| larger(top, x))
}

fn shifted_exp<T: Score>(values: &mut [T], top: T) {
    for x in values {
        *x = (*x - top).exp_nonpositive();
    }
}

/// In `f64`, since a bank may have millions of rows.
fn sum<T: Score>(values: &[T]) -> f64 {
    let mut sums = [0_f64; LANES];
    let (parts, rest) = values.as_chunks::<LANES>();
    for part in parts {
        for (sum, x) in sums.iter_mut().zip(part) {
            *sum += x.to_f64();
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|x| x.to_f64()).sum::<f64>()
}
