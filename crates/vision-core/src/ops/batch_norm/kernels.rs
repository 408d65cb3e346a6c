//! The passes over memory of batch normalisation on the CPU.
//!
//! Parameters are repeated until they span a few vector registers, so that the inner loops are long even
//! for few channels. Sums are kept in `f64` per chunk and added in order, so they do not depend on the
//! number of threads.

use rayon::prelude::*;

use crate::ops::support::{Float, add_up, chunk_rows, vectorised};

/// Mean and standard deviation of each channel, as normalisation uses them.
#[derive(Clone, Debug)]
pub(super) struct Moments {
    /// Number of values per channel; 0 if they come from elsewhere.
    pub(super) count: f64,
    /// Mean.
    pub(super) mean: Vec<f64>,
    /// Variance, divided by the number of values.
    pub(super) var: Vec<f64>,
    /// `1 / sqrt(var + eps)`.
    pub(super) inv_std: Vec<f64>,
}

impl Moments {
    /// With `inv_std` derived from the variance.
    pub(super) fn new(count: f64, mean: Vec<f64>, var: Vec<f64>, eps: f64) -> Self {
        let inv_std = var.iter().map(|v| 1.0 / (v + eps).sqrt()).collect();
        Self { count, mean, var, inv_std }
    }
}

/// How often parameters of `channels` numbers are repeated.
fn repeats(channels: usize) -> usize {
    (128 / channels.max(1)).max(1)
}

/// `values` in the element type of the kernel, repeated.
fn wide<T: Float>(values: impl Iterator<Item = f64>) -> Vec<T> {
    let values: Vec<T> = values.map(T::from_f64).collect();
    values.repeat(repeats(values.len()))
}

/// Elements per chunk: whole pixels, and a multiple of the repeated parameters.
fn chunk_len(len: usize, channels: usize) -> usize {
    let row = channels * repeats(channels);
    chunk_rows(len / row.max(1), row) * row
}

/// Folds sums over repeated channels.
fn fold(sums: &[f64], channels: usize) -> Vec<f64> {
    add_up(sums.chunks_exact(channels).map(<[f64]>::to_vec).collect(), channels)
}

/// Mean and variance over all pixels of `(pixels, channels)`.
pub(super) fn moments<T: Float>(input: &[T], channels: usize, eps: f64) -> Moments {
    let count = (input.len() / channels) as f64;
    // Sums of differences to the first pixel: no cancellation when the mean is large.
    let origin: Vec<f64> = input[..channels].iter().map(|x| x.to_f64()).collect();
    let origin_wide = origin.repeat(repeats(channels));
    let row = origin_wide.len();
    let parts: Vec<Vec<f64>> = input
        .par_chunks(chunk_len(input.len(), channels))
        .map(|chunk| {
            let mut sums = vec![0.0; 2 * row];
            let (first, second) = sums.split_at_mut(row);
            vectorised(|| {
                for pixels in chunk.chunks(row) {
                    for (((&x, &o), first), second) in
                        pixels.iter().zip(&origin_wide).zip(first.iter_mut()).zip(second.iter_mut())
                    {
                        let d = x.to_f64() - o;
                        *first += d;
                        *second += d * d;
                    }
                }
            });
            sums
        })
        .collect();
    let sums = add_up(parts, 2 * row);
    let (first, second) = (fold(&sums[..row], channels), fold(&sums[row..], channels));
    let mean = origin.iter().zip(&first).map(|(o, s)| o + s / count).collect();
    let var = first
        .iter()
        .zip(&second)
        .map(|(s, q)| {
            let var = q / count - (s / count) * (s / count);
            // Rounding may leave a tiny negative number; NaN stays.
            if var < 0.0 { 0.0 } else { var }
        })
        .collect();
    Moments::new(count, mean, var, eps)
}

/// `(x - mean) * inv_std * weight + bias (+ residual)`, clipped at 0 from below if `relu`.
pub(super) fn normalise<T: Float>(
    input: &[T],
    moments: &Moments,
    weight_bias: &[T],
    residual: Option<&[T]>,
    relu: bool,
) -> Vec<T> {
    let mut out = vec![T::ZERO; input.len()];
    if out.is_empty() {
        return out;
    }
    let channels = moments.mean.len();
    let (weight, bias) = weight_bias.split_at(channels);
    let mean: Vec<T> = wide(moments.mean.iter().copied());
    let scale: Vec<T> = wide(moments.inv_std.iter().zip(weight).map(|(i, w)| i * w.to_f64()));
    let bias = bias.repeat(repeats(channels));
    let row = mean.len();
    let chunk = chunk_len(input.len(), channels);
    out.par_chunks_mut(chunk).enumerate().for_each(|(index, out)| {
        let from = index * chunk;
        let input = &input[from..from + out.len()];
        let residual = residual.map(|r| &r[from..from + out.len()]);
        vectorised(|| {
            for (i, out) in out.chunks_mut(row).enumerate() {
                let at = i * row..i * row + out.len();
                let parameters = mean.iter().zip(&scale).zip(&bias);
                for ((out, &x), ((&m, &s), &b)) in out.iter_mut().zip(&input[at.clone()]).zip(parameters) {
                    *out = (x - m) * s + b;
                }
                if let Some(residual) = residual {
                    for (out, &r) in out.iter_mut().zip(&residual[at]) {
                        *out += r;
                    }
                }
                if relu {
                    for out in out {
                        *out = if *out <= T::ZERO { T::ZERO } else { *out };
                    }
                }
            }
        });
    });
    out
}

/// What the backward pass reads.
pub(super) struct Backward<'a, T> {
    pub(super) input: &'a [T],
    /// The result of the forward pass, which says where ReLU let values through; `None` without ReLU.
    pub(super) output: Option<&'a [T]>,
    /// Gradient of the output.
    pub(super) grad: &'a [T],
    pub(super) weight: &'a [T],
    pub(super) moments: &'a Moments,
}

impl<T: Float> Backward<'_, T> {
    fn channels(&self) -> usize {
        self.moments.mean.len()
    }

    /// The gradient behind ReLU, for elements `from..from + out.len()`.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "its loop must be compiled with the caller's features")]
    fn masked(&self, from: usize, out: &mut [T]) {
        let grad = &self.grad[from..from + out.len()];
        match self.output {
            None => out.copy_from_slice(grad),
            Some(output) => {
                for ((out, &g), &y) in out.iter_mut().zip(grad).zip(&output[from..]) {
                    *out = if y <= T::ZERO { T::ZERO } else { g };
                }
            }
        }
    }

    /// The gradient behind ReLU: that of the residual.
    pub(super) fn residual_gradient(&self) -> Vec<T> {
        let mut out = vec![T::ZERO; self.input.len()];
        if out.is_empty() {
            return out;
        }
        let chunk = chunk_len(out.len(), self.channels());
        out.par_chunks_mut(chunk).enumerate().for_each(|(i, out)| vectorised(|| self.masked(i * chunk, out)));
        out
    }

    /// Gradients of weight and bias, one after the other.
    pub(super) fn parameter_gradients(&self) -> Vec<f64> {
        let channels = self.channels();
        let mean: Vec<f64> = self.moments.mean.repeat(repeats(channels));
        let row = mean.len();
        if self.input.is_empty() || row == 0 {
            return vec![0.0; 2 * channels];
        }
        let chunk = chunk_len(self.input.len(), channels);
        let parts: Vec<Vec<f64>> = self
            .input
            .par_chunks(chunk)
            .enumerate()
            .map(|(index, input)| {
                let mut sums = vec![0.0; 2 * row];
                let (scaled, plain) = sums.split_at_mut(row);
                let mut masked = vec![T::ZERO; row];
                vectorised(|| {
                    for (i, input) in input.chunks(row).enumerate() {
                        let masked = &mut masked[..input.len()];
                        self.masked(index * chunk + i * row, masked);
                        for ((((&x, &g), &m), scaled), plain) in input
                            .iter()
                            .zip(masked.iter())
                            .zip(&mean)
                            .zip(scaled.iter_mut())
                            .zip(plain.iter_mut())
                        {
                            let g = g.to_f64();
                            *scaled += g * (x.to_f64() - m);
                            *plain += g;
                        }
                    }
                });
                sums
            })
            .collect();
        let sums = add_up(parts, 2 * row);
        let mut scaled = fold(&sums[..row], channels);
        for (sum, inv_std) in scaled.iter_mut().zip(&self.moments.inv_std) {
            *sum *= inv_std;
        }
        scaled.extend(fold(&sums[row..], channels));
        scaled
    }

    /// Gradient of the input. `through_moments` are the parameter gradients, summed over all inputs that mean and
    /// variance came from, `None` if those are constants.
    pub(super) fn input_gradient(&self, through_moments: Option<&[f64]>) -> Vec<T> {
        let mut out = vec![T::ZERO; self.input.len()];
        if out.is_empty() {
            return out;
        }
        let channels = self.channels();
        let count = self.moments.count;
        let (inv_std, weight) = (&self.moments.inv_std, self.weight);
        let scale = || inv_std.iter().zip(weight).map(|(i, w)| i * w.to_f64());
        let scale_wide: Vec<T> = wide(scale());
        let mean: Vec<T> = wide(self.moments.mean.iter().copied());
        let corrections = through_moments.map(|gradients| {
            let (dw, db) = gradients.split_at(channels);
            let slope = scale().zip(inv_std.iter().zip(dw)).map(|(s, (i, dw))| -s * i * dw / count);
            let slope: Vec<T> = wide(slope);
            let constant: Vec<T> = wide(scale().zip(db).map(|(s, db)| -s * db / count));
            (slope, constant)
        });
        let row = scale_wide.len();
        let chunk = chunk_len(out.len(), channels);
        out.par_chunks_mut(chunk).enumerate().for_each(|(index, out)| {
            vectorised(|| {
                for (i, out) in out.chunks_mut(row).enumerate() {
                    let from = index * chunk + i * row;
                    self.masked(from, out);
                    match &corrections {
                        None => {
                            for (out, &s) in out.iter_mut().zip(&scale_wide) {
                                *out *= s;
                            }
                        }
                        Some((slope, constant)) => {
                            let x = self.input[from..from + out.len()].iter().zip(&mean);
                            let parameters = scale_wide.iter().zip(slope).zip(constant);
                            for ((out, (&x, &m)), ((&s, &slope), &constant)) in
                                out.iter_mut().zip(x).zip(parameters)
                            {
                                *out = *out * s + (x - m) * slope + constant;
                            }
                        }
                    }
                }
            });
        });
        out
    }
}
