//! Sheets of the pictures of a set, with what the set says of them.

use anyhow::{Result, bail};
use vision_datasets::{LabelledSet, SegmentationSet};
use vision_image::draw::{self, LabelStyle, Tile};
use vision_image::{Filter, Image, LabelMap, resize};

/// Pixels of the strip below a cell that holds its words, and of the gap beside it.
const STRIP: u32 = 14;

/// Pixels of a cell with a picture that has one class.
const CELL: u32 = 96;

/// Pixels of a cell with a picture that has a class everywhere.
const LARGE_CELL: u32 = 192;

/// `count` of `len` numbers at even distances.
fn chosen(name: &str, len: usize, count: usize) -> Result<impl Iterator<Item = usize>> {
    let count = count.min(len);
    if count == 0 {
        bail!("{name} has no samples to show");
    }
    Ok((0..count).map(move |k| k * len / count))
}

/// `count` samples, each above the name of its class.
pub(super) fn labelled(set: &dyn LabelledSet, count: usize) -> Result<Image> {
    let mut cells = Vec::new();
    for index in chosen(set.name(), set.len(), count)? {
        let sample = set.get(index)?;
        let name = usize::try_from(sample.label).ok().and_then(|label| set.class_names().get(label));
        let word = name.map_or_else(|| sample.label.to_string(), Clone::clone);
        cells.push((sample.image.over([255; 3]), word));
    }
    captioned(cells, CELL, 12)
}

/// `count` samples under the colours of their classes, each above its name, and what the colours mean. Pixels that do not
/// count show the picture.
pub(super) fn segmented(set: &dyn SegmentationSet, count: usize) -> Result<Image> {
    let style = LabelStyle { ignore: Some(set.ignore()), ..LabelStyle::new(set.palette()) };
    let (mut cells, mut pixels) = (Vec::new(), [0; 256]);
    for index in chosen(set.name(), set.len(), count)? {
        let sample = set.get(index)?;
        for (sum, count) in pixels.iter_mut().zip(sample.labels.counts()) {
            *sum += count;
        }
        let (image, labels) = shrunk(sample.image, sample.labels)?;
        cells.push((draw::overlay(&image, &labels, &style)?, set.sample_id(index)));
    }
    let legend = draw::legend_of(&pixels, set.class_names(), &style)?;
    Ok(draw::beside(&[captioned(cells, LARGE_CELL, 6)?, legend], STRIP, [255; 3])?)
}

/// A large pair made to fit a cell before anything is drawn, so that a sheet of large pictures takes little memory.
fn shrunk(image: Image, labels: LabelMap) -> Result<(Image, LabelMap)> {
    let longest = image.width().max(image.height());
    if longest <= LARGE_CELL {
        return Ok((image, labels));
    }
    let [width, height] = [image.width(), image.height()].map(|side| (side * LARGE_CELL / longest).max(1));
    let labels = resize(&labels.into_gray(), width, height, Filter::Nearest)?;
    Ok((resize(&image, width, height, Filter::Bilinear)?, LabelMap::from_gray(labels)?))
}

/// Pictures in rows of `columns`, each above its words, cut where the cell ends.
fn captioned(cells: Vec<(Image, String)>, cell: u32, columns: usize) -> Result<Image> {
    let columns = columns.min(cells.len()).max(1);
    let (images, words): (Vec<Image>, Vec<String>) = cells.into_iter().unzip();
    let mut rows: Vec<Vec<Tile>> = Vec::new();
    for (k, image) in images.into_iter().enumerate() {
        if k % columns == 0 {
            rows.push(Vec::new());
        }
        if let Some(row) = rows.last_mut() {
            row.push(Tile::new(image));
        }
    }
    let mut picture = draw::sheet(&rows, cell, STRIP, [255; 3])?;
    for (k, mut word) in words.into_iter().enumerate() {
        let at = |index: usize| (STRIP + index as u32 * (cell + STRIP)) as i32;
        while !word.is_empty() && draw::text_width(&word) > cell {
            word.pop();
        }
        draw::text(&mut picture, at(k % columns), at(k / columns) + cell as i32 + 3, &word, [0; 3]);
    }
    Ok(picture)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use vision_datasets::{SegmentationSpec, SetSpec, Split, open_segmentation_set, open_set};
    use vision_image::{encode_indexed, encode_png};

    use super::*;

    /// Whether anything is drawn in the strip below the first cell.
    fn ink(picture: &Image, cell: u32) -> bool {
        (0..cell).any(|x| (0..8).any(|y| picture.pixel(STRIP + x, STRIP + cell + 3 + y) == Some(&[0; 3])))
    }

    #[test]
    fn an_embedded_set() {
        let spec = SetSpec { name: "fashion-mnist-10k".to_owned(), path: None, split: Split::Test };
        let set = open_set(&spec, None).unwrap();
        let picture = labelled(&*set, 15).unwrap();
        assert_eq!(picture.width(), STRIP + 12 * (CELL + STRIP));
        assert_eq!(picture.height(), STRIP + 2 * (CELL + STRIP));
        assert!(ink(&picture, CELL));
    }

    #[test]
    fn a_folder_of_masks() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for name in ["images", "masks"] {
            fs::create_dir(root.join(name)).unwrap();
        }
        // Grey pictures of 400 x 200, the left half of class 0, the right half of class 1 but for an ignored corner.
        let palette = [[200, 0, 0], [0, 0, 100], [0, 250, 0]];
        let labels = (0..400 * 200).map(|i: u32| match (i % 400, i / 400) {
            (300.., 150..) => 255,
            (200.., _) => 1,
            _ => 0,
        });
        let labels = LabelMap::new(400, 200, labels.collect()).unwrap();
        for name in ["a", "b", "c"] {
            let image = encode_png(&Image::filled(400, 200, &[100; 3]).unwrap()).unwrap();
            fs::write(root.join(format!("images/{name}.png")), image).unwrap();
            let mask = encode_indexed(&labels, &[[0; 3]; 256]).unwrap();
            fs::write(root.join(format!("masks/{name}.png")), mask).unwrap();
        }
        fs::write(root.join("classes.txt"), "left 200 0 0\nright 0 0 100\nnowhere 0 250 0\n").unwrap();
        let spec = SegmentationSpec::new(format!("folder:{}", root.display()), "all");
        let set = open_segmentation_set(&spec, None).unwrap();

        let style = LabelStyle { ignore: Some(255), ..LabelStyle::new(&palette) };
        let legend = draw::legend(&labels, set.class_names(), &style).unwrap();
        let picture = segmented(&*set, 2).unwrap();
        let width = STRIP + 2 * (LARGE_CELL + STRIP);
        assert_eq!(picture.width(), width + STRIP + legend.width());
        assert_eq!(picture.height(), 2 * STRIP + LARGE_CELL);
        // A cell holds 192 x 96 pixels in its middle: half picture, half colour.
        let at = |x: u32, y: u32| picture.pixel(STRIP + x, STRIP + 48 + y).unwrap().to_vec();
        assert_eq!(
            [at(10, 10), at(180, 10), at(180, 90)],
            [vec![150, 50, 50], vec![50, 50, 100], vec![100; 3]]
        );
        assert!(ink(&picture, LARGE_CELL));
        // The legend is that of all pixels of the pictures, not of the cells.
        assert_eq!(picture.crop(width + STRIP, 0, legend.width(), legend.height()).unwrap(), legend);
        assert!(segmented(&*set, 0).is_err());
    }

    #[test]
    fn generated_scenes() {
        let set = open_segmentation_set(&SegmentationSpec::new("context-scenes", "val"), None).unwrap();
        let picture = segmented(&*set, 7).unwrap();
        assert_eq!(picture.height(), STRIP + 2 * (LARGE_CELL + STRIP));
        assert!(picture.width() > STRIP + 6 * (LARGE_CELL + STRIP) + STRIP);
    }
}
