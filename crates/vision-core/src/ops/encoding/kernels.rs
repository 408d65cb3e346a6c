//! The loops over blocks of positions: here those of forward.

mod backward;

use std::ops::Range;

use rayon::prelude::*;

pub(super) use self::backward::Wanted;
use super::products::{Order, Panels};
use crate::ops::bank_cross_entropy::exp::Score;
use crate::ops::support::vectorised;

/// Positions whose features stay in the cache while all is done with them.
const BLOCK: usize = 96;
/// Tasks of a picture, if it has positions enough, and the most positions of one.
const TASKS: usize = 16;
const LONGEST: usize = 1024;

/// Slices and sizes of one call.
pub(super) struct Problem<'a, T> {
    /// `(batch, positions, channels)`
    x: &'a [T],
    /// `(codes, channels)`
    codewords: &'a [T],
    /// Scales, times what distances are divided by.
    scale: Vec<T>,
    /// Squared lengths of the codewords.
    lengths: Vec<T>,
    /// 1, or 1 over the number of channels.
    factor: f64,
    batch: usize,
    positions: usize,
    channels: usize,
    codes: usize,
}

/// What backward needs of forward.
pub(super) struct Kept<T> {
    /// `(batch, positions, codes)`
    pub(super) assignments: Vec<T>,
    /// Their sums over the positions, `(batch, codes)`.
    mass: Vec<f64>,
}

/// What a task of forward found in its positions.
struct Aggregate<T> {
    /// `aᵀ x`, as `Panels::add_outer` orders it.
    sums: Vec<T>,
    /// Sums of the assignments of each code.
    mass: Vec<f64>,
}

impl<'a, T: Score> Problem<'a, T> {
    /// `codewords` and `scale` are not empty, and all sizes fit.
    pub(super) fn new(
        x: &'a [T],
        codewords: &'a [T],
        scale: &[T],
        [batch, positions]: [usize; 2],
        normalize: bool,
    ) -> Self {
        let codes = scale.len();
        let channels = codewords.len() / codes.max(1);
        let factor = if normalize { 1.0 / channels.max(1) as f64 } else { 1.0 };
        Self {
            x,
            codewords,
            scale: scale.iter().map(|s| T::from_f64(s.to_f64() * factor)).collect(),
            lengths: codewords.chunks(channels.max(1)).map(|c| T::from_f64(dot(c, c))).collect(),
            factor,
            batch,
            positions,
            channels,
            codes,
        }
    }

    /// The encoded pictures, `(batch, codes, channels)`, and what backward needs, if it may come.
    pub(super) fn forward(&self, keep: bool) -> (Vec<T>, Option<Kept<T>>) {
        let (n, d, k) = (self.positions, self.channels, self.codes);
        let panels = Panels::pack(d, k, |channel, code| self.codewords[code * d + channel]);
        let tasks = self.tasks();
        let mut assignments = vec![T::ZERO; if keep { self.batch * n * k } else { 0 }];
        // Without keeping, every task gets an empty slice.
        let mut rest = assignments.as_mut_slice();
        let mut work = Vec::with_capacity(tasks.len());
        for (picture, range) in tasks {
            let (own, others) =
                std::mem::take(&mut rest).split_at_mut(if keep { range.len() * k } else { 0 });
            rest = others;
            work.push((picture, range, own));
        }
        let parts: Vec<(usize, Aggregate<T>)> = work
            .into_par_iter()
            .map(|(picture, range, own)| (picture, self.aggregate(&panels, picture, range, own)))
            .collect();
        let mut mass = vec![0.0; self.batch * k];
        for (picture, part) in &parts {
            for (sum, part) in mass[picture * k..(picture + 1) * k].iter_mut().zip(&part.mass) {
                *sum += part;
            }
        }
        let mut encoded = vec![T::ZERO; self.batch * k * d];
        encoded.par_chunks_mut(k * d).enumerate().for_each(|(picture, encoded)| {
            let parts = parts.iter().filter(|(of, _)| *of == picture).map(|(_, part)| part.sums.as_slice());
            let sums = gather(parts, k, d, panels.width());
            let mass = &mass[picture * k..(picture + 1) * k];
            let rows = encoded.chunks_mut(d).zip(sums.chunks(d)).zip(self.codewords.chunks(d).zip(mass));
            for ((encoded, sums), (codeword, mass)) in rows {
                for ((e, sum), c) in encoded.iter_mut().zip(sums).zip(codeword) {
                    *e = T::from_f64(sum - mass * c.to_f64());
                }
            }
        });
        (encoded, keep.then_some(Kept { assignments, mass }))
    }

    /// Pictures and ranges of positions, in order. They depend on the sizes only.
    fn tasks(&self) -> Vec<(usize, Range<usize>)> {
        let size = self.positions.div_ceil(TASKS).clamp(BLOCK, LONGEST);
        let starts = move || (0..self.positions).step_by(size);
        let range = move |start: usize| start..(start + size).min(self.positions);
        (0..self.batch).flat_map(|picture| starts().map(move |start| (picture, range(start)))).collect()
    }

    /// Blocks of the positions `range` of a picture, counted from its start.
    fn blocks(range: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<T> {
        let len = range.len();
        (0..len).step_by(BLOCK).map(move |start| start..(start + BLOCK).min(len))
    }

    /// The features of the positions `range` of a picture.
    fn features(&self, picture: usize, range: &Range<usize>) -> &'a [T] {
        let first = picture * self.positions;
        &self.x[(first + range.start) * self.channels..(first + range.end) * self.channels]
    }

    /// Sums over some positions of a picture, whose assignments are written to `keep` unless that is empty.
    fn aggregate(
        &self,
        panels: &Panels<T>,
        picture: usize,
        range: Range<usize>,
        keep: &mut [T],
    ) -> Aggregate<T> {
        let (d, k, width) = (self.channels, self.codes, panels.width());
        let features = self.features(picture, &range);
        let mut sums = vec![T::ZERO; panels.count() * d * width];
        let mut mass = vec![0.0; k];
        let mut scores = vec![T::ZERO; panels.count() * BLOCK * width];
        for block in Self::blocks(&range) {
            let rows = &features[block.start * d..block.end * d];
            panels.multiply(rows, &mut scores, Order::Panels);
            let scores = &mut scores[..panels.count() * block.len() * width];
            vectorised(|| self.assign(rows, scores, width));
            for i in 0..block.len() {
                let row = by_code(scores, block.len(), width, i);
                for (sum, a) in mass.iter_mut().zip(row) {
                    *sum += a.to_f64();
                }
            }
            if !keep.is_empty() {
                for (i, keep) in keep[block.start * k..block.end * k].chunks_mut(k).enumerate() {
                    for (keep, a) in keep.iter_mut().zip(by_code(scores, block.len(), width, i)) {
                        *keep = *a;
                    }
                }
            }
            panels.add_outer(rows, scores, &mut sums);
        }
        Aggregate { sums, mass }
    }

    /// Turns products of features and codewords, in panels, into assignments.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "must be compiled with the features of `vectorised`")]
    fn assign(&self, rows: &[T], scores: &mut [T], width: usize) {
        let count = rows.len() / self.channels;
        let two = T::from_f64(2.0);
        for (i, row) in rows.chunks_exact(self.channels).enumerate() {
            let length = squares(row);
            let mut top = T::NEG_INFINITY;
            for (panel, (scale, lengths)) in self.panels(width) {
                let at = (panel * count + i) * width;
                for (x, (&s, &c)) in scores[at..at + width].iter_mut().zip(scale.iter().zip(lengths)) {
                    let distance = length - two * *x + c;
                    // Rounding may take it below.
                    let distance = if distance < T::ZERO { T::ZERO } else { distance };
                    *x = s * distance;
                    top = if *x > top { *x } else { top };
                }
            }
            let mut sum = T::ZERO;
            for (panel, (scale, _)) in self.panels(width) {
                let at = (panel * count + i) * width;
                for x in &mut scores[at..at + scale.len()] {
                    *x = (*x - top).exp_nonpositive();
                }
                for x in &scores[at..at + scale.len()] {
                    sum += *x;
                }
            }
            let share = T::ONE / sum;
            for (panel, (scale, _)) in self.panels(width) {
                let at = (panel * count + i) * width;
                for x in &mut scores[at..at + scale.len()] {
                    *x *= share;
                }
            }
        }
    }

    /// Scales and lengths of the codewords of each panel.
    fn panels(&self, width: usize) -> impl Iterator<Item = (usize, (&[T], &[T]))> {
        self.scale.chunks(width).zip(self.lengths.chunks(width)).enumerate()
    }
}

/// The elements of row `i` of a matrix of `count` rows in panels.
fn by_code<T>(panels: &[T], count: usize, width: usize, i: usize) -> impl Iterator<Item = &T> {
    panels.chunks(count * width).flat_map(move |panel| &panel[i * width..(i + 1) * width])
}

/// The sum of matrices in the order of [`Panels::add_outer`], as `codes` rows of `channels`.
fn gather<'a, T: Score>(
    parts: impl Iterator<Item = &'a [T]>,
    codes: usize,
    channels: usize,
    width: usize,
) -> Vec<f64> {
    let mut sums = vec![0.0; codes.div_ceil(width) * width * channels];
    for part in parts {
        for (sum, x) in sums.iter_mut().zip(part) {
            *sum += x.to_f64();
        }
    }
    let mut rows = vec![0.0; codes * channels];
    for (code, row) in rows.chunks_mut(channels).enumerate() {
        let panel = &sums[code / width * channels * width..][..channels * width];
        for (x, sums) in row.iter_mut().zip(panel.chunks(width)) {
            *x = sums[code % width];
        }
    }
    rows
}

fn dot<T: Score>(a: &[T], b: &[T]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a.to_f64() * b.to_f64()).sum()
}

/// The sum of the squares of a row, in several lanes so that it becomes vector code.
#[inline(always)]
#[allow(clippy::inline_always, reason = "must be compiled with the features of `vectorised`")]
fn squares<T: Score>(row: &[T]) -> T {
    const LANES: usize = 16;
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut sums = [T::ZERO; LANES];
    for chunk in chunks {
        for (sum, &x) in sums.iter_mut().zip(chunk) {
            *sum += x * x;
        }
    }
    sums.iter().fold(rest.iter().fold(T::ZERO, |sum, &x| sum + x * x), |sum, &x| sum + x)
}
