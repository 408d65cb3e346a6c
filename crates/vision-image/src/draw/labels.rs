//! Label maps over pictures, and what their colours mean.

use super::{GLYPH_HEIGHT, fill, outline, text, text_width};
use crate::error::{Error, Result};
use crate::labels::LabelMap;
use crate::picture::{Image, blend};

/// How labels are shown.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelStyle<'a> {
    /// The colour of each class, that of class 0 first.
    pub palette: &'a [[u8; 3]],
    /// How much of a class's colour is seen, from 0 (only the picture) to 1 (only the colour).
    pub alpha: f32,
    /// The label that stands for no class, such as 255. It needs no colour in `palette`.
    pub ignore: Option<u8>,
    /// The colour of pixels with that label; `None` leaves the picture as it is there.
    pub ignore_color: Option<[u8; 3]>,
}

impl<'a> LabelStyle<'a> {
    /// Half picture, half colour; every label is a class.
    pub fn new(palette: &'a [[u8; 3]]) -> Self {
        Self { palette, alpha: 0.5, ignore: None, ignore_color: None }
    }

    /// The colour of each label that occurs, or the error that one has none.
    fn colors(&self, counts: &[u64; 256]) -> Result<[Option<[u8; 3]>; 256]> {
        let mut colors = [None; 256];
        for (label, (color, &count)) in (0_u8..=255).zip(colors.iter_mut().zip(counts)) {
            if self.ignore == Some(label) {
                *color = self.ignore_color;
            } else if count > 0 {
                let found = self.palette.get(usize::from(label)).copied();
                let problem = || format!("{} colours, but label {label} occurs", self.palette.len());
                *color = Some(found.ok_or_else(|| Error::argument("palette", problem()))?);
            }
        }
        Ok(colors)
    }
}

/// The picture in three channels with the colours of its labels over it. Transparent parts are laid over white first.
///
/// # Errors
/// `Shape` if the two differ in size; `Argument` if `alpha` is not in 0..=1 or a label that occurs has no colour.
pub fn overlay(image: &Image, labels: &LabelMap, style: &LabelStyle<'_>) -> Result<Image> {
    let size = |width: u32, height: u32| format!("{width} x {height}");
    if (image.width(), image.height()) != (labels.width(), labels.height()) {
        return Err(Error::Shape {
            what: "label map",
            expected: size(image.width(), image.height()),
            got: size(labels.width(), labels.height()),
        });
    }
    if !(0.0..=1.0).contains(&style.alpha) {
        return Err(Error::argument("alpha", format!("{} is not in 0..=1", style.alpha)));
    }
    let alpha = (style.alpha * 255.0).round() as u8;
    let colors = style.colors(&labels.counts())?;
    let mut out = image.to_rgb();
    for (pixel, &label) in out.data_mut().as_chunks_mut::<3>().0.iter_mut().zip(labels.data()) {
        if let Some([r, g, b]) = colors[usize::from(label)] {
            *pixel = [blend(r, pixel[0], alpha), blend(g, pixel[1], alpha), blend(b, pixel[2], alpha)];
        }
    }
    Ok(out)
}

/// Pixels around the entries of a legend, and between the parts of one.
const MARGIN: u32 = 4;

/// Rows of an entry.
const ENTRY: u32 = GLYPH_HEIGHT + 4;

/// What the colours of a label map mean: a line for each class that occurs, with its colour, its name and its share of
/// the pixels, the largest first and equal ones by class. Ignored pixels come last, as `(ignored)`.
///
/// `names` holds the name of class 0 first. The colours are those of the palette, unmixed.
///
/// # Errors
/// `Argument` if a class that occurs has no name or no colour.
pub fn legend(labels: &LabelMap, names: &[impl AsRef<str>], style: &LabelStyle<'_>) -> Result<Image> {
    legend_of(&labels.counts(), names, style)
}

/// [`legend`] of several label maps together, from the number of pixels of each label.
///
/// # Errors
/// As [`legend`].
pub fn legend_of(counts: &[u64; 256], names: &[impl AsRef<str>], style: &LabelStyle<'_>) -> Result<Image> {
    let colors = style.colors(counts)?;
    let total = counts.iter().sum::<u64>() as f64;
    let mut entries = Vec::new();
    for (label, &count) in (0_u8..=255).zip(counts) {
        if count == 0 {
            continue;
        }
        let ignored = style.ignore == Some(label);
        let name = if ignored { Some("(ignored)") } else { names.get(usize::from(label)).map(AsRef::as_ref) };
        let problem = || format!("{} names, but label {label} occurs", names.len());
        let name = name.ok_or_else(|| Error::argument("names", problem()))?;
        let share = percent(count as f64 / total);
        entries.push((ignored, std::cmp::Reverse(count), name, share, colors[usize::from(label)]));
    }
    // Stable, so equal shares stay ordered by class.
    entries.sort_by_key(|&(ignored, count, ..)| (ignored, count));

    let widest = |widths: &mut dyn Iterator<Item = u32>| widths.max().unwrap_or(0);
    let name_width = widest(&mut entries.iter().map(|(_, _, name, ..)| text_width(name)));
    let share_width = widest(&mut entries.iter().map(|(_, _, _, share, _)| text_width(share)));
    let swatch = ENTRY - 2;
    let names_at = MARGIN + swatch + MARGIN;
    let shares_at = names_at.saturating_add(name_width).saturating_add(2 * MARGIN);
    let width = shares_at.saturating_add(share_width).saturating_add(MARGIN);
    let mut out = Image::filled(width, 2 * MARGIN + entries.len() as u32 * ENTRY, &[255; 3])?;
    // A picture within the limit fits i32.
    let at = |v: u32| v as i32;
    for (row, (_, _, name, share, color)) in (0..).zip(&entries) {
        let top = MARGIN + row * ENTRY;
        let corners = [at(MARGIN), at(top), at(MARGIN + swatch), at(top + swatch)];
        if let Some(color) = *color {
            fill(&mut out, corners[0], corners[1], corners[2], corners[3], color);
        }
        outline(&mut out, corners, 1, [0; 3]);
        text(&mut out, at(names_at), at(top + 1), name, [0; 3]);
        text(&mut out, at(shares_at + share_width - text_width(share)), at(top + 1), share, [0; 3]);
    }
    Ok(out)
}

/// A share from 0 to 1 as text; what is there is never shown as nothing.
fn percent(share: f64) -> String {
    if share > 0.0 && share < 0.000_5 { "<0.1%".to_owned() } else { format!("{:.1}%", share * 100.0) }
}

/// Pictures side by side, tops aligned, with `gap` columns of `background` between them.
///
/// # Errors
/// `Argument` if there is no picture, `TooLarge` if the result exceeds [`crate::MAX_PIXELS`].
pub fn beside(images: &[Image], gap: u32, background: [u8; 3]) -> Result<Image> {
    let Some(height) = images.iter().map(Image::height).max() else {
        return Err(Error::argument("images", "there is no picture"));
    };
    let gaps = u64::from(gap).saturating_mul(images.len() as u64 - 1);
    let width = images.iter().map(|image| u64::from(image.width())).sum::<u64>().saturating_add(gaps);
    let Ok(columns) = u32::try_from(width) else {
        return Err(Error::TooLarge { width, height: height.into(), limit: crate::MAX_PIXELS });
    };
    let mut out = Image::filled(columns, height, &background)?;
    let mut left = 0;
    for image in images {
        super::sheet::copy(&mut out, &image.over(background), left, 0);
        left = left.saturating_add(image.width()).saturating_add(gap);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PALETTE: [[u8; 3]; 3] = [[200, 0, 0], [0, 100, 0], [0, 0, 50]];

    fn labels() -> LabelMap {
        LabelMap::new(4, 2, vec![0, 0, 0, 2, 0, 255, 255, 255]).unwrap()
    }

    #[test]
    fn colours_are_mixed_in_by_alpha() {
        let image = Image::filled(4, 2, &[100]).unwrap();
        let style = LabelStyle { ignore: Some(255), alpha: 0.2, ..LabelStyle::new(&PALETTE) };
        let out = overlay(&image, &labels(), &style).unwrap();
        assert_eq!(out.pixel(0, 0), Some(&[120, 80, 80][..]));
        assert_eq!(out.pixel(3, 0), Some(&[80, 80, 90][..]));
        assert_eq!(out.pixel(1, 1), Some(&[100; 3][..]));
        let solid = LabelStyle { alpha: 1.0, ignore_color: Some([9; 3]), ..style };
        let out = overlay(&image, &labels(), &solid).unwrap();
        assert_eq!((out.pixel(0, 0), out.pixel(1, 1)), (Some(&[200, 0, 0][..]), Some(&[9; 3][..])));
    }

    #[test]
    fn bad_arguments_are_errors() {
        let image = Image::filled(4, 2, &[100]).unwrap();
        let style = LabelStyle::new(&PALETTE);
        let error = overlay(&image, &labels(), &style).unwrap_err().to_string();
        assert!(error.contains("label 255 occurs"), "{error}");
        let style = LabelStyle { ignore: Some(255), ..style };
        for alpha in [-0.1, 1.5, f32::NAN] {
            let style = LabelStyle { alpha, ..style.clone() };
            assert!(matches!(overlay(&image, &labels(), &style), Err(Error::Argument { name: "alpha", .. })));
        }
        let small = Image::filled(2, 2, &[0]).unwrap();
        assert!(matches!(overlay(&small, &labels(), &style), Err(Error::Shape { .. })));
        let error = legend(&labels(), &["sky", "road"], &style).unwrap_err().to_string();
        assert!(error.contains("2 names, but label 2 occurs"), "{error}");
    }

    #[test]
    fn legends_list_what_occurs() {
        let style = LabelStyle { ignore: Some(255), ..LabelStyle::new(&PALETTE) };
        let out = legend(&labels(), &["sky", "road", "person"], &style).unwrap();
        assert_eq!(out.height(), 2 * MARGIN + 3 * ENTRY);
        let swatch = |row: u32| out.pixel(MARGIN + 3, MARGIN + row * ENTRY + 3).unwrap().to_vec();
        assert_eq!([swatch(0), swatch(1), swatch(2)], [vec![200, 0, 0], vec![0, 0, 50], vec![255; 3]]);
        // Road does not occur, so another name for it changes nothing.
        assert_eq!(legend(&labels(), &["sky", "a long name", "person"], &style).unwrap(), out);
        assert_eq!(
            (percent(0.0), percent(0.0001), percent(0.125)),
            ("0.0%".into(), "<0.1%".into(), "12.5%".into())
        );
    }

    #[test]
    fn pictures_stand_side_by_side() {
        let (a, b) = (Image::filled(2, 3, &[1]).unwrap(), Image::filled(1, 1, &[2, 3, 4, 255]).unwrap());
        let out = beside(&[a.clone(), b], 2, [7; 3]).unwrap();
        assert_eq!((out.width(), out.height()), (5, 3));
        assert_eq!([out.pixel(1, 2), out.pixel(2, 0)], [Some(&[1; 3][..]), Some(&[7; 3][..])]);
        assert_eq!([out.pixel(4, 0), out.pixel(4, 1)], [Some(&[2, 3, 4][..]), Some(&[7; 3][..])]);
        assert!(beside(&[], 2, [7; 3]).is_err());
        assert!(matches!(beside(&[a.clone(), a], u32::MAX, [7; 3]), Err(Error::TooLarge { .. })));
    }
}
