//! Opens a set of pictures with a class for every pixel, reads all of it, says how often each class occurs and how
//! fast it is augmented, and draws some samples.
//!
//! `cargo run --release -p vision-datasets --example segmentation -- SET PART [ROOT [SHEET.png]]`, where SET is a name
//! that `open_segmentation_set` knows, such as `context-scenes` or `folder:PATH`.
#![allow(clippy::print_stdout, reason = "an example prints what it found")]

use std::path::PathBuf;
use std::time::Instant;

use vision_datasets::transforms::{SegmentationPreset, TrainSizes};
use vision_datasets::{
    SampleRng, SegmentationFolder, SegmentationSpec, Transform, open_segmentation_set, segmentation_set_names,
};
use vision_image::{Image, draw};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(name), Some(part)) = (args.next(), args.next()) else {
        return Err(format!("name a set ({}) and a part", segmentation_set_names()?.join(", ")).into());
    };
    let root = args.next().map(PathBuf::from);
    let start = Instant::now();
    let set = open_segmentation_set(&SegmentationSpec::new(&name, &part), root.as_deref())?;
    println!(
        "{}: {} samples, opened in {:.2?}, fingerprint {}",
        set.name(),
        set.len(),
        start.elapsed(),
        set.fingerprint()
    );
    if let Some(path) = name.strip_prefix("folder:") {
        for (held_out, found) in SegmentationFolder::open(path, &part)?.contamination() {
            println!("shares {} IDs and {} files with {held_out}", found.ids.len(), found.files.len());
        }
    }

    let (start, mut counts) = (Instant::now(), [0u64; 256]);
    let mut rows = Vec::new();
    for index in 0..set.len() {
        let sample = set.get(index)?;
        for (sum, count) in counts.iter_mut().zip(sample.labels.counts()) {
            *sum += count;
        }
        if rows.len() < 8 && index * 8 / set.len() == rows.len() {
            let colors = set.palette();
            let color = |&label: &u8| colors.get(usize::from(label)).copied().unwrap_or([255; 3]);
            let labels = sample.labels.data().iter().flat_map(color).collect();
            let labels = Image::new(sample.image.width(), sample.image.height(), 3, labels)?;
            rows.push(vec![draw::Tile::new(sample.image), draw::Tile::new(labels)]);
        }
    }
    println!("read in {:.2?}", start.elapsed());
    let pixels: u64 = counts.iter().sum();
    let share = |count: u64| 100.0 * count as f64 / pixels as f64;
    for (class, &count) in set.class_names().iter().zip(&counts) {
        println!("{:6.2} % {class}", share(count));
    }
    println!("{:6.2} % ignored", share(counts[255]));

    let pipeline =
        SegmentationPreset::V1.train(&TrainSizes { base: 240, crop: 176, ..TrainSizes::default() })?;
    let start = Instant::now();
    for index in 0..set.len().min(200) {
        pipeline.apply(set.get(index)?, &mut SampleRng::new(0, 0, index as u64))?;
    }
    println!("read and augmented: {:.0} a second", set.len().min(200) as f64 / start.elapsed().as_secs_f64());
    if let Some(path) = args.next() {
        draw::sheet(&rows, 180, 8, [255; 3])?.save(path)?;
    }
    Ok(())
}
