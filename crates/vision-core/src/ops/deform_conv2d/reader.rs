//! Where the taps of a deformable convolution read.

use super::{DeformBorder, Geometry};
use crate::ops::corners::Corners;
use crate::ops::support::Float;

/// Channels that share offsets and lie in one group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) group: usize,
    /// First channel, counted in the map.
    pub(super) channel: usize,
    /// First channel, counted in the group.
    pub(super) within: usize,
    pub(super) len: usize,
}

/// Where the taps of a convolution read.
pub(super) struct Reader<'a, T> {
    geometry: &'a Geometry,
    input: &'a [T],
    places: &'a [T],
    /// The channels of each offset group.
    pub(super) runs: Vec<Vec<Run>>,
}

/// What one tap of one output pixel reads.
pub(super) struct Place<T> {
    pub(super) corners: Corners<T>,
    pub(super) mask: T,
    /// Derivatives of the corners' position by the offsets (y, x): 0 where it was clamped.
    pub(super) slope: [T; 2],
}

impl<'a, T: Float> Reader<'a, T> {
    pub(super) fn new(geometry: &'a Geometry, input: &'a [T], places: &'a [T]) -> Self {
        let shared = geometry.in_channels / geometry.offset_groups;
        let group_in = geometry.group_in();
        let runs = (0..geometry.offset_groups)
            .map(|offset_group| {
                let (mut channel, end) = (offset_group * shared, (offset_group + 1) * shared);
                let mut runs = Vec::new();
                while channel < end {
                    let (group, within) = (channel / group_in, channel % group_in);
                    let len = (end - channel).min(group_in - within);
                    runs.push(Run { group, channel, within, len });
                    channel += len;
                }
                runs
            })
            .collect();
        Self { geometry, input, places, runs }
    }

    /// Width and channels of the input.
    pub(super) fn size(&self) -> [usize; 2] {
        [self.geometry.input[1], self.geometry.in_channels]
    }

    /// Image number of an output pixel.
    pub(super) fn image_of(&self, pixel: usize) -> usize {
        pixel / (self.geometry.output[0] * self.geometry.output[1])
    }

    /// The image that an output pixel is made of.
    pub(super) fn image(&self, pixel: usize) -> &'a [T] {
        let len = self.geometry.input[0] * self.geometry.input[1] * self.geometry.in_channels;
        &self.input[self.image_of(pixel) * len..][..len]
    }

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "must end up inside a function with vector instructions")]
    pub(super) fn place(&self, pixel: usize, tap: usize, offset_group: usize) -> Place<T> {
        let g = self.geometry;
        let numbers = &self.places[pixel * g.place_len()..(pixel + 1) * g.place_len()];
        let (taps, index) = (g.taps(), offset_group * g.taps() + tap);
        let (at, step) = (
            [pixel / g.output[1] % g.output[0], pixel % g.output[1]],
            [tap / g.kernel[1], tap % g.kernel[1]],
        );
        let position = |axis: usize| {
            let start = (at[axis] * g.args.stride[axis] + step[axis] * g.args.dilation[axis]) as isize;
            T::from_f64((start - g.args.padding[axis] as isize) as f64) + numbers[2 * index + axis]
        };
        let mask = if g.masked { numbers[2 * taps * g.offset_groups + index] } else { T::ONE };
        let mut position = [position(0), position(1)];
        let mut slope = [T::ONE; 2];
        let size = g.input.map(|size| T::from_f64(size as f64));
        for axis in 0..2 {
            let at = position[axis];
            let outside = match g.args.border {
                DeformBorder::Zeros => at < -T::ONE || at >= size[axis],
                // Unlike its opposite this holds for NaN.
                DeformBorder::Clamped => !(at >= T::ZERO && at < size[axis]),
            };
            if outside {
                return Place { corners: Corners::nowhere(), mask, slope: [T::ZERO; 2] };
            }
            let last = size[axis] - T::ONE;
            if g.args.border == DeformBorder::Clamped && at >= last {
                position[axis] = last;
                slope[axis] = T::ZERO;
            }
        }
        Place { corners: Corners::new(position, g.input), mask, slope }
    }

    /// Writes what `tap` of an output pixel reads to `out`, from `at(run)` for each run of channels.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "must end up inside a function with vector instructions")]
    pub(super) fn read(&self, pixel: usize, tap: usize, out: &mut [T], at: impl Fn(&Run) -> usize) {
        for (offset_group, runs) in self.runs.iter().enumerate() {
            let place = self.place(pixel, tap, offset_group);
            for run in runs {
                let start = at(run);
                let out = &mut out[start..start + run.len];
                place.corners.sample(self.image(pixel), self.size(), run.channel, place.mask, out);
            }
        }
    }
}
