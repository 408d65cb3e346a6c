//! Gaussian blur in Pillow's dialect: three box blurs along the rows, then three along the columns, each in integers and
//! rounded to bytes. The border is repeated outwards.

use crate::error::{Error, Result};
use crate::picture::Image;

/// The widest blur; what is beyond is one colour in any picture.
const MAX_RADIUS: f32 = 10_000.0;

const PASSES: u8 = 3;

/// The picture blurred with standard deviation `radius`, in pixels, as Pillow's `GaussianBlur(radius)`. Channels are
/// blurred each by itself, transparency too.
///
/// # Errors
/// `Argument` unless `radius` is in `0..=10_000`.
pub fn gaussian_blur(image: &Image, radius: f32) -> Result<Image> {
    if !(0.0..=MAX_RADIUS).contains(&radius) {
        return Err(Error::argument("radius", format!("{radius} is not in 0..=10000")));
    }
    if radius == 0.0 {
        return Ok(image.clone());
    }
    let window = Window::new(box_radius(radius));
    let columns = |image: Image| {
        let mut data = window.apply(image.data(), image.stride());
        for _ in 1..PASSES {
            data = window.apply(&data, image.stride());
        }
        Image::from_parts(image.width(), image.height(), image.channels(), data)
    };
    Ok(columns(columns(image.transpose()).transpose()))
}

/// The radius of the box whose repetition has the variance of the Gaussian, in Pillow's mixture of precisions.
fn box_radius(radius: f32) -> f32 {
    let variance = radius * radius / f32::from(PASSES);
    let length = (12.0 * f64::from(variance) + 1.0).sqrt() as f32;
    let whole = ((f64::from(length) - 1.0) / 2.0).floor() as f32;
    let next = whole + 1.0;
    let part = (2.0 * whole + 1.0) * (whole * next - 3.0 * variance);
    whole + part / (6.0 * (variance - next * next))
}

/// A box with fractional ends, in units of 2^-24.
struct Window {
    /// Samples with full weight on either side of the middle.
    reach: usize,
    full: u32,
    /// The weight of the two samples next to those.
    end: u32,
}

impl Window {
    fn new(radius: f32) -> Self {
        const ONE: u32 = 1 << 24;
        let reach = radius as u32;
        let full = (ONE as f32 / (radius * 2.0 + 1.0)) as u32;
        Self { reach: reach as usize, full, end: (ONE - (reach * 2 + 1) * full) / 2 }
    }

    /// Blurs across lines of `stride` samples: each result is a sum over samples at the same place of other lines.
    fn apply(&self, data: &[u8], stride: usize) -> Vec<u8> {
        let lines: Vec<&[u8]> = data.chunks_exact(stride).collect();
        let mut out = Vec::with_capacity(data.len());
        let Some(last) = lines.len().checked_sub(1) else {
            return out;
        };
        let (first_line, last_line) = (lines[0], lines[last]);
        // The sum of the line before the first one.
        let inside = self.reach.min(last + 1);
        let mut sums: Vec<u32> = first_line.iter().map(|&v| u32::from(v) * (self.reach as u32 + 1)).collect();
        for line in &lines[..inside] {
            add(&mut sums, line, 1);
        }
        add(&mut sums, last_line, (self.reach - inside) as u32);
        for at in 0..=last {
            let leaving = lines[at.saturating_sub(self.reach + 1)];
            let entering = lines[(at + self.reach).min(last)];
            let beyond = lines[(at + self.reach + 1).min(last)];
            let ends = leaving.iter().zip(beyond);
            for ((sum, &entering), (&leaving, &beyond)) in sums.iter_mut().zip(entering).zip(ends) {
                *sum = *sum + u32::from(entering) - u32::from(leaving);
                // At most 255 in these units and a half: it fits.
                let weighted = *sum * self.full + (u32::from(leaving) + u32::from(beyond)) * self.end;
                out.push(((weighted + (1 << 23)) >> 24) as u8);
            }
        }
        out
    }
}

fn add(sums: &mut [u32], line: &[u8], times: u32) {
    for (sum, &sample) in sums.iter_mut().zip(line) {
        *sum += u32::from(sample) * times;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_colour_stays_one_colour() {
        for color in [&[0][..], &[255, 254, 1], &[10, 20, 30, 40]] {
            let image = Image::filled(7, 4, color).unwrap();
            for radius in [0.0, 0.01, 0.5, 1.0, 3.7, 40.0, 10_000.0] {
                assert_eq!(gaussian_blur(&image, radius).unwrap(), image, "radius {radius}");
            }
        }
    }

    #[test]
    fn a_point_spreads_evenly() {
        let mut image = Image::filled(15, 15, &[0]).unwrap();
        image.data_mut()[7 * 15 + 7] = 255;
        let out = gaussian_blur(&image, 1.5).unwrap();
        assert_eq!(out, out.flip_horizontal());
        assert_eq!(out, out.flip_vertical());
        let sum: u32 = out.data().iter().map(|&v| u32::from(v)).sum();
        assert!((235..=275).contains(&sum), "{sum}");
        // The variance along one axis.
        let moments =
            out.data().iter().enumerate().map(|(at, &v)| ((at % 15) as f64 - 7.0).powi(2) * f64::from(v));
        let variance = moments.sum::<f64>() / f64::from(sum);
        assert!((variance - 2.25).abs() < 0.3, "{variance}");
    }

    #[test]
    fn bad_arguments_are_errors() {
        let image = Image::filled(2, 2, &[0]).unwrap();
        for radius in [-0.1, f32::NAN, f32::INFINITY, 10_001.0] {
            assert!(matches!(gaussian_blur(&image, radius), Err(Error::Argument { .. })), "{radius}");
        }
    }
}
