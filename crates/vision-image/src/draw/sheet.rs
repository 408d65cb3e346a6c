//! Contact sheets: rows of pictures in equal cells.

use super::{GLYPH_HEIGHT, outline, text};
use crate::error::{Error, Result};
use crate::picture::Image;
use crate::resample::{Filter, resize};

/// One picture of a sheet.
#[derive(Debug, Clone)]
pub struct Tile {
    /// The picture, of any size.
    pub image: Image,
    /// Colour of a frame around the cell, such as green for right and red for wrong.
    pub border: Option<[u8; 3]>,
}

impl Tile {
    /// A tile without a frame.
    pub fn new(image: Image) -> Self {
        Self { image, border: None }
    }

    /// A tile with a frame.
    pub fn framed(image: Image, color: [u8; 3]) -> Self {
        Self { image, border: Some(color) }
    }
}

/// A contact sheet: every tile is scaled to fit a square cell of `cell` pixels (keeping its proportions and centred;
/// nearest when it grows, bilinear when it shrinks), with `gap` pixels of `background` around every cell.
///
/// Rows may have different lengths; missing tiles stay background. A frame is drawn in the gap, up to half of it and
/// at most a tenth of the cell wide; without a gap it covers the outermost pixels of the cell.
///
/// # Errors
/// `Argument` if `cell` is 0 or there is no tile, `TooLarge` if the sheet exceeds [`crate::MAX_PIXELS`].
pub fn sheet(rows: &[Vec<Tile>], cell: u32, gap: u32, background: [u8; 3]) -> Result<Image> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    if columns == 0 {
        return Err(Error::argument("rows", "there is no tile"));
    }
    if cell == 0 {
        return Err(Error::argument("cell", "it is 0"));
    }
    let pitch = u64::from(cell) + u64::from(gap);
    let side = |count: usize| (count as u64).saturating_mul(pitch).saturating_add(u64::from(gap));
    let (width, height) = (side(columns), side(rows.len()));
    // Coordinates below are i32, which any sheet within the limit fits.
    let fits = |size: u64| i32::try_from(size).ok().and_then(|size| u32::try_from(size).ok());
    let (Some(w), Some(h)) = (fits(width), fits(height)) else {
        return Err(Error::TooLarge { width, height, limit: crate::MAX_PIXELS });
    };
    let mut out = Image::filled(w, h, &background)?;
    for (row, tiles) in rows.iter().enumerate() {
        for (column, tile) in tiles.iter().enumerate() {
            let at = |index: usize| (u64::from(gap) + index as u64 * pitch) as u32;
            place(&mut out, tile, at(column), at(row), cell, gap, background)?;
        }
    }
    Ok(out)
}

/// A [`sheet`] with a title above each of its columns, in black; `cell`, `gap` and `background` as the sheet has them.
///
/// Titles may have several lines. What is wider than a column runs into the next one.
///
/// # Errors
/// `TooLarge` if the result exceeds [`crate::MAX_PIXELS`].
pub fn titled(
    sheet: &Image,
    titles: &[impl AsRef<str>],
    cell: u32,
    gap: u32,
    background: [u8; 3],
) -> Result<Image> {
    let lines = titles.iter().map(|title| title.as_ref().lines().count()).max().unwrap_or(0) as u64;
    let head = lines.saturating_mul(u64::from(GLYPH_HEIGHT) + 2).saturating_add(u64::from(gap));
    let height = head.saturating_add(u64::from(sheet.height()));
    let (Ok(rows), Ok(head)) = (u32::try_from(height), u32::try_from(head)) else {
        return Err(Error::TooLarge { width: sheet.width().into(), height, limit: crate::MAX_PIXELS });
    };
    let mut out = Image::filled(sheet.width(), rows, &background)?;
    copy(&mut out, &sheet.over(background), 0, head);
    for (column, title) in (0_u64..).zip(titles) {
        let left = u64::from(gap) + column * (u64::from(cell) + u64::from(gap));
        let (Ok(left), Ok(top)) = (i32::try_from(left), i32::try_from(gap)) else { break };
        text(&mut out, left, top, title.as_ref(), [0; 3]);
    }
    Ok(out)
}

fn place(
    out: &mut Image,
    tile: &Tile,
    x: u32,
    y: u32,
    cell: u32,
    gap: u32,
    background: [u8; 3],
) -> Result<()> {
    let (w, h) = (tile.image.width(), tile.image.height());
    let longest = u64::from(w.max(h));
    let scaled = |side: u32| ((u64::from(side) * u64::from(cell) + longest / 2) / longest).max(1) as u32;
    let filter = if longest <= u64::from(cell) { Filter::Nearest } else { Filter::Bilinear };
    let picture = resize(&tile.image, scaled(w), scaled(h), filter)?.over(background);
    let left = x + (cell - picture.width()) / 2;
    let top = y + (cell - picture.height()) / 2;
    copy(out, &picture, left, top);
    if let Some(color) = tile.border {
        let wide = (gap / 2).min((cell / 10).max(1));
        let (outside, thickness) = if wide == 0 { (0, 1) } else { (wide, wide) };
        let corner = |v: u32| v as i32;
        let frame = [
            corner(x - outside),
            corner(y - outside),
            corner(x + cell + outside),
            corner(y + cell + outside),
        ];
        outline(out, frame, thickness, color);
    }
    Ok(())
}

/// Copies an RGB picture into another at (`left`, `top`), where it must fit.
pub(super) fn copy(out: &mut Image, picture: &Image, left: u32, top: u32) {
    let (stride, from) = (out.stride(), left as usize * 3);
    let rows = out.data_mut().chunks_exact_mut(stride).skip(top as usize);
    for (to, row) in rows.zip(picture.data().chunks_exact(picture.stride())) {
        to[from..from + row.len()].copy_from_slice(row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_lie_in_their_cells() {
        let red = Image::filled(2, 2, &[255, 0, 0]).unwrap();
        let tall = Image::filled(10, 20, &[0, 200, 0]).unwrap();
        let clear = Image::filled(3, 3, &[9, 9, 9, 0]).unwrap();
        let rows = [vec![Tile::framed(red, [0, 0, 255]), Tile::new(tall)], vec![Tile::new(clear)]];
        let out = sheet(&rows, 8, 2, [7; 3]).unwrap();
        assert_eq!((out.width(), out.height()), (22, 22));
        assert_eq!(out.pixel(0, 0), Some(&[7; 3][..]));
        assert_eq!(out.pixel(1, 1), Some(&[0, 0, 255][..]));
        assert_eq!(out.pixel(10, 10), Some(&[0, 0, 255][..]));
        assert_eq!(out.pixel(2, 2), Some(&[255, 0, 0][..]));
        assert_eq!(out.pixel(9, 9), Some(&[255, 0, 0][..]));
        // 10 x 20 becomes 4 x 8, centred.
        assert_eq!(out.pixel(13, 5), Some(&[7; 3][..]));
        assert_eq!(out.pixel(14, 2), Some(&[0, 200, 0][..]));
        assert_eq!(out.pixel(17, 9), Some(&[0, 200, 0][..]));
        assert_eq!(out.pixel(18, 5), Some(&[7; 3][..]));
        // Transparent tiles show the background, missing ones too.
        assert_eq!(out.pixel(5, 15), Some(&[7; 3][..]));
        assert_eq!(out.pixel(15, 15), Some(&[7; 3][..]));
    }

    #[test]
    fn without_a_gap_the_frame_lies_inside() {
        let tile = Tile::framed(Image::filled(4, 4, &[50]).unwrap(), [1, 2, 3]);
        let out = sheet(&[vec![tile]], 4, 0, [0; 3]).unwrap();
        assert_eq!((out.width(), out.height()), (4, 4));
        assert_eq!(out.pixel(0, 3), Some(&[1, 2, 3][..]));
        assert_eq!(out.pixel(1, 1), Some(&[50; 3][..]));
    }

    #[test]
    fn titles_stand_above_their_columns() {
        let tile = || Tile::new(Image::filled(4, 4, &[50, 60, 70]).unwrap());
        let plain = sheet(&[vec![tile(), tile()]], 20, 3, [255; 3]).unwrap();
        let out = titled(&plain, &["a\nb", "|"], 20, 3, [255; 3]).unwrap();
        let head = 3 + 2 * (GLYPH_HEIGHT + 2);
        assert_eq!((out.width(), out.height()), (plain.width(), plain.height() + head));
        let below = out.data()[head as usize * out.stride()..].to_vec();
        assert_eq!(below, plain.data());
        let inked: Vec<u32> =
            (0..out.width()).filter(|&x| (0..head).any(|y| out.pixel(x, y) == Some(&[0; 3][..]))).collect();
        assert!(inked.iter().all(|x| (3..8).contains(x) || (26..31).contains(x)), "{inked:?}");
        assert!(inked.contains(&28) && inked.iter().any(|&x| x < 8));
        let first_line = (3..3 + GLYPH_HEIGHT).any(|y| out.pixel(28, y) == Some(&[0; 3][..]));
        assert!(first_line && out.pixel(28, 3 + GLYPH_HEIGHT + 2) == Some(&[255; 3][..]));
    }

    #[test]
    fn bad_arguments_are_errors() {
        let tile = Tile::new(Image::filled(1, 1, &[0]).unwrap());
        assert!(sheet(&[], 4, 0, [0; 3]).is_err());
        assert!(sheet(&[vec![]], 4, 0, [0; 3]).is_err());
        assert!(sheet(&[vec![tile.clone()]], 0, 0, [0; 3]).is_err());
        assert!(matches!(sheet(&[vec![tile.clone()]], u32::MAX, 1, [0; 3]), Err(Error::TooLarge { .. })));
        assert!(matches!(sheet(&[vec![tile]], 100, u32::MAX, [0; 3]), Err(Error::TooLarge { .. })));
    }
}
