//! JPEG: a walk over the markers that finds missing ends, then zune-jpeg in its strict mode.

use image::metadata::Orientation;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::{Format, check_size};
use crate::error::{Error, Result};
use crate::picture::Image;

pub(super) const SIGNATURE: [u8; 3] = [0xff, 0xd8, 0xff];

/// Every block of 8 x 8 pixels costs at least one bit (its first DC code), so a byte holds at most 8 * 64 pixels.
const PIXELS_PER_BYTE: u64 = 512;

const SOI: u8 = 0xd8;
const EOI: u8 = 0xd9;
const SOS: u8 = 0xda;

pub(super) fn decode(bytes: &[u8], limit: u64) -> Result<(Image, Orientation)> {
    let outline = walk(bytes)?;
    // Bytes after the end of the picture (a second picture in MPO files, padding) are none of the decoder's business.
    let bytes = &bytes[..outline.end];
    // Strict decoding also refuses stray bytes between segments. Those harm nothing and cameras write them, so
    // only for such files the tolerant mode decides.
    let options = DecoderOptions::default()
        .set_strict_mode(!outline.stray_bytes)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX));
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(|error| translate(&error))?;
    let Some((width, height)) = decoder.dimensions() else {
        return Err(corrupt("no frame header"));
    };
    check_size(Format::Jpeg, (width as u64, height as u64), limit, bytes.len(), PIXELS_PER_BYTE)?;
    let orientation = decoder
        .exif()
        .and_then(|exif| Orientation::from_exif_chunk(exif))
        .unwrap_or(Orientation::NoTransforms);
    let (color, channels) = match decoder.input_colorspace() {
        Some(ColorSpace::Luma) => (ColorSpace::Luma, 1),
        _ => (ColorSpace::RGB, 3),
    };
    decoder.set_options(options.jpeg_set_out_colorspace(color));
    let data = decoder.decode().map_err(|error| translate(&error))?;
    let (Ok(width), Ok(height)) = (u32::try_from(width), u32::try_from(height)) else {
        return Err(corrupt(format!("the size is {width} x {height}")));
    };
    Ok((Image::new(width, height, channels, data)?, orientation))
}

/// Names the frame types that no decoder of ours reads: zune-jpeg knows some, but not as "unsupported".
fn check_frame(marker: u8) -> Result<()> {
    match marker {
        0xc3 | 0xc7 => Err(unsupported("lossless coding")),
        0xc5 | 0xc6 => Err(unsupported("hierarchical coding")),
        0xc9..=0xcb | 0xcd..=0xcf => Err(unsupported("arithmetic coding")),
        _ => Ok(()),
    }
}

fn unsupported(problem: impl Into<String>) -> Error {
    Error::Unsupported { format: Format::Jpeg, problem: problem.into() }
}

/// What the markers say.
struct Outline {
    /// Offset just behind the end-of-image marker.
    end: usize,
    /// Whether bytes that belong to no segment lie between two of them.
    stray_bytes: bool,
}

/// Goes from segment to segment to the end-of-image marker.
///
/// A decoder that has seen enough bits for the last row cannot tell whether the file goes on, and a tolerant one
/// fills what is missing with grey; the marker is the only sign that the whole file has arrived.
fn walk(bytes: &[u8]) -> Result<Outline> {
    let mut at = 2;
    let mut stray_bytes = false;
    let mut scans = 0;
    loop {
        // To the next marker: 0xff, any number of fill bytes 0xff, then neither 0x00 nor 0xff.
        let mut skipped = 0;
        while let Some(&byte) = bytes.get(at) {
            if byte == 0xff {
                break;
            }
            at += 1;
            skipped += 1;
        }
        while bytes.get(at) == Some(&0xff) {
            at += 1;
        }
        let Some(&marker) = bytes.get(at) else {
            return Err(truncated(format!("{} bytes without an end-of-image marker", bytes.len())));
        };
        at += 1;
        stray_bytes |= skipped > 0;
        match marker {
            EOI if scans == 0 => return Err(corrupt("it ends before the first scan")),
            EOI => return Ok(Outline { end: at, stray_bytes }),
            // A stuffed byte, a restart marker, TEM or a second start outside a scan: nothing that has a length.
            0x00 | 0x01 | SOI | 0xd0..=0xd7 => stray_bytes = true,
            _ => {
                let Some(&[high, low]) = bytes.get(at..at + 2).and_then(|length| length.first_chunk::<2>())
                else {
                    return Err(truncated("it stops inside a segment header"));
                };
                let length = usize::from(u16::from_be_bytes([high, low]));
                if length < 2 {
                    return Err(corrupt(format!("segment 0x{marker:02x} at byte {at} has length {length}")));
                }
                at += length;
                if at > bytes.len() {
                    return Err(truncated(format!(
                        "segment 0x{marker:02x} needs {} bytes more than the file has",
                        at - bytes.len()
                    )));
                }
                check_frame(marker)?;
                if marker == SOS {
                    scans += 1;
                    at = skip_scan(bytes, at);
                }
            }
        }
    }
}

/// The offset of the first marker behind the entropy-coded data that starts at `at`, or the end of the bytes.
fn skip_scan(bytes: &[u8], mut at: usize) -> usize {
    while let Some(rest) = bytes.get(at..) {
        let Some(offset) = rest.iter().position(|&byte| byte == 0xff) else {
            return bytes.len();
        };
        at += offset;
        match bytes.get(at + 1) {
            // Stuffing and restart markers belong to the scan; of fill bytes, look at the last.
            Some(0x00 | 0xd0..=0xd7) => at += 2,
            Some(0xff) => at += 1,
            Some(_) => return at,
            None => return bytes.len(),
        }
    }
    bytes.len()
}

fn truncated(problem: impl Into<String>) -> Error {
    Error::Truncated { format: Format::Jpeg, problem: problem.into() }
}

fn corrupt(problem: impl Into<String>) -> Error {
    Error::Corrupt { format: Format::Jpeg, problem: problem.into() }
}

fn translate(error: &DecodeErrors) -> Error {
    match error {
        DecodeErrors::Unsupported(scheme) => unsupported(format!("{scheme:?}")),
        DecodeErrors::ExhaustedData | DecodeErrors::IoErrors(_) => {
            // The walk has seen the end, so a segment or a scan is shorter than it should be.
            corrupt("a segment or scan ends early")
        }
        other => corrupt(format!("{other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let image = Image::new(24, 17, 3, (0..24 * 17 * 3).map(|i| (i * 31 % 256) as u8).collect()).unwrap();
        crate::encode_jpeg(&image, 90).unwrap()
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = sample();
        assert!(decode(&bytes, u64::MAX).is_ok());
        for end in 3..bytes.len() {
            assert!(matches!(decode(&bytes[..end], u64::MAX), Err(Error::Truncated { .. })), "length {end}");
        }
    }

    #[test]
    fn impossible_codes_are_an_error() {
        let mut bytes = sample();
        let scan = bytes.windows(2).position(|pair| pair == [0xff, SOS]).unwrap();
        // No Huffman code consists of ones only; a tolerant decoder would fill the rest with grey.
        let end = bytes.len() - 2;
        for pair in bytes[scan + 40..end].chunks_exact_mut(2) {
            pair.copy_from_slice(&[0xff, 0x00]);
        }
        assert!(matches!(decode(&bytes, u64::MAX), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn bytes_behind_the_end_and_between_segments_are_ignored() {
        let bytes = sample();
        let want = decode(&bytes, u64::MAX).unwrap().0;
        let mut longer = bytes.clone();
        longer.extend([1, 2, 3, 0xff, 0xda]);
        assert_eq!(decode(&longer, u64::MAX).unwrap().0, want);
        let mut stray = bytes[..2].to_vec();
        // A fill byte, then an empty comment followed by zeros that belong to nothing.
        stray.extend([0xff, 0xff, 0xfe, 0, 2, 0, 0, 0, 0, 0]);
        stray.extend(&bytes[2..]);
        assert_eq!(decode(&stray, u64::MAX).unwrap().0, want);
    }

    #[test]
    fn lying_headers_are_refused_before_memory_is_taken() {
        let mut bytes = sample();
        let frame = bytes.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
        bytes[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xff, 0x01, 0x00]);
        assert!(matches!(decode(&bytes, u64::MAX), Err(Error::Corrupt { .. })));
        assert!(matches!(decode(&bytes, 1000), Err(Error::TooLarge { .. })));
    }
}
