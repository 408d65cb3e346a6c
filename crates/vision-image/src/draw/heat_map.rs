//! Tables of shares as coloured cells, such as a confusion matrix.

use super::{GLYPH_HEIGHT, GLYPH_WIDTH, fill, text, text_upward, text_width};
use crate::error::{Error, Result};
use crate::picture::{Image, luma};

/// Cells have room for a line of text, so that every row and column can have its name.
const SMALLEST_CELL: u32 = GLYPH_HEIGHT + 2;

/// From here on cells hold their number, three digits at most.
const NUMBERED_CELL: u32 = 3 * (GLYPH_WIDTH + 1) + 2;

const MARGIN: u32 = 4;

/// The scale's colours at 0, 1/2 and 1: the darker, the more.
const SCALE: [[u8; 3]; 3] = [[250, 250, 252], [110, 160, 210], [15, 40, 95]];

/// Cells without a value, such as the row of a class without samples.
const EMPTY: [u8; 3] = [200, 200, 200];

/// A table of shares from 0 to 1, row by row, as square cells of `cell` pixels, the darker the larger; `None` is grey.
/// Names of rows stand to the left, names of columns above, reading upwards, and `title` on top. Cells of 20 pixels or
/// more show their share in percent.
///
/// # Errors
/// `Shape` unless there is a value for every row and column; `Argument` for a cell of less than 9 pixels, a table without
/// rows or columns, or a value that is not in 0..=1; `TooLarge` if the picture exceeds [`crate::MAX_PIXELS`].
pub fn heat_map(
    title: &str,
    values: &[Option<f64>],
    rows: &[impl AsRef<str>],
    columns: &[impl AsRef<str>],
    cell: u32,
) -> Result<Image> {
    if cell < SMALLEST_CELL {
        return Err(Error::argument("cell", format!("{cell} pixels, at least {SMALLEST_CELL} are needed")));
    }
    if rows.is_empty() || columns.is_empty() {
        let problem = format!("{} rows and {} columns", rows.len(), columns.len());
        return Err(Error::argument("rows", problem));
    }
    if rows.len().checked_mul(columns.len()) != Some(values.len()) {
        return Err(Error::Shape {
            what: "values",
            expected: format!("{} x {}", rows.len(), columns.len()),
            got: values.len().to_string(),
        });
    }
    if let Some(at) = values.iter().position(|v| v.is_some_and(|v| !(0.0..=1.0).contains(&v))) {
        let (row, column) = (at / columns.len(), at % columns.len());
        let value = values[at].unwrap_or(f64::NAN);
        let problem = format!("row {row}, column {column} is {value}, not in 0..=1");
        return Err(Error::argument("values", problem));
    }
    let longest = |names: &mut dyn Iterator<Item = &str>| names.map(text_width).max().unwrap_or(0);
    let left = longest(&mut rows.iter().map(AsRef::as_ref)).saturating_add(2 * MARGIN);
    let title_height = if title.is_empty() { 0 } else { GLYPH_HEIGHT + MARGIN };
    let names_height = longest(&mut columns.iter().map(AsRef::as_ref));
    let top = names_height.saturating_add(title_height + 2 * MARGIN);
    let side = |start: u32, count: usize, margin: u32| {
        (count as u64).saturating_mul(cell.into()).saturating_add(u64::from(start) + u64::from(margin))
    };
    let width = side(left, columns.len(), MARGIN).max(u64::from(text_width(title)) + 2 * u64::from(MARGIN));
    let height = side(top, rows.len(), MARGIN);
    let (Ok(w), Ok(h)) = (u32::try_from(width), u32::try_from(height)) else {
        return Err(Error::TooLarge { width, height, limit: crate::MAX_PIXELS });
    };
    let mut out = Image::filled(w, h, &[255; 3])?;

    // A picture within the limit has sides that fit i32.
    let at = |start: u32, index: usize| start as i32 + index as i32 * cell as i32;
    let centred = |size: u32| (cell.saturating_sub(size) / 2) as i32;
    text(&mut out, MARGIN as i32, MARGIN as i32, title, [0; 3]);
    for (row, name) in rows.iter().enumerate() {
        let x = left.saturating_sub(MARGIN + text_width(name.as_ref()));
        text(&mut out, x as i32, at(top, row) + centred(GLYPH_HEIGHT), name.as_ref(), [0; 3]);
    }
    for (column, name) in columns.iter().enumerate() {
        let x = at(left, column) + centred(GLYPH_HEIGHT);
        text_upward(&mut out, x, top as i32 - MARGIN as i32, name.as_ref(), [0; 3]);
    }
    for (index, value) in values.iter().enumerate() {
        let (x, y) = (at(left, index % columns.len()), at(top, index / columns.len()));
        // A line of white between cells, which large tables do without.
        let edge = i32::from(cell >= NUMBERED_CELL);
        let side = cell as i32 - edge;
        let color = value.map_or(EMPTY, shade);
        fill(&mut out, x, y, x + side, y + side, color);
        if let Some(value) = value.filter(|_| cell >= NUMBERED_CELL) {
            let number = format!("{:.0}", value * 100.0);
            let ink = if luma(color) > 128 { [0; 3] } else { [255; 3] };
            text(&mut out, x + centred(text_width(&number)), y + centred(GLYPH_HEIGHT), &number, ink);
        }
    }
    Ok(out)
}

/// The colour of a share from 0 to 1.
fn shade(value: f64) -> [u8; 3] {
    let [low, middle, high] = SCALE;
    let (from, to, part) =
        if value < 0.5 { (low, middle, value * 2.0) } else { (middle, high, value * 2.0 - 1.0) };
    let mix = |channel: usize| {
        let (from, to) = (f64::from(from[channel]), f64::from(to[channel]));
        (from + (to - from) * part).round() as u8
    };
    [mix(0), mix(1), mix(2)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 2] = ["sky", "road"];

    #[test]
    fn cells_have_the_colours_of_their_shares() {
        let values = [Some(1.0), Some(0.0), None, Some(0.5)];
        let out = heat_map("confusion", &values, &NAMES, &NAMES, 9).unwrap();
        let (left, top) = (text_width("road") + 2 * MARGIN, text_width("road") + GLYPH_HEIGHT + 3 * MARGIN);
        assert_eq!(out.height(), top + 2 * 9 + MARGIN);
        let cell = |row: u32, column: u32| out.pixel(left + column * 9 + 4, top + row * 9 + 4).unwrap();
        assert_eq!(
            [cell(0, 0), cell(0, 1), cell(1, 0), cell(1, 1)],
            [&SCALE[2], &SCALE[0], &EMPTY, &SCALE[1]]
        );
        // Both kinds of names leave ink.
        let dark = |x: std::ops::Range<u32>, y: std::ops::Range<u32>| {
            let mut pixels = y.flat_map(|y| x.clone().map(move |x| (x, y)));
            pixels.any(|(x, y)| out.pixel(x, y) == Some(&[0; 3][..]))
        };
        assert!(dark(0..left, top..out.height()) && dark(left..out.width(), GLYPH_HEIGHT + MARGIN..top));
    }

    #[test]
    fn large_cells_hold_numbers() {
        let values = [Some(1.0), Some(0.0), Some(0.25), Some(0.75)];
        let out = heat_map("", &values, &NAMES, &NAMES, 24).unwrap();
        let white = out.data().as_chunks::<3>().0.iter().filter(|pixel| **pixel == SCALE[2]).count();
        // A full cell without its border, less the ink of "100".
        assert!(white < 23 * 23 && white > 23 * 23 - 3 * 35, "{white}");
    }

    #[test]
    fn bad_arguments_are_errors() {
        let values = [Some(0.5); 4];
        assert!(matches!(
            heat_map("", &values, &NAMES, &NAMES, 8),
            Err(Error::Argument { name: "cell", .. })
        ));
        assert!(matches!(heat_map("", &values[..3], &NAMES, &NAMES, 9), Err(Error::Shape { .. })));
        assert!(heat_map("", &[], &NAMES[..0], &NAMES, 9).is_err());
        for bad in [f64::NAN, -0.1, 1.1, f64::INFINITY] {
            let values = [None, None, Some(bad), None];
            let error = heat_map("", &values, &NAMES, &NAMES, 9).unwrap_err().to_string();
            assert!(error.contains("row 1, column 0"), "{error}");
        }
        assert!(matches!(heat_map("", &values, &NAMES, &NAMES, u32::MAX), Err(Error::TooLarge { .. })));
    }
}
