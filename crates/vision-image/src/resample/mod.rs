//! Resizing in Pillow's dialect: when shrinking, the filter widens with the scale (antialiasing); sample positions are
//! pixel centres; rows are filtered first, then columns, with rounding to bytes in between.

mod kernel;
mod rotate;

pub use rotate::rotate;

use kernel::Kernel;

use crate::error::{Error, Result};
use crate::picture::{Image, checked_len};

/// How samples are weighted. The names are Pillow's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Filter {
    /// The sample at the position, without antialiasing.
    Nearest,
    /// A triangle of radius 1.
    Bilinear,
    /// The cubic of Keys with a = -0.5, radius 2.
    Bicubic,
    /// A sinc windowed by a wider sinc, radius 3.
    Lanczos,
}

/// The picture in `width` x `height` pixels, as Pillow's `Image.resize((width, height), filter)`.
///
/// Equal to Pillow, bit for bit, up to version 12; version 13 filters columns first where that is faster, which can
/// matter where bicubic and Lanczos overshoot. With an alpha channel the colours are premultiplied in between, as there.
///
/// # Errors
/// `Shape` if a side is 0, `TooLarge` above [`crate::MAX_PIXELS`].
pub fn resize(image: &Image, width: u32, height: u32, filter: Filter) -> Result<Image> {
    resize_box(image, [0.0, 0.0, image.width() as f32, image.height() as f32], width, height, filter)
}

/// The part of the picture inside `region` in `width` x `height` pixels, as Pillow's
/// `Image.resize((width, height), filter, box=region)`.
///
/// `region` is `[x1, y1, x2, y2]` in pixels, continuous: the whole picture is `[0, 0, width, height]`. Unlike a crop
/// followed by a resize, the filter sees the pixels just outside the region.
///
/// # Errors
/// `Argument` if the region is empty or not inside the picture; otherwise as [`resize`].
pub fn resize_box(image: &Image, region: [f32; 4], width: u32, height: u32, filter: Filter) -> Result<Image> {
    checked_len(width, height, image.channels())?;
    let [x1, y1, x2, y2] = region;
    if region.iter().any(|v| !v.is_finite())
        || x1 < 0.0
        || y1 < 0.0
        || x2 > image.width() as f32
        || y2 > image.height() as f32
        || x1 >= x2
        || y1 >= y2
    {
        return Err(Error::argument(
            "region",
            format!("{region:?} is empty or not inside {} x {}", image.width(), image.height()),
        ));
    }
    // Pillow subtracts in single precision.
    let (span_x, span_y) = (f64::from(x2 - x1), f64::from(y2 - y1));
    let whole = x1.fract() == 0.0 && y1.fract() == 0.0;
    if whole && span_x == f64::from(width) && span_y == f64::from(height) {
        return image.crop(x1 as u32, y1 as u32, width, height);
    }
    let (x1, y1) = (f64::from(x1), f64::from(y1));
    let columns = Kernel::new(filter, x1, span_x, image.width(), width);
    let rows = Kernel::new(filter, y1, span_y, image.height(), height);
    let (Some(columns), Some(rows)) = (columns, rows) else {
        return Ok(nearest(
            image,
            &positions(x1, span_x, image.width(), width),
            &positions(y1, span_y, image.height(), height),
        ));
    };
    if image.channels() == 4 {
        return Ok(divide_alpha(convolve(&premultiply(image), &columns, &rows)));
    }
    Ok(convolve(image, &columns, &rows))
}

/// The picture with its shorter side resized to `size` and the longer one to keep the proportions (rounded down), as
/// torchvision's `Resize(size)`.
///
/// # Errors
/// As [`resize`].
pub fn resize_short_side(image: &Image, size: u32, filter: Filter) -> Result<Image> {
    let (w, h) = (image.width(), image.height());
    let (short, long) = (w.min(h), w.max(h));
    if short == size {
        return Ok(image.clone());
    }
    let new_long = f64::from(size) * f64::from(long) / f64::from(short);
    if new_long > f64::from(u32::MAX) {
        let limit = crate::MAX_PIXELS;
        return Err(Error::TooLarge { width: size.into(), height: new_long as u64, limit });
    }
    let new_long = new_long as u32;
    if w <= h { resize(image, size, new_long, filter) } else { resize(image, new_long, size, filter) }
}

/// Source index of each of `out` pixels between `start` and `start + size`. The running sum is what Pillow does,
/// rounding included.
fn positions(start: f64, size: f64, limit: u32, out: u32) -> Vec<usize> {
    let step = size / f64::from(out);
    let mut position = start + step * 0.5;
    (0..out)
        .map(|_| {
            let index = (position as usize).min(limit as usize - 1);
            position += step;
            index
        })
        .collect()
}

fn nearest(image: &Image, xs: &[usize], ys: &[usize]) -> Image {
    let channels = usize::from(image.channels());
    let mut data = Vec::with_capacity(xs.len() * ys.len() * channels);
    for y in ys {
        let row = &image.data()[y * image.stride()..(y + 1) * image.stride()];
        for &x in xs {
            data.extend_from_slice(&row[x * channels..(x + 1) * channels]);
        }
    }
    Image::from_parts(xs.len() as u32, ys.len() as u32, image.channels(), data)
}

/// Rows first, and only those that the columns need.
fn convolve(image: &Image, columns: &Kernel, rows: &Kernel) -> Image {
    let band = rows.reach();
    rows.columns(&columns.rows(image, band), band.0)
}

/// Colours times alpha, rounded, as Pillow's mode `RGBa`.
fn premultiply(image: &Image) -> Image {
    let mut out = image.clone();
    for [r, g, b, alpha] in out.data_mut().as_chunks_mut::<4>().0 {
        for colour in [r, g, b] {
            *colour = crate::picture::blend(*colour, 0, *alpha);
        }
    }
    out
}

/// Colours divided by alpha, rounded down and clipped, as Pillow's way back from `RGBa`.
fn divide_alpha(mut image: Image) -> Image {
    for [r, g, b, alpha] in image.data_mut().as_chunks_mut::<4>().0 {
        if !matches!(*alpha, 0 | 255) {
            for colour in [r, g, b] {
                *colour = (u32::from(*colour) * 255 / u32::from(*alpha)).min(255) as u8;
            }
        }
    }
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILTERS: [Filter; 4] = [Filter::Nearest, Filter::Bilinear, Filter::Bicubic, Filter::Lanczos];

    fn noise(width: u32, height: u32, channels: u8) -> Image {
        let len = checked_len(width, height, channels).unwrap();
        let mut state = 1_u32;
        let data = (0..len)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        Image::new(width, height, channels, data).unwrap()
    }

    #[test]
    fn same_size_is_a_copy_and_a_whole_box_is_a_crop() {
        let image = noise(9, 7, 3);
        for filter in FILTERS {
            assert_eq!(resize(&image, 9, 7, filter).unwrap(), image);
            let crop = resize_box(&image, [2.0, 1.0, 6.0, 4.0], 4, 3, filter).unwrap();
            assert_eq!(crop, image.crop(2, 1, 4, 3).unwrap());
        }
    }

    #[test]
    fn one_colour_stays_one_colour() {
        for color in [&[77][..], &[1, 128, 254], &[10, 20, 30, 255]] {
            let image = Image::filled(13, 6, color).unwrap();
            for filter in FILTERS {
                for (w, h) in [(1, 1), (5, 29), (40, 3), (13, 7), (12, 6)] {
                    let out = resize(&image, w, h, filter).unwrap();
                    assert_eq!(out, Image::filled(w, h, color).unwrap(), "{filter:?} {w}x{h}");
                }
            }
        }
    }

    #[test]
    fn single_pixels_grow() {
        let image = Image::filled(1, 1, &[5, 6, 7]).unwrap();
        for filter in FILTERS {
            assert_eq!(resize(&image, 4, 3, filter).unwrap(), Image::filled(4, 3, &[5, 6, 7]).unwrap());
        }
    }

    #[test]
    fn any_box_inside_works() {
        let image = noise(31, 17, 3);
        let mut state = 7_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32
        };
        for _ in 0..500 {
            let (x1, y1) = (next() * 30.9, next() * 16.9);
            let (x2, y2) = (x1 + (31.0 - x1) * next().max(1e-3), y1 + (17.0 - y1) * next().max(1e-3));
            for filter in FILTERS {
                let out = resize_box(&image, [x1, y1, x2.min(31.0), y2.min(17.0)], 6, 5, filter).unwrap();
                assert_eq!((out.width(), out.height()), (6, 5));
            }
        }
        // Up to the border, from a start that single precision cannot hold exactly.
        assert!(resize_box(&image, [0.1, 0.3, 31.0, 17.0], 8, 8, Filter::Bicubic).is_ok());
    }

    #[test]
    fn bad_arguments_are_errors() {
        let image = noise(4, 4, 3);
        assert!(resize(&image, 0, 3, Filter::Bilinear).is_err());
        assert!(matches!(resize(&image, 1 << 20, 1 << 20, Filter::Nearest), Err(Error::TooLarge { .. })));
        for region in [
            [0.0, 0.0, 4.1, 4.0],
            [-0.1, 0.0, 4.0, 4.0],
            [2.0, 0.0, 2.0, 4.0],
            [0.0, 3.0, 4.0, 2.0],
            [0.0, f32::NAN, 4.0, 4.0],
        ] {
            assert!(matches!(resize_box(&image, region, 2, 2, Filter::Lanczos), Err(Error::Argument { .. })));
        }
        assert!(resize_short_side(&image, 0, Filter::Nearest).is_err());
        let thin = Image::filled(1, 1_000_000, &[0]).unwrap();
        assert!(matches!(resize_short_side(&thin, 100_000, Filter::Nearest), Err(Error::TooLarge { .. })));
    }

    #[test]
    fn the_short_side_decides() {
        let size = |w, h, size| {
            let out = resize_short_side(&noise(w, h, 1), size, Filter::Bilinear).unwrap();
            (out.width(), out.height())
        };
        // torchvision.transforms.functional.resize with an int.
        assert_eq!(size(10, 7, 5), (7, 5));
        assert_eq!(size(7, 10, 5), (5, 7));
        assert_eq!(size(9, 9, 20), (20, 20));
        assert_eq!(size(10, 7, 7), (10, 7));
    }
}
