//! The gradient of the logits on the CPU.
//!
//! With `a = (1 - e) w_y` and `b = e / C`, class `c` of a position gets `p_c (a + b sum w) - a [c = y] - b w_c`, times
//! the gradient of its loss.

use rayon::prelude::*;

use super::{CrossEntropy, IGNORED, ROWS, Reduction, Saved};
use crate::ops::bank_cross_entropy::exp::Score;
use crate::ops::support::{Float, vectorised};

/// A position in the gradient.
#[derive(Clone, Copy)]
struct Term {
    /// Maximum of the logits; NaN, which no maximum is, for an ignored position.
    top: f64,
    /// Of the softmax term.
    factor: f64,
    /// Gradient of the loss.
    up: f64,
}

impl CrossEntropy {
    pub(super) fn gradient<T: Score>(
        &self,
        x: &[T],
        g: &[T],
        saved: &Saved,
        (classes, inner): (usize, usize),
    ) -> Vec<T> {
        let mut dx = vec![T::ZERO; x.len()];
        if dx.is_empty() {
            return dx;
        }
        let images = dx.par_chunks_mut(classes * inner).zip(x.par_chunks(classes * inner)).enumerate();
        images.with_min_len(if inner == 1 { ROWS } else { 1 }).for_each(|(n, (dx, x))| {
            let first = n * inner;
            let target = &self.target[first..first + inner];
            let terms = self.terms(g, saved, first..first + inner, classes);
            if let &[term] = terms.as_slice() {
                self.row_gradient(x, term, dx);
            } else {
                self.map_gradient(x, &terms, inner, dx);
            }
            // What the targets take away, in full precision.
            let (even, _) = self.even_share(classes);
            for (i, (&y, &Term { top, factor, up })) in target.iter().zip(&terms).enumerate() {
                if y != IGNORED {
                    let (at, weight) = (y as usize * inner + i, self.weight_of(y));
                    let power = (x[at] - T::from_f64(top)).exp_nonpositive().to_f64();
                    dx[at] =
                        T::from_f64(power * factor - up * ((1. - self.smoothing) * weight + even * weight));
                }
            }
        });
        dx
    }

    /// The softmax and smoothing terms of one position whose classes lie side by side; `dx` is zero before.
    fn row_gradient<T: Score>(&self, x: &[T], Term { top, factor, up }: Term, dx: &mut [T]) {
        if top.is_nan() {
            return;
        }
        let (top, factor) = (T::from_f64(top), T::from_f64(factor));
        vectorised(|| {
            for (dx, &x) in dx.iter_mut().zip(x) {
                *dx = (x - top).exp_nonpositive() * factor;
            }
        });
        if self.smoothing > 0. {
            let (even, _) = self.even_share(dx.len());
            for (class, dx) in dx.iter_mut().enumerate() {
                *dx -= T::from_f64(up * even * self.weight_of(class as u32));
            }
        }
    }

    /// The same for `inner` positions that lie side by side, class after class.
    fn map_gradient<T: Score>(&self, x: &[T], terms: &[Term], inner: usize, dx: &mut [T]) {
        let column = |number: fn(&Term) -> f64| -> Vec<T> {
            terms.iter().map(|term| T::from_f64(number(term))).collect()
        };
        let (tops, factors) = (column(|term| term.top), column(|term| term.factor));
        let ups = column(|term| term.up);
        let (even, _) = self.even_share(dx.len() / inner);
        let rows = dx.par_chunks_mut(inner).zip(x.par_chunks(inner)).enumerate();
        rows.for_each(|(class, (dx, x))| {
            let share = T::from_f64(even * self.weight_of(class as u32));
            vectorised(|| {
                let positions = x.iter().zip(&tops).zip(factors.iter().zip(&ups));
                for (dx, ((&x, &top), (&factor, &up))) in dx.iter_mut().zip(positions) {
                    let value = (x - top).exp_nonpositive() * factor - share * up;
                    // Nothing for ignored positions, whatever their logits are.
                    *dx = if top.is_nan() { T::ZERO } else { value };
                }
            });
        });
    }

    /// What the gradients of some positions are made of.
    fn terms<T: Float>(
        &self,
        g: &[T],
        saved: &Saved,
        positions: std::ops::Range<usize>,
        classes: usize,
    ) -> Vec<Term> {
        let (even, total) = self.even_share(classes);
        let term = |position: usize| {
            let ((top, sum), y) = (saved.softmax[position], self.target[position]);
            if y == IGNORED {
                return Term { top: f64::NAN, factor: 0., up: 0. };
            }
            let up = match self.reduction {
                Reduction::None => g[position].to_f64(),
                Reduction::Sum => g[0].to_f64(),
                Reduction::Mean => g[0].to_f64() / saved.total_weight,
            };
            let direct = (1. - self.smoothing) * self.weight_of(y);
            Term { top, factor: up * (direct + even * total) / sum, up }
        };
        positions.map(term).collect()
    }
}
