//! Mask files: values or colours of pixels to labels.

use std::path::Path;

use vision_image::{Format, Image, LabelMap, decode_labels, decode_native};

use super::{IGNORE_LABEL, SegmentationClasses};
use crate::{Error, Result};

/// Reads the mask at `path`: grey levels or palette indices are values, whatever the colours of the palette; colours
/// are looked up in the file of classes, transparency is not looked at.
pub(super) fn read_mask(path: &Path, classes: &SegmentationClasses) -> Result<LabelMap> {
    let bytes = std::fs::read(path).map_err(|source| Error::io(path, source))?;
    let picture = |source| Error::Picture { path: path.to_owned(), source };
    match decode_labels(&bytes) {
        Ok(values) => from_values(path, values, classes),
        // A PNG file that holds no values may hold colours.
        Err(vision_image::Error::Unsupported { .. }) if Format::detect(&bytes) == Some(Format::Png) => {
            let image = decode_native(&bytes).map_err(picture)?;
            from_colors(path, &image, classes)
        }
        Err(source) => Err(picture(source)),
    }
}

fn from_values(path: &Path, mut values: LabelMap, classes: &SegmentationClasses) -> Result<LabelMap> {
    let table: [Option<u8>; 256] = std::array::from_fn(|value| classes.label_of_value(value as u8));
    let width = values.width() as usize;
    for (at, value) in values.data_mut().iter_mut().enumerate() {
        *value = table[usize::from(*value)].ok_or_else(|| Error::Label {
            path: path.to_owned(),
            x: at % width,
            y: at / width,
            problem: format!(
                "value {value}, the classes have 0 to {}, and {IGNORE_LABEL} is ignored",
                classes.largest_value()
            ),
        })?;
    }
    Ok(values)
}

fn from_colors(path: &Path, image: &Image, classes: &SegmentationClasses) -> Result<LabelMap> {
    let channels = usize::from(image.channels());
    if !classes.has_colors() || channels < 3 {
        let problem = if channels < 3 {
            "has grey levels of more than 8 bits, which are no classes"
        } else {
            "is a picture of colours, and the file of classes has none"
        };
        return Err(Error::Set { set: path.display().to_string(), problem: problem.to_owned() });
    }
    let width = image.width() as usize;
    let mut data = Vec::with_capacity(width * image.height() as usize);
    // Neighbours mostly have the same colour.
    let mut last = None;
    for (at, pixel) in image.data().chunks_exact(channels).enumerate() {
        let &[r, g, b, ..] = pixel else { break };
        let color = [r, g, b];
        let label = match last {
            Some((known, label)) if known == color => label,
            _ => classes.label_of_color(color).ok_or_else(|| Error::Label {
                path: path.to_owned(),
                x: at % width,
                y: at / width,
                problem: format!(
                    "colour {color:?}, which is that of {}",
                    if classes.has_color(color) { "more than one class" } else { "no class" }
                ),
            })?,
        };
        last = Some((color, label));
        data.push(label);
    }
    Ok(LabelMap::new(image.width(), image.height(), data)?)
}
