//! One training step by hand: logits, losses, gradients.
//!
//! `cargo run -p encnet --example segmentation_step`

use candle_core::{DType, Device};
use encnet::config::{Arch, BackboneConfig, HeadConfig, LossConfig, ModelConfig};
use encnet::{Criterion, EncNet};
use vision_core::{Pass, params::ParamStore, rng::Key};

#[allow(clippy::print_stdout, reason = "an example shows what it does")]
fn main() -> encnet::Result<()> {
    let (device, key) = (Device::Cpu, Key::new(1));
    let config = ModelConfig {
        classes: 9,
        backbone: BackboneConfig { arch: Arch::Small, width: 8, ..BackboneConfig::default() },
        head: HeadConfig { channels: 16, ..HeadConfig::default() },
        ..ModelConfig::default()
    };
    let params = ParamStore::new(key, DType::F32, &device);
    let model = EncNet::new(&config, params.var_builder())?;
    let criterion = Criterion::new(&LossConfig::default(), config.classes)?;

    let pictures = key.fold("pictures").normal((2, 3, 64, 64), 0.0, 1.0, DType::F32, &device)?;
    let labels = key.fold("labels").below(9, (2, 64, 64), &device)?;
    let output = model.forward(&pictures, &Pass::train(key))?;
    let losses = criterion.losses(&output, &labels)?;
    let gradients = losses.total.backward()?;

    println!("{} pixels, loss {:.3}", losses.pixels, losses.total.to_scalar::<f32>()?);
    for (name, part) in [("auxiliary", losses.aux), ("semantic encoding", losses.se)] {
        if let Some(part) = part {
            println!("  {name}: {:.3}", part.to_scalar::<f32>()?);
        }
    }
    let with_gradient = params.trainable().iter().filter(|(_, var)| gradients.get(var).is_some()).count();
    println!("{with_gradient} parameter tensors have a gradient");
    Ok(())
}
