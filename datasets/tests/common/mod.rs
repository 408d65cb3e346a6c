//! What several tests make.

use vision_datasets::MemorySet;
use vision_image::Image;

/// `len` grey pictures of 4x3 pixels with different values, labels 0 and 1 in turn.
pub(crate) fn greys(len: usize) -> MemorySet {
    let images = (0..len).map(|n| Image::filled(4, 3, &[(n % 251) as u8]).unwrap()).collect();
    let labels = (0..len).map(|n| (n % 2) as i64).collect();
    MemorySet::new("greys", images, labels, vec!["even".into(), "odd".into()]).unwrap()
}
