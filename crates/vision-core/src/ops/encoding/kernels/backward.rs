//! The gradients of [`super`].

use std::ops::Range;

use rayon::prelude::*;

use super::{BLOCK, Kept, Problem, by_code, dot, gather, squares};
use crate::ops::bank_cross_entropy::exp::Score;
use crate::ops::encoding::products::{Order, Panels};
use crate::ops::support::vectorised;

/// Which gradients somebody asked for.
#[derive(Clone, Copy)]
pub(in crate::ops::encoding) struct Wanted {
    pub(in crate::ops::encoding) input: bool,
    /// Codewords or scales, which share most of the work.
    pub(in crate::ops::encoding) codes: bool,
}

/// The gradients.
pub(in crate::ops::encoding) struct Grads<T> {
    pub(in crate::ops::encoding) input: Option<Vec<T>>,
    pub(in crate::ops::encoding) codewords: Option<Vec<T>>,
    pub(in crate::ops::encoding) scale: Option<Vec<T>>,
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

impl<T: Score> Problem<'_, T> {
    /// The gradients for `g`, that of the encoded pictures.
    pub(in crate::ops::encoding) fn backward(&self, kept: &Kept<T>, g: &[T], wanted: Wanted) -> Grads<T> {
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
