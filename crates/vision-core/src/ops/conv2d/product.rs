//! Windows times weights: the forward pass and the data gradient.

#![allow(unsafe_code, reason = "kernels read and write through pointers")]

use rayon::prelude::*;

use super::panels::Panels;
use super::windows::Windows;
use crate::cpu::kernels::{Finish, MAX_ROWS, Tile};
use crate::ops::support::Float;

/// Where the results of target pixels go: pixel `(y, x)` of the grid to row `origin + step * y` and column likewise
/// of a map of `size`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) size: [usize; 2],
    pub(super) origin: [usize; 2],
    pub(super) step: [usize; 2],
}

/// What is done to a sum before it is written.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Epilogue<'a, T> {
    /// Factor of each result channel.
    pub(in crate::ops) scale: Option<&'a [T]>,
    /// Added to each result channel after that.
    pub(in crate::ops) bias: Option<&'a [T]>,
    /// A map like the result.
    pub(in crate::ops) residual: Option<&'a [T]>,
    pub(in crate::ops) relu: bool,
}

impl<T> Epilogue<'_, T> {
    pub(in crate::ops) const NONE: Self = Self { scale: None, bias: None, residual: None, relu: false };
}

/// A buffer that several threads write, each its own elements.
#[derive(Clone, Copy)]
pub(super) struct Shared<T>(*mut T);

// SAFETY: the users of a `Shared` write disjoint elements; see `product` and `weight_gradient`.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(super) fn new(pointer: *mut T) -> Self {
        Self(pointer)
    }

    pub(super) fn at(self, index: usize) -> *mut T {
        self.0.wrapping_add(index)
    }
}

/// Elements of a weight panel that stay in the first-level cache while a block of pixels passes by.
const PANEL_BLOCK: usize = 256;
/// Pixels whose tiles share such a part of a panel.
const PIXEL_BLOCK: usize = 96;
/// Tasks to make at least, if there is work enough.
const TASKS: usize = 16;

/// Writes, for every target pixel, its window times the weights, followed by `epilogue`, into `out`: a map of
/// `place.size` and as many channels as there are results in all groups. Elements that belong to no target pixel
/// are left alone. The taps of `windows` are those of `panels` from `first_tap` on.
///
/// # Safety
/// `out` must point to `batch * place.size * channels` elements, which nobody else uses during the call; they may be
/// uninitialised. Target pixels must fall within `place.size`.
pub(super) unsafe fn product<T: Float>(
    windows: &Windows<'_, T>,
    groups: usize,
    (panels, first_tap): (&Panels<T>, usize),
    epilogue: Epilogue<'_, T>,
    out: Shared<T>,
    place: Place,
) {
    let (pixels, per_group) = (windows.pixels(), panels.per_group());
    if pixels == 0 || per_group == 0 {
        return;
    }
    let rows = panels.kernels.shape.rows;
    let block = (PIXEL_BLOCK / rows).max(1) * rows;
    let block = block.min(pixels.div_ceil(TASKS).next_multiple_of(rows));
    let blocks = pixels.div_ceil(block);
    // Few pixels and many channels: panels are shared out as well.
    let parts = TASKS.div_ceil(blocks).min(per_group);
    let part = per_group.div_ceil(parts);
    let scale = epilogue.scale.map(|scale| panels.pack_rows(groups, scale));
    let bias = epilogue.bias.map(|bias| panels.pack_rows(groups, bias));
    let (scale, bias) = (scale.as_deref(), bias.as_deref());
    let skip = first_tap * panels.inputs * panels.kernels.shape.columns;
    let job = Job { windows, groups, panels, skip, epilogue, scale, bias, out, place };
    (0..blocks * parts).into_par_iter().for_each(|task| {
        let (start, first) = (task / parts * block, task % parts * part);
        let last = (first + part).min(per_group);
        if first < last {
            job.block(start..(start + block).min(pixels), first..last);
        }
    });
}

/// [`product`] on the calling thread: windows of one tap and the channels of one group, that group's panels, and
/// nothing done to the sums.
///
/// # Safety
/// As [`product`], for a map of as many channels as a group has results.
pub(super) unsafe fn product_here<T: Float>(
    windows: &Windows<'_, T>,
    (panels, group): (&Panels<T>, usize),
    out: Shared<T>,
    place: Place,
) {
    let per_group = panels.per_group();
    let skip = group * per_group * panels.len;
    let job = Job {
        windows,
        groups: 1,
        panels,
        skip,
        epilogue: Epilogue::NONE,
        scale: None,
        bias: None,
        out,
        place,
    };
    job.block(0..windows.pixels(), 0..per_group);
}

struct Job<'a, T> {
    windows: &'a Windows<'a, T>,
    groups: usize,
    panels: &'a Panels<T>,
    /// Elements before the first tap of the windows, in each panel.
    skip: usize,
    epilogue: Epilogue<'a, T>,
    /// Both filled up like the panels.
    scale: Option<&'a [T]>,
    bias: Option<&'a [T]>,
    out: Shared<T>,
    place: Place,
}

impl<T: Float> Job<'_, T> {
    /// Results of some pixels and, in each group, some panels.
    fn block(&self, pixels: std::ops::Range<usize>, chosen: std::ops::Range<usize>) {
        let Self { windows, panels, .. } = self;
        let (shape, runs) = (panels.kernels.shape, windows.runs());
        let channels = self.groups * panels.outputs;
        let tiles = pixels.len().div_ceil(shape.rows);
        // Index in `out` of the first channel of each pixel.
        let mut starts = vec![0usize; tiles * shape.rows];
        let mut inputs: Vec<*const T> = vec![std::ptr::null(); tiles * shape.rows * runs];
        for group in 0..self.groups {
            let first_input = group * windows.len;
            let mut pixel = windows.place(pixels.start);
            for (row, start) in starts.iter_mut().enumerate() {
                let (tile, m) = (row / shape.rows, row % shape.rows);
                *start = self.start(pixel) * channels;
                windows.pointers(pixel, first_input, |run, pointer| {
                    inputs[(tile * runs + run) * shape.rows + m] = pointer;
                });
                // Rows that fill up the last tile read its last pixel again and write nothing.
                if row + 1 < pixels.len() {
                    pixel = windows.next(pixel);
                }
            }
            for panel in chosen.clone() {
                self.panel(group, panel, pixels.len(), &starts, &inputs);
            }
        }
    }

    /// Index of the result pixel of a target pixel.
    fn start(&self, [image, y, x]: [usize; 3]) -> usize {
        let Place { size, origin, step } = self.place;
        (image * size[0] + origin[0] + step[0] * y) * size[1] + origin[1] + step[1] * x
    }

    /// One panel for all tiles of a block: part by part of the panel, so that it stays in cache.
    fn panel(&self, group: usize, panel: usize, pixels: usize, starts: &[usize], inputs: &[*const T]) {
        let Self { windows, panels, .. } = self;
        let (shape, runs, len) = (panels.kernels.shape, windows.runs(), windows.len);
        let from = (group * panels.per_group() + panel) * panels.len + self.skip;
        let weights = &panels.data[from..from + runs * len * shape.columns];
        let first = panel * shape.columns;
        let columns = shape.columns.min(panels.outputs - first);
        let row = |row: Option<&[T]>| {
            row.map_or(std::ptr::null(), |row| {
                row[(group * panels.per_group() + panel) * shape.columns..].as_ptr()
            })
        };
        let (scale, bias) = (row(self.scale), row(self.bias));
        let mut part = Part { run: 0, runs: 0, offset: 0, len: 0 };
        loop {
            part = part.next(runs, len);
            let ends = part.run + part.runs == runs && part.offset + part.len == len;
            let accumulate = part.run > 0 || part.offset > 0;
            let weights = weights[(part.run * len + part.offset) * shape.columns..].as_ptr();
            for (tile, starts) in starts.chunks_exact(shape.rows).enumerate() {
                let mut outputs = [std::ptr::null_mut(); MAX_ROWS];
                let mut residuals = [std::ptr::null(); MAX_ROWS];
                for ((start, output), residual) in starts.iter().zip(&mut outputs).zip(&mut residuals) {
                    let at = start + group * panels.outputs + first;
                    *output = self.out.at(at);
                    if let Some(map) = self.epilogue.residual {
                        *residual = map.as_ptr().wrapping_add(at);
                    }
                }
                let finish = if ends {
                    let residuals =
                        if self.epilogue.residual.is_some() { residuals.as_ptr() } else { std::ptr::null() };
                    Finish { scale, bias, residuals, relu: self.epilogue.relu }
                } else {
                    let null = std::ptr::null();
                    Finish { scale: null, bias: null, residuals: std::ptr::null(), relu: false }
                };
                let tile = Tile {
                    inputs: inputs.as_ptr().wrapping_add((tile * runs + part.run) * shape.rows),
                    offset: part.offset,
                    runs: part.runs,
                    len: part.len,
                    panel: weights,
                    outputs: outputs.as_ptr(),
                    rows: shape.rows.min(pixels - tile * shape.rows),
                    columns,
                    accumulate,
                    finish,
                };
                // SAFETY: `inputs` holds `runs` groups of pointers per tile, each with `len` elements behind it
                // (`Windows::pointers`); the panel holds `runs * len` rows of weights; each output row lies within
                // `out` by the contract of `product`, and no other task has the same pixel and panel. The kernels
                // are those of the active instruction set.
                unsafe { (panels.kernels.tile)(&tile) };
            }
            if ends {
                break;
            }
        }
    }
}

/// A part of the rows of a panel: some runs whole, or a piece of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    run: usize,
    runs: usize,
    offset: usize,
    len: usize,
}

impl Part {
    /// The part after this one of a panel of `runs` runs of `len` elements; the first after an empty one. A panel
    /// without rows has one empty part.
    fn next(self, runs: usize, len: usize) -> Self {
        if runs == 0 {
            return Self { run: 0, runs: 0, offset: 0, len };
        }
        let ended = self.offset + self.len;
        let (run, offset) =
            if self.runs == 1 && ended < len { (self.run, ended) } else { (self.run + self.runs, 0) };
        if len > PANEL_BLOCK {
            // Pieces of about equal length.
            let pieces = len.div_ceil(PANEL_BLOCK);
            let len_of_piece = len.div_ceil(pieces);
            Self { run, runs: 1, offset, len: len_of_piece.min(len - offset) }
        } else {
            let whole = (PANEL_BLOCK / len.max(1)).max(1).min(runs - run);
            Self { run, runs: whole, offset: 0, len }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_a_panel_in_order() {
        for (runs, len) in
            [(0, 0), (0, 5), (0, 500), (1, 3), (9, 64), (9, 512), (3, 300), (49, 3), (1, 2048), (2, 257)]
        {
            let mut part = Part { run: 0, runs: 0, offset: 0, len: 0 };
            let mut covered = 0;
            for _ in 0..1000 {
                part = part.next(runs, len);
                assert_eq!(part.run * len + part.offset, covered, "{runs} {len} {part:?}");
                assert!(part.runs * part.len <= PANEL_BLOCK.max(len.min(PANEL_BLOCK)));
                covered += part.runs * part.len;
                if part.run + part.runs == runs && part.offset + part.len == len {
                    break;
                }
            }
            assert_eq!(covered, runs * len);
        }
    }
}
