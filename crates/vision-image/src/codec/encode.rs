//! Writing JPEG and PNG.

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};

use super::Format;
use crate::error::{Error, Result};
use crate::picture::Image;

fn color_type(image: &Image) -> ExtendedColorType {
    match image.channels() {
        1 => ExtendedColorType::L8,
        4 => ExtendedColorType::Rgba8,
        _ => ExtendedColorType::Rgb8,
    }
}

/// The picture as a PNG file, without loss, with the channels it has. The same picture gives the same bytes.
///
/// # Errors
/// `Encode` if the encoder fails.
pub fn encode_png(image: &Image) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    PngEncoder::new_with_quality(&mut bytes, CompressionType::Default, FilterType::Adaptive)
        .write_image(image.data(), image.width(), image.height(), color_type(image))
        .map_err(|error| Error::Encode { format: Format::Png, problem: error.to_string() })?;
    Ok(bytes)
}

/// The picture as a baseline JPEG file; `quality` runs from 1 to 100. Transparency is laid over white.
///
/// # Errors
/// `Argument` for a quality out of range, `Encode` if a side exceeds 65,535.
pub fn encode_jpeg(image: &Image, quality: u8) -> Result<Vec<u8>> {
    if !(1..=100).contains(&quality) {
        return Err(Error::argument("quality", format!("{quality} is not in 1..=100")));
    }
    let flat;
    let image = if image.channels() == 4 {
        flat = image.to_rgb();
        &flat
    } else {
        image
    };
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, quality)
        .write_image(image.data(), image.width(), image.height(), color_type(image))
        .map_err(|error| Error::Encode { format: Format::Jpeg, problem: error.to_string() })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{decode, decode_native};

    #[test]
    fn png_keeps_every_sample() {
        for channels in [1_u8, 3, 4] {
            let len = 7 * 5 * usize::from(channels);
            let image = Image::new(7, 5, channels, (0..len).map(|i| (i * 13 % 256) as u8).collect()).unwrap();
            assert_eq!(decode_native(&encode_png(&image).unwrap()).unwrap(), image);
        }
    }

    #[test]
    fn jpeg_comes_close() {
        let image = Image::filled(9, 9, &[10, 200, 90]).unwrap();
        let back = decode(&encode_jpeg(&image, 95).unwrap()).unwrap();
        assert!(back.data().iter().zip(image.data()).all(|(a, b)| a.abs_diff(*b) <= 3));
        let clear = Image::filled(9, 9, &[10, 200, 90, 0]).unwrap();
        assert!(decode(&encode_jpeg(&clear, 95).unwrap()).unwrap().data().iter().all(|&v| v > 250));
        assert_eq!(decode_native(&encode_jpeg(&image.to_gray(), 95).unwrap()).unwrap().channels(), 1);
    }

    #[test]
    fn bad_arguments_are_errors() {
        let image = Image::filled(2, 2, &[0]).unwrap();
        assert!(matches!(encode_jpeg(&image, 0), Err(Error::Argument { .. })));
        assert!(matches!(encode_jpeg(&image, 101), Err(Error::Argument { .. })));
        let wide = Image::filled(70_000, 1, &[0]).unwrap();
        assert!(matches!(encode_jpeg(&wide, 90), Err(Error::Encode { .. })));
        let folder = tempfile::tempdir().unwrap();
        let error = image.save(folder.path().join("a.bmp")).unwrap_err().to_string();
        assert!(error.contains("a.bmp"), "{error}");
        assert!(image.save(folder.path().join("a.png")).is_ok());
        assert_eq!(crate::open_native(folder.path().join("a.png")).unwrap(), image);
        let error = crate::open(folder.path().join("missing.png")).unwrap_err().to_string();
        assert!(error.contains("missing.png"), "{error}");
    }
}
