//! Weights in the order the kernels read them.

#![allow(unsafe_code, reason = "panels are written into memory that is not initialised first")]

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::Geometry;
use super::transpose::transpose;
use super::windows::Tap;
use crate::cpu::kernels::Kernels;
use crate::ops::support::Float;

/// Weights as panels, `(groups, panels, taps, inputs, columns)`: `columns` results side by side, the last panel of a
/// group filled up with zeros.
pub(super) struct Panels<T> {
    pub(super) data: Vec<T>,
    pub(super) kernels: Kernels<T>,
    /// Results per group.
    pub(super) outputs: usize,
    /// Inputs per group and tap.
    pub(super) inputs: usize,
    /// Elements of a panel.
    pub(super) len: usize,
}

impl<T: Float> Panels<T> {
    /// Panels per group.
    pub(super) fn per_group(&self) -> usize {
        self.outputs.div_ceil(self.kernels.shape.columns)
    }

    /// Packs weights `(O, C / groups, kh, kw)` for results that are output channels or, if `transposed`, input
    /// channels. Taps may be any of the kernel, in any order.
    pub(super) fn pack(geometry: &Geometry, taps: &[Tap], weight: &[T], transposed: bool) -> Self {
        let [cg, og] = [geometry.group_in(), geometry.group_out()];
        let area = geometry.kernel[0] * geometry.kernel[1];
        let (outputs, inputs) = if transposed { (cg, og) } else { (og, cg) };
        let kernels = T::kernels(outputs);
        let columns = kernels.shape.columns;
        let len = taps.len() * inputs * columns;
        let per_group = outputs.div_ceil(columns);
        let total = geometry.groups() * per_group * len;
        let mut data = Vec::with_capacity(total);
        let places: Vec<usize> = taps.iter().map(|tap| tap.at[0] * geometry.kernel[1] + tap.at[1]).collect();
        if len > 0 {
            let room: &mut [MaybeUninit<T>] = &mut data.spare_capacity_mut()[..total];
            room.par_chunks_mut(len).enumerate().for_each(|(index, panel)| {
                let (group, first) = (index / per_group, index % per_group * columns);
                let width = columns.min(outputs - first);
                let group = &weight[group * og * cg * area..];
                let sizes = Sizes { width, columns, inputs, area };
                if transposed {
                    pack_transposed(&group[first * area..], cg * area, sizes, &places, panel);
                } else {
                    pack_rows(&group[first * cg * area..], sizes, &places, panel);
                }
            });
        }
        // SAFETY: each of the `total` elements lies in one panel, and packing writes every row of a panel whole.
        unsafe { data.set_len(total) };
        Self { data, kernels, outputs, inputs, len }
    }

    /// One vector of results per group, such as the bias, filled up like the panels.
    pub(super) fn pack_rows(&self, groups: usize, values: &[T]) -> Vec<T> {
        let width = self.per_group() * self.kernels.shape.columns;
        let mut rows = vec![T::ZERO; groups * width];
        if width > 0 && self.outputs > 0 {
            for (row, values) in rows.chunks_exact_mut(width).zip(values.chunks_exact(self.outputs)) {
                row[..self.outputs].copy_from_slice(values);
            }
        }
        rows
    }
}

/// Sizes of one panel and of the weights that it is packed from.
#[derive(Clone, Copy)]
struct Sizes {
    /// Results wanted.
    width: usize,
    /// Results with those that fill up.
    columns: usize,
    inputs: usize,
    /// Taps of the kernel.
    area: usize,
}

/// One panel of weights `(width, inputs, area)`. The weights of neighbouring results lie far apart, often at a
/// distance that maps to the same place of the cache, so a few inputs at a time are put in order in a small block.
fn pack_rows<T: Float>(weight: &[T], sizes: Sizes, places: &[usize], panel: &mut [MaybeUninit<T>]) {
    let Sizes { width, columns, inputs, area } = sizes;
    let some = (128 / area).clamp(1, inputs.max(1));
    let mut block = vec![T::ZERO; some * area * columns];
    for start in (0..inputs).step_by(some) {
        let count = some.min(inputs - start);
        transpose(&weight[start * area..], inputs * area, [width, count * area], &mut block, columns);
        for (tap, place) in places.iter().enumerate() {
            for input in 0..count {
                let to = (tap * inputs + start + input) * columns;
                let from = (input * area + place) * columns;
                write_row(&block[from..from + columns], &mut panel[to..to + columns]);
            }
        }
    }
}

/// One panel of weights `(inputs, width, area)`, the blocks of inputs `apart`.
fn pack_transposed<T: Float>(
    weight: &[T],
    apart: usize,
    sizes: Sizes,
    places: &[usize],
    panel: &mut [MaybeUninit<T>],
) {
    let Sizes { width, columns, inputs, area } = sizes;
    let mut block = vec![T::ZERO; area * columns];
    for input in 0..inputs {
        let values = &weight[input * apart..input * apart + width * area];
        if area == 1 && width == columns {
            for tap in 0..places.len() {
                let to = (tap * inputs + input) * columns;
                write_row(values, &mut panel[to..to + columns]);
            }
            continue;
        }
        transpose(values, area, [width, area], &mut block, columns);
        for (tap, place) in places.iter().enumerate() {
            let (to, from) = ((tap * inputs + input) * columns, place * columns);
            write_row(&block[from..from + columns], &mut panel[to..to + columns]);
        }
    }
}

/// Copies a row of a panel, in steps that all panel widths are multiples of: it is too short for a call.
fn write_row<T: Float>(from: &[T], to: &mut [MaybeUninit<T>]) {
    const STEP: usize = 8;
    for (from, to) in from.as_chunks::<STEP>().0.iter().zip(to.as_chunks_mut::<STEP>().0) {
        *to = from.map(MaybeUninit::new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposing_tiles_and_what_is_left_over() {
        for (rows, columns) in [(1, 1), (8, 8), (16, 9), (9, 16), (3, 20), (20, 3), (0, 4)] {
            let (from_apart, to_apart) = (columns + 2, rows + 1);
            let from: Vec<f32> = (0..rows * from_apart).map(|i| i as f32).collect();
            let mut to = vec![-1.0; columns * to_apart];
            transpose(&from, from_apart, [rows, columns], &mut to, to_apart);
            for column in 0..columns {
                for row in 0..rows {
                    assert_eq!(to[column * to_apart + row], from[row * from_apart + column]);
                }
                assert_eq!(to[column * to_apart + rows], -1.0);
            }
        }
    }
}
