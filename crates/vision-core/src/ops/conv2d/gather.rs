//! Which source pixels one target pixel reads, and their collection into the rows of a matrix.
//!
//! The forward pass, the weight gradient and (for each phase of the stride) the data gradient all read
//! source pixels at places that are an affine function of the target pixel: `origin = target * step`, plus
//! one offset per kernel tap. Pixels outside the source read as zero.

use crate::ops::support::Float;

/// One kernel tap: its place in the kernel and the source pixel it reads, relative to the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tap {
    /// Source row and column, relative to the origin of the target pixel.
    pub(super) offset: [isize; 2],
    /// Row and column in the kernel.
    pub(super) at: [usize; 2],
}

/// Taps that read neighbouring source columns, so that one copy serves them all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    offset: [isize; 2],
    len: usize,
}

/// Merges taps, sorted by offset, into runs.
pub(super) fn runs(taps: &[Tap]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for tap in taps {
        match runs.last_mut() {
            Some(run)
                if run.offset[0] == tap.offset[0] && run.offset[1] + run.len as isize == tap.offset[1] =>
            {
                run.len += 1;
            }
            _ => runs.push(Run { offset: tap.offset, len: 1 }),
        }
    }
    runs
}

/// The pixels of a batch of maps, `(N, height, width, channels)`, as kernels read them.
#[derive(Clone, Copy)]
pub(super) struct Source<'a, T> {
    pub(super) data: &'a [T],
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
}

impl<T: Float> Source<'_, T> {
    /// Writes what `runs` read around `origin` of image `image`: `take` channels from `first` on, tap by tap.
    fn collect(
        &self,
        image: usize,
        origin: [isize; 2],
        runs: &[Run],
        first: usize,
        take: usize,
        out: &mut [T],
    ) {
        let mut rest = out;
        for run in runs {
            let (part, after) = rest.split_at_mut(run.len * take);
            rest = after;
            let y = origin[0] + run.offset[0];
            if y < 0 || y >= self.height as isize {
                part.fill(T::ZERO);
                continue;
            }
            let row = (image * self.height + y as usize) * self.width;
            let x = origin[1] + run.offset[1];
            if take == self.channels && x >= 0 && x as usize + run.len <= self.width {
                let from = (row + x as usize) * take;
                part.copy_from_slice(&self.data[from..from + part.len()]);
                continue;
            }
            for (i, pixel) in part.chunks_exact_mut(take).enumerate() {
                let x = x + i as isize;
                if x < 0 || x >= self.width as isize {
                    pixel.fill(T::ZERO);
                } else {
                    let from = (row + x as usize) * self.channels + first;
                    pixel.copy_from_slice(&self.data[from..from + take]);
                }
            }
        }
    }
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

    /// Fills `out`, one row per target pixel from number `start` (counted over the whole batch) on.
    /// `channels` are the first channel and the number of channels that each tap takes.
    pub(super) fn collect<T: Float>(
        &self,
        source: &Source<'_, T>,
        runs: &[Run],
        [first, take]: [usize; 2],
        start: usize,
        row_len: usize,
        out: &mut [T],
    ) {
        if row_len == 0 || self.area() == 0 {
            return;
        }
        let mut image = start / self.area();
        let mut y = start % self.area() / self.size[1];
        let mut x = start % self.size[1];
        for row in out.chunks_exact_mut(row_len) {
            let origin = [(y * self.step[0]) as isize, (x * self.step[1]) as isize];
            source.collect(image, origin, runs, first, take, row);
            x += 1;
            if x == self.size[1] {
                x = 0;
                y += 1;
                if y == self.size[0] {
                    y = 0;
                    image += 1;
                }
            }
        }
    }

    /// Whether collecting would only copy the source: one tap that reads the target's own place.
    pub(super) fn is_identity<T>(&self, source: &Source<'_, T>, taps: &[Tap]) -> bool {
        matches!(taps, [tap] if tap.offset == [0, 0])
            && self.step == [1, 1]
            && self.size == [source.height, source.width]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_taps_are_merged() {
        let tap = |y, x| Tap { offset: [y, x], at: [0, 0] };
        let merged = runs(&[tap(-1, -1), tap(-1, 0), tap(-1, 1), tap(0, -1), tap(0, 1)]);
        let lens: Vec<usize> = merged.iter().map(|r| r.len).collect();
        assert_eq!(lens, [3, 1, 1]);
    }

    #[test]
    fn rows_hold_the_window_with_zeros_outside() {
        // One image of 2x3 pixels with one channel: 1 2 3 / 4 5 6.
        let data = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0];
        let source = Source { data: &data, height: 2, width: 3, channels: 1 };
        let taps: Vec<Tap> = (0..4).map(|i| Tap { offset: [i / 2 - 1, i % 2], at: [0, 0] }).collect();
        let grid = Grid { size: [2, 2], step: [1, 2] };
        let mut out = [9.0; 12];
        grid.collect(&source, &runs(&taps), [0, 1], 1, 4, &mut out);
        assert_eq!(out, [0.0, 0.0, 3.0, 0.0, 1.0, 2.0, 4.0, 5.0, 3.0, 0.0, 6.0, 0.0]);
    }
}
