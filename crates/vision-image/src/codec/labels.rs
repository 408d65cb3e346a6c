//! Label maps as PNG files: the stored numbers, never the colours that a palette gives them.

use std::io::Cursor;
use std::path::Path;

use image::metadata::Orientation;
use png::{BitDepth, ColorType, DecodingError, Transformations};

use super::png::{MAX_SIDE_DATA, PIXELS_PER_BYTE, walk};
use super::{Format, MAX_PIXELS, check_size, describe_start, read, turn};
use crate::error::{Error, Result};
use crate::labels::LabelMap;
use crate::picture::Image;

/// Reads a label map from a PNG file: the palette indices, or the grey levels as stored, of 1, 2, 4 or 8 bits.
///
/// Levels of few bits are not stretched to 0..=255, as they are for pictures: a two-bit file has labels 0 to 3. An index
/// past the end of the palette is a label like any other (255 for "not labelled" is often one). The turn that Exif asks
/// for is applied, as to pictures; transparency is not looked at.
///
/// # Errors
/// `UnknownFormat` unless the bytes are a PNG file, `Unsupported` for colours, grey with alpha and sixteen bits, otherwise
/// as [`crate::decode`].
pub fn decode_labels(bytes: &[u8]) -> Result<LabelMap> {
    match Format::detect(bytes) {
        Some(Format::Png) => {}
        // Its losses would move labels to classes that nobody drew.
        Some(Format::Jpeg) => {
            return Err(Error::UnknownFormat { problem: "labels are stored as PNG, this is JPEG".into() });
        }
        None => return Err(Error::UnknownFormat { problem: describe_start(bytes) }),
    }
    walk(bytes)?;
    let limits = png::Limits { bytes: MAX_SIDE_DATA as usize };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), limits);
    decoder.set_transformations(Transformations::IDENTITY);
    let mut reader = decoder.read_info().map_err(translate)?;
    let info = reader.info();
    let (width, height, color, depth) = (info.width, info.height, info.color_type, info.bit_depth);
    let bits = match (color, depth) {
        (ColorType::Grayscale | ColorType::Indexed, BitDepth::One) => 1,
        (ColorType::Grayscale | ColorType::Indexed, BitDepth::Two) => 2,
        (ColorType::Grayscale | ColorType::Indexed, BitDepth::Four) => 4,
        (ColorType::Grayscale | ColorType::Indexed, BitDepth::Eight) => 8,
        _ => {
            let problem = format!(
                "labels are palette indices or grey levels of up to 8 bits, this is {color:?} of {} bits",
                depth as u8
            );
            return Err(Error::Unsupported { format: Format::Png, problem });
        }
    };
    check_size(Format::Png, (width.into(), height.into()), MAX_PIXELS, bytes.len(), PIXELS_PER_BYTE)?;
    let orientation = info.exif_metadata.as_deref().and_then(Orientation::from_exif_chunk);
    // Grey files may not have one, colours that nothing points at mean nothing.
    let palette = info
        .palette
        .as_ref()
        .filter(|_| color == ColorType::Indexed)
        .map(|bytes| bytes.as_chunks::<3>().0.to_vec());
    let Some(len) = reader.output_buffer_size() else {
        return Err(Error::TooLarge { width: width.into(), height: height.into(), limit: MAX_PIXELS });
    };
    let mut packed = vec![0; len];
    let frame = reader.next_frame(&mut packed).map_err(translate)?;
    let data = unpack(packed, frame.line_size, width as usize, bits);
    let labels = turn(Image::new(width, height, 1, data)?, orientation.unwrap_or(Orientation::NoTransforms));
    Ok(LabelMap::from_gray(labels)?.with_palette(palette))
}

/// Reads a label map from a file, as [`decode_labels`].
///
/// # Errors
/// `Io` if the file cannot be read, `File` around the errors of [`decode_labels`]; both name the path.
pub fn open_labels(path: impl AsRef<Path>) -> Result<LabelMap> {
    let path = path.as_ref();
    decode_labels(&read(path)?).map_err(|error| error.in_file(path))
}

/// The map as a PNG file of eight-bit palette indices, which [`decode_labels`] gives back and other programs show in the
/// colours of `palette`, the colour of label 0 first. The same map gives the same bytes.
///
/// # Errors
/// `Argument` if the palette has no or more than 256 colours, or none for a label that occurs; `Encode` if the encoder
/// fails.
pub fn encode_indexed(labels: &LabelMap, palette: &[[u8; 3]]) -> Result<Vec<u8>> {
    if !(1..=256).contains(&palette.len()) {
        return Err(Error::argument("palette", format!("{} colours, 1 to 256 are possible", palette.len())));
    }
    if let Some(at) = labels.data().iter().position(|&label| usize::from(label) >= palette.len()) {
        let (x, y) = (at % labels.width() as usize, at / labels.width() as usize);
        let (label, colors) = (labels.data()[at], palette.len());
        let problem = format!("{colors} colours, but label {label} occurs at ({x}, {y})");
        return Err(Error::argument("palette", problem));
    }
    let failed =
        |error: png::EncodingError| Error::Encode { format: Format::Png, problem: error.to_string() };
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, labels.width(), labels.height());
    encoder.set_color(ColorType::Indexed);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_palette(palette.as_flattened());
    // Differences of labels mean nothing: runs compress best as they are.
    encoder.set_filter(png::Filter::NoFilter);
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(labels.data()).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(bytes)
}

/// Rows of `line` bytes with `bits` per sample, the first in the highest bits, to a byte per sample.
fn unpack(packed: Vec<u8>, line: usize, width: usize, bits: usize) -> Vec<u8> {
    if bits == 8 {
        return packed;
    }
    let mask = (1_u8 << bits) - 1;
    let mut data = Vec::with_capacity(packed.len() * 8 / bits);
    for row in packed.chunks_exact(line.max(1)) {
        let samples = row
            .iter()
            .flat_map(|&byte| (0..8 / bits).map(move |position| byte >> (8 - bits - position * bits) & mask));
        // The last byte of a row may be padded.
        data.extend(samples.take(width));
    }
    data
}

fn translate(error: DecodingError) -> Error {
    match error {
        DecodingError::LimitsExceeded => Error::Unsupported {
            format: Format::Png,
            problem: format!("text and profiles take more than {} MiB", MAX_SIDE_DATA >> 20),
        },
        // The walk has seen the end, so nothing here is a mere truncation.
        other => Error::Corrupt { format: Format::Png, problem: other.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{decode, encode_jpeg, encode_png};

    /// Every label, and a last row that ends within a byte at any depth.
    fn every_label() -> LabelMap {
        LabelMap::new(17, 17, (0..289).map(|i| (i * 7 % 256) as u8).collect()).unwrap()
    }

    #[test]
    fn indices_and_palette_come_back() {
        let palette: Vec<[u8; 3]> = (0..=255).map(|i| [i, 255 - i, i / 2]).collect();
        let labels = every_label();
        let file = encode_indexed(&labels, &palette).unwrap();
        assert_eq!(file, encode_indexed(&labels, &palette).unwrap());
        let back = decode_labels(&file).unwrap();
        assert_eq!((back.data(), back.palette()), (labels.data(), Some(palette.as_slice())));
        // As a picture it has the colours.
        assert_eq!(decode(&file).unwrap().pixel(1, 0), Some(&[7, 248, 3][..]));
    }

    #[test]
    fn grey_files_have_labels_and_no_palette() {
        let labels = every_label();
        let back = decode_labels(&encode_png(&labels.clone().into_gray()).unwrap()).unwrap();
        assert_eq!(back, labels);
        assert_eq!(back.palette(), None);
    }

    #[test]
    fn few_bits_are_not_stretched() {
        for (depth, bits) in [(BitDepth::One, 1), (BitDepth::Two, 2), (BitDepth::Four, 4)] {
            for color in [ColorType::Grayscale, ColorType::Indexed] {
                let mut bytes = Vec::new();
                let mut encoder = png::Encoder::new(&mut bytes, 11, 2);
                encoder.set_color(color);
                encoder.set_depth(depth);
                encoder.set_palette(vec![9; 3 * (1 << bits)]);
                let mut writer = encoder.write_header().unwrap();
                let line = 11_usize.div_ceil(8 / bits);
                writer.write_image_data(&vec![0b1011_0001; 2 * line]).unwrap();
                writer.finish().unwrap();
                let labels = decode_labels(&bytes).unwrap();
                let per_byte = 8 / bits;
                for (at, &label) in labels.data().iter().enumerate() {
                    let position = at % 11 % per_byte;
                    let want = 0b1011_0001_u8 >> (8 - bits - bits * position) & ((1 << bits) - 1);
                    assert_eq!(label, want, "{color:?} {bits} bits, pixel {at}");
                }
                assert_eq!(labels.palette().is_some(), color == ColorType::Indexed);
            }
        }
    }

    #[test]
    fn an_index_past_the_palette_is_a_label() {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 2, 1);
        encoder.set_color(ColorType::Indexed);
        encoder.set_palette(vec![1, 2, 3]);
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&[0, 255]).unwrap();
        writer.finish().unwrap();
        let labels = decode_labels(&bytes).unwrap();
        assert_eq!((labels.data(), labels.palette()), (&[0, 255][..], Some(&[[1, 2, 3]][..])));
        let error = encode_indexed(&labels, &[[1, 2, 3]]).unwrap_err().to_string();
        assert!(error.contains("label 255 occurs at (1, 0)"), "{error}");
    }

    #[test]
    fn what_holds_no_labels_is_refused() {
        let picture = Image::filled(4, 4, &[1, 2, 3]).unwrap();
        let error = decode_labels(&encode_png(&picture).unwrap()).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }) && error.to_string().contains("Rgb of 8 bits"));
        let jpeg = encode_jpeg(&picture.to_gray(), 90).unwrap();
        assert!(matches!(decode_labels(&jpeg), Err(Error::UnknownFormat { .. })));
        assert!(matches!(decode_labels(b"GIF89a"), Err(Error::UnknownFormat { .. })));
        let labels = every_label();
        assert!(matches!(encode_indexed(&labels, &[]), Err(Error::Argument { name: "palette", .. })));
        assert!(matches!(encode_indexed(&labels, &[[0; 3]; 257]), Err(Error::Argument { .. })));
        let folder = tempfile::tempdir().unwrap();
        let error = open_labels(folder.path().join("missing.png")).unwrap_err().to_string();
        assert!(error.contains("missing.png"), "{error}");
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = encode_indexed(&every_label(), &[[5; 3]; 256]).unwrap();
        for end in 0..bytes.len() {
            assert!(decode_labels(&bytes[..end]).is_err(), "length {end}");
        }
    }
}
