//! Whole networks of `vision_core::backbones`, and the parameters that cases give them.

use anyhow::{Result, bail};
use candle_core::{DType, Device, Tensor};
use vision_core::backbones::resnet::{Depth, ResNetClassifier, ResNetConfig};
use vision_core::params::ParamStore;
use vision_core::rng::Key;
use vision_core::{FeatureMap, Pass};

use super::Op;
use crate::case::{Case, Outputs};

const KERNELS: &[&str] = &[];

pub(super) const OPS: &[Op] = &[
    Op { name: "model.resnet18", kernels: KERNELS, models_only: false, run: |case| resnet(case, Depth::R18) },
    Op { name: "model.resnet34", kernels: KERNELS, models_only: false, run: |case| resnet(case, Depth::R34) },
    Op { name: "model.resnet50", kernels: KERNELS, models_only: false, run: |case| resnet(case, Depth::R50) },
    Op {
        name: "model.resnet101",
        kernels: KERNELS,
        models_only: true,
        run: |case| resnet(case, Depth::R101),
    },
    Op {
        name: "model.resnet152",
        kernels: KERNELS,
        models_only: true,
        run: |case| resnet(case, Depth::R152),
    },
];

fn resnet(case: &Case, depth: Depth) -> Result<Outputs> {
    let params = ParamStore::new(Key::new(0), case.dtype(), &case.device);
    let config = ResNetConfig { depth, ..ResNetConfig::default() };
    let model = ResNetClassifier::new(&config, case.args.usize("num_classes", 1000)?, params.var_builder())?;
    initialise(case, &params)?;
    let input = FeatureMap::from_nchw(&case.input("input")?)?;
    let pass = pass(case)?;
    let maps = model.backbone().forward_features(&input, &pass)?;
    let mut outputs = Outputs::default();
    for (name, map) in ["stem", "layer1", "layer2", "layer3", "layer4"].iter().zip(&maps) {
        outputs = outputs.with(name, map.to_nchw()?);
    }
    let Some(last) = maps.last() else { bail!("the network returned no maps") };
    let pooled = model.backbone().pooled(last)?;
    let logits = model.fc().forward(&pooled)?;
    Ok(with_state(outputs.with("pooled", pooled).with("output", logits), &params))
}

/// Training or evaluation, as `train` says.
pub(super) fn pass(case: &Case) -> Result<Pass> {
    Ok(if case.args.bool("train", false)? { Pass::train(Key::new(0)) } else { Pass::eval() })
}

/// Adds the store's parameters, for their gradients.
pub(super) fn with_params(mut outputs: Outputs, params: &ParamStore) -> Outputs {
    for (name, var) in params.trainable() {
        outputs.params.insert(name, var.as_tensor().clone());
    }
    outputs
}

/// Adds the store's parameters, for their gradients, and its buffers, as results.
pub(super) fn with_state(outputs: Outputs, params: &ParamStore) -> Outputs {
    let mut outputs = with_params(outputs, params);
    for (name, var) in params.buffers() {
        outputs = outputs.with(&name, var.as_detached_tensor());
    }
    outputs
}

/// Gives the store the parameters of the case: those stored in it, or the formula `init: "sine"`.
pub(super) fn initialise(case: &Case, params: &ParamStore) -> Result<()> {
    match case.args.text("init")?.as_deref() {
        None => {
            let report = params.load(&case.state_dict())?;
            Ok(report.allow_missing("num_batches_tracked").check()?)
        }
        Some("sine") => {
            for (name, var) in params.all() {
                if !name.ends_with("num_batches_tracked") {
                    var.set(&sine(&name, var.dims(), var.dtype(), &case.device)?)?;
                }
            }
            Ok(())
        }
        Some(other) => bail!("unknown init {other}"),
    }
}

/// `sin(0.37 i + 0.5) sqrt(2 / fan_in)` over the flat index for rank two and more, rounded to `f32`; one for
/// scales and variances; zero for biases and means.
fn sine(name: &str, dims: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
    let count: usize = dims.iter().product();
    let values: Vec<f32> = match dims {
        [_, inner @ ..] if !inner.is_empty() => {
            let scale = (2.0 / inner.iter().product::<usize>() as f64).sqrt();
            (0..count).map(|i| ((0.37 * i as f64 + 0.5).sin() * scale) as f32).collect()
        }
        _ => vec![if name.ends_with("running_var") || name.ends_with("weight") { 1.0 } else { 0.0 }; count],
    };
    Ok(Tensor::from_vec(values, dims, device)?.to_dtype(dtype)?)
}
