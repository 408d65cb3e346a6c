//! 3x3 convolutions of stride 1 with fewer multiplications: the minimal filtering F(2x2, 3x3) of Winograd as arranged
//! by Lavin and Gray ("Fast algorithms for convolutional neural networks", 2016).
//!
//! Four results of a tile need 16 products per pair of channels instead of 36, as 16 matrix products over channels:
//! the input of a tile, 4x4 pixels, and the weights are transformed before, the sums after. With a dilation the pixels
//! of a tile lie that far apart, so tiles of neighbouring pixels interleave.
//!
//! The sums are rounded up to three times as coarsely as those of the plain form, and
//! an infinity or NaN in the input reaches all four results of a tile.

#![allow(unsafe_code, reason = "results are written into memory that is not initialised first")]

use std::ops::Range;

use rayon::prelude::*;

use super::panels::Panels;
use super::product::{Epilogue, Place, Shared, product_here};
use super::windows::{Grid, Source, Tap, Windows};
use super::{Conv2dArgs, Geometry};
use crate::ops::support::{Float, vectorised};

/// Pixels along a side of the input of a tile.
const SIDE: usize = 4;
/// Results along a side of a tile.
const RESULTS: usize = 2;
/// Products per tile and pair of channels.
const POSITIONS: usize = SIDE * SIDE;
/// Channels that are transformed at once.
const LANES: usize = 8;
/// Below this many channels the transforms cost more than the products save.
const MIN_CHANNELS: usize = 32;
/// Below this many tiles too few results share the reading of the weights, which are larger than those of the plain form.
const MIN_TILES: usize = 48;
/// Elements of the transformed input per position that should stay in the second-level cache.
const BLOCK: usize = 1 << 16;

type Lane<T> = [T; LANES];

/// Whether this form is the faster one.
pub(super) fn suits(g: &Geometry) -> bool {
    let tiles = g.batch * (0..2).map(|axis| tiles_along(g, axis)).product::<usize>();
    let results = g.batch * g.output[0] * g.output[1];
    g.kernel == [3, 3]
        && g.args.stride == [1, 1]
        && g.groups() == 1
        && g.in_channels.min(g.out_channels) >= MIN_CHANNELS
        && tiles >= MIN_TILES
        // Tiles that reach over the edge compute results that nobody wants.
        && tiles * RESULTS * RESULTS * 2 <= results * 3
}

/// Tiles along an axis, over all phases of the dilation.
fn tiles_along(g: &Geometry, axis: usize) -> usize {
    let (size, step) = (g.output[axis], g.args.dilation[axis]);
    (0..step.min(size)).map(|phase| (size - phase).div_ceil(step).div_ceil(RESULTS)).sum()
}

/// First results of the tiles along an axis.
fn origins(g: &Geometry, axis: usize) -> Vec<usize> {
    let (size, step) = (g.output[axis], g.args.dilation[axis]);
    (0..step.min(size)).flat_map(|phase| (phase..size).step_by(RESULTS * step)).collect()
}

/// Weights `(O, C, 3, 3)`, transformed and packed, a group of panels for each of the 16 positions.
pub(super) fn pack<T: Float>(g: &Geometry, weight: &[T]) -> Panels<T> {
    const G: [[f64; 3]; SIDE] = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]];
    let pairs = g.in_channels * g.out_channels;
    let mut transformed = vec![T::ZERO; POSITIONS * pairs];
    transformed.par_chunks_mut(pairs).enumerate().for_each(|(position, values)| {
        let (row, column) = (G[position / SIDE], G[position % SIDE]);
        let factors: [f64; 9] = std::array::from_fn(|tap| row[tap / 3] * column[tap % 3]);
        for (value, taps) in values.iter_mut().zip(weight.as_chunks::<9>().0) {
            let sum: f64 = taps.iter().zip(factors).map(|(tap, factor)| tap.to_f64() * factor).sum();
            *value = T::from_f64(sum);
        }
    });
    let products = Geometry {
        in_channels: POSITIONS * g.in_channels,
        out_channels: POSITIONS * g.out_channels,
        kernel: [1, 1],
        args: Conv2dArgs { groups: POSITIONS, ..Conv2dArgs::default() },
        ..*g
    };
    Panels::pack(&products, &[Tap { offset: [0, 0], at: [0, 0] }], &transformed, false)
}

/// `(N, H, W, C)` to `(N, OH, OW, O)` with weights from [`pack`].
pub(super) fn forward<T: Float>(
    g: &Geometry,
    input: &[T],
    panels: &Panels<T>,
    epilogue: Epilogue<'_, T>,
) -> Vec<T> {
    let (rows, columns) = (origins(g, 0), origins(g, 1));
    let tiles = g.batch * rows.len() * columns.len();
    let count = g.batch * g.output[0] * g.output[1] * g.out_channels;
    let mut out: Vec<T> = Vec::with_capacity(count);
    let rows_of_kernel = panels.kernels.shape.rows;
    let block = (BLOCK / g.in_channels).clamp(MIN_TILES, 2 * MIN_TILES).next_multiple_of(rows_of_kernel);
    let job = Job {
        geometry: g,
        input,
        panels,
        epilogue,
        origins: [rows, columns],
        zeros: vec![T::ZERO; g.in_channels],
        out: Shared::new(out.as_mut_ptr()),
    };
    (0..tiles.div_ceil(block)).into_par_iter().for_each(|index| {
        job.block(index * block..((index + 1) * block).min(tiles));
    });
    // SAFETY: every result lies in one tile, and `Job::block` writes all results of its tiles.
    unsafe { out.set_len(count) };
    out
}

struct Job<'a, T> {
    geometry: &'a Geometry,
    input: &'a [T],
    panels: &'a Panels<T>,
    epilogue: Epilogue<'a, T>,
    /// First rows and columns of the tiles.
    origins: [Vec<usize>; 2],
    /// A pixel outside.
    zeros: Vec<T>,
    out: Shared<T>,
}

impl<T: Float> Job<'_, T> {
    /// The results of some tiles.
    fn block(&self, tiles: Range<usize>) {
        let (count, channels) = (tiles.len(), [self.geometry.in_channels, self.geometry.out_channels]);
        // Positions lie a little apart, or all 16 would fall into the same places of the cache.
        let [apart, sums_apart] = channels.map(|channels| count * channels + 2 * LANES);
        T::with_scratch(|buffer| {
            buffer.resize(POSITIONS * (apart + sums_apart), T::ZERO);
            let (values, sums) = buffer.split_at_mut(POSITIONS * apart);
            vectorised(|| {
                for (row, tile) in tiles.clone().enumerate() {
                    self.transform(tile, &mut values[row * channels[0]..], apart);
                }
            });
            let place = Place { size: [1, count], origin: [0, 0], step: [1, 1] };
            let grid = Grid { size: [1, count], step: [1, 1] };
            for position in 0..POSITIONS {
                let data = &values[position * apart..][..count * channels[0]];
                let source = Source { data, batch: 1, height: 1, width: count, channels: channels[0] };
                let windows = Windows::new(source, None, grid, &[Tap { offset: [0, 0], at: [0, 0] }], 1);
                let into = &mut sums[position * sums_apart..][..count * channels[1]];
                // SAFETY: `into` is a map of one row of `count` pixels, used by nobody else.
                unsafe {
                    product_here(&windows, (self.panels, position), Shared::new(into.as_mut_ptr()), place);
                }
            }
            vectorised(|| {
                for (row, tile) in tiles.clone().enumerate() {
                    self.results(tile, &sums[row * channels[1]..], sums_apart);
                }
            });
        });
    }

    /// Image, first row and first column of a tile.
    fn place(&self, tile: usize) -> [usize; 3] {
        let [rows, columns] = &self.origins;
        let in_image = tile % (rows.len() * columns.len());
        [
            tile / (rows.len() * columns.len()),
            rows[in_image / columns.len()],
            columns[in_image % columns.len()],
        ]
    }

    /// Transforms the input of a tile; position `p` goes to `values[p * apart..]`.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "must end up inside the function with the instruction set")]
    fn transform(&self, tile: usize, values: &mut [T], apart: usize) {
        let g = self.geometry;
        let [image, y, x] = self.place(tile);
        let pixels: [&[T]; POSITIONS] = std::array::from_fn(|at| {
            let along = |axis: usize, first: usize, i: usize| {
                (first + i * g.args.dilation[axis])
                    .checked_sub(g.args.padding[axis])
                    .filter(|&at| at < g.input[axis])
            };
            match (along(0, y, at / SIDE), along(1, x, at % SIDE)) {
                (Some(y), Some(x)) => {
                    let start = ((image * g.input[0] + y) * g.input[1] + x) * g.in_channels;
                    &self.input[start..start + g.in_channels]
                }
                _ => &self.zeros,
            }
        });
        for start in (0..g.in_channels).step_by(LANES) {
            let width = LANES.min(g.in_channels - start);
            let lanes: [Lane<T>; POSITIONS] =
                std::array::from_fn(|at| load(&pixels[at][start..start + width]));
            for (position, value) in input_transform(&lanes).iter().enumerate() {
                let at = position * apart + start;
                values[at..at + width].copy_from_slice(&value[..width]);
            }
        }
    }

    /// Writes the results of a tile whose sums at position `p` are `sums[p * apart..]`.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "must end up inside the function with the instruction set")]
    fn results(&self, tile: usize, sums: &[T], apart: usize) {
        let g = self.geometry;
        let [image, y, x] = self.place(tile);
        let starts: [Option<usize>; RESULTS * RESULTS] = std::array::from_fn(|at| {
            let y = y + at / RESULTS * g.args.dilation[0];
            let x = x + at % RESULTS * g.args.dilation[1];
            (y < g.output[0] && x < g.output[1])
                .then(|| ((image * g.output[0] + y) * g.output[1] + x) * g.out_channels)
        });
        let Epilogue { scale, bias, residual, relu } = self.epilogue;
        for start in (0..g.out_channels).step_by(LANES) {
            let width = LANES.min(g.out_channels - start);
            let lanes: [Lane<T>; POSITIONS] = std::array::from_fn(|position| {
                let at = position * apart + start;
                load(&sums[at..at + width])
            });
            let scale = scale.map(|scale| load(&scale[start..start + width]));
            let bias = bias.map(|bias| load(&bias[start..start + width]));
            for (mut result, first) in output_transform(&lanes).into_iter().zip(starts) {
                let Some(first) = first else { continue };
                if let Some(scale) = scale {
                    result = each(result, scale, |x, scale| x * scale);
                }
                if let Some(bias) = bias {
                    result = add(result, bias);
                }
                let at = first + start;
                if let Some(map) = residual {
                    result = add(result, load(&map[at..at + width]));
                }
                if relu {
                    result = result.map(|x| if x < T::ZERO { T::ZERO } else { x });
                }
                // SAFETY: `at..at + width` are channels of a result pixel, which belongs to this tile alone.
                unsafe { std::ptr::copy_nonoverlapping(result.as_ptr(), self.out.at(at), width) };
            }
        }
    }
}

/// Up to `LANES` numbers, filled up with zeros.
#[inline(always)]
#[allow(clippy::inline_always, reason = "must end up inside the function with the instruction set")]
fn load<T: Float>(from: &[T]) -> Lane<T> {
    if let Ok(lane) = from.try_into() {
        return lane;
    }
    let mut lane = [T::ZERO; LANES];
    lane[..from.len()].copy_from_slice(from);
    lane
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "must end up inside the function with the instruction set")]
fn each<T: Float>(a: Lane<T>, b: Lane<T>, of: impl Fn(T, T) -> T) -> Lane<T> {
    std::array::from_fn(|i| of(a[i], b[i]))
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "must end up inside the function with the instruction set")]
fn add<T: Float>(a: Lane<T>, b: Lane<T>) -> Lane<T> {
    each(a, b, |a, b| a + b)
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "must end up inside the function with the instruction set")]
fn subtract<T: Float>(a: Lane<T>, b: Lane<T>) -> Lane<T> {
    each(a, b, |a, b| a - b)
}

/// The transform of four pixels in a line.
#[inline(always)]
#[allow(clippy::inline_always, reason = "must end up inside the function with the instruction set")]
fn input_line<T: Float>([a, b, c, d]: [Lane<T>; SIDE]) -> [Lane<T>; SIDE] {
    [subtract(a, c), add(b, c), subtract(c, b), subtract(b, d)]
}

/// Both ways: first along the columns of a tile, then along its rows.
#[inline(always)]
#[allow(clippy::inline_always, reason = "must end up inside the function with the instruction set")]
fn input_transform<T: Float>(tile: &[Lane<T>; POSITIONS]) -> [Lane<T>; POSITIONS] {
    let columns: [[Lane<T>; SIDE]; SIDE] =
        std::array::from_fn(|x| input_line(std::array::from_fn(|y| tile[y * SIDE + x])));
    let rows: [[Lane<T>; SIDE]; SIDE] =
        std::array::from_fn(|y| input_line(std::array::from_fn(|x| columns[x][y])));
    std::array::from_fn(|at| rows[at / SIDE][at % SIDE])
}

/// Two results in a line from four sums.
#[inline(always)]
#[allow(clippy::inline_always, reason = "must end up inside the function with the instruction set")]
fn output_line<T: Float>([a, b, c, d]: [Lane<T>; SIDE]) -> [Lane<T>; RESULTS] {
    [add(add(a, b), c), subtract(subtract(b, c), d)]
}

/// Both ways, as [`input_transform`].
#[inline(always)]
#[allow(clippy::inline_always, reason = "must end up inside the function with the instruction set")]
fn output_transform<T: Float>(sums: &[Lane<T>; POSITIONS]) -> [Lane<T>; RESULTS * RESULTS] {
    let columns: [[Lane<T>; RESULTS]; SIDE] =
        std::array::from_fn(|x| output_line(std::array::from_fn(|y| sums[y * SIDE + x])));
    let rows: [[Lane<T>; RESULTS]; RESULTS] =
        std::array::from_fn(|y| output_line(std::array::from_fn(|x| columns[x][y])));
    std::array::from_fn(|at| rows[at / RESULTS][at % RESULTS])
}

#[cfg(test)]
mod tests;
