//! Which pixels of an axis an output pixel is made of, and how much of each.

use crate::ops::support::Float;

/// Sizes along one axis.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    /// Input pixels, at least 1.
    pub(super) input: usize,
    /// Output pixels, at least 1.
    pub(super) output: usize,
    /// Output pixels per input pixel if it is not the ratio of the sizes.
    pub(super) factor: Option<f64>,
}

/// For each target pixel, source pixels and their weights.
pub(super) struct Table<T> {
    /// Where the taps of each target pixel start; one more entry than pixels.
    starts: Vec<usize>,
    taps: Vec<(usize, T)>,
}

impl<T: Float> Table<T> {
    fn new(pixels: usize, mut push: impl FnMut(usize, &mut Vec<(usize, T)>)) -> Self {
        let (mut starts, mut taps) = (Vec::with_capacity(pixels + 1), Vec::with_capacity(2 * pixels));
        starts.push(0);
        for pixel in 0..pixels {
            push(pixel, &mut taps);
            starts.push(taps.len());
        }
        Self { starts, taps }
    }

    /// Number of target pixels.
    pub(super) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Source pixels of one target pixel.
    pub(super) fn taps(&self, pixel: usize) -> &[(usize, T)] {
        &self.taps[self.starts[pixel]..self.starts[pixel + 1]]
    }

    /// The table from target to source: for each of `pixels` source pixels the targets that use it, in order.
    pub(super) fn transposed(&self, pixels: usize) -> Self {
        let mut starts = vec![0; pixels + 1];
        for (source, _) in &self.taps {
            starts[source + 1] += 1;
        }
        for pixel in 0..pixels {
            starts[pixel + 1] += starts[pixel];
        }
        let mut next = starts.clone();
        let mut taps = vec![(0, T::ZERO); self.taps.len()];
        for target in 0..self.len() {
            for &(source, weight) in self.taps(target) {
                taps[next[source]] = (target, weight);
                next[source] += 1;
            }
        }
        Self { starts, taps }
    }
}

impl Axis {
    /// Input pixels per output pixel.
    fn scale<T: Float>(&self, align_corners: bool) -> T {
        let (input, output) = (self.input as f64, self.output as f64);
        T::from_f64(match self.factor {
            _ if align_corners && self.output > 1 => (input - 1.) / (output - 1.),
            _ if align_corners => 0.,
            Some(factor) => 1. / factor,
            None => input / output,
        })
    }

    pub(super) fn nearest<T: Float>(self) -> Table<T> {
        let scale = self.scale::<T>(false);
        Table::new(self.output, |pixel, taps| {
            let at = scale * T::from_f64(pixel as f64);
            // PyTorch rounds to `f32` before it rounds down, whatever the type.
            let at = (at.to_f64() as f32).floor() as usize;
            taps.push((at.min(self.input - 1), T::ONE));
        })
    }

    pub(super) fn linear<T: Float>(self, align_corners: bool) -> Table<T> {
        // In double precision: shares that come from rounded places are off by as much as the places.
        let scale = self.scale::<f64>(align_corners);
        Table::new(self.output, |pixel, taps| {
            let (low, share) = if self.input == self.output {
                (pixel, 0.)
            } else {
                let pixel = pixel as f64;
                let at = if align_corners { scale * pixel } else { scale * (pixel + 0.5) - 0.5 }.max(0.);
                let low = (at as usize).min(self.input - 1);
                (low, (at - low as f64).min(1.))
            };
            // A pixel with no share stays in the list: it may be infinite, and zero times that is NaN.
            let high = if self.input == self.output { low } else { (low + 1).min(self.input - 1) };
            taps.push((low, T::from_f64(1. - share)));
            taps.push((high, T::from_f64(share)));
        })
    }

    pub(super) fn antialiased<T: Float>(self, align_corners: bool) -> Table<T> {
        if self.input == self.output {
            return Table::new(self.output, |pixel, taps| taps.push((pixel, T::ONE)));
        }
        let scale = self.scale::<T>(align_corners);
        let half = T::from_f64(0.5);
        // Half the width of the triangle, in input pixels.
        let support = if scale > T::ONE { scale } else { T::ONE };
        let inverse = T::ONE / support;
        Table::new(self.output, |pixel, taps| {
            let centre = scale * (T::from_f64(pixel as f64) + half);
            // Casts of negative numbers give 0.
            let first = (centre - support + half).to_f64() as usize;
            let end = ((centre + support + half).to_f64() as usize).min(self.input);
            let from = taps.len();
            let mut sum = T::ZERO;
            for at in first..end {
                let distance = (T::from_f64(at as f64) - centre + half) * inverse;
                let weight = T::ONE - distance.abs();
                let weight = if weight > T::ZERO { weight } else { T::ZERO };
                sum += weight;
                taps.push((at, weight));
            }
            if sum != T::ZERO {
                for (_, weight) in &mut taps[from..] {
                    *weight /= sum;
                }
            }
        })
    }
}
