//! What the header of a picture file says.

use std::io::Cursor;

use image::ImageDecoder;
use image::codecs::png::PngDecoder;
use image::metadata::Orientation;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;

use super::{Format, describe_start};
use crate::error::{Error, Result};

/// The header of a picture file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// The format.
    pub format: Format,
    /// Columns as stored, before any turn.
    pub width: u32,
    /// Rows as stored, before any turn.
    pub height: u32,
    /// Whether Exif asks for a turn or mirroring, which [`crate::decode`] applies.
    pub turned: bool,
}

/// Reads the header of a JPEG or PNG file, without looking at the pixels.
///
/// # Errors
/// `UnknownFormat` if the bytes are neither, `Corrupt` if the header cannot be read or says that there is nothing.
pub fn probe(bytes: &[u8]) -> Result<Probe> {
    let format =
        Format::detect(bytes).ok_or_else(|| Error::UnknownFormat { problem: describe_start(bytes) })?;
    let corrupt = |problem: String| Error::Corrupt { format, problem };
    let (width, height, orientation) = match format {
        Format::Jpeg => {
            let mut decoder = JpegDecoder::new(ZCursor::new(bytes));
            decoder.decode_headers().map_err(|error| corrupt(format!("{error:?}")))?;
            let (width, height) = decoder.dimensions().unwrap_or_default();
            (width as u32, height as u32, decoder.exif().and_then(|exif| Orientation::from_exif_chunk(exif)))
        }
        Format::Png => {
            let mut decoder =
                PngDecoder::new(Cursor::new(bytes)).map_err(|error| corrupt(error.to_string()))?;
            let (width, height) = decoder.dimensions();
            (width, height, decoder.orientation().ok())
        }
    };
    if width == 0 || height == 0 {
        return Err(corrupt(format!("the size is {width} x {height}")));
    }
    let turned = orientation.is_some_and(|orientation| orientation != Orientation::NoTransforms);
    Ok(Probe { format, width, height, turned })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Image, encode_jpeg, encode_png};

    #[test]
    fn headers_of_both_formats() {
        let image = Image::filled(7, 5, &[1, 2, 3]).unwrap();
        let want = |format| Probe { format, width: 7, height: 5, turned: false };
        let (png, jpeg) = (encode_png(&image).unwrap(), encode_jpeg(&image, 90).unwrap());
        assert_eq!(probe(&png).unwrap(), want(Format::Png));
        assert_eq!(probe(&jpeg).unwrap(), want(Format::Jpeg));
        assert!(matches!(probe(b"GIF89a"), Err(Error::UnknownFormat { .. })));
        for bytes in [&png, &jpeg] {
            for end in 0..bytes.len() {
                drop(probe(&bytes[..end]));
            }
            assert!(probe(&bytes[..16]).is_err());
        }
    }
}
