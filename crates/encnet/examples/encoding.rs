//! The encoding layer and the context encoding module by themselves: what the codewords are used for.
//!
//! `cargo run -p encnet --example encoding`

use candle_core::{DType, Device};
use encnet::config::ContextConfig;
use encnet::{Context, Encoding};
use vision_core::nn::BatchNormConfig;
use vision_core::ops::EncodingArgs;
use vision_core::{FeatureMap, Pass, params::ParamStore, rng::Key};

#[allow(clippy::print_stdout, reason = "an example shows what it does")]
fn main() -> encnet::Result<()> {
    let (device, key) = (Device::Cpu, Key::new(1));
    let map = key.fold("map").normal((1, 30, 40, 128), 0.0, 1.0, DType::F32, &device)?;
    let map = FeatureMap::from_nhwc(map)?;
    for normalize_distance in [false, true] {
        let params = ParamStore::new(key, DType::F32, &device);
        let layer = Encoding::new(128, 16, EncodingArgs { normalize_distance }, params.var_builder())?;
        let usage = layer.usage(&map)?;
        let most = usage.mean.iter().copied().fold(0.0, f64::max);
        println!(
            "normalize_distance {normalize_distance}: {:?}, the largest share is {most:.3}, entropy {:.3}",
            layer.forward(&map)?.dims(),
            usage.entropy
        );
    }

    let params = ParamStore::new(key, DType::F32, &device);
    let norm = BatchNormConfig::default();
    let module = Context::new(128, 21, &ContextConfig::default(), &norm, params.var_builder())?;
    let output = module.forward(&map, &Pass::eval())?;
    println!("map {:?}, factors of its channels {:?}", output.map.dims()?, output.gate.dims());
    if let Some(logits) = output.class_logits {
        println!("classes of the picture {:?}", logits.dims());
    }
    Ok(())
}
