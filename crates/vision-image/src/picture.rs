//! The picture type: eight-bit samples in plain memory.

use crate::codec::MAX_PIXELS;
use crate::error::{Error, Result};

/// A picture: rows from top to bottom, pixels from left to right, channels interleaved, one byte per sample.
///
/// One channel is grey, three are red, green, blue, four add alpha (255 is opaque, colours not premultiplied).
/// Width and height are at least 1, and the buffer holds exactly `height * width * channels` bytes; no function of
/// this crate makes anything else.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    width: u32,
    height: u32,
    channels: u8,
    data: Vec<u8>,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The samples would drown every assertion message.
        write!(f, "Image({}x{}x{})", self.width, self.height, self.channels)
    }
}

/// Bytes of a picture, or the error that says what is wrong with its size.
pub(crate) fn checked_len(width: u32, height: u32, channels: u8) -> Result<usize> {
    if width == 0 || height == 0 {
        return Err(Error::Shape {
            what: "picture size",
            expected: "at least 1 x 1".into(),
            got: format!("{width} x {height}"),
        });
    }
    if !matches!(channels, 1 | 3 | 4) {
        return Err(Error::Shape {
            what: "channels",
            expected: "1, 3 or 4".into(),
            got: channels.to_string(),
        });
    }
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(Error::TooLarge { width: width.into(), height: height.into(), limit: MAX_PIXELS });
    }
    // At most 4 * 2^27 bytes, so this fits a 32-bit usize.
    Ok(width as usize * height as usize * usize::from(channels))
}

impl Image {
    /// A picture from its samples, row by row (`[height, width, channels]`).
    ///
    /// # Errors
    /// `Shape` if a side is 0, `channels` is not 1, 3 or 4, or `data` has another length; `TooLarge` above
    /// [`MAX_PIXELS`].
    pub fn new(width: u32, height: u32, channels: u8, data: Vec<u8>) -> Result<Self> {
        let expected = checked_len(width, height, channels)?;
        if data.len() != expected {
            return Err(Error::Shape {
                what: "samples",
                expected: format!("{expected} bytes for {width}x{height}x{channels}"),
                got: data.len().to_string(),
            });
        }
        Ok(Self { width, height, channels, data })
    }

    /// A picture of one colour; its number of channels is the length of `color`.
    ///
    /// # Errors
    /// As [`Image::new`].
    pub fn filled(width: u32, height: u32, color: &[u8]) -> Result<Self> {
        let channels = u8::try_from(color.len()).unwrap_or(u8::MAX);
        let len = checked_len(width, height, channels)?;
        let mut data = Vec::with_capacity(len);
        for _ in 0..len / color.len() {
            data.extend_from_slice(color);
        }
        Ok(Self { width, height, channels, data })
    }

    /// For code of this crate that has kept the invariants by construction.
    pub(crate) fn from_parts(width: u32, height: u32, channels: u8, data: Vec<u8>) -> Self {
        debug_assert_eq!(data.len(), width as usize * height as usize * usize::from(channels));
        Self { width, height, channels, data }
    }

    /// Columns.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Samples per pixel: 1, 3 or 4.
    pub fn channels(&self) -> u8 {
        self.channels
    }

    /// All samples, row by row.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// All samples, to be changed in place.
    pub fn data_mut(&mut self) -> &mut [u8] {
        &mut self.data
    }

    /// The buffer itself.
    pub fn into_data(self) -> Vec<u8> {
        self.data
    }

    /// Bytes of one row.
    pub(crate) fn stride(&self) -> usize {
        self.width as usize * usize::from(self.channels)
    }

    /// The samples of the pixel in column `x` of row `y`, or `None` outside.
    pub fn pixel(&self, x: u32, y: u32) -> Option<&[u8]> {
        if x >= self.width || y >= self.height {
            return None;
        }
        let channels = usize::from(self.channels);
        let at = y as usize * self.stride() + x as usize * channels;
        self.data.get(at..at + channels)
    }

    /// The same picture with three channels: grey is repeated, transparency is laid over white.
    #[must_use]
    pub fn to_rgb(&self) -> Self {
        self.over([255; 3])
    }

    /// The same picture with three channels, laid over `background` where it is transparent.
    ///
    /// Each sample is the rounded `(alpha * colour + (255 - alpha) * background) / 255`, as Pillow's `paste` with the
    /// alpha channel as mask.
    #[must_use]
    pub fn over(&self, background: [u8; 3]) -> Self {
        let data = match self.channels {
            1 => self.data.iter().flat_map(|&v| [v; 3]).collect(),
            4 => self
                .data
                .as_chunks::<4>()
                .0
                .iter()
                .flat_map(|&[r, g, b, alpha]| {
                    let [x, y, z] = background;
                    [blend(r, x, alpha), blend(g, y, alpha), blend(b, z, alpha)]
                })
                .collect(),
            _ => self.data.clone(),
        };
        Self::from_parts(self.width, self.height, 3, data)
    }

    /// Luma as Pillow's mode `L`: `(19595 R + 38470 G + 7471 B + 2^15) >> 16`. Transparency is laid over white first.
    #[must_use]
    pub fn to_gray(&self) -> Self {
        match self.channels {
            1 => self.clone(),
            4 => self.to_rgb().to_gray(),
            _ => {
                let data = self.data.as_chunks::<3>().0.iter().map(|&rgb| luma(rgb)).collect();
                Self::from_parts(self.width, self.height, 1, data)
            }
        }
    }

    /// The rectangle of `width` x `height` pixels whose top left pixel is (`x`, `y`).
    ///
    /// # Errors
    /// `Shape` if the rectangle is empty or not inside the picture.
    pub fn crop(&self, x: u32, y: u32, width: u32, height: u32) -> Result<Self> {
        let len = checked_len(width, height, self.channels)?;
        let inside =
            |start: u32, size: u32, limit: u32| start.checked_add(size).is_some_and(|end| end <= limit);
        if !inside(x, width, self.width) || !inside(y, height, self.height) {
            return Err(Error::Shape {
                what: "crop",
                expected: format!("a rectangle inside {} x {}", self.width, self.height),
                got: format!("{width} x {height} at ({x}, {y})"),
            });
        }
        let channels = usize::from(self.channels);
        let (from, bytes) = (x as usize * channels, width as usize * channels);
        let mut data = Vec::with_capacity(len);
        for row in self.data.chunks_exact(self.stride()).skip(y as usize).take(height as usize) {
            data.extend_from_slice(&row[from..from + bytes]);
        }
        Ok(Self::from_parts(width, height, self.channels, data))
    }

    /// The picture with that many columns and rows of `color` added on each side.
    ///
    /// # Errors
    /// `Shape` if `color` has another number of channels than the picture; `TooLarge` if the result has more than
    /// [`MAX_PIXELS`].
    pub fn pad(&self, left: u32, top: u32, right: u32, bottom: u32, color: &[u8]) -> Result<Self> {
        if color.len() != usize::from(self.channels) {
            return Err(Error::Shape {
                what: "padding colour",
                expected: format!("{} channels", self.channels),
                got: color.len().to_string(),
            });
        }
        let grow =
            |size: u32, before: u32, after: u32| u64::from(size) + u64::from(before) + u64::from(after);
        let (width, height) = (grow(self.width, left, right), grow(self.height, top, bottom));
        let (Ok(w), Ok(h)) = (u32::try_from(width), u32::try_from(height)) else {
            return Err(Error::TooLarge { width, height, limit: MAX_PIXELS });
        };
        let mut out = Self::filled(w, h, color)?;
        let (stride, start) = (out.stride(), left as usize * usize::from(self.channels));
        let rows = out.data.chunks_exact_mut(stride).skip(top as usize);
        for (to, from) in rows.zip(self.data.chunks_exact(self.stride())) {
            to[start..start + from.len()].copy_from_slice(from);
        }
        Ok(out)
    }

    /// The picture mirrored left to right.
    #[must_use]
    pub fn flip_horizontal(&self) -> Self {
        let mut data = Vec::with_capacity(self.data.len());
        for row in self.data.chunks_exact(self.stride()) {
            for pixel in row.rchunks_exact(usize::from(self.channels)) {
                data.extend_from_slice(pixel);
            }
        }
        Self::from_parts(self.width, self.height, self.channels, data)
    }

    /// The picture mirrored top to bottom.
    #[must_use]
    pub fn flip_vertical(&self) -> Self {
        let data = self.data.rchunks_exact(self.stride()).flatten().copied().collect();
        Self::from_parts(self.width, self.height, self.channels, data)
    }

    /// Rows become columns: what was in column `x` of row `y` is in column `y` of row `x`.
    pub(crate) fn transpose(&self) -> Self {
        let channels = usize::from(self.channels);
        let mut data = Vec::with_capacity(self.data.len());
        for x in 0..self.width as usize {
            for row in self.data.chunks_exact(self.stride()) {
                data.extend_from_slice(&row[x * channels..(x + 1) * channels]);
            }
        }
        Self::from_parts(self.height, self.width, self.channels, data)
    }

    /// The middle `width` x `height` pixels, as torchvision's `center_crop`: a smaller picture is padded with zeros
    /// first, and an odd difference is halved to the nearest even number.
    ///
    /// # Errors
    /// `Shape` if a side is 0; `TooLarge` above [`MAX_PIXELS`].
    pub fn center_crop(&self, width: u32, height: u32) -> Result<Self> {
        checked_len(width, height, self.channels)?;
        let missing = |want: u32, have: u32| want.saturating_sub(have);
        let (dx, dy) = (missing(width, self.width), missing(height, self.height));
        let padded;
        let source = if dx > 0 || dy > 0 {
            let zeros = [0; 4];
            let color = &zeros[..usize::from(self.channels)];
            padded = self.pad(dx / 2, dy / 2, dx.div_ceil(2), dy.div_ceil(2), color)?;
            &padded
        } else {
            self
        };
        let x = half_to_even(source.width - width);
        let y = half_to_even(source.height - height);
        source.crop(x, y, width, height)
    }
}

/// Half of `n`, ties to the even number, as Python's `round(n / 2)`.
fn half_to_even(n: u32) -> u32 {
    let half = n / 2;
    if n % 2 == 1 && half % 2 == 1 { half + 1 } else { half }
}

/// `alpha` parts of `top` and the rest of `bottom`, rounded.
pub(crate) fn blend(top: u8, bottom: u8, alpha: u8) -> u8 {
    let (top, bottom, alpha) = (u32::from(top), u32::from(bottom), u32::from(alpha));
    ((top * alpha + bottom * (255 - alpha) + 127) / 255) as u8
}

/// Pillow's luma of one pixel.
pub(crate) fn luma([r, g, b]: [u8; 3]) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(width: u32, height: u32, channels: u8) -> Image {
        let len = checked_len(width, height, channels).unwrap();
        Image::new(width, height, channels, (0..len).map(|i| (i * 7 % 251) as u8).collect()).unwrap()
    }

    #[test]
    fn impossible_shapes_are_errors() {
        assert!(matches!(Image::new(0, 2, 3, vec![]), Err(Error::Shape { .. })));
        assert!(matches!(Image::new(2, 2, 2, vec![0; 8]), Err(Error::Shape { .. })));
        assert!(matches!(Image::new(2, 2, 3, vec![0; 11]), Err(Error::Shape { .. })));
        assert!(matches!(Image::filled(u32::MAX, u32::MAX, &[0]), Err(Error::TooLarge { .. })));
        assert!(matches!(Image::filled(2, 2, &[]), Err(Error::Shape { .. })));
        assert!(matches!(Image::filled(2, 2, &[0; 259]), Err(Error::Shape { .. })));
    }

    #[test]
    fn pixels_lie_where_the_documentation_says() {
        let image = Image::new(2, 2, 3, (0..12).collect()).unwrap();
        assert_eq!(image.pixel(1, 0), Some(&[3, 4, 5][..]));
        assert_eq!(image.pixel(0, 1), Some(&[6, 7, 8][..]));
        assert_eq!(image.pixel(2, 0), None);
        assert_eq!(image.pixel(0, 2), None);
    }

    #[test]
    fn crops_undo_pads() {
        for channels in [1, 3, 4] {
            let image = ramp(5, 3, channels);
            let color = vec![9; usize::from(channels)];
            let padded = image.pad(2, 1, 3, 4, &color).unwrap();
            assert_eq!((padded.width(), padded.height()), (10, 8));
            assert_eq!(padded.pixel(0, 0), Some(&color[..]));
            assert_eq!(padded.crop(2, 1, 5, 3).unwrap(), image);
        }
        let image = ramp(5, 3, 3);
        assert!(image.pad(1, 1, 1, 1, &[0]).is_err());
        assert!(matches!(image.pad(u32::MAX, 0, 0, 0, &[0; 3]), Err(Error::TooLarge { .. })));
        assert!(image.crop(1, 0, 5, 3).is_err());
        assert!(image.crop(u32::MAX, 0, 2, 2).is_err());
        assert!(image.crop(0, 0, 0, 2).is_err());
    }

    #[test]
    fn flipping_twice_changes_nothing() {
        for channels in [1, 3, 4] {
            let image = ramp(5, 4, channels);
            assert_ne!(image.flip_horizontal(), image);
            assert_eq!(image.flip_horizontal().flip_horizontal(), image);
            assert_eq!(image.flip_vertical().flip_vertical(), image);
            assert_eq!(image.flip_horizontal().pixel(0, 1), image.pixel(4, 1));
            assert_eq!(image.flip_vertical().pixel(1, 0), image.pixel(1, 3));
        }
    }

    #[test]
    fn center_crop_follows_torchvision() {
        // torchvision.transforms.functional.center_crop on 7x6 and 5x5 pictures: round(3 / 2) = 2, round(5 / 2) = 2.
        let image = ramp(7, 6, 1);
        assert_eq!(image.center_crop(4, 4).unwrap(), image.crop(2, 1, 4, 4).unwrap());
        assert_eq!(image.center_crop(2, 1).unwrap(), image.crop(2, 2, 2, 1).unwrap());
        let grown = image.center_crop(10, 3).unwrap();
        assert_eq!((grown.width(), grown.height()), (10, 3));
        assert_eq!(grown.pixel(0, 0), Some(&[0][..]));
        assert_eq!(grown.pixel(1, 0), image.pixel(0, 2));
        assert_eq!(grown.pixel(9, 0), Some(&[0][..]));
    }

    #[test]
    fn transparency_is_laid_over_the_background() {
        let image = Image::new(3, 1, 4, vec![10, 20, 30, 0, 10, 20, 30, 255, 0, 0, 0, 128]).unwrap();
        assert_eq!(image.over([1, 2, 3]).data(), [1, 2, 3, 10, 20, 30, 0, 1, 1]);
        assert_eq!(image.to_rgb().data(), [255, 255, 255, 10, 20, 30, 127, 127, 127]);
        assert_eq!(image.to_gray(), image.to_rgb().to_gray());
        let grey = Image::new(2, 1, 1, vec![3, 4]).unwrap();
        assert_eq!(grey.to_rgb().data(), [3, 3, 3, 4, 4, 4]);
        assert_eq!(grey.to_rgb().to_gray(), grey);
    }
}
