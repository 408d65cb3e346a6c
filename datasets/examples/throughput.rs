//! Opens a set by name and measures how fast it is read and augmented.
//!
//! `cargo run --release -p vision-datasets --example throughput -- SET [ROOT [WORKERS]]`, where SET is a
//! name that `open_set` knows, such as `cifar10` or `folder:PATH`.
#![allow(clippy::print_stdout, reason = "an example prints what it measured")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use vision_datasets::transforms::{LabelledPixels, Pipeline};
use vision_datasets::{
    Dataset, LabelledSet, Loader, LoaderConfig, RandomSampler, SetSpec, Split, open_set, set_names,
};

/// The augmentation that instance discrimination uses on CIFAR.
const AUGMENT: &str = r#"
ops = [
    { op = "random_resized_crop", size = [32, 32], scale = [0.2, 1.0] },
    { op = "color_jitter", brightness = 0.4, contrast = 0.4, saturation = 0.4, hue = 0.4 },
    { op = "random_grayscale", p = 0.2 },
]
normalise = { mean = [0.4914, 0.4822, 0.4465], std = [0.2023, 0.1994, 0.2010] }
"#;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let Some(name) = args.next() else {
        return Err(format!("name a set: {}", set_names().join(", ")).into());
    };
    let root = args.next().map(PathBuf::from);
    let workers = args.next().map_or(Ok(2), |workers| workers.parse())?;

    let start = Instant::now();
    let set: Arc<dyn LabelledSet> = open_set(&SetSpec::new(name, Split::Train), root.as_deref())?.into();
    let classes = set.class_names().len();
    println!("{}: {} samples, {classes} classes, opened in {:.2?}", set.name(), set.len(), start.elapsed());
    println!("fingerprint {}", set.fingerprint());

    let pipeline: Pipeline = toml::from_str(AUGMENT)?;
    pipeline.validate()?;
    let samples = set.len();
    let loader: Loader<Vec<f32>> = Loader::new(
        Arc::new(set),
        Arc::new(pipeline),
        Arc::new(|samples: Vec<LabelledPixels>| {
            Ok(samples.into_iter().flat_map(|sample| sample.pixels.data).collect())
        }),
        Arc::new(RandomSampler::new(samples, 128, 0, false)?),
        LoaderConfig { workers, ..LoaderConfig::default() },
    );
    let (start, mut sum, mut count) = (Instant::now(), 0.0, 0usize);
    for batch in loader.epoch(0, 0) {
        let batch = batch?;
        sum += batch.iter().map(|&value| f64::from(value)).sum::<f64>();
        count += batch.len();
    }
    let rate = samples as f64 / start.elapsed().as_secs_f64();
    println!("{workers} workers: {rate:.0} pictures/s, mean value {:.4}", sum / count as f64);
    Ok(())
}
