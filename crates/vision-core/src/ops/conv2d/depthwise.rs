//! Convolutions in which each channel is a group of its own: no matrix product, but a product per element.

use rayon::prelude::*;

use super::Geometry;
use super::product::Epilogue;
use super::windows::Tap;
use crate::ops::support::{Float, vectorised};

/// Weights `(C, 1, kh, kw)` as `(taps, C)`.
fn pack<T: Float>(g: &Geometry, taps: &[Tap], weight: &[T]) -> Vec<T> {
    let area = g.kernel[0] * g.kernel[1];
    let mut packed = Vec::with_capacity(taps.len() * g.in_channels);
    for tap in taps {
        let at = tap.at[0] * g.kernel[1] + tap.at[1];
        packed.extend(weight.iter().skip(at).step_by(area));
    }
    packed
}

/// Source pixel of `tap` at `origin`, if it is one.
fn seen(tap: &Tap, origin: [usize; 2], size: [usize; 2]) -> Option<usize> {
    let y = origin[0] as isize + tap.offset[0];
    let x = origin[1] as isize + tap.offset[1];
    let inside = y >= 0 && x >= 0 && y < size[0] as isize && x < size[1] as isize;
    inside.then(|| y as usize * size[1] + x as usize)
}

/// `(N, H, W, C)` to `(N, OH, OW, C)`.
pub(super) fn forward<T: Float>(
    g: &Geometry,
    taps: &[Tap],
    input: &[T],
    weight: &[T],
    epilogue: Epilogue<'_, T>,
) -> Vec<T> {
    let c = g.in_channels;
    let packed = pack(g, taps, weight);
    let [height, width] = g.output;
    let image_len = g.input[0] * g.input[1] * c;
    let mut out = vec![T::ZERO; g.batch * height * width * c];
    if out.is_empty() {
        return out;
    }
    out.par_chunks_mut(width * c).enumerate().for_each(|(row, out)| {
        let image = &input[row / height * image_len..(row / height + 1) * image_len];
        vectorised(|| {
            for (x, out) in out.chunks_exact_mut(c).enumerate() {
                let origin = [row % height * g.args.stride[0], x * g.args.stride[1]];
                for (tap, weight) in taps.iter().zip(packed.chunks_exact(c)) {
                    if let Some(pixel) = seen(tap, origin, g.input) {
                        multiply_add(out, &image[pixel * c..(pixel + 1) * c], weight);
                    }
                }
                if let Some(scale) = epilogue.scale {
                    for (out, &s) in out.iter_mut().zip(scale) {
                        *out *= s;
                    }
                }
                if let Some(bias) = epilogue.bias {
                    for (out, &b) in out.iter_mut().zip(bias) {
                        *out += b;
                    }
                }
                if let Some(residual) = epilogue.residual {
                    let from = (row * width + x) * c;
                    for (out, &r) in out.iter_mut().zip(&residual[from..from + c]) {
                        *out += r;
                    }
                }
                if epilogue.relu {
                    for out in out {
                        *out = if *out <= T::ZERO { T::ZERO } else { *out };
                    }
                }
            }
        });
    });
    out
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled with the instruction set of its caller")]
fn multiply_add<T: Float>(out: &mut [T], a: &[T], b: &[T]) {
    for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
        *out += a * b;
    }
}

/// The gradient of the input plus `bias`; `taps_of` gives the taps that reach input pixels of a phase of the stride.
pub(super) fn data_gradient<T: Float>(
    g: &Geometry,
    taps_of: impl Fn([usize; 2]) -> Vec<Tap>,
    weight: &[T],
    grad: &[T],
    bias: Option<&[T]>,
) -> Vec<T> {
    let c = g.in_channels;
    let [height, width] = g.input;
    let [sy, sx] = g.args.stride;
    let image_len = g.output[0] * g.output[1] * c;
    let mut out = vec![T::ZERO; g.batch * height * width * c];
    if out.is_empty() {
        return out;
    }
    let phases: Vec<Vec<(Vec<Tap>, Vec<T>)>> = (0..sy.min(height))
        .map(|py| {
            let one = |px| {
                let taps = taps_of([py, px]);
                let packed = pack(g, &taps, weight);
                (taps, packed)
            };
            (0..sx.min(width)).map(one).collect()
        })
        .collect();
    out.par_chunks_mut(width * c).enumerate().for_each(|(row, out)| {
        let image = &grad[row / height * image_len..(row / height + 1) * image_len];
        let y = row % height;
        vectorised(|| {
            for (x, out) in out.chunks_exact_mut(c).enumerate() {
                if let Some(bias) = bias {
                    out.copy_from_slice(bias);
                }
                let (taps, packed) = &phases[y % sy][x % sx];
                for (tap, weight) in taps.iter().zip(packed.chunks_exact(c)) {
                    if let Some(pixel) = seen(tap, [y / sy, x / sx], g.output) {
                        multiply_add(out, &image[pixel * c..(pixel + 1) * c], weight);
                    }
                }
            }
        });
    });
    out
}

/// The gradient of the weights, `(C, 1, kh, kw)`.
pub(super) fn weight_gradient<T: Float>(g: &Geometry, taps: &[Tap], input: &[T], grad: &[T]) -> Vec<T> {
    let c = g.in_channels;
    let area = g.kernel[0] * g.kernel[1];
    let [height, width] = g.output;
    let mut out = vec![T::ZERO; c * area];
    if out.is_empty() || grad.is_empty() {
        return out;
    }
    let image_len = g.input[0] * g.input[1] * c;
    // Rows of results per partial sum: by the sizes only.
    let rows = (4096 / width.max(1)).clamp(1, g.batch * height);
    let parts: Vec<Vec<T>> = grad
        .par_chunks(rows * width * c)
        .enumerate()
        .map(|(part, grad)| {
            let mut sums = vec![T::ZERO; taps.len() * c];
            vectorised(|| {
                for (i, grad) in grad.chunks_exact(width * c).enumerate() {
                    let row = part * rows + i;
                    let image = &input[row / height * image_len..(row / height + 1) * image_len];
                    for (x, grad) in grad.chunks_exact(c).enumerate() {
                        let origin = [row % height * g.args.stride[0], x * g.args.stride[1]];
                        for (tap, sums) in taps.iter().zip(sums.chunks_exact_mut(c)) {
                            if let Some(pixel) = seen(tap, origin, g.input) {
                                multiply_add(sums, &image[pixel * c..(pixel + 1) * c], grad);
                            }
                        }
                    }
                }
            });
            sums
        })
        .collect();
    for part in &parts {
        for (tap, sums) in taps.iter().zip(part.chunks_exact(c)) {
            let at = tap.at[0] * g.kernel[1] + tap.at[1];
            for (out, &sum) in out.iter_mut().skip(at).step_by(area).zip(sums) {
                *out += sum;
            }
        }
    }
    out
}
