//! Text in a fixed bitmap font for printable ASCII.

use super::point;
use crate::picture::Image;

/// Columns of a glyph; the next one starts one column further.
pub const GLYPH_WIDTH: u32 = 5;

/// Rows of a glyph; the next line starts two rows further.
pub const GLYPH_HEIGHT: u32 = 7;

const ADVANCE: i32 = GLYPH_WIDTH as i32 + 1;
const LINE: i32 = GLYPH_HEIGHT as i32 + 2;

/// Draws text with its top left corner at (`x`, `y`), in glyphs of 5 x 7 pixels, six pixels apart.
///
/// A line break starts a new line nine pixels below. Characters outside printable ASCII appear as a hollow box;
/// what lies outside the picture is left out.
pub fn text(image: &mut Image, x: i32, y: i32, text: &str, color: [u8; 3]) {
    for (column, row) in ink(text) {
        point(image, x.saturating_add(column), y.saturating_add(row), color);
    }
}

/// [`text`] turned a quarter to the left: it reads upwards from its bottom row, which is the one above `y`, and further
/// lines follow to the right.
pub fn text_upward(image: &mut Image, x: i32, y: i32, text: &str, color: [u8; 3]) {
    for (column, row) in ink(text) {
        point(image, x.saturating_add(row), y.saturating_sub(column).saturating_sub(1), color);
    }
}

/// Columns and rows of the pixels that a text has, from its top left corner.
fn ink(text: &str) -> impl Iterator<Item = (i32, i32)> + '_ {
    let (mut left, mut top) = (0_i32, 0_i32);
    let glyphs = text.chars().filter_map(move |character| {
        if character == '\n' {
            (left, top) = (0, top.saturating_add(LINE));
            return None;
        }
        let corner = (left, top);
        left = left.saturating_add(ADVANCE);
        Some((corner, glyph(character)))
    });
    glyphs.flat_map(|((left, top), rows)| {
        (0..).zip(rows).flat_map(move |(row, bits)| {
            let set = move |column: &i32| bits >> (GLYPH_WIDTH as i32 - 1 - column) & 1 == 1;
            (0..GLYPH_WIDTH as i32)
                .filter(set)
                .map(move |column| (left.saturating_add(column), top.saturating_add(row)))
        })
    })
}

/// Columns that the longest line of `text` takes.
pub fn text_width(text: &str) -> u32 {
    let longest = text.lines().map(|line| line.chars().count()).max().unwrap_or(0);
    let longest = u32::try_from(longest).unwrap_or(u32::MAX);
    longest.saturating_mul(ADVANCE as u32).saturating_sub(1)
}

fn glyph(character: char) -> &'static [u8; 7] {
    (character as usize).checked_sub(FIRST).and_then(|index| FONT.get(index)).unwrap_or(&UNKNOWN)
}

const UNKNOWN: [u8; 7] = [0b11111, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b11111];

/// The character of the first glyph, a space.
const FIRST: usize = 0x20;

/// Rows from top to bottom; the highest of the five bits is the leftmost pixel.
#[rustfmt::skip]
const FONT: [[u8; 7]; 95] = [
    [0b00000, 0b00000, 0b00000, 0b00000, 0b00000, 0b00000, 0b00000], // space
    [0b00100, 0b00100, 0b00100, 0b00100, 0b00100, 0b00000, 0b00100], // !
    [0b01010, 0b01010, 0b01010, 0b00000, 0b00000, 0b00000, 0b00000], // "
    [0b01010, 0b01010, 0b11111, 0b01010, 0b11111, 0b01010, 0b01010], // #
    [0b00100, 0b01111, 0b10100, 0b01110, 0b00101, 0b11110, 0b00100], // $
    [0b11000, 0b11001, 0b00010, 0b00100, 0b01000, 0b10011, 0b00011], // %
    [0b01100, 0b10010, 0b10100, 0b01000, 0b10101, 0b10010, 0b01101], // &
    [0b00100, 0b00100, 0b01000, 0b00000, 0b00000, 0b00000, 0b00000], // '
    [0b00010, 0b00100, 0b01000, 0b01000, 0b01000, 0b00100, 0b00010], // (
    [0b01000, 0b00100, 0b00010, 0b00010, 0b00010, 0b00100, 0b01000], // )
    [0b00000, 0b00100, 0b10101, 0b01110, 0b10101, 0b00100, 0b00000], // *
    [0b00000, 0b00100, 0b00100, 0b11111, 0b00100, 0b00100, 0b00000], // +
    [0b00000, 0b00000, 0b00000, 0b00000, 0b01100, 0b00100, 0b01000], // ,
    [0b00000, 0b00000, 0b00000, 0b11111, 0b00000, 0b00000, 0b00000], // -
    [0b00000, 0b00000, 0b00000, 0b00000, 0b00000, 0b01100, 0b01100], // .
    [0b00000, 0b00001, 0b00010, 0b00100, 0b01000, 0b10000, 0b00000], // /
    [0b01110, 0b10001, 0b10011, 0b10101, 0b11001, 0b10001, 0b01110], // 0
    [0b00100, 0b01100, 0b00100, 0b00100, 0b00100, 0b00100, 0b01110], // 1
    [0b01110, 0b10001, 0b00001, 0b00010, 0b00100, 0b01000, 0b11111], // 2
    [0b11111, 0b00010, 0b00100, 0b00010, 0b00001, 0b10001, 0b01110], // 3
    [0b00010, 0b00110, 0b01010, 0b10010, 0b11111, 0b00010, 0b00010], // 4
    [0b11111, 0b10000, 0b11110, 0b00001, 0b00001, 0b10001, 0b01110], // 5
    [0b00110, 0b01000, 0b10000, 0b11110, 0b10001, 0b10001, 0b01110], // 6
    [0b11111, 0b00001, 0b00010, 0b00100, 0b01000, 0b01000, 0b01000], // 7
    [0b01110, 0b10001, 0b10001, 0b01110, 0b10001, 0b10001, 0b01110], // 8
    [0b01110, 0b10001, 0b10001, 0b01111, 0b00001, 0b00010, 0b01100], // 9
    [0b00000, 0b01100, 0b01100, 0b00000, 0b01100, 0b01100, 0b00000], // :
    [0b00000, 0b01100, 0b01100, 0b00000, 0b01100, 0b00100, 0b01000], // ;
    [0b00010, 0b00100, 0b01000, 0b10000, 0b01000, 0b00100, 0b00010], // <
    [0b00000, 0b00000, 0b11111, 0b00000, 0b11111, 0b00000, 0b00000], // =
    [0b01000, 0b00100, 0b00010, 0b00001, 0b00010, 0b00100, 0b01000], // >
    [0b01110, 0b10001, 0b00001, 0b00010, 0b00100, 0b00000, 0b00100], // ?
    [0b01110, 0b10001, 0b10111, 0b10101, 0b10111, 0b10000, 0b01110], // @
    [0b01110, 0b10001, 0b10001, 0b10001, 0b11111, 0b10001, 0b10001], // A
    [0b11110, 0b10001, 0b10001, 0b11110, 0b10001, 0b10001, 0b11110], // B
    [0b01110, 0b10001, 0b10000, 0b10000, 0b10000, 0b10001, 0b01110], // C
    [0b11100, 0b10010, 0b10001, 0b10001, 0b10001, 0b10010, 0b11100], // D
    [0b11111, 0b10000, 0b10000, 0b11110, 0b10000, 0b10000, 0b11111], // E
    [0b11111, 0b10000, 0b10000, 0b11110, 0b10000, 0b10000, 0b10000], // F
    [0b01110, 0b10001, 0b10000, 0b10111, 0b10001, 0b10001, 0b01111], // G
    [0b10001, 0b10001, 0b10001, 0b11111, 0b10001, 0b10001, 0b10001], // H
    [0b01110, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100, 0b01110], // I
    [0b00111, 0b00010, 0b00010, 0b00010, 0b00010, 0b10010, 0b01100], // J
    [0b10001, 0b10010, 0b10100, 0b11000, 0b10100, 0b10010, 0b10001], // K
    [0b10000, 0b10000, 0b10000, 0b10000, 0b10000, 0b10000, 0b11111], // L
    [0b10001, 0b11011, 0b10101, 0b10101, 0b10001, 0b10001, 0b10001], // M
    [0b10001, 0b10001, 0b11001, 0b10101, 0b10011, 0b10001, 0b10001], // N
    [0b01110, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b01110], // O
    [0b11110, 0b10001, 0b10001, 0b11110, 0b10000, 0b10000, 0b10000], // P
    [0b01110, 0b10001, 0b10001, 0b10001, 0b10101, 0b10010, 0b01101], // Q
    [0b11110, 0b10001, 0b10001, 0b11110, 0b10100, 0b10010, 0b10001], // R
    [0b01111, 0b10000, 0b10000, 0b01110, 0b00001, 0b00001, 0b11110], // S
    [0b11111, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100], // T
    [0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b01110], // U
    [0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b01010, 0b00100], // V
    [0b10001, 0b10001, 0b10001, 0b10101, 0b10101, 0b11011, 0b10001], // W
    [0b10001, 0b10001, 0b01010, 0b00100, 0b01010, 0b10001, 0b10001], // X
    [0b10001, 0b10001, 0b01010, 0b00100, 0b00100, 0b00100, 0b00100], // Y
    [0b11111, 0b00001, 0b00010, 0b00100, 0b01000, 0b10000, 0b11111], // Z
    [0b01110, 0b01000, 0b01000, 0b01000, 0b01000, 0b01000, 0b01110], // [
    [0b00000, 0b10000, 0b01000, 0b00100, 0b00010, 0b00001, 0b00000], // backslash
    [0b01110, 0b00010, 0b00010, 0b00010, 0b00010, 0b00010, 0b01110], // ]
    [0b00100, 0b01010, 0b10001, 0b00000, 0b00000, 0b00000, 0b00000], // ^
    [0b00000, 0b00000, 0b00000, 0b00000, 0b00000, 0b00000, 0b11111], // _
    [0b01000, 0b00100, 0b00010, 0b00000, 0b00000, 0b00000, 0b00000], // `
    [0b00000, 0b00000, 0b01110, 0b00001, 0b01111, 0b10001, 0b01111], // a
    [0b10000, 0b10000, 0b10110, 0b11001, 0b10001, 0b10001, 0b11110], // b
    [0b00000, 0b00000, 0b01110, 0b10000, 0b10000, 0b10001, 0b01110], // c
    [0b00001, 0b00001, 0b01101, 0b10011, 0b10001, 0b10001, 0b01111], // d
    [0b00000, 0b00000, 0b01110, 0b10001, 0b11111, 0b10000, 0b01110], // e
    [0b00110, 0b01001, 0b01000, 0b11100, 0b01000, 0b01000, 0b01000], // f
    [0b00000, 0b01111, 0b10001, 0b10001, 0b01111, 0b00001, 0b01110], // g
    [0b10000, 0b10000, 0b10110, 0b11001, 0b10001, 0b10001, 0b10001], // h
    [0b00100, 0b00000, 0b01100, 0b00100, 0b00100, 0b00100, 0b01110], // i
    [0b00010, 0b00000, 0b00110, 0b00010, 0b00010, 0b10010, 0b01100], // j
    [0b10000, 0b10000, 0b10010, 0b10100, 0b11000, 0b10100, 0b10010], // k
    [0b01100, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100, 0b01110], // l
    [0b00000, 0b00000, 0b11010, 0b10101, 0b10101, 0b10001, 0b10001], // m
    [0b00000, 0b00000, 0b10110, 0b11001, 0b10001, 0b10001, 0b10001], // n
    [0b00000, 0b00000, 0b01110, 0b10001, 0b10001, 0b10001, 0b01110], // o
    [0b00000, 0b00000, 0b11110, 0b10001, 0b11110, 0b10000, 0b10000], // p
    [0b00000, 0b00000, 0b01101, 0b10011, 0b01111, 0b00001, 0b00001], // q
    [0b00000, 0b00000, 0b10110, 0b11001, 0b10000, 0b10000, 0b10000], // r
    [0b00000, 0b00000, 0b01110, 0b10000, 0b01110, 0b00001, 0b11110], // s
    [0b01000, 0b01000, 0b11100, 0b01000, 0b01000, 0b01001, 0b00110], // t
    [0b00000, 0b00000, 0b10001, 0b10001, 0b10001, 0b10011, 0b01101], // u
    [0b00000, 0b00000, 0b10001, 0b10001, 0b10001, 0b01010, 0b00100], // v
    [0b00000, 0b00000, 0b10001, 0b10001, 0b10101, 0b10101, 0b01010], // w
    [0b00000, 0b00000, 0b10001, 0b01010, 0b00100, 0b01010, 0b10001], // x
    [0b00000, 0b00000, 0b10001, 0b10001, 0b01111, 0b00001, 0b01110], // y
    [0b00000, 0b00000, 0b11111, 0b00010, 0b00100, 0b01000, 0b11111], // z
    [0b00010, 0b00100, 0b00100, 0b01000, 0b00100, 0b00100, 0b00010], // {
    [0b00100, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100], // |
    [0b01000, 0b00100, 0b00100, 0b00010, 0b00100, 0b00100, 0b01000], // }
    [0b00000, 0b00000, 0b01000, 0b10101, 0b00010, 0b00000, 0b00000], // ~
];

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(content: &str, width: u32, height: u32) -> Vec<String> {
        let mut image = Image::filled(width, height, &[0]).unwrap();
        text(&mut image, 0, 0, content, [255; 3]);
        image
            .data()
            .chunks_exact(width as usize)
            .map(|row| row.iter().map(|&v| if v == 0 { '.' } else { '#' }).collect())
            .collect()
    }

    #[test]
    fn letters_look_like_letters() {
        let want = [
            "#####.#....",
            "..#...#....",
            "..#...#.##.",
            "..#...##..#",
            "..#...#...#",
            "..#...#...#",
            "..#...#...#",
        ];
        assert_eq!(picture("Th", 11, 7), want);
        assert_eq!(picture("T\nT", 5, 16)[9..], picture("T", 5, 7));
        assert_eq!(picture("\u{e9}", 5, 7), picture("\u{1f600}", 5, 7));
    }

    #[test]
    fn glyphs_differ() {
        for (i, a) in FONT.iter().enumerate() {
            assert!(a.iter().all(|row| *row < 32));
            assert!(FONT[..i].iter().all(|b| a != b), "{}", char::from((FIRST + i) as u8));
        }
    }

    #[test]
    fn turned_text_is_text_turned() {
        let mut level = Image::filled(11, 16, &[0]).unwrap();
        text(&mut level, 0, 0, "Ab\nc", [255; 3]);
        let mut turned = Image::filled(16, 11, &[0]).unwrap();
        text_upward(&mut turned, 0, 11, "Ab\nc", [255; 3]);
        for (x, y) in (0..11).flat_map(|x| (0..16).map(move |y| (x, y))) {
            assert_eq!(turned.pixel(y, 10 - x), level.pixel(x, y), "({x}, {y})");
        }
        text_upward(&mut turned, i32::MAX, i32::MIN, "M", [255; 3]);
    }

    #[test]
    fn widths_and_borders() {
        assert_eq!(text_width(""), 0);
        assert_eq!(text_width("ab"), 11);
        assert_eq!(text_width("ab\nabc"), 17);
        let mut image = Image::filled(4, 4, &[0; 3]).unwrap();
        text(&mut image, -3, -3, "MM", [9; 3]);
        text(&mut image, i32::MAX - 2, i32::MAX, "MM\nM", [8; 3]);
        assert!(image.data().contains(&9) && !image.data().contains(&8));
    }
}
