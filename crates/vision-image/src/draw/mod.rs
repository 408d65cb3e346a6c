//! Drawing on pictures: lines, boxes, text, label maps, and sheets of many pictures; tables of shares as pictures.
//!
//! Whatever lies outside the picture is left out. Colours are red, green, blue; on a grey picture their luma is drawn,
//! on one with alpha they are opaque.

mod font;
mod heat_map;
mod labels;
mod sheet;

pub use font::{GLYPH_HEIGHT, GLYPH_WIDTH, text, text_upward, text_width};
pub use heat_map::heat_map;
pub use labels::{LabelStyle, beside, legend, legend_of, overlay};
pub use sheet::{Tile, sheet, titled};

use crate::picture::{Image, luma};

/// Sets one pixel; outside the picture nothing happens.
pub fn point(image: &mut Image, x: i32, y: i32, color: [u8; 3]) {
    let (Ok(column), Ok(row)) = (u32::try_from(x), u32::try_from(y)) else {
        return;
    };
    if column >= image.width() || row >= image.height() {
        return;
    }
    let channels = usize::from(image.channels());
    let at = (row as usize * image.width() as usize + column as usize) * channels;
    let [r, g, b] = color;
    match &mut image.data_mut()[at..at + channels] {
        [grey] => *grey = luma(color),
        [red, green, blue, rest @ ..] => {
            (*red, *green, *blue) = (r, g, b);
            rest.fill(255);
        }
        _ => {}
    }
}

/// Fills the pixels from (`left`, `top`) to just before (`right`, `bottom`).
pub fn fill(image: &mut Image, left: i32, top: i32, right: i32, bottom: i32, color: [u8; 3]) {
    let clip = |v: i32, size: u32| i64::from(v).clamp(0, i64::from(size)) as i32;
    let (w, h) = (image.width(), image.height());
    for y in clip(top, h)..clip(bottom, h) {
        for x in clip(left, w)..clip(right, w) {
            point(image, x, y, color);
        }
    }
}

/// Draws the outline of a box `[x1, y1, x2, y2]` in continuous pixel coordinates, `thickness` pixels wide, inside it.
///
/// Corners are rounded to pixel borders; a box that vanishes by it is not drawn.
pub fn rectangle(image: &mut Image, corners: [f32; 4], thickness: u32, color: [u8; 3]) {
    outline(image, corners.map(|v| v.round() as i32), thickness, color);
}

/// [`rectangle`] in whole pixels.
fn outline(image: &mut Image, [left, top, right, bottom]: [i32; 4], thickness: u32, color: [u8; 3]) {
    let wide = i32::try_from(thickness).unwrap_or(i32::MAX);
    let (below, above) = (top.saturating_add(wide).min(bottom), bottom.saturating_sub(wide).max(top));
    let (inner_left, inner_right) =
        (left.saturating_add(wide).min(right), right.saturating_sub(wide).max(left));
    fill(image, left, top, right, below, color);
    fill(image, left, above, right, bottom, color);
    fill(image, left, top, inner_left, bottom, color);
    fill(image, inner_right, top, right, bottom, color);
}

/// Draws a line one pixel wide between two pixels, both included (Bresenham's algorithm).
pub fn line(image: &mut Image, from: (i32, i32), to: (i32, i32), color: [u8; 3]) {
    // Doubles hold every i32 exactly, so the clipped ends are right to the last bit that matters.
    let Some((from, to)) = clip_line(image, from, to) else {
        return;
    };
    let (dx, dy) = ((to.0 - from.0).abs(), -(to.1 - from.1).abs());
    let (step_x, step_y) = ((to.0 - from.0).signum(), (to.1 - from.1).signum());
    let (mut x, mut y, mut error) = (from.0, from.1, dx + dy);
    loop {
        point(image, x as i32, y as i32, color);
        if (x, y) == to {
            return;
        }
        let twice = 2 * error;
        if twice >= dy {
            error += dy;
            x += step_x;
        }
        if twice <= dx {
            error += dx;
            y += step_y;
        }
    }
}

/// The part of a line within one picture size of the picture, so that drawing takes time in proportion to the
/// picture and not to how far away the ends are (Liang and Barsky's algorithm).
fn clip_line(image: &Image, from: (i32, i32), to: (i32, i32)) -> Option<((i64, i64), (i64, i64))> {
    let (x0, y0) = (f64::from(from.0), f64::from(from.1));
    let (dx, dy) = (f64::from(to.0) - x0, f64::from(to.1) - y0);
    let (w, h) = (f64::from(image.width()), f64::from(image.height()));
    let (mut start, mut end) = (0.0_f64, 1.0_f64);
    for (delta, low, high) in [(dx, -w - x0, 2.0 * w - x0), (dy, -h - y0, 2.0 * h - y0)] {
        if delta == 0.0 {
            if low > 0.0 || high < 0.0 {
                return None;
            }
        } else {
            let (a, b) = (low / delta, high / delta);
            start = start.max(a.min(b));
            end = end.min(a.max(b));
        }
    }
    if start > end {
        return None;
    }
    let at = |t: f64| ((x0 + t * dx).round() as i64, (y0 + t * dy).round() as i64);
    Some((at(start), at(end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(image: &Image, color: &[u8]) -> usize {
        image.data().chunks_exact(usize::from(image.channels())).filter(|pixel| *pixel == color).count()
    }

    #[test]
    fn outlines_lie_inside_their_box() {
        let mut image = Image::filled(10, 8, &[0; 3]).unwrap();
        rectangle(&mut image, [2.0, 1.0, 7.0, 5.0], 1, [255, 0, 0]);
        assert_eq!(count(&image, &[255, 0, 0]), 2 * 5 + 2 * 2);
        assert_eq!(image.pixel(2, 1), Some(&[255, 0, 0][..]));
        assert_eq!(image.pixel(6, 4), Some(&[255, 0, 0][..]));
        assert_eq!(image.pixel(3, 2), Some(&[0, 0, 0][..]));
        assert_eq!(image.pixel(7, 5), Some(&[0, 0, 0][..]));
        // A box thinner than its outline is filled; infinite, inverted and outside boxes are harmless.
        let mut image = Image::filled(10, 8, &[0; 3]).unwrap();
        rectangle(&mut image, [2.0, 1.0, 4.0, 3.0], 9, [1; 3]);
        assert_eq!(count(&image, &[1; 3]), 4);
        for corners in [[f32::NEG_INFINITY, 0.0, f32::INFINITY, 3.0], [5.0, 5.0, 1.0, 1.0], [f32::NAN; 4]] {
            rectangle(&mut image, corners, u32::MAX, [2; 3]);
        }
        assert_eq!(count(&image, &[2; 3]), 30);
    }

    #[test]
    fn lines_reach_both_ends() {
        for (to, pixels) in [((9, 4), 9), ((1, 7), 6), ((9, 7), 9), ((1, 2), 1)] {
            let mut image = Image::filled(10, 8, &[0]).unwrap();
            line(&mut image, (1, 2), to, [255; 3]);
            assert_eq!(image.pixel(1, 2), Some(&[255][..]));
            assert_eq!(image.pixel(to.0 as u32, to.1 as u32), Some(&[255][..]));
            assert_eq!(count(&image, &[255]), pixels);
            let mut back = Image::filled(10, 8, &[0]).unwrap();
            line(&mut back, to, (1, 2), [255; 3]);
            assert_eq!(count(&back, &[255]), pixels);
        }
    }

    #[test]
    fn far_ends_are_clipped() {
        let mut image = Image::filled(10, 10, &[0]).unwrap();
        line(&mut image, (i32::MIN, 3), (i32::MAX, 3), [255; 3]);
        assert_eq!(count(&image, &[255]), 10);
        line(&mut image, (i32::MIN, i32::MIN), (i32::MAX, i32::MAX), [7; 3]);
        assert_eq!(count(&image, &[7]), 10);
        line(&mut image, (-5, -50), (50, -50), [9; 3]);
        line(&mut image, (i32::MIN, 5), (i32::MIN, 9), [9; 3]);
        assert_eq!(count(&image, &[9]), 0);
    }

    #[test]
    fn alpha_becomes_opaque_and_grey_takes_the_luma() {
        let mut image = Image::filled(2, 1, &[0; 4]).unwrap();
        point(&mut image, 1, 0, [1, 2, 3]);
        point(&mut image, 2, 0, [1, 2, 3]);
        point(&mut image, -1, 0, [1, 2, 3]);
        assert_eq!(image.data(), [0, 0, 0, 0, 1, 2, 3, 255]);
        let mut grey = Image::filled(1, 1, &[0]).unwrap();
        point(&mut grey, 0, 0, [0, 255, 0]);
        assert_eq!(grey.data(), [150]);
    }
}
