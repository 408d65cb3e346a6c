//! Reads one matrix out of MATLAB files of version 5: `GTcls.Segmentation` of SBD.
//!
//! A file is a header of 128 bytes and elements: a kind, a length, that many bytes, padded to 8. An element
//! may be compressed, and then holds one other. A variable is an element of elements: flags, dimensions,
//! name, and for a structure the field names and a variable for every field. Fields that are not asked for
//! (SBD's sparse boundaries) are stepped over by their length. Matrices are stored column by column.

use std::io::Read;

use flate2::read::ZlibDecoder;
use vision_image::LabelMap;

/// The most bytes that one compressed variable may hold; the largest of SBD takes well below a mebibyte.
const MAX_VARIABLE: u64 = 64 << 20;
/// More fields than this has no structure of interest; a lying length would cost time.
const MAX_FIELDS: usize = 1000;

// Kinds of elements.
const INT8: u32 = 1;
const UINT8: u32 = 2;
const INT32: u32 = 5;
const UINT32: u32 = 6;
const MATRIX: u32 = 14;
const COMPRESSED: u32 = 15;

// Classes of variables.
const STRUCT: u32 = 2;
const UINT8_CLASS: u32 = 9;

/// What is wrong, and where in the file or in the decompressed variable.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) offset: usize,
    pub(super) text: String,
}

type Result<T> = std::result::Result<T, Problem>;

fn problem<T>(offset: usize, text: impl Into<String>) -> Result<T> {
    Err(Problem { offset, text: text.into() })
}

/// Where the reading is.
#[derive(Clone, Copy)]
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    big_endian: bool,
}

/// A kind and its bytes.
struct Element<'a> {
    kind: u32,
    /// Where its bytes begin.
    at: usize,
    data: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(length);
        match end.and_then(|end| self.bytes.get(self.at..end)) {
            Some(bytes) => {
                self.at += length;
                Ok(bytes)
            }
            None => problem(
                self.at,
                format!(
                    "{length} bytes are announced, {} are left",
                    self.bytes.len().saturating_sub(self.at)
                ),
            ),
        }
    }

    fn word(&self, bytes: &[u8]) -> u32 {
        let word = bytes.first_chunk::<4>().copied().unwrap_or_default();
        if self.big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
    }

    fn done(&self) -> bool {
        self.at >= self.bytes.len()
    }

    fn element(&mut self) -> Result<Element<'a>> {
        let start = self.at;
        let first = self.take(4)?;
        let first = self.word(first);
        // Up to four bytes fit beside a kind that is shortened to make room for the length.
        let (small, kind) = (first >> 16, first & 0xffff);
        if small != 0 {
            let at = self.at;
            let room = self.take(4)?;
            return match room.get(..small as usize) {
                Some(data) => Ok(Element { kind, at, data }),
                None => problem(start, format!("a short element of {small} bytes")),
            };
        }
        let length = self.take(4)?;
        let length = self.word(length) as usize;
        let at = self.at;
        let data = self.take(length)?;
        // Compressed elements are not padded, and the last of a file may lack its padding.
        if kind != COMPRESSED {
            self.at = self.at.saturating_add(length.wrapping_neg() % 8).min(self.bytes.len());
        }
        Ok(Element { kind, at, data })
    }

    /// The next element, which must be of this kind.
    fn expect(&mut self, kind: u32, what: &str) -> Result<Element<'a>> {
        let at = self.at;
        let element = self.element()?;
        if element.kind == kind {
            return Ok(element);
        }
        problem(at, format!("{what} of kind {}, expected {kind}", element.kind))
    }

    /// A cursor inside an element.
    fn inside(&self, element: &Element<'a>) -> Self {
        let end = element.at.saturating_add(element.data.len());
        Self { bytes: self.bytes.get(..end).unwrap_or(self.bytes), at: element.at, ..*self }
    }
}

/// Class, dimensions and name of a variable; the cursor is behind them.
struct Head {
    class: u32,
    complex: bool,
    dimensions: Vec<usize>,
    name: String,
}

fn head(cursor: &mut Cursor) -> Result<Head> {
    let flags = cursor.expect(UINT32, "flags")?;
    if flags.data.len() != 8 {
        return problem(flags.at, format!("{} bytes of flags, expected 8", flags.data.len()));
    }
    let flags = cursor.word(flags.data);
    let element = cursor.expect(INT32, "dimensions")?;
    if element.data.len() % 4 != 0 || !(8..=32 * 4).contains(&element.data.len()) {
        return problem(element.at, format!("{} bytes of dimensions", element.data.len()));
    }
    let mut dimensions = Vec::new();
    for word in element.data.chunks_exact(4) {
        match i32::try_from(cursor.word(word)).ok().and_then(|value| usize::try_from(value).ok()) {
            Some(value) => dimensions.push(value),
            None => return problem(element.at, "a negative dimension"),
        }
    }
    let name = cursor.expect(INT8, "name")?;
    let name = String::from_utf8_lossy(name.data).into_owned();
    Ok(Head { class: flags & 0xff, complex: flags & 0x800 != 0, dimensions, name })
}

/// The matrix `GTcls.Segmentation` of a file.
pub(super) fn segmentation(file: &[u8]) -> Result<LabelMap> {
    let Some((header, _)) = file.split_at_checked(128) else {
        return problem(file.len(), "the file ends in its header of 128 bytes");
    };
    let big_endian = match header.last_chunk::<4>() {
        Some([0x00, 0x01, b'I', b'M']) => false,
        Some([0x01, 0x00, b'M', b'I']) => true,
        _ => return problem(124, "no MATLAB file of version 5"),
    };
    let mut cursor = Cursor { bytes: file, at: 128, big_endian };
    while !cursor.done() {
        let element = cursor.element()?;
        let found = match element.kind {
            COMPRESSED => {
                let bytes = decompress(&element)?;
                let mut inner = Cursor { bytes: &bytes, at: 0, big_endian };
                let element = inner.expect(MATRIX, "a compressed element")?;
                variable(inner.inside(&element))?
            }
            MATRIX => variable(cursor.inside(&element))?,
            _ => None,
        };
        if let Some(map) = found {
            return Ok(map);
        }
    }
    problem(file.len(), "there is no structure GTcls with a field Segmentation")
}

fn decompress(element: &Element) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut reader = ZlibDecoder::new(element.data).take(MAX_VARIABLE + 1);
    match reader.read_to_end(&mut bytes) {
        Err(error) => problem(element.at, format!("cannot be decompressed: {error}")),
        Ok(length) if length as u64 > MAX_VARIABLE => {
            problem(element.at, format!("decompresses to more than {MAX_VARIABLE} bytes"))
        }
        Ok(_) => Ok(bytes),
    }
}

/// The field `Segmentation`, if this variable is the structure `GTcls`.
fn variable(mut cursor: Cursor) -> Result<Option<LabelMap>> {
    let start = cursor.at;
    let head = head(&mut cursor)?;
    if head.name != "GTcls" {
        return Ok(None);
    }
    if head.class != STRUCT || head.dimensions.iter().any(|&size| size != 1) {
        return problem(start, "GTcls is not one structure");
    }
    let length = cursor.expect(INT32, "length of field names")?;
    let length = if length.data.len() == 4 { cursor.word(length.data) as usize } else { 0 };
    let names = cursor.expect(INT8, "field names")?;
    if !(1..=64).contains(&length) || names.data.len() % length != 0 || names.data.len() / length > MAX_FIELDS
    {
        return problem(names.at, format!("{} bytes of field names of {length} bytes", names.data.len()));
    }
    for name in names.data.chunks_exact(length) {
        let field = cursor.expect(MATRIX, "a field")?;
        let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
        if name == b"Segmentation" {
            return matrix(cursor.inside(&field)).map(Some);
        }
    }
    problem(names.at, "GTcls has no field Segmentation")
}

/// A matrix of bytes, turned to rows.
fn matrix(mut cursor: Cursor) -> Result<LabelMap> {
    let start = cursor.at;
    let head = head(&mut cursor)?;
    if head.class != UINT8_CLASS || head.complex {
        return problem(start, format!("Segmentation is of class {}, expected bytes", head.class));
    }
    let &[height, width] = head.dimensions.as_slice() else {
        return problem(start, format!("Segmentation has {} dimensions", head.dimensions.len()));
    };
    let data = cursor.expect(UINT8, "values of Segmentation")?;
    if height.checked_mul(width) != Some(data.data.len()) || height == 0 {
        return problem(data.at, format!("{} values for {height} x {width}", data.data.len()));
    }
    let mut rows = vec![0; data.data.len()];
    for (x, column) in data.data.chunks_exact(height).enumerate() {
        for (row, &value) in rows.chunks_exact_mut(width).zip(column) {
            if let Some(pixel) = row.get_mut(x) {
                *pixel = value;
            }
        }
    }
    let (Ok(width), Ok(height)) = (u32::try_from(width), u32::try_from(height)) else {
        return problem(start, "Segmentation is too large");
    };
    LabelMap::new(width, height, rows).or_else(|error| problem(start, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const COMPRESSED_FILE: &[u8] = include_bytes!("../../../tests/fixtures/2008_000002.mat");
    const PLAIN_FILE: &[u8] = include_bytes!("../../../tests/fixtures/2008_000015.mat");

    #[test]
    fn columns_become_rows() {
        let map = segmentation(PLAIN_FILE).unwrap();
        assert_eq!((map.width(), map.height()), (3, 5));
        let map = segmentation(COMPRESSED_FILE).unwrap();
        assert_eq!((map.width(), map.height()), (31, 23));
        assert!(map.counts()[1..21].iter().any(|&count| count > 0));
    }

    #[test]
    fn every_truncation_and_many_flips_are_survived() {
        for file in [COMPRESSED_FILE, PLAIN_FILE] {
            let want = segmentation(file).unwrap();
            for end in 0..file.len() {
                // What comes behind the segmentation may be missing.
                if let Ok(map) = segmentation(&file[..end]) {
                    assert_eq!(map, want, "{end}");
                }
            }
            let mut damaged = file.to_vec();
            for at in 0..file.len() {
                for flip in [1, 2, 4, 8, 16, 32, 64, 128, 255] {
                    damaged[at] ^= flip;
                    drop(segmentation(&damaged));
                    damaged[at] ^= flip;
                }
            }
        }
    }

    #[test]
    fn bombs_are_refused() {
        use std::io::Write as _;
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        for _ in 0..65 {
            encoder.write_all(&vec![0; 1 << 20]).unwrap();
        }
        let bomb = encoder.finish().unwrap();
        let mut file = PLAIN_FILE[..128].to_vec();
        file.extend(COMPRESSED.to_le_bytes());
        file.extend((bomb.len() as u32).to_le_bytes());
        file.extend(bomb);
        assert!(segmentation(&file).unwrap_err().text.contains("more than 67108864 bytes"));
    }

    proptest! {
        #[test]
        fn words_of_any_value_are_survived(
            changes in prop::collection::vec((128usize..2336, any::<u32>()), 1..6)
        ) {
            let mut file = PLAIN_FILE.to_vec();
            for (at, word) in changes {
                let at = at / 4 * 4;
                if let Some(bytes) = file.get_mut(at..at + 4) {
                    bytes.copy_from_slice(&(word % 0x400).to_le_bytes());
                }
            }
            drop(segmentation(&file));
        }
    }
}
