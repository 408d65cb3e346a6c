//! Photographs anybody may use.

use vision_image::Image;

use super::embedded;
use crate::{Error, Result};

const FILES: [(&str, &[u8]); 9] = [
    ("astronaut", embedded!("photos-cc0/astronaut.jpg")),
    ("brick", embedded!("photos-cc0/brick.jpg")),
    ("chelsea", embedded!("photos-cc0/chelsea.jpg")),
    ("coffee", embedded!("photos-cc0/coffee.jpg")),
    ("grass", embedded!("photos-cc0/grass.jpg")),
    ("gravel", embedded!("photos-cc0/gravel.jpg")),
    ("hubble", embedded!("photos-cc0/hubble.jpg")),
    ("retina", embedded!("photos-cc0/retina.jpg")),
    ("rocket", embedded!("photos-cc0/rocket.jpg")),
];

/// Nine photographs with their names, in the order of the names: RGB, the longer side 451 to 512 pixels
/// (`brick`, `grass` and `gravel` are grey, with three equal channels).
///
/// # Errors
/// If the embedded files are damaged.
pub fn photos_cc0() -> Result<Vec<(String, Image)>> {
    FILES
        .iter()
        .map(|&(name, bytes)| {
            let image = vision_image::decode(bytes).map_err(|source| Error::Picture {
                path: format!("samples/photos-cc0/{name}.jpg").into(),
                source,
            })?;
            Ok((name.to_owned(), image))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nine_photographs() {
        let photos = photos_cc0().unwrap();
        assert_eq!(photos.len(), 9);
        assert!(photos.is_sorted_by(|(a, _), (b, _)| a < b));
        for (name, image) in &photos {
            let longer = image.width().max(image.height());
            assert!((451..=512).contains(&longer), "{name}: {longer}");
            assert_eq!(image.channels(), 3, "{name}");
            let (low, high) = (image.data().iter().min(), image.data().iter().max());
            assert!(low < Some(&80) && high > Some(&150), "{name} is flat");
        }
    }
}
