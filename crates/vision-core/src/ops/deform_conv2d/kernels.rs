//! Columns of a deformable convolution, their products with the weights, and the gradients.

use rayon::prelude::*;

use super::Geometry;
use super::reader::{Reader, Run};
use crate::ops::conv2d::gemm::{Matrix, multiply};
use crate::ops::corners::for_each_band;
use crate::ops::support::{Float, column_sums, vectorised};

/// Weights `(O, C / groups * taps)` without the bias, as `(O, taps, C / groups)`.
fn pack<T: Float>(g: &Geometry, weight: &[T]) -> Vec<T> {
    let (taps, cg) = (g.taps(), g.group_in());
    let mut packed = vec![T::ZERO; g.out_channels * taps * cg];
    for (packed, weight) in packed.chunks_exact_mut(taps * cg).zip(weight.chunks_exact(g.weight_len())) {
        for (c, weight) in weight[..taps * cg].chunks_exact(taps).enumerate() {
            for (to, &w) in packed.iter_mut().skip(c).step_by(cg).zip(weight) {
                *to = w;
            }
        }
    }
    packed
}

/// `(N, H, W, C)` to `(N, OH, OW, O)`.
pub(super) fn forward<T: Float>(g: &Geometry, input: &[T], places: &[T], weight: &[T]) -> Vec<T> {
    let o = g.out_channels;
    let mut out = vec![T::ZERO; g.pixels() * o];
    if out.is_empty() {
        return out;
    }
    let reader = Reader::new(g, input, places);
    let packed = pack(g, weight);
    let (row_len, cg, og) = (g.taps() * g.group_in(), g.group_in(), g.group_out());
    // Blocks of 4 MiB of `f32`, but enough of them to share.
    let block = ((1 << 20) / (row_len * g.groups)).clamp(64, 512).min(g.pixels().div_ceil(8)).max(8);
    out.par_chunks_mut(block * o).enumerate().for_each(|(index, out)| {
        let count = out.len() / o;
        T::with_scratch(|columns| {
            columns.resize(g.groups * count * row_len, T::ZERO);
            vectorised(|| {
                for i in 0..count {
                    for tap in 0..g.taps() {
                        let at = |run: &Run| (run.group * count + i) * row_len + tap * cg + run.within;
                        reader.read(index * block + i, tap, columns, at);
                    }
                }
            });
            if g.biased {
                for out in out.chunks_exact_mut(o) {
                    for (out, weight) in out.iter_mut().zip(weight.chunks_exact(g.weight_len())) {
                        *out = weight[g.weight_len() - 1];
                    }
                }
            }
            for group in 0..g.groups {
                let a =
                    Matrix::rows(&columns[group * count * row_len..(group + 1) * count * row_len], row_len);
                let b = Matrix::rows(&packed[group * og * row_len..(group + 1) * og * row_len], row_len);
                multiply([count, row_len, og], a, b.transposed(), &mut out[group * og..], o, g.biased);
            }
        });
    });
    out
}

/// Which gradients are asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) input: bool,
    pub(super) places: bool,
    pub(super) weight: bool,
}

/// Gradients of the three tensors; empty if not asked for.
pub(super) struct Gradients<T> {
    pub(super) input: Vec<T>,
    pub(super) places: Vec<T>,
    pub(super) weight: Vec<T>,
}

/// How the output pixels are cut for the backward pass; it depends on the sizes only.
struct Tiling {
    /// Output pixels per tile.
    tile: usize,
    /// Tiles that are worked on together.
    together: usize,
}

impl Tiling {
    fn new(g: &Geometry) -> Self {
        let tile = ((1 << 17) / g.in_channels).clamp(128, 1024).min(g.pixels().max(1));
        let columns = tile * g.in_channels * g.taps();
        // Up to 16 MiB of `f32`, and at least 16 tasks.
        let together = ((1 << 22) / columns).max(16usize.div_ceil(g.taps()));
        Self { tile, together: together.min(g.pixels().div_ceil(tile)).max(1) }
    }
}

/// Everything the steps of the backward pass share.
///
/// Columns and their gradients lie as `(tiles, taps, groups, pixels of a tile, channels of a group)`.
struct Backward<'a, T> {
    g: &'a Geometry,
    reader: Reader<'a, T>,
    /// `(O, taps, C / groups)`.
    packed: Vec<T>,
    grad: &'a [T],
    tile: usize,
}

/// Gradients of input, offsets with masks, and weights with bias.
pub(super) fn backward<T: Float>(
    g: &Geometry,
    input: &[T],
    places: &[T],
    weight: &[T],
    grad: &[T],
    wanted: Wanted,
) -> Gradients<T> {
    let zeros = |wanted: bool, len: usize| vec![T::ZERO; if wanted { len } else { 0 }];
    let mut gradients = Gradients {
        input: zeros(wanted.input, input.len()),
        places: zeros(wanted.places, places.len()),
        weight: zeros(wanted.weight, weight.len()),
    };
    if g.pixels() == 0 || input.is_empty() {
        if wanted.weight {
            unpack(g, &[], grad, &mut gradients.weight);
        }
        return gradients;
    }
    let Tiling { tile, together } = Tiling::new(g);
    let step = Backward { g, reader: Reader::new(g, input, places), packed: pack(g, weight), grad, tile };
    let (through, length) = (wanted.input || wanted.places, together * g.taps() * tile * g.in_channels);
    let mut columns = zeros(wanted.weight, length);
    let mut column_grads = zeros(through, length);
    let mut place_grads = zeros(wanted.places, together * g.taps() * tile * g.offset_groups * 3);
    // (taps, O, C / groups): each task adds to a part of its own.
    let mut packed_grad = zeros(wanted.weight, step.packed.len());
    for first in (0..g.pixels()).step_by(tile * together) {
        let count = (tile * together).min(g.pixels() - first);
        if wanted.weight {
            step.columns(first, count, &mut columns);
            step.weight_gradient(first, count, &columns, &mut packed_grad);
        }
        if through {
            step.column_gradients(first, count, &mut column_grads);
        }
        if wanted.places {
            step.place_products(first, count, &column_grads, &mut place_grads);
            step.place_gradient(first, count, &place_grads, &mut gradients.places);
        }
        if wanted.input {
            step.input_gradient(first, count, &column_grads, &mut gradients.input);
        }
    }
    if wanted.weight {
        unpack(g, &packed_grad, grad, &mut gradients.weight);
    }
    gradients
}

impl<T: Float> Backward<'_, T> {
    /// Elements of one tap of one tile.
    fn part(&self) -> usize {
        self.tile * self.g.in_channels
    }

    /// Tile number, tap and pixels, from a number of tasks over (tile, tap); no pixels beyond the last.
    fn task(&self, index: usize, first: usize, count: usize) -> (usize, std::ops::Range<usize>) {
        let (tile, tap) = (index / self.g.taps(), index % self.g.taps());
        let start = tile * self.tile;
        (tap, first + start.min(count)..first + (start + self.tile).min(count))
    }

    /// Where in its part the channels of `run` of the `i`-th pixel start.
    fn at(&self, run: &Run, i: usize) -> usize {
        (run.group * self.tile + i) * self.g.group_in() + run.within
    }

    fn columns(&self, first: usize, count: usize, columns: &mut [T]) {
        columns.par_chunks_mut(self.part()).enumerate().for_each(|(index, part)| {
            let (tap, pixels) = self.task(index, first, count);
            vectorised(|| {
                for (i, pixel) in pixels.enumerate() {
                    self.reader.read(pixel, tap, part, |run| self.at(run, i));
                }
            });
        });
    }

    /// Gradients of the columns: the output's gradient times the weights.
    fn column_gradients(&self, first: usize, count: usize, column_grads: &mut [T]) {
        let g = self.g;
        let (cg, og, o) = (g.group_in(), g.group_out(), g.out_channels);
        column_grads.par_chunks_mut(self.part()).enumerate().for_each(|(index, part)| {
            let (tap, pixels) = self.task(index, first, count);
            if pixels.is_empty() {
                return;
            }
            for (group, out) in part.chunks_exact_mut(self.tile * cg).enumerate() {
                let a = Matrix::rows(&self.grad[pixels.start * o + group * og..], o);
                let b = Matrix::rows(&self.packed[(group * og * g.taps() + tap) * cg..], g.taps() * cg);
                multiply([pixels.len(), og, cg], a, b, out, cg, false);
            }
        });
    }

    /// Adds to the gradient of the weights, tap by tap and tile by tile.
    fn weight_gradient(&self, first: usize, count: usize, columns: &[T], packed_grad: &mut [T]) {
        let g = self.g;
        let (cg, og, o) = (g.group_in(), g.group_out(), g.out_channels);
        packed_grad.par_chunks_mut(og * cg).enumerate().for_each(|(index, out)| {
            let (tap, group) = (index / g.groups, index % g.groups);
            for (tile, columns) in columns.chunks_exact(g.taps() * self.part()).enumerate() {
                let (_, pixels) = self.task(tile * g.taps(), first, count);
                if pixels.is_empty() {
                    break;
                }
                let a = Matrix::rows(&self.grad[pixels.start * o + group * og..], o);
                let b = Matrix::rows(&columns[tap * self.part() + group * self.tile * cg..], cg);
                multiply([og, pixels.len(), cg], a.transposed(), b, out, cg, true);
            }
        });
    }

    /// For each tile, tap, pixel and offset group the gradients of offset y, offset x and mask.
    fn place_products(&self, first: usize, count: usize, column_grads: &[T], place_grads: &mut [T]) {
        let width = self.g.offset_groups * 3;
        let parts = place_grads.par_chunks_mut(self.tile * width).zip(column_grads.par_chunks(self.part()));
        parts.enumerate().for_each(|(index, (out, grads))| {
            let (tap, pixels) = self.task(index, first, count);
            vectorised(|| {
                for (i, (pixel, out)) in pixels.zip(out.chunks_exact_mut(width)).enumerate() {
                    let image = self.reader.image(pixel);
                    for (offset_group, out) in out.chunks_exact_mut(3).enumerate() {
                        let place = self.reader.place(pixel, tap, offset_group);
                        let mut sums = [T::ZERO; 4];
                        for run in &self.reader.runs[offset_group] {
                            let start = self.at(run, i);
                            let grad = &grads[start..start + run.len];
                            let more = place.corners.products(image, self.reader.size(), run.channel, grad);
                            for (sum, more) in sums.iter_mut().zip(more) {
                                *sum += more;
                            }
                        }
                        let [y, x] = place.corners.slopes(sums);
                        out[0] = y * place.slope[0] * place.mask;
                        out[1] = x * place.slope[1] * place.mask;
                        let weighted = sums.into_iter().zip(place.corners.weights());
                        out[2] = weighted.fold(T::ZERO, |sum, (a, weight)| sum + a * weight);
                    }
                }
            });
        });
    }

    /// Sorts the results of [`Self::place_products`] into the order of the tensor.
    fn place_gradient(&self, first: usize, count: usize, place_grads: &[T], out: &mut [T]) {
        let (g, len) = (self.g, self.g.place_len());
        let (taps, width) = (g.taps(), g.offset_groups * 3);
        let out = &mut out[first * len..(first + count) * len];
        out.par_chunks_mut(len).enumerate().for_each(|(i, out)| {
            let (tile, within) = (i / self.tile, i % self.tile);
            let (offsets, masks) = out.split_at_mut(2 * g.offset_groups * taps);
            for tap in 0..taps {
                let from = ((tile * taps + tap) * self.tile + within) * width;
                for (offset_group, from) in place_grads[from..from + width].chunks_exact(3).enumerate() {
                    let index = offset_group * taps + tap;
                    offsets[2 * index..2 * index + 2].copy_from_slice(&from[..2]);
                    if let Some(mask) = masks.get_mut(index) {
                        *mask = from[2];
                    }
                }
            }
        });
    }

    /// Adds the gradients of the columns to the pixels they were read from.
    fn input_gradient(&self, first: usize, count: usize, column_grads: &[T], out: &mut [T]) {
        let (g, reader) = (self.g, &self.reader);
        for_each_band(out, g.input[1] * g.in_channels, rayon::current_num_threads(), |band| {
            vectorised(|| {
                for (index, grads) in column_grads.chunks_exact(self.part()).enumerate() {
                    let (tap, pixels) = self.task(index, first, count);
                    for (i, pixel) in pixels.enumerate() {
                        let row = reader.image_of(pixel) * g.input[0];
                        for (offset_group, runs) in reader.runs.iter().enumerate() {
                            let place = reader.place(pixel, tap, offset_group);
                            for run in runs {
                                let start = self.at(run, i);
                                let grad = &grads[start..start + run.len];
                                let to = [g.in_channels, run.channel];
                                place.corners.scatter(band, row, to, place.mask, grad);
                            }
                        }
                    }
                }
            });
        });
    }
}

/// `(taps, O, C / groups)` to `(O, C / groups * taps)`, with the gradient of the bias behind it if there is one.
fn unpack<T: Float>(g: &Geometry, packed: &[T], grad: &[T], out: &mut [T]) {
    let (taps, cg) = (g.taps(), g.group_in());
    for (o, out) in out.chunks_exact_mut(g.weight_len()).enumerate() {
        for (tap, packed) in packed.chunks_exact(g.out_channels * cg).enumerate() {
            let from = &packed[o * cg..(o + 1) * cg];
            for (out, &w) in out[..taps * cg].iter_mut().skip(tap).step_by(taps).zip(from) {
                *out = w;
            }
        }
    }
    if g.biased {
        let sums = column_sums(grad, g.out_channels);
        for (out, sum) in out.chunks_exact_mut(g.weight_len()).zip(sums) {
            out[g.weight_len() - 1] = T::from_f64(sum);
        }
    }
}
