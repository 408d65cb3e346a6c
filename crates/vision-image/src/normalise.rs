//! From bytes to the numbers that networks want.

use crate::picture::Image;

/// The picture as RGB, row by row with the channels of a pixel side by side, each value brought to 0..1, less `mean` and
/// over `std` (both per channel, on that scale): `height * width * 3` numbers.
///
/// Grey is repeated in all three channels, transparency is laid over white. A `std` of 0 gives infinities and NaN.
///
/// ```
/// use vision_image::{Image, normalise};
/// let image = Image::new(1, 1, 3, vec![0, 255, 51])?;
/// assert_eq!(normalise(&image, [0.5, 0.0, 0.2], [0.5, 0.25, 1.0]), [-1.0, 4.0, 0.0]);
/// # Ok::<(), vision_image::Error>(())
/// ```
pub fn normalise(image: &Image, mean: [f32; 3], std: [f32; 3]) -> Vec<f32> {
    let rgb = if image.channels() == 3 { image } else { &image.to_rgb() };
    // One table per channel: a byte has only 256 values.
    let table: [[f32; 256]; 3] = std::array::from_fn(|channel| {
        std::array::from_fn(|value| (value as f32 / 255.0 - mean[channel]) / std[channel])
    });
    let mut data = Vec::with_capacity(rgb.data().len());
    for pixel in rgb.data().chunks_exact(3) {
        data.extend(pixel.iter().zip(&table).map(|(&value, table)| table[usize::from(value)]));
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_every_channel() {
        let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
        let bytes: Vec<u8> = (0..=255).flat_map(|value| [value, 255 - value, value / 2]).collect();
        let image = Image::new(16, 16, 3, bytes.clone()).unwrap();
        let want = bytes.iter().enumerate().map(|(i, &v)| (f32::from(v) / 255.0 - mean[i % 3]) / std[i % 3]);
        assert_eq!(normalise(&image, mean, std), want.collect::<Vec<f32>>());
    }

    #[test]
    fn other_pictures_become_rgb() {
        let grey = Image::new(1, 1, 1, vec![255]).unwrap();
        assert_eq!(normalise(&grey, [0.0; 3], [1.0, 0.5, 0.25]), [1.0, 2.0, 4.0]);
        let clear = Image::new(1, 1, 4, vec![7, 7, 7, 0]).unwrap();
        assert_eq!(normalise(&clear, [1.0; 3], [1.0; 3]), [0.0; 3]);
    }
}
