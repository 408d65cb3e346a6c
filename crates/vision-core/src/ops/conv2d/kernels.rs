//! The three products of a convolution on the CPU.
//!
//! Work is cut by the sizes only, and partial sums are added in a fixed order, so results do not depend on the
//! number of threads.

#![allow(unsafe_code, reason = "results are written into memory that is not initialised first")]

use super::Geometry;
use super::panels::Panels;
use super::product::{Epilogue, Place, Shared, product};
use super::windows::{Grid, Padded, Source, Tap, Windows};
use super::{depthwise, weight_gradient as weights};
use crate::ops::support::Float;

/// The taps of the forward pass, with offsets from `output pixel * stride`.
fn forward_taps(geometry: &Geometry) -> Vec<Tap> {
    let [kh, kw] = geometry.kernel;
    let [[py, px], [dy, dx]] = [geometry.args.padding, geometry.args.dilation];
    let mut taps = Vec::with_capacity(kh * kw);
    for y in 0..kh {
        for x in 0..kw {
            let offset = [(y * dy) as isize - py as isize, (x * dx) as isize - px as isize];
            taps.push(Tap { offset, at: [y, x] });
        }
    }
    taps
}

/// The taps that reach input pixels `phase + stride * i`, with offsets from output pixel `i`.
fn backward_taps(geometry: &Geometry, phase: [usize; 2]) -> Vec<Tap> {
    let along = |axis: usize| -> Vec<(isize, usize)> {
        let stride = geometry.args.stride[axis] as isize;
        (0..geometry.kernel[axis])
            .filter_map(|k| {
                let reach = (phase[axis] + geometry.args.padding[axis]) as isize
                    - (k * geometry.args.dilation[axis]) as isize;
                (reach.rem_euclid(stride) == 0).then(|| (reach.div_euclid(stride), k))
            })
            .collect()
    };
    let columns = along(1);
    let mut taps: Vec<Tap> = along(0)
        .into_iter()
        .flat_map(|(y, ky)| columns.iter().map(move |&(x, kx)| Tap { offset: [y, x], at: [ky, kx] }))
        .collect();
    taps.sort_unstable();
    taps
}

/// Whether each channel is a group of its own.
fn is_depthwise(g: &Geometry) -> bool {
    g.groups() > 1 && g.group_in() == 1 && g.group_out() == 1
}

fn input_source<'a, T>(g: &Geometry, data: &'a [T]) -> Source<'a, T> {
    Source { data, batch: g.batch, height: g.input[0], width: g.input[1], channels: g.in_channels }
}

fn output_grid(g: &Geometry) -> Grid {
    Grid { size: g.output, step: g.args.stride }
}

/// Weights `(O, C / groups, kh, kw)` as [`forward`] reads them; `None` if it reads them as they are. They do not depend
/// on the size of the input.
pub(super) fn pack<T: Float>(g: &Geometry, weight: &[T]) -> Option<Panels<T>> {
    (!is_depthwise(g)).then(|| Panels::pack(g, &forward_taps(g), weight, false))
}

/// `(N, H, W, C)` and `(O, C / groups, kh, kw)` to `(N, OH, OW, O)`.
pub(in crate::ops) fn forward<T: Float>(
    g: &Geometry,
    input: &[T],
    weight: &[T],
    epilogue: Epilogue<'_, T>,
) -> Vec<T> {
    match pack(g, weight) {
        None => depthwise::forward(g, &forward_taps(g), input, weight, epilogue),
        Some(panels) => forward_packed(g, input, &panels, epilogue),
    }
}

/// [`forward`] with weights from [`pack`].
pub(super) fn forward_packed<T: Float>(
    g: &Geometry,
    input: &[T],
    panels: &Panels<T>,
    epilogue: Epilogue<'_, T>,
) -> Vec<T> {
    let taps = forward_taps(g);
    let (source, grid) = (input_source(g, input), output_grid(g));
    let padded = Padded::if_useful(&source, grid, &taps, g.groups());
    let windows = Windows::new(source, padded.as_ref(), grid, &taps, g.groups());
    let count = g.batch * grid.area() * g.out_channels;
    let mut out = Vec::with_capacity(count);
    let place = Place { size: g.output, origin: [0, 0], step: [1, 1] };
    // SAFETY: `out` has room for `count` elements and is not used otherwise; the grid is the whole map, so all of
    // them are written.
    unsafe {
        product(&windows, g.groups(), (panels, 0), epilogue, Shared::new(out.as_mut_ptr()), place);
        out.set_len(count);
    }
    out
}

/// The gradient of the input from that of the output, plus `bias` per input channel.
///
/// Input pixels that agree modulo the stride see the same taps, so each such phase is a plain convolution
/// of the output gradient; nothing is scattered.
pub(in crate::ops) fn data_gradient<T: Float>(
    g: &Geometry,
    weight: &[T],
    grad: &[T],
    bias: Option<&[T]>,
) -> Vec<T> {
    if is_depthwise(g) {
        return depthwise::data_gradient(g, |phase| backward_taps(g, phase), weight, grad, bias);
    }
    let source = Source {
        data: grad,
        batch: g.batch,
        height: g.output[0],
        width: g.output[1],
        channels: g.out_channels,
    };
    let [sy, sx] = g.args.stride;
    let [height, width] = g.input;
    let count = g.batch * height * width * g.in_channels;
    let mut out = Vec::with_capacity(count);
    let epilogue = Epilogue { bias, ..Epilogue::NONE };
    // All phases share the panels, in which the taps of each follow one another.
    let phases: Vec<([usize; 2], Vec<Tap>)> = (0..sy.min(height))
        .flat_map(|py| (0..sx.min(width)).map(move |px| [py, px]))
        .map(|phase| (phase, backward_taps(g, phase)))
        .collect();
    let taps: Vec<Tap> = phases.iter().flat_map(|(_, taps)| taps).copied().collect();
    let panels = Panels::pack(g, &taps, weight, true);
    let mut first_tap = 0;
    for ([py, px], taps) in phases {
        // Rows `py, py + sy, ...` below `height`, and columns likewise.
        let size = [(height - py).div_ceil(sy), (width - px).div_ceil(sx)];
        let grid = Grid { size, step: [1, 1] };
        let padded = Padded::if_useful(&source, grid, &taps, g.groups());
        let windows = Windows::new(source, padded.as_ref(), grid, &taps, g.groups());
        let place = Place { size: g.input, origin: [py, px], step: [sy, sx] };
        // SAFETY: `out` has room for `count` elements and is not used otherwise; row `py + sy * y` of a grid
        // with `size` rows is below `height`, and columns likewise.
        unsafe {
            let out = Shared::new(out.as_mut_ptr());
            product(&windows, g.groups(), (&panels, first_tap), epilogue, out, place);
        }
        first_tap += taps.len();
    }
    // SAFETY: every input pixel belongs to one phase, so all `count` elements were written.
    unsafe { out.set_len(count) };
    out
}

/// The gradient of the weights, `(O, C / groups, kh, kw)`, from input and output gradient.
pub(in crate::ops) fn weight_gradient<T: Float>(g: &Geometry, input: &[T], grad: &[T]) -> Vec<T> {
    let taps = forward_taps(g);
    if is_depthwise(g) {
        return depthwise::weight_gradient(g, &taps, input, grad);
    }
    let (source, grid) = (input_source(g, input), output_grid(g));
    let padded = Padded::if_useful(&source, grid, &taps, g.groups());
    let windows = Windows::new(source, padded.as_ref(), grid, &taps, g.groups());
    weights::weight_gradient(g, &windows, &taps, grad)
}
