//! Weighted sums over the cells of regions, and their gradient to the map.

use rayon::prelude::*;

use crate::ops::support::{Float, vectorised};

/// The pixels of one cell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell<'a> {
    /// Row number and factor.
    pub(crate) rows: &'a [(u32, f64)],
    /// Column number and factor.
    pub(crate) columns: &'a [(u32, f64)],
    /// Factor of the whole cell.
    pub(crate) scale: f64,
}

/// Room in which a thread makes the taps of a cell.
#[derive(Debug, Default)]
pub(crate) struct Room {
    pub(crate) rows: AxisRoom,
    pub(crate) columns: AxisRoom,
}

/// Room for the taps along one axis.
#[derive(Debug, Default)]
pub(crate) struct AxisRoom {
    /// Pixel and factor.
    pub(crate) taps: Vec<(u32, f64)>,
    /// Derivative of each factor by the place of the cell.
    pub(crate) slopes: Vec<f64>,
}

/// Where the cells of all regions lie.
pub(crate) trait Places: Sync {
    /// The pixels of `cell` of a region for a run of channels, kept or made in `room`.
    fn cell<'a>(&'a self, region: usize, run: usize, cell: [usize; 2], room: &'a mut Room) -> Cell<'a>;
}

/// Sizes of an operation over regions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    /// `(N, H, W, C)` of the map.
    pub(crate) input: [usize; 4],
    /// Cells per region, down and across.
    pub(crate) cells: [usize; 2],
    /// The channels fall into this many groups along each axis of a region; 1 if every cell reads all.
    pub(crate) group_size: [usize; 2],
    /// The channels of a group fall into this many runs that may lie at different places.
    pub(crate) runs: usize,
}

impl Grid {
    /// Groups of channels.
    pub(crate) fn groups(&self) -> usize {
        self.group_size[0] * self.group_size[1]
    }

    /// Channels of a group, and of the result.
    pub(crate) fn channels(&self) -> usize {
        self.input[3] / self.groups()
    }

    pub(crate) fn output_dims(&self, regions: usize) -> [usize; 4] {
        [regions, self.cells[0], self.cells[1], self.channels()]
    }

    /// The group of channels that a cell reads.
    pub(crate) fn group(&self, cell: [usize; 2]) -> usize {
        let along = |axis: usize| cell[axis] * self.group_size[axis] / self.cells[axis];
        along(0) * self.group_size[1] + along(1)
    }

    /// Elements of the map of one group of one picture.
    pub(crate) fn plane_len(&self) -> usize {
        self.input[1] * self.input[2] * self.channels()
    }

    /// All cells, row by row.
    pub(crate) fn all_cells(&self) -> impl Iterator<Item = [usize; 2]> + use<> {
        let [ph, pw] = self.cells;
        (0..ph).flat_map(move |i| (0..pw).map(move |j| [i, j]))
    }

    /// `(K, PH, PW, channels of a group)`, with `fill` in cells without pixels.
    pub(crate) fn forward<T: Float>(
        &self,
        images: &[usize],
        packed: &[T],
        places: &impl Places,
        fill: T,
    ) -> Vec<T> {
        let (d, run_len) = (self.channels(), self.channels() / self.runs);
        let region_len = self.cells[0] * self.cells[1] * d;
        let mut out = vec![T::ZERO; images.len() * region_len];
        if out.is_empty() {
            return out;
        }
        out.par_chunks_mut(region_len).zip(images).enumerate().for_each(|(region, (out, &image))| {
            let mut room = Room::default();
            for (at, out) in self.all_cells().zip(out.chunks_exact_mut(d)) {
                let plane = (image * self.groups() + self.group(at)) * self.plane_len();
                let plane = &packed[plane..plane + self.plane_len()];
                for (run, out) in out.chunks_exact_mut(run_len).enumerate() {
                    let cell = places.cell(region, run, at, &mut room);
                    if cell.rows.is_empty() || cell.columns.is_empty() {
                        out.fill(fill);
                    } else if let [out] = out {
                        *out = one_channel(plane, [self.input[2], d, run], &cell);
                    } else {
                        add_pixels(out, plane, [self.input[2], d, run * run_len], &cell);
                    }
                }
            }
        });
        out
    }

    /// The gradient of the packed map.
    ///
    /// Each row of the map belongs to one task, and what is added to it arrives in the order of the regions.
    pub(crate) fn input_gradient<T: Float>(
        &self,
        images: &[usize],
        grad: &[T],
        places: &impl Places,
    ) -> Vec<T> {
        let [n, h, w, c] = self.input;
        let (d, run_len, groups) = (self.channels(), self.channels() / self.runs, self.groups());
        let region_len = self.cells[0] * self.cells[1] * d;
        let mut out = vec![T::ZERO; n * h * w * c];
        if out.is_empty() || grad.is_empty() {
            return out;
        }
        let all_rows = n * groups * h;
        let share = all_rows.div_ceil(rayon::current_num_threads());
        out.par_chunks_mut(share * w * d).enumerate().for_each(|(task, out)| {
            // Rows are counted over all pictures and groups.
            let (low, high) = (task * share, task * share + out.len() / (w * d));
            let mut room = Room::default();
            for ((region, &image), grad) in images.iter().enumerate().zip(grad.chunks_exact(region_len)) {
                let first = image * groups * h;
                if first >= high || first + groups * h <= low {
                    continue;
                }
                for (at, grad) in self.all_cells().zip(grad.chunks_exact(d)) {
                    let first = first + self.group(at) * h;
                    if first >= high || first + h <= low {
                        continue;
                    }
                    for (run, grad) in grad.chunks_exact(run_len).enumerate() {
                        let cell = places.cell(region, run, at, &mut room);
                        for &(y, row) in cell.rows {
                            let y = first + y as usize;
                            if y < low || y >= high {
                                continue;
                            }
                            let to = &mut out[(y - low) * w * d..][..w * d];
                            for &(x, column) in cell.columns {
                                let weight = T::from_f64(row * column * cell.scale);
                                let start = x as usize * d + run * run_len;
                                // A call would cost more than a single sum.
                                if let &[g] = grad {
                                    to[start] += g * weight;
                                } else {
                                    add_scaled(&mut to[start..start + run_len], grad, weight);
                                }
                            }
                        }
                    }
                }
            }
        });
        out
    }
}

/// The weighted sum of one channel.
fn one_channel<T: Float>(plane: &[T], [width, d, channel]: [usize; 3], cell: &Cell<'_>) -> T {
    let mut sum = 0.0;
    for &(y, row) in cell.rows {
        let line = &plane[y as usize * width * d..][..width * d];
        let across = cell.columns.iter().map(|&(x, column)| line[x as usize * d + channel].to_f64() * column);
        sum += row * across.sum::<f64>();
    }
    T::from_f64(sum * cell.scale)
}

/// `out += weight * from`.
fn add_scaled<T: Float>(out: &mut [T], from: &[T], weight: T) {
    vectorised(|| {
        for (out, &x) in out.iter_mut().zip(from) {
            *out += x * weight;
        }
    });
}

/// Adds the weighted pixels of `cell` to `out`: channels from `first` on of a plane of rows of `width` pixels of
/// `d` channels.
fn add_pixels<T: Float>(out: &mut [T], plane: &[T], [width, d, first]: [usize; 3], cell: &Cell<'_>) {
    let len = out.len();
    for &(y, row) in cell.rows {
        let line = &plane[y as usize * width * d..][..width * d];
        let pixel = |x: u32| {
            let start = x as usize * d + first;
            &line[start..start + len]
        };
        let weight = |column: f64| T::from_f64(row * column * cell.scale);
        let mut fours = cell.columns.chunks_exact(4);
        for four in &mut fours {
            let (w0, w1) = (weight(four[0].1), weight(four[1].1));
            let (w2, w3) = (weight(four[2].1), weight(four[3].1));
            let first = pixel(four[0].0).iter().zip(pixel(four[1].0));
            let second = pixel(four[2].0).iter().zip(pixel(four[3].0));
            vectorised(|| {
                for ((out, (&a, &b)), (&c, &d)) in out.iter_mut().zip(first).zip(second) {
                    *out += a * w0 + b * w1 + c * w2 + d * w3;
                }
            });
        }
        let mut rest = fours.remainder().iter();
        if fours.remainder().len() > 1
            && let (Some(one), Some(two)) = (rest.next(), rest.next())
        {
            let (w0, w1) = (weight(one.1), weight(two.1));
            let (one, two) = (pixel(one.0), pixel(two.0));
            vectorised(|| {
                for ((out, &a), &b) in out.iter_mut().zip(one).zip(two) {
                    *out += a * w0 + b * w1;
                }
            });
        }
        for &(x, column) in rest {
            add_scaled(out, pixel(x), weight(column));
        }
    }
}
