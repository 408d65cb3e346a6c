//! Bins of adaptive pooling: bin `i` of `n` along an axis of `size` pixels holds the pixels from
//! `floor(i * size / n)` up to `ceil((i + 1) * size / n)`, as in PyTorch; neighbouring bins may share a pixel.

use std::ops::Range;

use candle_core::{Shape, Tensor};

use super::support::{check_device, check_float};
use crate::FeatureMap;
use crate::error::{Error, Result};

/// Sizes of a feature map and of the bins that cover it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bins {
    pub(super) batch: usize,
    /// Pixels along each axis, at least 1.
    pub(super) input: [usize; 2],
    /// Bins along each axis.
    pub(super) output: [usize; 2],
    pub(super) channels: usize,
}

impl Bins {
    /// Checks the arguments of the operation `op`.
    pub(super) fn new(op: &str, input: &FeatureMap, output: [usize; 2]) -> Result<Self> {
        let (batch, height, width, channels) = input.dims()?;
        let input = input.nhwc();
        check_float(&format!("{op}: input"), input)?;
        check_device(&format!("{op}: input"), input)?;
        if height == 0 || width == 0 {
            return Err(Error::shape(format!("{op}: input"), "at least one pixel", input.dims()));
        }
        let bins = Self { batch, input: [height, width], output, channels };
        let sums_fit = |axis: usize| {
            let (size, bins) = (bins.input[axis], bins.output[axis]);
            bins.checked_add(1).and_then(|b| b.checked_mul(size)).is_some_and(|n| n <= usize::MAX - bins)
        };
        let elements = bins.shape().dims().iter().try_fold(1usize, |all, &n| all.checked_mul(n));
        if sums_fit(0) && sums_fit(1) && elements.is_some_and(|n| n <= isize::MAX as usize / 8) {
            Ok(bins)
        } else {
            Err(Error::argument(format!("{op}: output_size"), format!("{output:?} is too large")))
        }
    }

    /// The result's shape.
    pub(super) fn shape(&self) -> Shape {
        Shape::from((self.batch, self.output[0], self.output[1], self.channels))
    }

    /// Elements of one image of the input.
    pub(super) fn image_len(&self) -> usize {
        self.input[0] * self.input[1] * self.channels
    }

    /// Pixels of bin `index` along `axis`.
    pub(super) fn bin(&self, axis: usize, index: usize) -> Range<usize> {
        let (size, bins) = (self.input[axis], self.output[axis]);
        index * size / bins..((index + 1) * size).div_ceil(bins)
    }
}

/// `input` as a feature map; it has to be `(N, C, H, W)`.
pub(super) fn from_nchw(op: &str, input: &Tensor) -> Result<FeatureMap> {
    if input.rank() == 4 {
        FeatureMap::from_nchw(input)
    } else {
        Err(Error::shape(format!("{op}: input"), "(N, C, H, W)", input.dims()))
    }
}
