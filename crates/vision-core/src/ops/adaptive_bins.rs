//! Bins of adaptive pooling: bin `i` of `n` along an axis of `size` pixels holds the pixels from
//! `floor(i * size / n)` up to `ceil((i + 1) * size / n)`, as in PyTorch; neighbouring bins may share a pixel.

use std::ops::Range;

use candle_core::{Shape, Tensor};

use super::support::{check_device, check_float, check_result};
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
        let what = format!("{op}: output_size");
        check_result(&what, bins.shape().dims())?;
        // Bins are found by products of both.
        check_result(&what, &[height, output[0]])?;
        check_result(&what, &[width, output[1]])?;
        Ok(bins)
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
