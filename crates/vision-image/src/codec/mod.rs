//! Picture files: which format, and the entry points for reading and writing.

mod encode;
mod jpeg;
mod labels;
mod png;
mod probe;

use std::path::Path;

pub use encode::{encode_jpeg, encode_png};
pub use labels::{decode_labels, encode_indexed, open_labels};
pub use probe::{Probe, probe};

use crate::error::{Error, Result};
use crate::picture::Image;
use image::metadata::Orientation;

/// The most pixels a picture may have, 2^27 (about 134 million): 512 MiB as RGBA.
pub const MAX_PIXELS: u64 = 1 << 27;

/// The file formats this crate knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// JPEG, baseline and progressive.
    Jpeg,
    /// PNG; of an animation only the still picture.
    Png,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
        })
    }
}

impl Format {
    /// The format whose signature the bytes start with.
    pub fn detect(bytes: &[u8]) -> Option<Self> {
        if bytes.starts_with(&jpeg::SIGNATURE) {
            Some(Self::Jpeg)
        } else if bytes.starts_with(&png::SIGNATURE) {
            Some(Self::Png)
        } else {
            None
        }
    }

    /// The format that a file name's extension (`jpg`, `jpeg`, `png`, in any case) stands for.
    pub fn from_path(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        match extension.as_str() {
            "jpg" | "jpeg" => Some(Self::Jpeg),
            "png" => Some(Self::Png),
            _ => None,
        }
    }
}

/// Decodes a JPEG or PNG file to RGB: grey is repeated, transparency is laid over white, sixteen bits become the high
/// eight, and the turn or mirroring that Exif asks for is applied.
///
/// # Errors
/// `UnknownFormat` if the bytes are neither; `Truncated`, `Corrupt` or `Unsupported` if they cannot be decoded whole;
/// `TooLarge` above [`MAX_PIXELS`].
pub fn decode(bytes: &[u8]) -> Result<Image> {
    let image = decode_native(bytes)?;
    Ok(if image.channels() == 3 { image } else { image.to_rgb() })
}

/// Decodes a JPEG or PNG file and keeps its channels: 1 for grey, 3 for colour (palettes and CMYK too), 4 with
/// transparency (grey with alpha too).
///
/// # Errors
/// As [`decode`].
pub fn decode_native(bytes: &[u8]) -> Result<Image> {
    decode_native_limited(bytes, MAX_PIXELS)
}

/// [`decode_native`] with a smaller limit than [`MAX_PIXELS`]; the size is checked before memory is taken.
///
/// # Errors
/// As [`decode`], with `max_pixels` in place of [`MAX_PIXELS`] if it is smaller.
pub fn decode_native_limited(bytes: &[u8], max_pixels: u64) -> Result<Image> {
    let limit = max_pixels.min(MAX_PIXELS);
    let (image, orientation) = match Format::detect(bytes) {
        Some(Format::Jpeg) => jpeg::decode(bytes, limit)?,
        Some(Format::Png) => png::decode(bytes, limit)?,
        None => return Err(Error::UnknownFormat { problem: describe_start(bytes) }),
    };
    Ok(turn(image, orientation))
}

/// Reads and decodes a file, as [`decode`].
///
/// # Errors
/// `Io` if the file cannot be read, `File` around the errors of [`decode`]; both name the path.
pub fn open(path: impl AsRef<Path>) -> Result<Image> {
    let path = path.as_ref();
    decode(&read(path)?).map_err(|error| error.in_file(path))
}

/// Reads and decodes a file, as [`decode_native`].
///
/// # Errors
/// As [`open`].
pub fn open_native(path: impl AsRef<Path>) -> Result<Image> {
    let path = path.as_ref();
    decode_native(&read(path)?).map_err(|error| error.in_file(path))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| Error::Io { path: path.to_path_buf(), source })
}

impl Image {
    /// Writes a file in the format that the extension of `path` names; JPEG gets quality 95.
    ///
    /// # Errors
    /// `UnknownFormat` for another extension, `Io` if the file cannot be written, otherwise as [`encode_png`] and
    /// [`encode_jpeg`]; every message names the path.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let bytes = match Format::from_path(path) {
            Some(Format::Png) => encode_png(self),
            Some(Format::Jpeg) => encode_jpeg(self, 95),
            None => {
                Err(Error::UnknownFormat { problem: "the name does not end in .jpg, .jpeg or .png".into() })
            }
        }
        .map_err(|error| error.in_file(path))?;
        std::fs::write(path, bytes).map_err(|source| Error::Io { path: path.to_path_buf(), source })
    }
}

/// What an unknown file starts with, for the message.
fn describe_start(bytes: &[u8]) -> String {
    let known: [(&[u8], &str); 5] =
        [(b"GIF8", "GIF"), (b"RIFF", "RIFF (WebP?)"), (b"BM", "BMP"), (b"II*\0", "TIFF"), (b"MM\0*", "TIFF")];
    if bytes.is_empty() {
        return "no bytes at all".into();
    }
    match known.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        Some((_, name)) => format!("the data looks like {name}"),
        None => format!("the data starts with {:02x?}", &bytes[..bytes.len().min(8)]),
    }
}

/// Fails if a header asks for more pixels than allowed, or for more than that many bytes can hold.
///
/// `pixels_per_byte` bounds what the format's compression can reach; a header beyond it lies, and believing it would
/// let a tiny file take gigabytes.
fn check_size(
    format: Format,
    (width, height): (u64, u64),
    limit: u64,
    bytes: usize,
    pixels_per_byte: u64,
) -> Result<()> {
    if width == 0 || height == 0 {
        return Err(Error::Corrupt { format, problem: format!("the size is {width} x {height}") });
    }
    let pixels = width.saturating_mul(height);
    if pixels > limit {
        return Err(Error::TooLarge { width, height, limit });
    }
    if pixels > (bytes as u64).saturating_mul(pixels_per_byte) {
        return Err(Error::Corrupt {
            format,
            problem: format!(
                "{bytes} bytes cannot hold the {width} x {height} pixels that the header declares"
            ),
        });
    }
    Ok(())
}

/// Applies an Exif orientation.
fn turn(image: Image, orientation: Orientation) -> Image {
    match orientation {
        Orientation::NoTransforms => image,
        Orientation::FlipHorizontal => image.flip_horizontal(),
        Orientation::FlipVertical => image.flip_vertical(),
        Orientation::Rotate180 => image.flip_vertical().flip_horizontal(),
        Orientation::Rotate90FlipH => image.transpose(),
        Orientation::Rotate90 => image.transpose().flip_horizontal(),
        Orientation::Rotate270 => image.transpose().flip_vertical(),
        Orientation::Rotate270FlipH => image.transpose().flip_horizontal().flip_vertical(),
    }
}
