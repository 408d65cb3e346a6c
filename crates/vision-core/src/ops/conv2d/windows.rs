//! Which source pixels the target pixels of a convolution see.
//!
//! The forward pass, the weight gradient and (for each phase of the stride) the data gradient all read source
//! pixels at places that are an affine function of the target pixel: `origin = target * step`, plus one offset per
//! kernel tap. Pixels outside the source read as zero. Nothing is copied together: kernels get pointers to the
//! channels of each pixel.

use rayon::prelude::*;

use crate::ops::support::Float;

/// One kernel tap: its place in the kernel and the source pixel it reads, relative to the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tap {
    /// Source row and column, relative to the origin of the target pixel.
    pub(super) offset: [isize; 2],
    /// Row and column in the kernel.
    pub(super) at: [usize; 2],
}

/// The pixels of a batch of maps, `(N, height, width, channels)`.
#[derive(Clone, Copy)]
pub(super) struct Source<'a, T> {
    pub(super) data: &'a [T],
    pub(super) batch: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
}

/// The target pixels of each image and how far apart their origins lie in the source.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    /// Rows and columns of target pixels per image.
    pub(super) size: [usize; 2],
    /// Distance in the source between the origins of neighbouring target pixels.
    pub(super) step: [usize; 2],
}

impl Grid {
    /// Number of target pixels per image.
    pub(super) fn area(&self) -> usize {
        self.size[0] * self.size[1]
    }
}

/// Fewer channels than this make runs too short for the kernels, so neighbouring taps are read as one run.
const FEW_CHANNELS: usize = 16;
/// Elements that a padded copy may have beyond four times those of its source.
const MARGIN_ROOM: usize = 1 << 20;

/// The windows of all target pixels, ready to be read.
pub(super) struct Windows<'a, T> {
    source: Source<'a, T>,
    grid: Grid,
    /// Offset of each run from the origin.
    runs: Vec<[isize; 2]>,
    /// Consecutive elements in a run, of one group of channels.
    pub(super) len: usize,
    /// Smallest and largest offset, vertical and horizontal.
    reach: [[isize; 2]; 2],
    /// What a run outside the source reads.
    zeros: Vec<T>,
}

/// A copy of the source with the margin that windows read beyond it, so that no run is ever outside.
pub(super) struct Padded<T> {
    data: Vec<T>,
    size: [usize; 2],
    shift: [isize; 2],
}

/// Smallest and largest offset along both axes.
fn reach(taps: &[Tap]) -> [[isize; 2]; 2] {
    if taps.is_empty() {
        return [[0; 2]; 2];
    }
    let mut reach = [[isize::MAX, isize::MIN]; 2];
    for tap in taps {
        for (reach, offset) in reach.iter_mut().zip(tap.offset) {
            *reach = [reach[0].min(offset), reach[1].max(offset)];
        }
    }
    reach
}

/// Number of taps side by side in each row of the kernel, if all of them are.
fn taps_in_a_row(taps: &[Tap]) -> Option<usize> {
    let first = taps.first()?;
    let columns = taps.iter().take_while(|tap| tap.offset[0] == first.offset[0]).count();
    let regular = taps.chunks(columns).all(|row| {
        row.len() == columns
            && row
                .iter()
                .zip(0..)
                .all(|(tap, x)| tap.offset[0] == row[0].offset[0] && tap.offset[1] == first.offset[1] + x)
    });
    regular.then_some(columns)
}

impl<T: Float> Padded<T> {
    /// Makes the copy if windows of these taps, sorted by offset, are better read with taps merged.
    pub(super) fn if_useful(source: &Source<'_, T>, grid: Grid, taps: &[Tap], groups: usize) -> Option<Self> {
        let few = groups == 1 && source.channels < FEW_CHANNELS && source.channels > 0;
        if !few || taps_in_a_row(taps).is_none_or(|columns| columns < 2) || grid.area() == 0 {
            return None;
        }
        let sizes = [source.height, source.width];
        let reach = reach(taps);
        let margin: Vec<[usize; 2]> = (0..2)
            .map(|axis| {
                let last = ((grid.size[axis] - 1) * grid.step[axis]) as isize + reach[axis][1];
                let after = last + 1 - sizes[axis] as isize;
                [(-reach[axis][0]).max(0) as usize, after.max(0) as usize]
            })
            .collect();
        let c = source.channels;
        let padded = |axis: usize| sizes[axis].checked_add(margin[axis][0])?.checked_add(margin[axis][1]);
        let size = [padded(0)?, padded(1)?];
        let row_len = size[1].checked_mul(c)?;
        let count = source.batch.checked_mul(size[0])?.checked_mul(row_len)?;
        // With a large stride few windows may reach over a wide margin.
        if count > MARGIN_ROOM.saturating_add(source.data.len().saturating_mul(4)) {
            return None;
        }
        let mut data = vec![T::ZERO; count];
        let (above, left) = (margin[0][0], margin[1][0] * c);
        let own = source.width * c;
        if own > 0 && source.height > 0 && source.batch > 0 {
            data.par_chunks_mut(size[0] * row_len).zip(source.data.par_chunks(source.height * own)).for_each(
                |(to, from)| {
                    for (to, from) in to.chunks_exact_mut(row_len).skip(above).zip(from.chunks_exact(own)) {
                        to[left..left + own].copy_from_slice(from);
                    }
                },
            );
        }
        Some(Self { data, size, shift: [above as isize, margin[1][0] as isize] })
    }
}

impl<'a, T: Float> Windows<'a, T> {
    /// The windows of `taps`, sorted by offset, on `source` or, if there is one, its padded copy.
    pub(super) fn new(
        source: Source<'a, T>,
        padded: Option<&'a Padded<T>>,
        grid: Grid,
        taps: &[Tap],
        groups: usize,
    ) -> Self {
        let take = source.channels / groups;
        if let (Some(padded), Some(columns)) = (padded, taps_in_a_row(taps)) {
            let runs = taps
                .iter()
                .step_by(columns)
                .map(|tap| [tap.offset[0] + padded.shift[0], tap.offset[1] + padded.shift[1]]);
            let runs: Vec<[isize; 2]> = runs.collect();
            let mut reach = reach(taps);
            for (reach, shift) in reach.iter_mut().zip(padded.shift) {
                *reach = reach.map(|offset| offset + shift);
            }
            let [height, width] = padded.size;
            let source = Source { data: &padded.data, height, width, ..source };
            Self { source, grid, runs, len: columns * take, reach, zeros: Vec::new() }
        } else {
            let runs = taps.iter().map(|tap| tap.offset).collect();
            Self { source, grid, runs, len: take, reach: reach(taps), zeros: vec![T::ZERO; take] }
        }
    }

    /// Number of runs of a window.
    pub(super) fn runs(&self) -> usize {
        self.runs.len()
    }

    /// Number of target pixels of the whole batch.
    pub(super) fn pixels(&self) -> usize {
        self.source.batch * self.grid.area()
    }

    /// Calls `put(run, pointer)` for each run of target pixel `[image, y, x]`, channels from `first` on. Each
    /// pointer has `len` elements behind it.
    pub(super) fn pointers(
        &self,
        [image, y, x]: [usize; 3],
        first: usize,
        mut put: impl FnMut(usize, *const T),
    ) {
        let Source { data, height, width, channels, .. } = self.source;
        let origin = [(y * self.grid.step[0]) as isize, (x * self.grid.step[1]) as isize];
        let sizes = [height as isize, width as isize];
        let inside = (0..2).all(|axis| {
            origin[axis] + self.reach[axis][0] >= 0 && origin[axis] + self.reach[axis][1] < sizes[axis]
        });
        let base = (image * height) as isize;
        for (run, offset) in self.runs.iter().enumerate() {
            let [iy, ix] = [origin[0] + offset[0], origin[1] + offset[1]];
            if inside || (iy >= 0 && iy < sizes[0] && ix >= 0 && ix < sizes[1]) {
                let at = ((base + iy) * sizes[1] + ix) as usize * channels + first;
                debug_assert!(at + self.len <= data.len());
                put(run, data.as_ptr().wrapping_add(at));
            } else {
                put(run, self.zeros.as_ptr());
            }
        }
    }

    /// Image, row and column of target pixel `number`, counted over the batch.
    pub(super) fn place(&self, number: usize) -> [usize; 3] {
        let area = self.grid.area();
        [number / area, number % area / self.grid.size[1], number % self.grid.size[1]]
    }

    /// The target pixel after `place`.
    pub(super) fn next(&self, [image, y, x]: [usize; 3]) -> [usize; 3] {
        if x + 1 < self.grid.size[1] {
            [image, y, x + 1]
        } else if y + 1 < self.grid.size[0] {
            [image, y + 1, 0]
        } else {
            [image + 1, 0, 0]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tap(y: isize, x: isize) -> Tap {
        Tap { offset: [y, x], at: [0, 0] }
    }

    fn read(windows: &Windows<'_, f32>, pixel: usize) -> Vec<f32> {
        let mut values = Vec::new();
        windows.pointers(windows.place(pixel), 0, |_, pointer| {
            #[allow(unsafe_code, reason = "the kernels read the same way")]
            // SAFETY: every pointer has `len` elements behind it.
            values.extend_from_slice(unsafe { std::slice::from_raw_parts(pointer, windows.len) });
        });
        values
    }

    #[test]
    fn regular_rows_of_taps_are_found() {
        assert_eq!(taps_in_a_row(&[tap(-1, -1), tap(-1, 0), tap(0, -1), tap(0, 0)]), Some(2));
        assert_eq!(taps_in_a_row(&[tap(0, 0), tap(0, 2)]), None);
        assert_eq!(taps_in_a_row(&[tap(0, 0), tap(0, 1), tap(1, 0)]), None);
        assert_eq!(taps_in_a_row(&[]), None);
    }

    #[test]
    fn windows_read_zeros_outside_with_and_without_a_margin() {
        // One image of 2x3 pixels with one channel: 1 2 3 / 4 5 6.
        let data = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0];
        let source = Source { data: &data, batch: 1, height: 2, width: 3, channels: 1 };
        let taps: Vec<Tap> = (0..4).map(|i| tap(i / 2 - 1, i % 2)).collect();
        let grid = Grid { size: [2, 2], step: [1, 2] };
        let padded = Padded::if_useful(&source, grid, &taps, 1).unwrap();
        for padded in [None, Some(&padded)] {
            let windows = Windows::new(source, padded, grid, &taps, 1);
            assert_eq!(windows.runs() * windows.len, 4);
            let all: Vec<Vec<f32>> = (0..windows.pixels()).map(|pixel| read(&windows, pixel)).collect();
            assert_eq!(all[1], [0.0, 0.0, 3.0, 0.0]);
            assert_eq!(all[2], [1.0, 2.0, 4.0, 5.0]);
            assert_eq!(all[3], [3.0, 0.0, 6.0, 0.0]);
            assert_eq!(windows.next([0, 0, 1]), [0, 1, 0]);
        }
    }
}
