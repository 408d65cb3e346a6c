//! The three products of a convolution on the CPU.
//!
//! Each collects windows into blocks of matrix rows that stay in cache and multiplies block by block. The
//! blocks depend on the sizes only, and sums over blocks run in a fixed order, so results do not depend on
//! the number of threads.

use rayon::prelude::*;

use super::Geometry;
use super::gather::{Grid, Source, Tap, runs};
use super::gemm::{Matrix, multiply};
use crate::ops::support::Float;

/// Rows per block for `pixels` rows of `row_len` elements: about 256 KiB of `f32`, and no fewer than 8
/// blocks if there are pixels enough.
fn block_rows(pixels: usize, row_len: usize) -> usize {
    const ELEMENTS: usize = 1 << 16;
    let cache = (ELEMENTS / row_len.max(1)).clamp(128, 2048);
    cache.min(pixels.div_ceil(8).max(32)).next_multiple_of(8)
}

/// Which source pixels the target pixels see.
struct Windows<'a, T> {
    source: Source<'a, T>,
    grid: Grid,
    taps: &'a [Tap],
}

/// `out[pixel, group's channels] = window(pixel, group) * weight[group] + bias` for every target pixel.
///
/// `weight` is `(groups, taps * source channels per group, out channels per group)`, `out` is
/// `(pixels, out_channels)` and is overwritten.
fn windows_times_weight<T: Float>(
    Windows { source, grid, taps }: &Windows<'_, T>,
    groups: usize,
    weight: &[T],
    bias: Option<&[T]>,
    out: &mut [T],
    out_channels: usize,
) {
    if out.is_empty() {
        return;
    }
    let take = source.channels / groups;
    let give = out_channels / groups;
    let row_len = taps.len() * take;
    let direct = grid.is_identity(source, taps);
    let runs = runs(taps);
    let block = block_rows(out.len() / out_channels, row_len);
    let multiply_block = |rows: &mut Vec<T>, index: usize, out: &mut [T]| {
        let start = index * block;
        let pixels = out.len() / out_channels;
        if let Some(bias) = bias {
            for pixel in out.chunks_exact_mut(out_channels) {
                pixel.copy_from_slice(bias);
            }
        }
        for group in 0..groups {
            let a = if direct {
                let from = (start * source.channels + group * take).min(source.data.len());
                Matrix::rows(&source.data[from..], source.channels)
            } else {
                rows.resize(pixels * row_len, T::ZERO);
                grid.collect(source, &runs, [group * take, take], start, row_len, rows);
                Matrix::rows(rows, row_len)
            };
            let b = Matrix::rows(&weight[group * row_len * give..(group + 1) * row_len * give], give);
            multiply([pixels, row_len, give], a, b, &mut out[group * give..], out_channels, bias.is_some());
        }
    };
    out.par_chunks_mut(block * out_channels)
        .enumerate()
        .for_each(|(index, out)| T::with_scratch(|rows| multiply_block(rows, index, out)));
}

/// Weights `(O, C / groups, kh, kw)` as `(groups, taps, C / groups, O / groups)`, or with the last two axes
/// exchanged if `transposed`.
fn pack<T: Float>(geometry: &Geometry, taps: &[Tap], weight: &[T], transposed: bool) -> Vec<T> {
    let [cg, og] = [geometry.group_in(), geometry.group_out()];
    let [kh, kw] = geometry.kernel;
    let mut packed = vec![T::ZERO; geometry.groups() * taps.len() * cg * og];
    if packed.is_empty() {
        return packed;
    }
    packed.par_chunks_mut(cg * og).enumerate().for_each(|(index, out)| {
        let (group, tap) = (index / taps.len(), &taps[index % taps.len()]);
        let at = |o: usize, c: usize| weight[(((group * og + o) * cg + c) * kh + tap.at[0]) * kw + tap.at[1]];
        if transposed {
            for (o, out) in out.chunks_exact_mut(cg).enumerate() {
                for (c, out) in out.iter_mut().enumerate() {
                    *out = at(o, c);
                }
            }
        } else {
            for (c, out) in out.chunks_exact_mut(og).enumerate() {
                for (o, out) in out.iter_mut().enumerate() {
                    *out = at(o, c);
                }
            }
        }
    });
    packed
}

/// The taps of the forward pass, with offsets from `output pixel * stride`.
fn forward_taps(geometry: &Geometry) -> Vec<Tap> {
    let [kh, kw] = geometry.kernel;
    let [[py, px], [dy, dx]] = [geometry.args.padding, geometry.args.dilation];
    let mut taps = Vec::with_capacity(kh * kw);
    for y in 0..kh {
        for x in 0..kw {
            let offset = [(y * dy) as isize - py as isize, (x * dx) as isize - px as isize];
            taps.push(Tap { offset, at: [y, x] });
        }
    }
    taps
}

/// The taps that reach input pixels `phase + stride * i`, with offsets from output pixel `i`.
fn backward_taps(geometry: &Geometry, phase: [usize; 2]) -> Vec<Tap> {
    let along = |axis: usize| -> Vec<(isize, usize)> {
        let stride = geometry.args.stride[axis] as isize;
        (0..geometry.kernel[axis])
            .filter_map(|k| {
                let reach = (phase[axis] + geometry.args.padding[axis]) as isize
                    - (k * geometry.args.dilation[axis]) as isize;
                (reach.rem_euclid(stride) == 0).then(|| (reach.div_euclid(stride), k))
            })
            .collect()
    };
    let columns = along(1);
    let mut taps: Vec<Tap> = along(0)
        .into_iter()
        .flat_map(|(y, ky)| columns.iter().map(move |&(x, kx)| Tap { offset: [y, x], at: [ky, kx] }))
        .collect();
    taps.sort_unstable();
    taps
}

/// `(N, H, W, C)` and `(O, C / groups, kh, kw)` to `(N, OH, OW, O)`.
pub(super) fn forward<T: Float>(g: &Geometry, input: &[T], weight: &[T], bias: Option<&[T]>) -> Vec<T> {
    let taps = forward_taps(g);
    let packed = pack(g, &taps, weight, false);
    let source = Source { data: input, height: g.input[0], width: g.input[1], channels: g.in_channels };
    let grid = Grid { size: g.output, step: g.args.stride };
    let mut out = vec![T::ZERO; g.batch * grid.area() * g.out_channels];
    let windows = Windows { source, grid, taps: &taps };
    windows_times_weight(&windows, g.groups(), &packed, bias, &mut out, g.out_channels);
    out
}

/// The gradient of the input from that of the output.
///
/// Input pixels that agree modulo the stride see the same taps, so each such phase is a plain convolution
/// of the output gradient; nothing is scattered.
pub(super) fn data_gradient<T: Float>(g: &Geometry, weight: &[T], grad: &[T]) -> Vec<T> {
    let source = Source { data: grad, height: g.output[0], width: g.output[1], channels: g.out_channels };
    let [sy, sx] = g.args.stride;
    let [height, width] = g.input;
    let c = g.in_channels;
    let phase = |py: usize, px: usize| -> Vec<T> {
        // Rows `py, py + sy, ...` below `height`.
        let size = [(height.saturating_sub(py)).div_ceil(sy), (width.saturating_sub(px)).div_ceil(sx)];
        let grid = Grid { size, step: [1, 1] };
        let taps = backward_taps(g, [py, px]);
        let mut out = vec![T::ZERO; g.batch * grid.area() * c];
        if !taps.is_empty() {
            let packed = pack(g, &taps, weight, true);
            let windows = Windows { source, grid, taps: &taps };
            windows_times_weight(&windows, g.groups(), &packed, None, &mut out, c);
        }
        out
    };
    if [sy, sx] == [1, 1] {
        return phase(0, 0);
    }
    let mut out = vec![T::ZERO; g.batch * height * width * c];
    if out.is_empty() {
        return out;
    }
    for py in 0..sy.min(height) {
        for px in 0..sx.min(width) {
            let part = phase(py, px);
            let (rows, columns) = ((height - py).div_ceil(sy), (width - px).div_ceil(sx));
            out.par_chunks_mut(height * width * c).zip(part.par_chunks(rows * columns * c)).for_each(
                |(image, part)| {
                    for (row, part) in
                        image.chunks_exact_mut(width * c).skip(py).step_by(sy).zip(part.chunks(columns * c))
                    {
                        for (pixel, part) in
                            row.chunks_exact_mut(c).skip(px).step_by(sx).zip(part.chunks_exact(c))
                        {
                            pixel.copy_from_slice(part);
                        }
                    }
                },
            );
        }
    }
    out
}

/// The gradient of the weights, `(O, C / groups, kh, kw)`, from input and output gradient.
pub(super) fn weight_gradient<T: Float>(g: &Geometry, input: &[T], grad: &[T]) -> Vec<T> {
    let [cg, og] = [g.group_in(), g.group_out()];
    let [kh, kw] = g.kernel;
    let mut out = vec![T::ZERO; g.out_channels * cg * kh * kw];
    let source = Source { data: input, height: g.input[0], width: g.input[1], channels: g.in_channels };
    let grid = Grid { size: g.output, step: g.args.stride };
    let pixels = g.batch * grid.area();
    if out.is_empty() || pixels == 0 {
        return out;
    }
    let taps = forward_taps(g);
    let direct = grid.is_identity(&source, &taps);
    // Large kernels are cut by kernel row as well, so that few partial sums have to be kept.
    let taps_per_part = if out.len() >= 1 << 17 { kw } else { taps.len() };
    let parts: Vec<&[Tap]> = taps.chunks(taps_per_part).collect();
    // The sums of all chunks together stay below 2 MiB of `f32` unless two chunks are larger already.
    let chunks = ((1 << 19) / out.len()).clamp(2, 16).min(pixels.div_ceil(64));
    let chunk = pixels.div_ceil(chunks);
    let tasks: Vec<(usize, &[Tap])> =
        (0..pixels).step_by(chunk).flat_map(|start| parts.iter().map(move |part| (start, *part))).collect();
    let sums: Vec<Vec<T>> = tasks
        .par_iter()
        .map(|&(start, taps)| {
            let row_len = taps.len() * cg;
            let runs = runs(taps);
            let end = (start + chunk).min(pixels);
            let block = block_rows(pixels, row_len);
            let mut sum = vec![T::ZERO; g.out_channels * row_len];
            T::with_scratch(|rows| {
                for from in (start..end).step_by(block) {
                    let len = block.min(end - from);
                    for group in 0..g.groups() {
                        let a = if direct {
                            let at = from * source.channels + group * cg;
                            Matrix::rows(&source.data[at..], source.channels)
                        } else {
                            rows.resize(len * row_len, T::ZERO);
                            grid.collect(&source, &runs, [group * cg, cg], from, row_len, rows);
                            Matrix::rows(rows, row_len)
                        };
                        let b = Matrix::rows(&grad[from * g.out_channels + group * og..], g.out_channels);
                        let sum = &mut sum[group * og * row_len..(group + 1) * og * row_len];
                        multiply([og, len, row_len], b.transposed(), a, sum, row_len, true);
                    }
                }
            });
            sum
        })
        .collect();
    // (taps of a part, C / groups) per output channel, to (C / groups, kh * kw), chunk by chunk.
    out.par_chunks_mut(cg * kh * kw).enumerate().for_each(|(o, out)| {
        for ((_, taps), sum) in tasks.iter().zip(&sums) {
            let sum = &sum[o * taps.len() * cg..(o + 1) * taps.len() * cg];
            for (tap, sum) in taps.iter().zip(sum.chunks_exact(cg)) {
                let at = tap.at[0] * kw + tap.at[1];
                for (out, &sum) in out.iter_mut().skip(at).step_by(kh * kw).zip(sum) {
                    *out += sum;
                }
            }
        }
    });
    out
}
