//! Weighted sums along one axis, in the integer arithmetic of Pillow: weights in units of 2^-22, sums rounded to bytes
//! after each axis. Equal to Pillow bit for bit, which a faster resizer with sixteen-bit weights is not.

use super::Filter;
use crate::picture::Image;

/// Bits behind the binary point of a weight; a byte times a weight, summed with overshoot, fits 32 bits.
const FRACTION: u32 = 22;

/// Half a grey level, so that the shift rounds.
const HALF: i32 = 1 << (FRACTION - 1);

/// Which source samples one output sample is made of.
struct Window {
    /// First source sample.
    start: usize,
    /// Index of the first weight, and how many there are.
    weights: std::ops::Range<usize>,
}

/// All weights of one axis.
pub(super) struct Kernel {
    windows: Vec<Window>,
    weights: Vec<i32>,
}

impl Kernel {
    /// The weights for `out` samples from `start` to `start + size` of an axis with `limit` samples. `None` for
    /// [`Filter::Nearest`], which has no weights.
    pub(super) fn new(filter: Filter, start: f64, size: f64, limit: u32, out: u32) -> Option<Self> {
        let (weight, radius): (fn(f64) -> f64, f64) = match filter {
            Filter::Nearest => return None,
            Filter::Bilinear => (triangle, 1.0),
            Filter::Bicubic => (cubic, 2.0),
            Filter::Lanczos => (windowed_sinc, 3.0),
        };
        let scale = size / f64::from(out);
        let widening = scale.max(1.0);
        let (reach, shrink) = (radius * widening, 1.0 / widening);
        let mut kernel = Self { windows: Vec::with_capacity(out as usize), weights: Vec::new() };
        let mut exact = Vec::new();
        for index in 0..out {
            let center = start + (f64::from(index) + 0.5) * scale;
            let first = (center - reach + 0.5).max(0.0) as u32;
            let end = ((center + reach + 0.5) as u32).min(limit);
            exact.clear();
            exact.extend((first..end).map(|x| weight((f64::from(x) - center + 0.5) * shrink)));
            let sum: f64 = exact.iter().sum();
            let begin = kernel.weights.len();
            kernel.weights.extend(exact.iter().map(|w| {
                let w = if sum == 0.0 { *w } else { w / sum };
                (w * f64::from(1 << FRACTION)).round() as i32
            }));
            kernel.windows.push(Window { start: first as usize, weights: begin..kernel.weights.len() });
        }
        Some(kernel)
    }

    /// The source samples `first..end` that any output sample needs.
    pub(super) fn reach(&self) -> (usize, usize) {
        let first = self.windows.first().map_or(0, |window| window.start);
        let end = self.windows.last().map_or(0, |window| window.start + window.weights.len());
        (first, end)
    }

    fn windows(&self) -> impl Iterator<Item = (usize, &[i32])> {
        self.windows.iter().map(|window| (window.start, &self.weights[window.weights.clone()]))
    }

    /// Filters along the rows `first..end` of the picture; the result has only those rows.
    pub(super) fn rows(&self, image: &Image, (first, end): (usize, usize)) -> Image {
        let data = &image.data()[first * image.stride()..end * image.stride()];
        let data = match image.channels() {
            1 => self.along_rows::<1>(data, image.stride()),
            4 => self.along_rows::<4>(data, image.stride()),
            _ => self.along_rows::<3>(data, image.stride()),
        };
        Image::from_parts(self.windows.len() as u32, (end - first) as u32, image.channels(), data)
    }

    fn along_rows<const CHANNELS: usize>(&self, data: &[u8], stride: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(data.len() / stride * self.windows.len() * CHANNELS);
        for row in data.chunks_exact(stride) {
            let pixels = row.as_chunks::<CHANNELS>().0;
            for (start, weights) in self.windows() {
                let mut sums = [HALF; CHANNELS];
                for (pixel, weight) in pixels[start..].iter().zip(weights) {
                    for (sum, sample) in sums.iter_mut().zip(pixel) {
                        *sum += i32::from(*sample) * weight;
                    }
                }
                out.extend_from_slice(&sums.map(to_byte));
            }
        }
        out
    }

    /// Filters along the columns of a picture whose first row is row `offset` of the one the kernel was made for.
    pub(super) fn columns(&self, image: &Image, offset: usize) -> Image {
        let stride = image.stride();
        let mut out = Vec::with_capacity(self.windows.len() * stride);
        let mut sums = vec![HALF; stride];
        for (start, weights) in self.windows() {
            sums.fill(HALF);
            let rows = image.data()[(start - offset) * stride..].chunks_exact(stride);
            for (row, weight) in rows.zip(weights) {
                for (sum, sample) in sums.iter_mut().zip(row) {
                    *sum += i32::from(*sample) * weight;
                }
            }
            out.extend(sums.iter().map(|&sum| to_byte(sum)));
        }
        Image::from_parts(image.width(), self.windows.len() as u32, image.channels(), out)
    }
}

fn to_byte(sum: i32) -> u8 {
    (sum >> FRACTION).clamp(0, 255) as u8
}

fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

/// The cubic convolution of Keys with a = -1/2.
fn cubic(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        (1.5 * x - 2.5) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    } else {
        0.0
    }
}

fn windowed_sinc(x: f64) -> f64 {
    if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * std::f64::consts::PI;
    x.sin() / x
}
