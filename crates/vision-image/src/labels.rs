//! Label maps: a class for every pixel, which is a number and not a colour.

use crate::error::{Error, Result};
use crate::picture::{Image, checked_len};

/// A class from 0 to 255 for every pixel, rows from top to bottom.
///
/// Width and height are at least 1, and there are exactly `width * height` labels. A map read from a file with a palette
/// carries that palette: the colours which programs that know no labels show.
#[derive(Clone, PartialEq, Eq)]
pub struct LabelMap {
    width: u32,
    height: u32,
    data: Vec<u8>,
    palette: Option<Vec<[u8; 3]>>,
}

impl std::fmt::Debug for LabelMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The labels would drown every assertion message.
        write!(f, "LabelMap({}x{}", self.width, self.height)?;
        match &self.palette {
            Some(palette) => write!(f, ", {} colours)", palette.len()),
            None => f.write_str(")"),
        }
    }
}

impl LabelMap {
    /// A map from its labels, row by row, without a palette.
    ///
    /// # Errors
    /// `Shape` if a side is 0 or `data` has another length; `TooLarge` above [`crate::MAX_PIXELS`].
    pub fn new(width: u32, height: u32, data: Vec<u8>) -> Result<Self> {
        let expected = checked_len(width, height, 1)?;
        if data.len() != expected {
            return Err(Error::Shape {
                what: "labels",
                expected: format!("{expected} for {width}x{height}"),
                got: data.len().to_string(),
            });
        }
        Ok(Self { width, height, data, palette: None })
    }

    /// The samples of a picture of one channel as labels.
    ///
    /// # Errors
    /// `Shape` if the picture has more than one channel: colours are no labels.
    pub fn from_gray(image: Image) -> Result<Self> {
        if image.channels() != 1 {
            let got = image.channels().to_string();
            return Err(Error::Shape { what: "label map", expected: "1 channel".into(), got });
        }
        let (width, height) = (image.width(), image.height());
        Ok(Self { width, height, data: image.into_data(), palette: None })
    }

    /// The labels as a picture of one channel, to be cropped, mirrored or resized with
    /// [`Filter::Nearest`](crate::Filter::Nearest), which is the one filter that mixes no labels.
    pub fn into_gray(self) -> Image {
        Image::from_parts(self.width, self.height, 1, self.data)
    }

    /// The map with the palette of its file, of up to 256 colours.
    pub(crate) fn with_palette(self, palette: Option<Vec<[u8; 3]>>) -> Self {
        Self { palette, ..self }
    }

    /// Columns.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// All labels, row by row.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// All labels, to be changed in place.
    pub fn data_mut(&mut self) -> &mut [u8] {
        &mut self.data
    }

    /// The buffer itself.
    pub fn into_data(self) -> Vec<u8> {
        self.data
    }

    /// The palette of the file that the map was read from. It may be shorter than the largest label.
    pub fn palette(&self) -> Option<&[[u8; 3]]> {
        self.palette.as_deref()
    }

    /// The label in column `x` of row `y`, or `None` outside.
    pub fn label(&self, x: u32, y: u32) -> Option<u8> {
        if x >= self.width || y >= self.height {
            return None;
        }
        self.data.get(y as usize * self.width as usize + x as usize).copied()
    }

    /// How many pixels have each label.
    pub fn counts(&self) -> [u64; 256] {
        let mut counts = [0; 256];
        for &label in &self.data {
            counts[usize::from(label)] += 1;
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Filter, resize};

    #[test]
    fn sizes_are_checked() {
        let map = LabelMap::new(3, 2, vec![0, 1, 2, 255, 1, 1]).unwrap();
        assert_eq!((map.label(0, 1), map.label(3, 0), map.label(0, 2)), (Some(255), None, None));
        assert_eq!((map.counts()[1], map.counts()[255], map.counts()[7]), (3, 1, 0));
        assert_eq!(format!("{map:?}"), "LabelMap(3x2)");
        assert!(matches!(LabelMap::new(3, 2, vec![0; 5]), Err(Error::Shape { what: "labels", .. })));
        assert!(matches!(LabelMap::new(0, 2, vec![]), Err(Error::Shape { .. })));
        assert!(matches!(LabelMap::new(u32::MAX, u32::MAX, vec![]), Err(Error::TooLarge { .. })));
    }

    #[test]
    fn labels_travel_as_grey() {
        let map = LabelMap::new(2, 1, vec![3, 255]).unwrap();
        let large = resize(&map.clone().into_gray(), 4, 2, Filter::Nearest).unwrap();
        assert_eq!(LabelMap::from_gray(large).unwrap().data(), [3, 3, 255, 255, 3, 3, 255, 255]);
        assert!(LabelMap::from_gray(map.into_gray().to_rgb()).is_err());
    }
}
