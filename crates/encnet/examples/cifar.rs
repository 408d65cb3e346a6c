//! The networks of the paper for CIFAR, by number of parameters.
//!
//! `cargo run -p encnet --example cifar`

use candle_core::{DType, Device, Tensor};
use encnet::cifar::{CifarConfig, CifarNet};
use vision_core::{Pass, params::ParamStore, rng::Key};

#[allow(clippy::print_stdout, reason = "an example shows what it does")]
fn main() -> encnet::Result<()> {
    let pictures = Tensor::zeros((1, 3, 32, 32), DType::F32, &Device::Cpu)?;
    for (name, config) in [
        ("plain 64d", CifarConfig::plain(4)),
        ("EncNet 16k64d", CifarConfig::small()),
        ("plain 128d", CifarConfig::plain(8)),
        ("EncNet 32k128d", CifarConfig::default()),
    ] {
        let params = ParamStore::new(Key::new(1), DType::F32, &Device::Cpu);
        let net = CifarNet::new(&config, params.var_builder())?;
        let logits = net.forward(&pictures, &Pass::inference())?;
        println!("{name}: {} parameters, logits {:?}", params.num_parameters(), logits.dims());
    }
    Ok(())
}
