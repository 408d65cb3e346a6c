//! The gradient of the weights: outer products of what windows see and the gradient of their results.

#![allow(unsafe_code, reason = "kernels read and write through pointers")]

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::Geometry;
use super::transpose::put;
use super::windows::{Tap, Windows};
use crate::cpu::kernels::{Kernels, Outer};
use crate::ops::support::Float;

/// Pixels summed in registers before they are added to the result.
const PIXEL_BLOCK: usize = 192;
/// Tasks to make at least, if there is work enough.
const TASKS: usize = 8;
/// Elements of all partial sums together, unless one chunk has more already.
const SUMS: usize = 1 << 19;

/// The gradient of weights `(O, C / groups, kh, kw)` from the windows of the forward pass and the gradient of the
/// result, `(pixels, O)`.
///
/// Pixels are cut into chunks, and runs of taps into parts where chunks alone would need too much memory. Both
/// depend on the sizes only, and chunks are added in order, so the result does not depend on the threads.
pub(super) fn weight_gradient<T: Float>(
    g: &Geometry,
    windows: &Windows<'_, T>,
    taps: &[Tap],
    grad: &[T],
) -> Vec<T> {
    let pixels = windows.pixels();
    let total = g.out_channels * g.group_in() * g.kernel[0] * g.kernel[1];
    if total == 0 || pixels == 0 {
        return vec![T::ZERO; total];
    }
    let kernels = T::kernels(g.group_out());
    let layout = Layout {
        groups: g.groups(),
        panels: g.group_out().div_ceil(kernels.shape.columns),
        columns: kernels.shape.columns,
        inputs: windows.runs() * windows.len,
    };
    let chunks = (SUMS / layout.len()).clamp(1, TASKS).min(pixels.div_ceil(PIXEL_BLOCK));
    let chunk = pixels.div_ceil(chunks).next_multiple_of(PIXEL_BLOCK.min(pixels));
    let chunks = pixels.div_ceil(chunk);
    // Parts of a chunk hold whole runs, or pieces of the only run.
    let parts = TASKS.div_ceil(chunks);
    let pieces = pieces(windows.runs(), windows.len, parts);
    let mut sums: Vec<Vec<T>> = (0..chunks * pieces.len())
        .into_par_iter()
        .map(|task| {
            let start = task / pieces.len() * chunk;
            let job =
                Job { windows, grad, channels: g.out_channels, outputs: g.group_out(), kernels, layout };
            job.sum(start..(start + chunk).min(pixels), pieces[task % pieces.len()])
        })
        .collect();
    // Chunk by chunk onto the first.
    let (first, rest) = sums.split_at_mut(pieces.len());
    for later in rest.chunks(pieces.len()) {
        first.par_iter_mut().zip(later).for_each(|(sum, part)| {
            for (sum, &part) in sum.iter_mut().zip(part) {
                *sum += part;
            }
        });
    }
    unpack(g, taps, layout, &pieces, windows.len, first)
}

/// Sizes of the sums of one chunk: `(groups, panels, inputs, columns)`.
#[derive(Clone, Copy)]
struct Layout {
    groups: usize,
    panels: usize,
    columns: usize,
    inputs: usize,
}

impl Layout {
    fn len(&self) -> usize {
        self.groups * self.panels * self.inputs * self.columns
    }
}

/// Some of the inputs of a window: `runs` runs from `run` on, of each `len` elements from `offset` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    run: usize,
    runs: usize,
    offset: usize,
    len: usize,
}

impl Piece {
    fn inputs(&self) -> usize {
        self.runs * self.len
    }
}

/// Cuts `runs` runs of `len` elements into about `parts` pieces, in order.
fn pieces(runs: usize, len: usize, parts: usize) -> Vec<Piece> {
    if runs >= parts || len < 64 {
        let each = runs.div_ceil(parts.min(runs).max(1)).max(1);
        return (0..runs)
            .step_by(each)
            .map(|run| Piece { run, runs: each.min(runs - run), offset: 0, len })
            .collect();
    }
    let cuts = parts.div_ceil(runs).min(len / 32).max(1);
    let each = len.div_ceil(cuts);
    (0..runs)
        .flat_map(|run| {
            (0..len).step_by(each).map(move |offset| Piece {
                run,
                runs: 1,
                offset,
                len: each.min(len - offset),
            })
        })
        .collect()
}

struct Job<'a, T> {
    windows: &'a Windows<'a, T>,
    grad: &'a [T],
    channels: usize,
    /// Result channels per group.
    outputs: usize,
    kernels: Kernels<T>,
    layout: Layout,
}

impl<T: Float> Job<'_, T> {
    /// The sum over some pixels for a piece of the inputs, `(groups, panels, inputs of the piece, columns)`.
    fn sum(&self, pixels: std::ops::Range<usize>, piece: Piece) -> Vec<T> {
        let Layout { groups, panels, columns, .. } = self.layout;
        let (runs, inputs) = (self.windows.runs(), piece.inputs());
        let len = groups * panels * inputs * columns;
        let mut sum: Vec<T> = Vec::with_capacity(len);
        let mut pointers: Vec<*const T> = vec![std::ptr::null(); runs * PIXEL_BLOCK];
        let mut packed = vec![T::ZERO; panels * PIXEL_BLOCK * columns];
        let mut start = pixels.start;
        while start < pixels.end {
            let count = PIXEL_BLOCK.min(pixels.end - start);
            for group in 0..groups {
                self.pack(group, start..start + count, &mut packed);
                let mut place = self.windows.place(start);
                for p in 0..count {
                    let put = |run: usize, pointer| pointers[run * PIXEL_BLOCK + p] = pointer;
                    self.windows.pointers(place, group * self.windows.len, put);
                    place = self.windows.next(place);
                }
                for run in 0..piece.runs {
                    for panel in 0..panels {
                        let into = ((group * panels + panel) * inputs + run * piece.len) * columns;
                        let into = &mut sum.spare_capacity_mut()[into..into + piece.len * columns];
                        let outer = Outer {
                            inputs: pointers[(piece.run + run) * PIXEL_BLOCK..].as_ptr(),
                            offset: piece.offset,
                            pixels: count,
                            panel: packed[panel * PIXEL_BLOCK * columns..].as_ptr(),
                            into: into.as_mut_ptr().cast(),
                            rows: piece.len,
                            accumulate: start > pixels.start,
                        };
                        // SAFETY: each of the `count` pointers has the run's elements behind it
                        // (`Windows::pointers`), of which the piece is a part; the packed panel has `count` rows and
                        // `into` has `rows` rows of `columns`, written before they are added to. The kernels are
                        // those of the active set.
                        unsafe { (self.kernels.outer)(&outer) };
                    }
                }
            }
            start += count;
        }
        // SAFETY: there is a pixel, so every run of every panel and group was written, and they are all elements.
        unsafe { sum.set_len(len) };
        sum
    }

    /// The gradient of some pixels as panels, `(panels, PIXEL_BLOCK, columns)`.
    fn pack(&self, group: usize, pixels: std::ops::Range<usize>, packed: &mut [T]) {
        let columns = self.layout.columns;
        let rows = &self.grad[pixels.start * self.channels..pixels.end * self.channels];
        for (panel, packed) in packed.chunks_exact_mut(PIXEL_BLOCK * columns).enumerate() {
            let first = panel * columns;
            let width = columns.min(self.outputs - first);
            let from = group * self.outputs + first;
            for (row, to) in rows.chunks_exact(self.channels).zip(packed.chunks_exact_mut(columns)) {
                to[..width].copy_from_slice(&row[from..from + width]);
            }
        }
    }
}

/// Sums as weights, `(O, C / groups, kh, kw)`.
fn unpack<T: Float>(
    g: &Geometry,
    taps: &[Tap],
    layout: Layout,
    pieces: &[Piece],
    run_len: usize,
    sums: &[Vec<T>],
) -> Vec<T> {
    let (cg, og) = (g.group_in(), g.group_out());
    let area = g.kernel[0] * g.kernel[1];
    let Layout { panels, columns, .. } = layout;
    // Pieces follow each other: where each begins, counted in inputs of a window, taps outermost.
    let starts: Vec<usize> = pieces.iter().map(|piece| piece.run * run_len + piece.offset).collect();
    let row = cg * area;
    let total = g.out_channels * row;
    let mut out = Vec::with_capacity(total);
    // Results of neighbouring channels lie far apart, so a few input channels are put in order at a time.
    let some = (128 / area).clamp(1, cg);
    let room: &mut [MaybeUninit<T>] = &mut out.spare_capacity_mut()[..total];
    room.par_chunks_mut(og * row).enumerate().for_each(|(group, out)| {
        out.par_chunks_mut(columns * row).enumerate().for_each(|(panel, out)| {
            let mut block = vec![T::ZERO; columns * some * area];
            for first in (0..cg).step_by(some) {
                let count = some.min(cg - first);
                for (tap, place) in taps.iter().map(|tap| tap.at[0] * g.kernel[1] + tap.at[1]).enumerate() {
                    let mut channel = 0;
                    while channel < count {
                        let input = tap * cg + first + channel;
                        let index = starts.partition_point(|&start| start <= input) - 1;
                        let (skipped, inputs) = (input - starts[index], pieces[index].inputs());
                        let here = (inputs - skipped).min(count - channel);
                        let from = ((group * panels + panel) * inputs + skipped) * columns;
                        let sums = &sums[index][from..from + here * columns];
                        let block = &mut block[channel * area + place..];
                        put(sums, [here, columns], block, [area, some * area]);
                        channel += here;
                    }
                }
                for (out, block) in out.chunks_exact_mut(row).zip(block.chunks_exact(some * area)) {
                    for (to, &sum) in out[first * area..(first + count) * area].iter_mut().zip(block) {
                        to.write(sum);
                    }
                }
            }
        });
    });
    // SAFETY: the chunks cover all groups, panels and input channels, so each of the `total` elements was written.
    unsafe { out.set_len(total) };
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_all_inputs() {
        for (runs, len, parts) in [(9, 64, 1), (9, 512, 8), (1, 2048, 8), (3, 21, 8), (1, 5, 4), (2, 100, 8)]
        {
            let cut = pieces(runs, len, parts);
            assert_eq!(cut.iter().map(Piece::inputs).sum::<usize>(), runs * len);
            for pair in cut.windows(2) {
                let end = |p: &Piece| (p.run + p.runs - 1) * len + p.offset + p.len;
                assert_eq!(end(&pair[0]), pair[1].run * len + pair[1].offset);
            }
        }
    }
}
