//! Two drawings each of 1,911 symbols.

use std::path::Path;

use vision_image::Image;

use super::embedded;
use crate::{Error, Result};

/// Width and height of a drawing, in pixels.
const SIDE: u32 = 32;
/// Drawings in a row of an atlas.
const COLUMNS: u32 = 44;

const INDEX_PATH: &str = "samples/emoji32/index.tsv";
const HEADER: &str = "unified\tname\tcategory\tsubcategory";

/// What a pair of drawings shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol {
    /// The code points in hexadecimal, joined by `-`, as in `1F468-200D-1F373`.
    pub unified: String,
    /// The name, as in `GRINNING FACE`.
    pub name: String,
    /// One of ten categories, as in `Animals & Nature`.
    pub category: String,
    /// One of 99 subcategories, as in `animal-mammal`; each lies in one category.
    pub subcategory: String,
}

/// Symbols, each drawn independently by two vendors: the same thing in two views.
#[derive(Debug, Clone)]
pub struct EmojiSet {
    /// Google's drawings (Noto), RGBA 32x32, one per symbol. Fully transparent pixels are black.
    pub google: Vec<Image>,
    /// Twitter's drawings (Twemoji), likewise.
    pub twitter: Vec<Image>,
    /// What the drawings show, in Unicode's collation order.
    pub symbols: Vec<Symbol>,
}

/// The symbols without skin tones that both vendors draw. Put the drawings on a background with
/// [`Image::over`].
///
/// # Errors
/// If the embedded files are damaged.
pub fn emoji32() -> Result<EmojiSet> {
    let symbols = parse_index(embedded!("emoji32/index.tsv"))?;
    let cells = |bytes, path| cut(bytes, path, symbols.len());
    Ok(EmojiSet {
        google: cells(embedded!("emoji32/google.png"), "samples/emoji32/google.png")?,
        twitter: cells(embedded!("emoji32/twitter.png"), "samples/emoji32/twitter.png")?,
        symbols,
    })
}

fn parse_index(bytes: &[u8]) -> Result<Vec<Symbol>> {
    let format = |offset: usize, problem: String| Error::Format {
        path: INDEX_PATH.into(),
        offset: offset as u64,
        problem,
    };
    let text =
        std::str::from_utf8(bytes).map_err(|error| format(error.valid_up_to(), "not UTF-8".to_owned()))?;
    let mut lines = text.lines();
    let mut offset = HEADER.len() + 1;
    if lines.next() != Some(HEADER) {
        return Err(format(0, format!("the first line is not {HEADER:?}")));
    }
    let mut symbols = Vec::new();
    for line in lines {
        let fields: Vec<&str> = line.split('\t').collect();
        let &[unified, name, category, subcategory] = fields.as_slice() else {
            return Err(format(offset, format!("{} fields, expected 4", fields.len())));
        };
        symbols.push(Symbol {
            unified: unified.to_owned(),
            name: name.to_owned(),
            category: category.to_owned(),
            subcategory: subcategory.to_owned(),
        });
        offset += line.len() + 1;
    }
    Ok(symbols)
}

/// The first `count` cells of an atlas, row by row.
fn cut(bytes: &[u8], path: &str, count: usize) -> Result<Vec<Image>> {
    let atlas = vision_image::decode_native(bytes)
        .map_err(|source| Error::Picture { path: Path::new(path).to_owned(), source })?;
    if atlas.channels() != 4 {
        return Err(Error::Format {
            path: path.into(),
            offset: 0,
            problem: format!("{} channels, expected 4", atlas.channels()),
        });
    }
    (0..count as u32)
        .map(|at| Ok(atlas.crop(at % COLUMNS * SIDE, at / COLUMNS * SIDE, SIDE, SIDE)?))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn every_symbol_has_two_drawings() {
        let set = emoji32().unwrap();
        assert_eq!((set.symbols.len(), set.google.len(), set.twitter.len()), (1911, 1911, 1911));
        for (vendor, drawings) in [("google", &set.google), ("twitter", &set.twitter)] {
            for (drawing, symbol) in drawings.iter().zip(&set.symbols) {
                assert_eq!((drawing.width(), drawing.height(), drawing.channels()), (32, 32, 4));
                assert!(
                    drawing.data().chunks_exact(4).any(|p| p[3] > 0),
                    "{vendor} {} is empty",
                    symbol.unified
                );
                let clear_is_black = drawing.data().chunks_exact(4).all(|p| p[3] > 0 || p[..3] == [0, 0, 0]);
                assert!(clear_is_black, "{vendor} {}", symbol.unified);
            }
        }
    }

    #[test]
    fn index_has_unique_codes_and_nested_categories() {
        let set = emoji32().unwrap();
        let codes: BTreeSet<&str> = set.symbols.iter().map(|symbol| symbol.unified.as_str()).collect();
        assert_eq!(codes.len(), 1911);
        let mut categories: BTreeMap<&str, usize> = BTreeMap::new();
        let mut parents: BTreeMap<&str, &str> = BTreeMap::new();
        for symbol in &set.symbols {
            *categories.entry(&symbol.category).or_default() += 1;
            let parent = parents.entry(&symbol.subcategory).or_insert(&symbol.category);
            assert_eq!(*parent, symbol.category);
        }
        assert_eq!((categories.len(), parents.len()), (10, 99));
        assert_eq!(categories.values().max(), Some(&386));
        assert_eq!(set.symbols[0].name, "GRINNING FACE");
    }

    #[test]
    fn cells_are_cut_in_the_order_of_the_index() {
        let set = emoji32().unwrap();
        let at = set.symbols.iter().position(|symbol| symbol.unified == "2764-FE0F").unwrap();
        // The red heart is red in its middle in both.
        for drawing in [&set.google[at], &set.twitter[at]] {
            let &[red, green, blue, alpha] = drawing.pixel(16, 14).unwrap() else { panic!("not RGBA") };
            assert!(red > 200 && green < 80 && blue < 90 && alpha == 255, "{red} {green} {blue} {alpha}");
        }
    }

    #[test]
    fn damaged_files_are_refused() {
        assert!(matches!(parse_index(b"a\tb\n"), Err(Error::Format { offset: 0, .. })));
        let short = format!("{HEADER}\nx\ty\n");
        assert!(matches!(parse_index(short.as_bytes()), Err(Error::Format { offset: 34, .. })));
        assert!(matches!(cut(b"no picture", "p", 1), Err(Error::Picture { .. })));
        let small = vision_image::encode_png(&Image::filled(32, 32, &[0; 4]).unwrap()).unwrap();
        assert_eq!(cut(&small, "p", 1).unwrap().len(), 1);
        assert!(cut(&small, "p", 2).is_err());
        let rgb = vision_image::encode_png(&Image::filled(32, 32, &[0; 3]).unwrap()).unwrap();
        assert!(matches!(cut(&rgb, "p", 1), Err(Error::Format { .. })));
    }
}
