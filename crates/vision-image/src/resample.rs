//! Resizing in Pillow's dialect: when shrinking, the filter widens with the scale (antialiasing); sample positions are
//! pixel centres; rows are filtered first, then columns, with rounding to bytes in between.

use fast_image_resize::images::{Image as Buffer, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

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

impl Filter {
    /// The filter for fast_image_resize and its radius in source pixels at scale 1; none for `Nearest`.
    fn kernel(self) -> Option<(FilterType, f64)> {
        match self {
            Self::Nearest => None,
            Self::Bilinear => Some((FilterType::Bilinear, 1.0)),
            Self::Bicubic => Some((FilterType::CatmullRom, 2.0)),
            Self::Lanczos => Some((FilterType::Lanczos3, 3.0)),
        }
    }
}

/// The picture in `width` x `height` pixels, as Pillow's `Image.resize((width, height), filter)`.
///
/// `Nearest` is equal to Pillow; the other filters differ by at most one grey level, because weights are held in
/// sixteen bits. With an alpha channel the colours are premultiplied in between, as in Pillow.
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
    let columns = Span { start: f64::from(x1), size: span_x, out: width };
    let rows = Span { start: f64::from(y1), size: span_y, out: height };
    let Some((kind, radius)) = filter.kernel() else {
        return Ok(nearest(image, &columns, &rows));
    };
    if image.channels() == 4 {
        let filtered = convolve(&premultiply(image), &columns, &rows, kind, radius)?;
        return Ok(divide_alpha(filtered));
    }
    convolve(image, &columns, &rows, kind, radius)
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

/// One axis of a resize: which part of the source, and how many pixels it becomes.
struct Span {
    start: f64,
    size: f64,
    out: u32,
}

impl Span {
    /// The source pixels `first..end` that a filter of `radius` can reach from this span, with one to spare.
    fn reach(&self, radius: f64, limit: u32) -> (u32, u32) {
        let scale = self.size / f64::from(self.out);
        let radius = radius * scale.max(1.0) + 1.0;
        let first = (self.start + 0.5 * scale - radius).floor().max(0.0) as u32;
        let last =
            (self.start + (f64::from(self.out) - 0.5) * scale + radius).ceil().min(f64::from(limit)) as u32;
        (first, last)
    }

    /// Source index of each output pixel. The running sum is what Pillow does, rounding included.
    fn nearest(&self, limit: u32) -> Vec<usize> {
        let step = self.size / f64::from(self.out);
        let mut position = self.start + step * 0.5;
        (0..self.out)
            .map(|_| {
                let index = (position as usize).min(limit as usize - 1);
                position += step;
                index
            })
            .collect()
    }
}

fn nearest(image: &Image, columns: &Span, rows: &Span) -> Image {
    let channels = usize::from(image.channels());
    let xs = columns.nearest(image.width());
    let mut data = Vec::with_capacity(columns.out as usize * rows.out as usize * channels);
    for y in rows.nearest(image.height()) {
        let row = &image.data()[y * image.stride()..(y + 1) * image.stride()];
        for &x in &xs {
            data.extend_from_slice(&row[x * channels..(x + 1) * channels]);
        }
    }
    Image::from_parts(columns.out, rows.out, image.channels(), data)
}

/// Two passes of one dimension each: fast_image_resize alone would filter columns first, which clips overshoots
/// differently from Pillow.
fn convolve(image: &Image, columns: &Span, rows: &Span, kind: FilterType, radius: f64) -> Result<Image> {
    let (first, end) = rows.reach(radius, image.height());
    let band_height = end - first;
    let stride = image.stride();
    let band = &image.data()[first as usize * stride..end as usize * stride];
    let band_view = (image.width(), band_height);
    let horizontal = pass(
        band,
        band_view,
        image.channels(),
        (columns.out, band_height),
        [columns.start, 0.0, columns.size, f64::from(band_height)],
        kind,
    )?;
    let data = pass(
        &horizontal,
        (columns.out, band_height),
        image.channels(),
        (columns.out, rows.out),
        [0.0, rows.start - f64::from(first), f64::from(columns.out), rows.size],
        kind,
    )?;
    Ok(Image::from_parts(columns.out, rows.out, image.channels(), data))
}

/// One call of fast_image_resize; `crop` is left, top, width, height.
fn pass(
    data: &[u8],
    (width, height): (u32, u32),
    channels: u8,
    (out_width, out_height): (u32, u32),
    [left, top, crop_width, crop_height]: [f64; 4],
    kind: FilterType,
) -> Result<Vec<u8>> {
    let pixel = match channels {
        1 => PixelType::U8,
        4 => PixelType::U8x4,
        _ => PixelType::U8x3,
    };
    let failed = |problem: String| Error::Shape {
        what: "resize",
        expected: "sizes that fit together".into(),
        got: format!("{width}x{height}x{channels} to {out_width}x{out_height}: {problem}"),
    };
    let source = ImageRef::new(width, height, data, pixel).map_err(|error| failed(error.to_string()))?;
    let mut target = Buffer::new(out_width, out_height, pixel);
    // A size rounded in single precision may reach past the border by a rounding error.
    let crop_width = crop_width.min(f64::from(width) - left);
    let crop_height = crop_height.min(f64::from(height) - top);
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(kind))
        .crop(left, top, crop_width, crop_height)
        .use_alpha(false);
    Resizer::new().resize(&source, &mut target, &options).map_err(|error| failed(error.to_string()))?;
    Ok(target.into_vec())
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
