//! Where windows lie.

use candle_core::{Device, Tensor};
use vision_core::FeatureMap;

use crate::error::Result;

/// The size `(height, width)` with a longer side of `long` pixels and the proportions of a picture, each at least 1.
pub fn scaled_size(height: usize, width: usize, long: usize) -> [usize; 2] {
    let other = |short: usize, side: usize| {
        (((short as f64 * long as f64) / side.max(1) as f64 + 0.5) as usize).max(1)
    };
    if height > width { [long, other(width, height)] } else { [other(height, width), long] }
}

/// First pixels of the windows of `crop` pixels along a side of `size`, two thirds of a window apart. A side shorter than
/// a window has one window.
pub fn window_starts(size: usize, crop: usize) -> Vec<usize> {
    let stride = (crop * 2 / 3).max(1);
    (0..=size.saturating_sub(crop).div_ceil(stride)).map(|index| index * stride).collect()
}

/// A window by its first row and column, and how many rows and columns of it lie within the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) first: [usize; 2],
    pub(super) inside: [usize; 2],
}

impl Window {
    /// The windows that cover a picture, row by row.
    pub(super) fn cover([height, width]: [usize; 2], crop: usize) -> Vec<Self> {
        let columns = window_starts(width, crop);
        let inside = |size: usize, first: usize| crop.min(size.saturating_sub(first));
        window_starts(height, crop)
            .into_iter()
            .flat_map(|y| columns.iter().map(move |&x| [y, x]))
            .map(|first| Self { first, inside: [inside(height, first[0]), inside(width, first[1])] })
            .collect()
    }
}

/// The pixels of windows, `(N, crop, crop, C)`, each as it is or in the mirror.
pub(super) fn gather(
    pixels: &[f32],
    [_, width]: [usize; 2],
    crop: usize,
    fill: &[f32],
    windows: &[(&Window, bool)],
) -> Result<FeatureMap> {
    let channels = fill.len();
    let mut out: Vec<f32> = fill.repeat(windows.len() * crop * crop);
    for (&(window, mirrored), out) in
        windows.iter().zip(out.chunks_exact_mut((crop * crop * channels).max(1)))
    {
        let [rows, columns] = window.inside;
        for (row, out) in out.chunks_exact_mut(crop * channels).take(rows).enumerate() {
            let from = ((window.first[0] + row) * width + window.first[1]) * channels;
            let from = &pixels[from..from + columns * channels];
            if mirrored {
                for (to, from) in out.rchunks_exact_mut(channels).zip(from.chunks_exact(channels)) {
                    to.copy_from_slice(from);
                }
            } else {
                out[..from.len()].copy_from_slice(from);
            }
        }
    }
    let shape = (windows.len(), crop, crop, channels);
    Ok(FeatureMap::from_nhwc(Tensor::from_vec(out, shape, &Device::Cpu)?)?)
}
