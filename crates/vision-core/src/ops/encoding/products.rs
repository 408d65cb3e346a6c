//! Products of rows that lie one after another with a packed matrix, by the kernels of convolutions.

#![allow(unsafe_code, reason = "the kernels work on pointers")]

use crate::cpu::kernels::{Finish, Kernels, MAX_ROWS, Outer, Tile};
use crate::ops::support::Float;

/// A matrix of `inner` rows in the order the kernels read it in: columns in panels of [`Panels::width`], the last one
/// filled up with zeros.
pub(super) struct Panels<T> {
    data: Vec<T>,
    kernels: Kernels<T>,
    inner: usize,
    columns: usize,
}

/// Where the results of [`Panels::multiply`] go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// `(rows, columns)`
    Rows,
    /// `(panels, rows, width)`, with what fills up the last panel.
    Panels,
}

impl<T: Float> Panels<T> {
    /// The matrix with the elements `at(row, column)`.
    pub(super) fn pack(inner: usize, columns: usize, at: impl Fn(usize, usize) -> T) -> Self {
        let kernels = T::kernels(columns);
        let width = kernels.shape.columns;
        let mut data = vec![T::ZERO; columns.div_ceil(width) * inner * width];
        for (p, panel) in data.chunks_mut((inner * width).max(1)).enumerate() {
            for (row, values) in panel.chunks_mut(width).enumerate() {
                for (value, column) in values.iter_mut().zip(p * width..columns) {
                    *value = at(row, column);
                }
            }
        }
        Self { data, kernels, inner, columns }
    }

    /// Columns of a panel.
    pub(super) fn width(&self) -> usize {
        self.kernels.shape.columns
    }

    /// Number of panels.
    pub(super) fn count(&self) -> usize {
        self.columns.div_ceil(self.width())
    }

    /// `out = rows * self` for `rows` of `inner` elements each.
    ///
    /// # Panics
    /// If `out` is too short: a bug of the calling kernel.
    pub(super) fn multiply(&self, rows: &[T], out: &mut [T], order: Order) {
        let (tile_rows, width) = (self.kernels.shape.rows, self.width());
        let count = rows.len() / self.inner.max(1);
        // Distance of the rows, and of the panels, in `out`.
        let (row_apart, panel_apart) = match order {
            Order::Rows => (self.columns, width),
            Order::Panels => (width, count * width),
        };
        let needed = if order == Order::Rows { count * self.columns } else { self.count() * count * width };
        assert!(out.len() >= needed && tile_rows <= MAX_ROWS, "{} of {needed} elements", out.len());
        let out = out.as_mut_ptr();
        for first in (0..count).step_by(tile_rows) {
            let here = tile_rows.min(count - first);
            let mut inputs = [std::ptr::null(); MAX_ROWS];
            for (i, input) in inputs.iter_mut().enumerate() {
                // Rows past the end are computed and not written.
                *input = rows[(first + i.min(here - 1)) * self.inner..].as_ptr();
            }
            for (p, panel) in self.data.chunks(self.inner * width).enumerate() {
                let columns = if order == Order::Rows { width.min(self.columns - p * width) } else { width };
                let mut outputs = [std::ptr::null_mut(); MAX_ROWS];
                for (i, output) in outputs.iter_mut().enumerate().take(here) {
                    // SAFETY: row `first + i < count` of panel `p < self.count()` begins within `needed`.
                    *output = unsafe { out.add(p * panel_apart + (first + i) * row_apart) };
                }
                let tile = Tile {
                    inputs: inputs.as_ptr(),
                    offset: 0,
                    runs: 1,
                    len: self.inner,
                    panel: panel.as_ptr(),
                    outputs: outputs.as_ptr(),
                    rows: here,
                    columns,
                    accumulate: false,
                    finish: Finish {
                        scale: std::ptr::null(),
                        bias: std::ptr::null(),
                        residuals: std::ptr::null(),
                        relu: false,
                    },
                };
                // SAFETY: the kernels are those of this processor; each input points to `inner` elements of `rows`, the
                // panel has `inner * width` elements, and `columns` elements behind each output lie within `needed`,
                // which is borrowed exclusively.
                unsafe { (self.kernels.tile)(&tile) };
            }
        }
    }

    /// `sums[p, m, n] += sum over i of rows[i, m] * factors[p, i, n]` for `rows` of `inner` elements each: with factors in
    /// the order in which [`Panels::multiply`] writes panels, the transposed product of the two, panel by panel.
    ///
    /// # Panics
    /// If factors or sums are too short: a bug of the calling kernel.
    pub(super) fn add_outer(&self, rows: &[T], factors: &[T], sums: &mut [T]) {
        let width = self.width();
        let count = rows.len() / self.inner.max(1);
        assert!(factors.len() >= self.count() * count * width, "{} factors", factors.len());
        assert!(sums.len() >= self.count() * self.inner * width, "{} sums", sums.len());
        let inputs: Vec<*const T> = rows.chunks_exact(self.inner).map(<[T]>::as_ptr).collect();
        let panels = factors.chunks((count * width).max(1)).zip(sums.chunks_mut(self.inner * width));
        for (panel, sums) in panels.take(self.count()) {
            let outer = Outer {
                inputs: inputs.as_ptr(),
                offset: 0,
                pixels: count,
                panel: panel.as_ptr(),
                into: sums.as_mut_ptr(),
                rows: self.inner,
                accumulate: true,
            };
            // SAFETY: the kernels are those of this processor; there are `count` inputs of `inner` elements, `count * width`
            // factors and `inner * width` sums by the assertions above, and the sums are borrowed exclusively.
            unsafe { (self.kernels.outer)(&outer) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Float>() {
        for (inner, columns, count) in [(1, 1, 1), (5, 3, 2), (7, 33, 29), (64, 32, 12), (3, 70, 15)] {
            let matrix = |i: usize, j: usize| ((i * 31 + j * 17) % 13) as f64 - 6.0;
            let value = |i: usize, m: usize| ((i * 7 + m * 5) % 11) as f64 - 5.0;
            let panels = Panels::<T>::pack(inner, columns, |i, j| T::from_f64(matrix(i, j)));
            let rows: Vec<T> =
                (0..count * inner).map(|at| T::from_f64(value(at / inner, at % inner))).collect();
            let want = |i: usize, j: usize| (0..inner).map(|m| value(i, m) * matrix(m, j)).sum::<f64>();
            let mut out = vec![T::ZERO; count * columns];
            panels.multiply(&rows, &mut out, Order::Rows);
            let width = panels.width();
            let mut by_panel = vec![T::ZERO; panels.count() * count * width];
            panels.multiply(&rows, &mut by_panel, Order::Panels);
            let place = |i: usize, j: usize, rows: usize| (j / width * rows + i) * width + j % width;
            for i in 0..count {
                for j in 0..columns {
                    assert_eq!(out[i * columns + j].to_f64(), want(i, j));
                    assert_eq!(by_panel[place(i, j, count)].to_f64(), want(i, j));
                }
            }
            let mut sums = vec![T::ONE; panels.count() * inner * width];
            panels.add_outer(&rows, &by_panel, &mut sums);
            for m in 0..inner {
                for j in 0..columns {
                    let want = 1.0 + (0..count).map(|i| value(i, m) * want(i, j)).sum::<f64>();
                    assert_eq!(sums[place(m, j, inner)].to_f64(), want);
                }
            }
        }
    }

    #[test]
    fn products_and_transposed_products() {
        check::<f32>();
        check::<f64>();
    }
}
