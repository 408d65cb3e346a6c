//! The loops over blocks of positions.

use std::ops::Range;

use rayon::prelude::*;

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

/// Which gradients somebody asked for.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub(super) input: bool,
    /// Codewords or scales, which share most of the work.
    pub(super) codes: bool,
}

/// The gradients.
pub(super) struct Grads<T> {
    pub(super) input: Option<Vec<T>>,
    pub(super) codewords: Option<Vec<T>>,
    pub(super) scale: Option<Vec<T>>,
}

/// What a task of forward found in its positions.
struct Aggregate<T> {
    /// `aᵀ x`, as `Panels::add_outer` orders it.
    sums: Vec<T>,
    /// Sums of the assignments of each code.
    mass: Vec<f64>,
}

/// What a task of backward found in its positions.
struct Pulled<T> {
    /// `qᵀ x`, as `Panels::add_outer` orders it.
    sums: Vec<T>,
    /// Sums of `q` and of `q |x|²`, of each code.
    mass: Vec<f64>,
    squares: Vec<f64>,
}

/// Matrices of one picture for backward.
struct Upstream<T> {
    /// `gᵀ`
    by_code: Panels<T>,
    /// `g` above the codewords.
    mix: Panels<T>,
    /// `c[k] · g[k]`
    offset: Vec<T>,
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

    /// The gradients for `g`, that of the encoded pictures.
    pub(super) fn backward(&self, kept: &Kept<T>, g: &[T], wanted: Wanted) -> Grads<T> {
        let (n, d, k) = (self.positions, self.channels, self.codes);
        let upstream: Vec<Upstream<T>> = (0..self.batch)
            .into_par_iter()
            .map(|picture| self.upstream(&g[picture * k * d..(picture + 1) * k * d]))
            .collect();
        let mut dx = vec![T::ZERO; if wanted.input { self.x.len() } else { 0 }];
        let mut rest = dx.as_mut_slice();
        let mut work = Vec::new();
        for (picture, range) in self.tasks() {
            let (own, others) =
                std::mem::take(&mut rest).split_at_mut(if wanted.input { range.len() * d } else { 0 });
            rest = others;
            work.push((picture, range, own));
        }
        let parts: Vec<Pulled<T>> = work
            .into_par_iter()
            .map(|(picture, range, dx)| {
                let at = picture * n * k;
                let assignments = &kept.assignments[at + range.start * k..at + range.end * k];
                self.pull(&upstream[picture], picture, range, assignments, dx, wanted)
            })
            .collect();
        let (mut codewords, mut scale) = (None, None);
        if wanted.codes {
            let (dc, ds) = self.code_gradients(&parts, &upstream, &kept.mass, g);
            (codewords, scale) = (Some(dc), Some(ds));
        }
        Grads { input: wanted.input.then_some(dx), codewords, scale }
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

    fn upstream(&self, g: &[T]) -> Upstream<T> {
        let (d, k) = (self.channels, self.codes);
        let pairs = self.codewords.chunks(d).zip(g.chunks(d));
        Upstream {
            by_code: Panels::pack(d, k, |channel, code| g[code * d + channel]),
            mix: Panels::pack(2 * k, d, |row, channel| {
                if row < k { g[row * d + channel] } else { self.codewords[(row - k) * d + channel] }
            }),
            offset: pairs.map(|(c, g)| T::from_f64(dot(c, g))).collect(),
        }
    }

    /// The gradient `dx` of some positions of a picture, if it is wanted, and sums over them for the others.
    fn pull(
        &self,
        upstream: &Upstream<T>,
        picture: usize,
        range: Range<usize>,
        assignments: &[T],
        dx: &mut [T],
        wanted: Wanted,
    ) -> Pulled<T> {
        let (d, k) = (self.channels, self.codes);
        let panels = &upstream.by_code;
        let (count, width) = (panels.count(), panels.width());
        let features = self.features(picture, &range);
        let mut pulled = Pulled {
            sums: vec![T::ZERO; if wanted.codes { count * d * width } else { 0 }],
            mass: vec![0.0; k],
            squares: vec![0.0; k],
        };
        let mut pulls = vec![T::ZERO; count * BLOCK * width];
        // Factors of `mix`, and of the features themselves.
        let (mut factors, mut own) = (vec![T::ZERO; BLOCK * 2 * k], [T::ZERO; BLOCK]);
        for block in Self::blocks(&range) {
            let rows = &features[block.start * d..block.end * d];
            let here = block.len();
            panels.multiply(rows, &mut pulls, Order::Panels);
            let pulls = &mut pulls[..count * here * width];
            let assignments = &assignments[block.start * k..block.end * k];
            let positions = assignments.chunks_exact(k).zip(factors.chunks_exact_mut(2 * k)).zip(&mut own);
            for (i, ((a, factors), own)) in positions.enumerate() {
                let (factors, distant) = factors.split_at_mut(k);
                factors.copy_from_slice(a);
                // `u`, then `q`.
                let mut mean = T::ZERO;
                for ((q, a), offset) in distant.iter_mut().zip(a).zip(&upstream.offset) {
                    *q = T::ZERO - *offset;
                    mean += *a * *q;
                }
                for ((q, a), u) in distant.iter_mut().zip(a).zip(by_code(pulls, here, width, i)) {
                    mean += *a * *u;
                    *q += *u;
                }
                for (q, a) in distant.iter_mut().zip(a) {
                    *q = *a * (*q - mean);
                }
                for (panel, q) in distant.chunks(width).enumerate() {
                    let at = (panel * here + i) * width;
                    pulls[at..at + q.len()].copy_from_slice(q);
                }
                let mut sum = T::ZERO;
                for (q, &s) in distant.iter_mut().zip(&self.scale) {
                    *q *= s;
                    sum += *q;
                    *q *= T::from_f64(-2.0);
                }
                *own = T::from_f64(2.0) * sum;
            }
            if wanted.codes {
                for (i, row) in rows.chunks_exact(d).enumerate() {
                    let length = vectorised(|| squares(row)).to_f64();
                    let q = by_code(pulls, here, width, i);
                    for ((mass, squares), q) in pulled.mass.iter_mut().zip(&mut pulled.squares).zip(q) {
                        *mass += q.to_f64();
                        *squares += q.to_f64() * length;
                    }
                }
                panels.add_outer(rows, pulls, &mut pulled.sums);
            }
            if wanted.input {
                let dx = &mut dx[block.start * d..block.end * d];
                upstream.mix.multiply(&factors[..here * 2 * k], dx, Order::Rows);
                vectorised(|| {
                    for ((dx, x), &own) in dx.chunks_exact_mut(d).zip(rows.chunks_exact(d)).zip(&own) {
                        for (dx, &x) in dx.iter_mut().zip(x) {
                            *dx += own * x;
                        }
                    }
                });
            }
        }
        pulled
    }

    /// The gradients of codewords and scales from the sums of all tasks.
    fn code_gradients(
        &self,
        parts: &[Pulled<T>],
        upstream: &[Upstream<T>],
        mass: &[f64],
        g: &[T],
    ) -> (Vec<T>, Vec<T>) {
        let (d, k) = (self.channels, self.codes);
        let width = upstream.first().map_or(1, |upstream| upstream.by_code.width());
        let sums = gather(parts.iter().map(|part| part.sums.as_slice()), k, d, width);
        let total = |of: fn(&Pulled<T>) -> &[f64]| {
            parts.iter().fold(vec![0.0; k], |mut total, part| {
                total.iter_mut().zip(of(part)).for_each(|(total, x)| *total += x);
                total
            })
        };
        let (pulled, squares) = (total(|part| &part.mass), total(|part| &part.squares));
        let (mut dc, mut ds) = (vec![T::ZERO; k * d], vec![T::ZERO; k]);
        for code in 0..k {
            let (codeword, sums) = (&self.codewords[code * d..][..d], &sums[code * d..][..d]);
            let twice = 2.0 * self.scale[code].to_f64();
            for (channel, dc) in dc[code * d..][..d].iter_mut().enumerate() {
                let direct: f64 = (0..self.batch)
                    .map(|b| mass[b * k + code] * g[(b * k + code) * d + channel].to_f64())
                    .sum();
                let distant = sums[channel] - pulled[code] * codeword[channel].to_f64();
                *dc = T::from_f64(-direct - twice * distant);
            }
            let cross: f64 = codeword.iter().zip(sums).map(|(c, sum)| c.to_f64() * sum).sum();
            let length = dot(codeword, codeword);
            let distances = squares[code] - 2.0 * cross + length * pulled[code];
            ds[code] = T::from_f64(self.factor * distances);
        }
        (dc, ds)
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
