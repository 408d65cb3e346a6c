//! Times a training step of a narrow ResNet-18 for 32x32 pictures: forward, backward, and a plain
//! gradient-descent update of every parameter in place.
//!
//! ```console
//! cargo run -p vision-core --example resnet_step -- [WIDTH] [BATCH] [STEPS] [THREADS]
//! ```

#![allow(clippy::print_stdout, reason = "an example prints its result")]

use std::time::Instant;

use candle_core::{DType, Device};
use vision_core::backbones::resnet::{Depth, ResNetClassifier, ResNetConfig, Stem};
use vision_core::ops::{CrossEntropyArgs, cross_entropy};
use vision_core::params::ParamStore;
use vision_core::rng::Key;
use vision_core::{FeatureMap, Pass};

/// Any error, from any thread.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse::<usize>());
    let mut next = |default| arguments.next().unwrap_or(Ok(default));
    let (width, batch, steps, threads) = (next(16)?, next(64)?, next(10)?, next(2)?);
    // The loop itself runs inside the pool: called from outside, every parallel loop would put the calling
    // thread to sleep and wake it again.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    pool.install(|| run(width, batch, steps, threads))
}

fn run(width: usize, batch: usize, steps: usize, threads: usize) -> Result<(), Failure> {
    let (device, key) = (Device::Cpu, Key::new(1));
    let params = ParamStore::new(key, DType::F32, &device);
    let config = ResNetConfig { depth: Depth::R18, stem: Stem::Cifar, width, ..ResNetConfig::default() };
    let net = ResNetClassifier::new(&config, 10, params.var_builder())?;
    let pictures = key.fold("pictures").normal((batch, 3, 32, 32), 0.0, 1.0, DType::F32, &device)?;
    let pictures = FeatureMap::from_nchw(&pictures)?;
    let labels = key.fold("labels").below(10, batch, &device)?;

    // Seconds of forward pass, backward pass and update.
    let mut times: Vec<[f64; 3]> = Vec::with_capacity(steps);
    for step in 0..steps {
        let mut marks = [Instant::now(); 4];
        let logits = net.forward(&pictures, &Pass::train(key.fold_u64(step as u64)))?;
        let loss = cross_entropy(&logits, &labels, &CrossEntropyArgs::default())?;
        marks[1] = Instant::now();
        let grads = loss.backward()?;
        marks[2] = Instant::now();
        for (_, var) in params.trainable() {
            if let Some(grad) = grads.get(&var) {
                var.set(&(var.as_tensor() - (grad * 0.05)?)?)?;
            }
        }
        marks[3] = Instant::now();
        times.push([0, 1, 2].map(|i| marks[i + 1].duration_since(marks[i]).as_secs_f64()));
        println!("step {step}: loss {:.4}", loss.to_scalar::<f32>()?);
    }
    let median = |part: usize| {
        let mut parts: Vec<f64> = times.iter().map(|t| 1e3 * t[part]).collect();
        parts.sort_unstable_by(f64::total_cmp);
        parts.get(parts.len() / 2).copied().unwrap_or_default()
    };
    let [forward, backward, update] = [0, 1, 2].map(median);
    println!(
        "ResNet-18, width {width}, batch {batch}, {threads} threads: forward {forward:.1} ms, \
         backward {backward:.1} ms, update {update:.1} ms, step {:.1} ms (medians of {steps})",
        forward + backward + update
    );
    Ok(())
}
