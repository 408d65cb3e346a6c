//! Weights in the order the kernels read them.

use rayon::prelude::*;

use super::Geometry;
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
    /// Elements of a panel.
    pub(super) len: usize,
}

impl<T: Float> Panels<T> {
    /// Panels per group.
    pub(super) fn per_group(&self) -> usize {
        self.outputs.div_ceil(self.kernels.shape.columns)
    }

    /// Packs weights `(O, C / groups, kh, kw)` for results that are output channels or, if `transposed`, input
    /// channels.
    pub(super) fn pack(geometry: &Geometry, taps: &[Tap], weight: &[T], transposed: bool) -> Self {
        let [cg, og] = [geometry.group_in(), geometry.group_out()];
        let area = geometry.kernel[0] * geometry.kernel[1];
        let (outputs, inputs) = if transposed { (cg, og) } else { (og, cg) };
        // Distance in `weight` between neighbouring results and between neighbouring inputs.
        let (result_step, input_step) = if transposed { (area, cg * area) } else { (cg * area, area) };
        let kernels = T::kernels(outputs);
        let columns = kernels.shape.columns;
        let len = taps.len() * inputs * columns;
        let per_group = outputs.div_ceil(columns);
        let mut data = vec![T::ZERO; geometry.groups() * per_group * len];
        let places: Vec<usize> = taps.iter().map(|tap| tap.at[0] * geometry.kernel[1] + tap.at[1]).collect();
        if len > 0 {
            data.par_chunks_mut(len).enumerate().for_each(|(index, panel)| {
                let (group, first) = (index / per_group, index % per_group * columns);
                let width = columns.min(outputs - first);
                let group = &weight[group * og * cg * area..];
                if !transposed {
                    let group = &group[first * result_step..];
                    pack_rows_of_taps(group, [width, columns], [inputs, area], &places, panel);
                    return;
                }
                for input in 0..inputs {
                    for (tap, place) in places.iter().enumerate() {
                        let from = first * result_step + input * input_step + place;
                        let to = (tap * inputs + input) * columns;
                        for (lane, to) in panel[to..to + width].iter_mut().enumerate() {
                            *to = group[from + lane * result_step];
                        }
                    }
                }
            });
        }
        Self { data, kernels, outputs, len }
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

/// One panel of weights `(width, inputs, area)`. The weights of neighbouring results lie far apart, often at a
/// distance that maps to the same place of the cache, so each is read in order into a small block first.
fn pack_rows_of_taps<T: Float>(
    weight: &[T],
    [width, columns]: [usize; 2],
    [inputs, area]: [usize; 2],
    places: &[usize],
    panel: &mut [T],
) {
    let some = (128 / area).clamp(1, inputs.max(1));
    let mut block = vec![T::ZERO; some * area * columns];
    for start in (0..inputs).step_by(some) {
        let count = some.min(inputs - start);
        for lane in 0..width {
            let from = (lane * inputs + start) * area;
            let values = &weight[from..from + count * area];
            for (to, &value) in block.iter_mut().skip(lane).step_by(columns).zip(values) {
                *to = value;
            }
        }
        for (tap, place) in places.iter().enumerate() {
            for input in 0..count {
                let to = (tap * inputs + start + input) * columns;
                let from = (input * area + place) * columns;
                panel[to..to + columns].copy_from_slice(&block[from..from + columns]);
            }
        }
    }
}
