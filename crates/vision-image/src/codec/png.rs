//! PNG: a walk over the chunks that finds missing ends, then the decoder of the `image` crate.

use std::io::Cursor;

use image::codecs::png::PngDecoder;
use image::metadata::Orientation;
use image::{ColorType, ImageDecoder, ImageError, Limits};

use super::{Format, check_size};
use crate::error::{Error, Result};
use crate::picture::Image;

pub(super) const SIGNATURE: [u8; 8] = *b"\x89PNG\r\n\x1a\n";

/// Deflate reaches at most about 1032 to 1, and the thinnest pixels take one bit.
pub(super) const PIXELS_PER_BYTE: u64 = 1040 * 8;

/// What text, colour profiles and row buffers may take; pixels are bounded by their number.
pub(super) const MAX_SIDE_DATA: u64 = 256 << 20;

pub(super) fn decode(bytes: &[u8], limit: u64) -> Result<(Image, Orientation)> {
    walk(bytes)?;
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_SIDE_DATA);
    let mut decoder = PngDecoder::with_limits(Cursor::new(bytes), limits).map_err(translate)?;
    let (width, height) = decoder.dimensions();
    check_size(Format::Png, (width.into(), height.into()), limit, bytes.len(), PIXELS_PER_BYTE)?;
    let orientation = decoder.orientation().map_err(translate)?;
    let color = decoder.color_type();
    let Ok(len) = usize::try_from(decoder.total_bytes()) else {
        return Err(Error::TooLarge { width: width.into(), height: height.into(), limit });
    };
    let mut data = vec![0; len];
    decoder.read_image(&mut data).map_err(translate)?;
    let (channels, data) = match color {
        ColorType::L8 => (1, data),
        ColorType::Rgb8 => (3, data),
        ColorType::Rgba8 => (4, data),
        ColorType::La8 => (4, spread_grey(&data)),
        ColorType::L16 => (1, high_bytes(&data)),
        ColorType::Rgb16 => (3, high_bytes(&data)),
        ColorType::Rgba16 => (4, high_bytes(&data)),
        ColorType::La16 => (4, spread_grey(&high_bytes(&data))),
        other => {
            return Err(Error::Unsupported {
                format: Format::Png,
                problem: format!("colour type {other:?}"),
            });
        }
    };
    Ok((Image::new(width, height, channels, data)?, orientation))
}

/// Grey and alpha to red, green, blue and alpha.
fn spread_grey(data: &[u8]) -> Vec<u8> {
    data.as_chunks::<2>().0.iter().flat_map(|&[v, alpha]| [v, v, v, alpha]).collect()
}

/// Sixteen-bit samples in the machine's byte order to their high bytes, as Pillow reads them.
fn high_bytes(data: &[u8]) -> Vec<u8> {
    data.as_chunks::<2>().0.iter().map(|&pair| (u16::from_ne_bytes(pair) >> 8) as u8).collect()
}

/// Goes from chunk to chunk to the end chunk: the decoder stops at the last row and would not miss what follows.
pub(super) fn walk(bytes: &[u8]) -> Result<()> {
    let mut at = SIGNATURE.len();
    loop {
        let Some(&[a, b, c, d, ref name @ ..]) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>())
        else {
            return Err(truncated(format!("{} bytes without an end chunk", bytes.len())));
        };
        // Length and name before the data, a checksum behind it.
        let end = at as u64 + 12 + u64::from(u32::from_be_bytes([a, b, c, d]));
        if end > bytes.len() as u64 {
            return Err(truncated(format!(
                "chunk {} needs {} bytes more than the file has",
                String::from_utf8_lossy(name),
                end - bytes.len() as u64
            )));
        }
        if name == b"IEND" {
            return Ok(());
        }
        at = end as usize;
    }
}

fn truncated(problem: String) -> Error {
    Error::Truncated { format: Format::Png, problem }
}

fn translate(error: ImageError) -> Error {
    let format = Format::Png;
    match error {
        ImageError::Unsupported(what) => Error::Unsupported { format, problem: what.to_string() },
        // The walk has seen the end, so nothing here is a mere truncation.
        other => Error::Corrupt { format, problem: other.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_truncation_is_an_error() {
        let image = Image::new(24, 17, 3, (0..24 * 17 * 3).map(|i| (i * 31 % 256) as u8).collect()).unwrap();
        let bytes = crate::encode_png(&image).unwrap();
        assert_eq!(decode(&bytes, u64::MAX).unwrap().0, image);
        for end in 8..bytes.len() {
            assert!(matches!(decode(&bytes[..end], u64::MAX), Err(Error::Truncated { .. })), "length {end}");
        }
    }

    #[test]
    fn lying_headers_are_refused_before_memory_is_taken() {
        let mut bytes = crate::encode_png(&Image::filled(4, 4, &[1, 2, 3]).unwrap()).unwrap();
        bytes[16..24].copy_from_slice(&[0, 0, 0x7f, 0xff, 0, 0, 0x0f, 0xff]);
        // With a right checksum, as an attacker would write it.
        let crc = crc32(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&crc.to_be_bytes());
        assert!(matches!(decode(&bytes, u64::MAX), Err(Error::Corrupt { .. })));
        assert!(matches!(decode(&bytes, 1000), Err(Error::TooLarge { .. })));
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(u32::MAX, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
        })
    }
}
