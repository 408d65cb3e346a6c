//! Rotation in Pillow's dialect: on the same canvas, around its centre.

use super::{Filter, divide_alpha, premultiply};
use crate::error::{Error, Result};
use crate::picture::{Image, blend};

/// Sides below this are rotated in Pillow's fixed-point arithmetic where it rotates to the nearest sample.
const FIXED_LIMIT: f64 = 32_768.0;

/// The picture turned counter-clockwise by `degrees` around its centre, on a canvas of the same size, as Pillow's
/// `Image.rotate(degrees, filter, fillcolor=fill)`. What comes from outside the picture is `fill`.
///
/// Equal to Pillow bit for bit, its truncation of bilinear samples included. With an alpha channel the colours are
/// premultiplied in between, as there.
///
/// # Errors
/// `Argument` unless `degrees` is finite and `filter` is [`Filter::Nearest`] or [`Filter::Bilinear`]; `Shape` if `fill`
/// has another number of channels than the picture.
pub fn rotate(image: &Image, degrees: f64, filter: Filter, fill: &[u8]) -> Result<Image> {
    if !degrees.is_finite() {
        return Err(Error::argument("degrees", format!("{degrees} is not finite")));
    }
    if fill.len() != usize::from(image.channels()) {
        return Err(Error::Shape {
            what: "fill",
            expected: format!("{} channels", image.channels()),
            got: fill.len().to_string(),
        });
    }
    if !matches!(filter, Filter::Nearest | Filter::Bilinear) {
        return Err(Error::argument("filter", format!("{filter:?}, must be Nearest or Bilinear")));
    }
    let angle = degrees.rem_euclid(360.0);
    if angle == 0.0 {
        return Ok(image.clone());
    }
    if angle == 180.0 {
        return Ok(image.flip_vertical().flip_horizontal());
    }
    let map = Affine::turn(angle, image);
    Ok(match (filter, image.channels(), fill) {
        (Filter::Nearest, ..) => nearest(image, &map, fill),
        (_, 4, &[r, g, b, alpha]) => {
            let fill = [blend(r, 0, alpha), blend(g, 0, alpha), blend(b, 0, alpha), alpha];
            divide_alpha(bilinear(&premultiply(image), &map, &fill))
        }
        _ => bilinear(image, &map, fill),
    })
}

/// From a point of the result to the point of the source: `x' = a x + b y + c`, `y' = d x + e y + f`.
struct Affine {
    x: [f64; 3],
    y: [f64; 3],
}

impl Affine {
    fn turn(degrees: f64, image: &Image) -> Self {
        let angle = -degrees.to_radians();
        let (cos, sin) = (fifteen_places(angle.cos()), fifteen_places(angle.sin()));
        let (x, y) = (f64::from(image.width()) / 2.0, f64::from(image.height()) / 2.0);
        Self { x: [cos, sin, cos * -x + sin * -y + x], y: [-sin, cos, -sin * -x + cos * -y + y] }
    }

    /// Where the middle of pixel (`x`, `y`) comes from.
    fn source(&self, x: usize, y: usize) -> (f64, f64) {
        let (x, y) = (x as f64 + 0.5, y as f64 + 0.5);
        let along = |[a, b, c]: [f64; 3]| a * x + b * y + c;
        (along(self.x), along(self.y))
    }
}

/// Rounded to fifteen decimal places, as Pillow does; this also makes the last bit of a sine, in which mathematical
/// libraries differ, not matter.
fn fifteen_places(value: f64) -> f64 {
    format!("{value:.15}").parse().unwrap_or(value)
}

/// A picture that `sample` gives each pixel of, or `fill` where it gives none.
fn build<'a>(image: &'a Image, fill: &'a [u8], sample: impl Fn(usize, usize) -> Option<&'a [u8]>) -> Image {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let mut data = Vec::with_capacity(image.data().len());
    for y in 0..height {
        for x in 0..width {
            data.extend_from_slice(sample(x, y).unwrap_or(fill));
        }
    }
    Image::from_parts(image.width(), image.height(), image.channels(), data)
}

fn nearest(image: &Image, map: &Affine, fill: &[u8]) -> Image {
    let pixel = |x: i64, y: i64| image.pixel(u32::try_from(x).ok()?, u32::try_from(y).ok()?);
    let (right, bottom) = (f64::from(image.width()), f64::from(image.height()));
    let small = |[a, b, c]: [f64; 3]| {
        [(0.0, 0.0), (right, 0.0), (0.0, bottom), (right, bottom)]
            .iter()
            .all(|(x, y)| (a * x + b * y + c).abs() < FIXED_LIMIT)
    };
    if !small(map.x) || !small(map.y) {
        return build(image, fill, |x, y| {
            let (x, y) = map.source(x, y);
            pixel(x.floor() as i64, y.floor() as i64)
        });
    }
    let fixed = |value: f64| (value * 65_536.0 + 0.5).floor() as i64;
    let start = |[a, b, c]: [f64; 3]| [fixed(a), fixed(b), fixed(c + a * 0.5 + b * 0.5)];
    let (along_x, along_y) = (start(map.x), start(map.y));
    build(image, fill, |x, y| {
        let at = |[a, b, c]: [i64; 3]| (c + a * x as i64 + b * y as i64) >> 16;
        pixel(at(along_x), at(along_y))
    })
}

fn bilinear(image: &Image, map: &Affine, fill: &[u8]) -> Image {
    match (image.channels(), fill) {
        (1, &[v]) => bilinear_of(image, map, [v]),
        (4, &[r, g, b, a]) => bilinear_of(image, map, [r, g, b, a]),
        (_, fill) => {
            bilinear_of(image, map, std::array::from_fn::<u8, 3, _>(|c| fill.get(c).copied().unwrap_or(0)))
        }
    }
}

fn bilinear_of<const CHANNELS: usize>(image: &Image, map: &Affine, fill: [u8; CHANNELS]) -> Image {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let rows: Vec<&[[u8; CHANNELS]]> =
        image.data().chunks_exact(image.stride()).map(|row| row.as_chunks::<CHANNELS>().0).collect();
    let mut data = Vec::with_capacity(image.data().len());
    for y in 0..height {
        for x in 0..width {
            let (from_x, from_y) = map.source(x, y);
            if !(0.0..width as f64).contains(&from_x) || !(0.0..height as f64).contains(&from_y) {
                data.extend_from_slice(&fill);
                continue;
            }
            let (from_x, from_y) = (from_x - 0.5, from_y - 0.5);
            let (left, top) = (from_x.floor(), from_y.floor());
            let (dx, dy) = (from_x - left, from_y - top);
            // The border is repeated half a pixel outwards.
            let column = |at: f64| (at.max(0.0) as usize).min(width - 1);
            let row = |at: f64| rows[(at.max(0.0) as usize).min(height - 1)];
            let (near, far) = (column(left), column(left + 1.0));
            let (upper, lower) = (row(top), row(top + 1.0));
            let mix = |a: f64, b: f64, part: f64| a + (b - a) * part;
            let across = |row: &[[u8; CHANNELS]], c: usize| mix(row[near][c].into(), row[far][c].into(), dx);
            let pixel: [u8; CHANNELS] =
                std::array::from_fn(|c| mix(across(upper, c), across(lower, c), dy) as u8);
            data.extend_from_slice(&pixel);
        }
    }
    Image::from_parts(image.width(), image.height(), image.channels(), data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quarter_turns_move_pixels_and_nothing_else() {
        let image = Image::new(3, 3, 1, (0..9).collect()).unwrap();
        for filter in [Filter::Nearest, Filter::Bilinear] {
            let turned = rotate(&image, 90.0, filter, &[77]).unwrap();
            assert_eq!(turned.data(), [2, 5, 8, 1, 4, 7, 0, 3, 6], "{filter:?}");
            assert_eq!(rotate(&turned, -90.0, filter, &[77]).unwrap(), image);
            assert_eq!(rotate(&image, 180.0, filter, &[77]).unwrap().data(), [8, 7, 6, 5, 4, 3, 2, 1, 0]);
            assert_eq!(rotate(&image, -720.0, filter, &[77]).unwrap(), image);
        }
    }

    #[test]
    fn corners_are_filled() {
        for color in [&[9][..], &[1, 2, 3], &[4, 5, 6, 128]] {
            let fill = vec![255; color.len()];
            let image = Image::filled(40, 20, color).unwrap();
            for filter in [Filter::Nearest, Filter::Bilinear] {
                let out = rotate(&image, 10.0, filter, &fill).unwrap();
                assert_eq!(out.pixel(0, 0), Some(&fill[..]));
                assert_eq!(out.pixel(39, 19), Some(&fill[..]));
                // Colours lose up to a level on their way through premultiplication.
                let middle = out.pixel(20, 10).unwrap();
                assert!(middle.iter().zip(color).all(|(a, b)| a.abs_diff(*b) <= 1), "{middle:?} {color:?}");
            }
        }
    }

    #[test]
    fn long_pictures_leave_fixed_point_arithmetic() {
        let image = Image::filled(40_000, 1, &[5]).unwrap();
        let out = rotate(&image, 0.0001, Filter::Nearest, &[0]).unwrap();
        assert_eq!(out.pixel(20_000, 0), Some(&[5][..]));
        assert_eq!(out, rotate(&image, 360.0001, Filter::Nearest, &[0]).unwrap());
    }

    #[test]
    fn bad_arguments_are_errors() {
        let image = Image::filled(2, 2, &[0]).unwrap();
        assert!(matches!(rotate(&image, f64::NAN, Filter::Nearest, &[0]), Err(Error::Argument { .. })));
        assert!(matches!(rotate(&image, 1.0, Filter::Bicubic, &[0]), Err(Error::Argument { .. })));
        assert!(matches!(rotate(&image, 1.0, Filter::Nearest, &[0; 3]), Err(Error::Shape { .. })));
    }
}
