//! Losses, and the parts of training that are not the model's own.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use candle_core::{DType, Device, Tensor};
use common::{near, numbers};
use encnet::cifar::{CifarConfig, CifarNet};
use encnet::config::{Arch, BackboneConfig, ContextConfig, HeadConfig};
use encnet::{Criterion, EncNet, LossConfig, ModelConfig, Output};
use vision_core::Pass;
use vision_core::ops::{CrossEntropyArgs, RunningVar, SgdStepArgs, cross_entropy, sgd_step};
use vision_core::params::ParamStore;
use vision_core::rng::Key;

fn small(codes: usize) -> ModelConfig {
    ModelConfig {
        classes: 5,
        backbone: BackboneConfig { arch: Arch::Small, width: 4, ..BackboneConfig::default() },
        head: HeadConfig { channels: 8, ..HeadConfig::default() },
        context: ContextConfig { codes, ..ContextConfig::default() },
        ..ModelConfig::default()
    }
}

fn run(config: &ModelConfig) -> (ParamStore, Output) {
    let params = ParamStore::new(Key::new(0), DType::F32, &Device::Cpu);
    let model = EncNet::new(config, params.var_builder()).unwrap();
    let pictures = Key::new(4).normal((2, 3, 24, 28), 0.0, 1.0, DType::F32, &Device::Cpu).unwrap();
    (params, model.forward(&pictures, &Pass::train(Key::new(6))).unwrap())
}

fn value(x: &Tensor) -> f64 {
    numbers(x)[0]
}

#[test]
fn the_total_is_the_sum_of_its_parts() {
    let labels = Key::new(5).below(5, (2, 24, 28), &Device::Cpu).unwrap();
    for codes in [3, 0] {
        let (_, output) = run(&small(codes));
        let losses = |se, auxiliary| {
            let config = LossConfig { se, auxiliary, ignore: -1 };
            Criterion::new(&config, 5).unwrap().losses(&output, &labels).unwrap()
        };
        let all = losses(0.2, 0.2);
        let (aux, se) = (all.aux.unwrap(), all.se.unwrap());
        let want = value(&all.main) + 0.2 * value(&aux) + 0.2 * value(&se);
        near("total", &[value(&all.total)], &[want], 0.0, 1e-6);
        assert_eq!(all.pixels, 2 * 24 * 28);
        let plain = losses(0.0, 0.0);
        assert!(plain.se.is_none() && plain.aux.is_none());
        assert_eq!(value(&plain.total), value(&all.main));
        let heavy = losses(1.0, 0.0);
        near("se alone", &[value(&heavy.total)], &[value(&all.main) + value(&se)], 0.0, 1e-6);
    }
}

#[test]
fn nothing_but_ignored_pixels_is_no_loss() {
    let (params, output) = run(&small(3));
    let labels = Tensor::full(-1i64, (2, 24, 28), &Device::Cpu).unwrap();
    let losses = Criterion::new(&LossConfig::default(), 5).unwrap().losses(&output, &labels).unwrap();
    assert_eq!((losses.pixels, value(&losses.main), value(&losses.aux.unwrap())), (0, 0.0, 0.0));
    assert!(value(&losses.total).is_finite());
    let grads = losses.total.backward().unwrap();
    for (name, var) in params.trainable() {
        let grad = numbers(grads.get(&var).unwrap());
        assert!(grad.iter().all(|g| g.is_finite()), "{name}");
        // The classes of the picture are known to be none; its pixels say nothing.
        assert!(!name.starts_with("head.conv6") || grad.iter().all(|g| *g == 0.0), "{name}");
    }
}

#[test]
fn labels_that_do_not_fit_are_refused() {
    let (_, output) = run(&small(3));
    let criterion = Criterion::new(&LossConfig::default(), 5).unwrap();
    let message = |labels: Tensor| criterion.losses(&output, &labels).unwrap_err().to_string();
    assert!(message(Tensor::full(255i64, (2, 24, 28), &Device::Cpu).unwrap()).contains("255"));
    assert!(message(Tensor::zeros((2, 12, 14), DType::I64, &Device::Cpu).unwrap()).starts_with("logits"));
}

#[test]
fn the_configuration_chooses_the_running_variance() {
    let config: ModelConfig = toml::from_str("running_var = \"biased\"").unwrap();
    assert_eq!(config.running_var, RunningVar::Biased);
    // How far the one over the codes moved from 1: a tenth of what lies between 1 and the batch's 2 x 8 values.
    let moved = |running_var| {
        let (params, _) = run(&ModelConfig { running_var, ..small(3) });
        let var = numbers(&params.get("head.encmodule.encoding.4.running_var").unwrap());
        var.into_iter().map(|var| var - 0.9).collect::<Vec<_>>()
    };
    let (biased, unbiased) = (moved(RunningVar::Biased), moved(RunningVar::Unbiased));
    let want: Vec<f64> = biased.iter().map(|var| var * 16.0 / 15.0).collect();
    near("unbiased", &unbiased, &want, 1e-6, 0.0);
    assert!(biased.iter().zip(&unbiased).all(|(biased, unbiased)| unbiased - biased > 1e-5), "{biased:?}");
}

#[test]
fn dropout_of_channels_drops_whole_ones() {
    let mut config = small(3);
    config.head.dropout = 0.5;
    let params = ParamStore::new(Key::new(0), DType::F32, &Device::Cpu);
    let model = EncNet::new(&config, params.var_builder()).unwrap();
    let pictures = Key::new(4).normal((2, 3, 24, 28), 0.0, 1.0, DType::F32, &Device::Cpu).unwrap();
    let main = |key| {
        let output = model.forward(&pictures, &Pass::train(Key::new(key))).unwrap();
        numbers(output.main.nhwc())
    };
    assert_eq!(main(1), main(1));
    assert_ne!(main(1), main(2));
}

#[test]
fn drawn_scales_change_in_training_only() {
    let config = CifarConfig { widen: 1, codes: 4, ..CifarConfig::default() };
    let params = ParamStore::new(Key::new(0), DType::F32, &Device::Cpu);
    let net = CifarNet::new(&config, params.var_builder()).unwrap();
    let pictures = Key::new(4).normal((4, 3, 32, 32), 0.0, 1.0, DType::F32, &Device::Cpu).unwrap();
    let logits = |pass: &Pass| numbers(&net.forward(&pictures, pass).unwrap());
    let (eval, scale) = (logits(&Pass::eval()), params.get("layer1.0.enc.fc.3.scale").unwrap());
    assert_eq!(eval, logits(&Pass::eval()));
    assert_eq!(numbers(&scale), [-0.5; 4]);
    scale.set(&(scale.as_tensor() * 3.0).unwrap()).unwrap();
    assert_eq!(eval, logits(&Pass::eval()));
    assert_ne!(logits(&Pass::train(Key::new(1))), logits(&Pass::train(Key::new(2))));
    assert_eq!(logits(&Pass::train(Key::new(1))), logits(&Pass::train(Key::new(1))));
}

#[test]
fn a_cifar_network_learns_a_batch_by_heart() {
    let config = CifarConfig { widen: 1, codes: 8, ..CifarConfig::default() };
    let params = ParamStore::new(Key::new(0), DType::F32, &Device::Cpu);
    let net = CifarNet::new(&config, params.var_builder()).unwrap();
    let pictures = Key::new(4).normal((16, 3, 32, 32), 0.0, 1.0, DType::F32, &Device::Cpu).unwrap();
    let labels = Key::new(5).below(10, 16, &Device::Cpu).unwrap();
    let buffers: Vec<_> = params.trainable().iter().map(|(_, var)| var.zeros_like().unwrap()).collect();
    let mut last = f64::INFINITY;
    for step in 0..60 {
        let logits = net.forward(&pictures, &Pass::train(Key::new(step))).unwrap();
        let loss = cross_entropy(&logits, &labels, &CrossEntropyArgs::default()).unwrap();
        last = value(&loss);
        let grads = loss.backward().unwrap();
        for ((_, var), buffer) in params.trainable().iter().zip(&buffers) {
            let Some(grad) = grads.get(var) else { continue };
            let args = SgdStepArgs {
                lr: 0.1,
                momentum: 0.9,
                dampening: 0.0,
                weight_decay: 5e-4,
                nesterov: false,
                first: step == 0,
            };
            sgd_step(var, grad, Some(buffer), &args).unwrap();
        }
    }
    assert!(last < 0.05, "{last}");
}
