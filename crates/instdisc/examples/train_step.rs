//! One training step by hand: features, loss against the memory bank, gradient, update of the bank.
//!
//! `cargo run -p instdisc --example train_step`

use candle_core::{DType, Device};
use instdisc::bank::{BankInit, MemoryBank};
use instdisc::config::{Arch, LossConfig, LossKind, ModelConfig, StemKind};
use instdisc::{Criterion, InstDisc};
use vision_core::{Pass, params::ParamStore, rng::Key};

#[allow(clippy::print_stdout, reason = "an example shows what it does")]
fn main() -> instdisc::Result<()> {
    let (device, key) = (Device::Cpu, Key::new(1));
    let config =
        ModelConfig { arch: Arch::ResNet18, stem: StemKind::Cifar, width: 8, ..ModelConfig::default() };
    let params = ParamStore::new(key, DType::F32, &device);
    let model = InstDisc::new(&config, params.var_builder())?;
    let mut bank = MemoryBank::new(1000, 128, BankInit::Uniform, 0.5, key, &device)?;
    let loss = LossConfig {
        objective: LossKind::FullSoftmax,
        temperature: 0.1,
        proximal: 0.0,
        ..LossConfig::default()
    };
    let mut criterion = Criterion::new(&loss, bank.rows())?;

    let pictures = key.fold("pictures").normal((2, 3, 32, 32), 0.0, 1.0, DType::F32, &device)?;
    let output = model.forward(&pictures, &Pass::train(key))?;
    let loss = criterion.loss(&output.embedding, &bank, &[3, 41], key)?;
    let gradients = loss.total.backward()?;
    bank.update(&[3, 41], &output.embedding)?;

    println!("loss {:.3}", loss.total.to_scalar::<f32>()?);
    let with_gradient = params.trainable().iter().filter(|(_, var)| gradients.get(var).is_some()).count();
    println!("{with_gradient} parameter tensors have a gradient");
    println!("visits of rows 3 and 41: {} and {}", bank.visits()[3], bank.visits()[41]);
    Ok(())
}
