//! The network of the crate `encnet` with a ResNet-50: a forward pass, a training step, a picture at several scales.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Result, bail};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use encnet::sliding::SlidingConfig;
use encnet::{Criterion, EncNet, LossConfig, ModelConfig};
use vision_core::params::ParamStore;
use vision_core::rng::Key;
use vision_core::{FeatureMap, Pass};
use vision_train::ParamGroup;
use vision_train::optim::{Sgd, SgdConfig};

use super::{Case, Step};

/// A step of the case.
pub(super) fn step(case: &Case) -> Result<Step> {
    let classes = case.size("classes")?;
    let config = ModelConfig { classes, ..ModelConfig::default() };
    let sizes = case.sizes("input")?;
    let x = Key::new(1).normal(sizes.as_slice(), 0.0, 1.0, DType::F32, &Device::Cpu)?;
    let params = ParamStore::new(Key::new(0), DType::F32, &Device::Cpu);
    let model = EncNet::new(&config, params.var_builder())?;
    match case.text("mode")? {
        "train" => training(&x, classes, model, params),
        mode => {
            // As loaded from a file: weights that never change.
            let all = params.trainable().into_iter().chain(params.buffers());
            let fixed: HashMap<String, Tensor> =
                all.map(|(name, var)| Ok((name, var.as_tensor().copy()?.detach()))).collect::<Result<_>>()?;
            let model = EncNet::new(&config, VarBuilder::from_tensors(fixed, DType::F32, &Device::Cpu))?;
            match mode {
                "forward" => Ok(Box::new(move || {
                    model.predict(&x, &Pass::inference())?;
                    Ok(())
                })),
                "evaluate" => evaluation(&x, classes, model),
                other => bail!("no mode is called {other}"),
            }
        }
    }
}

fn evaluation(x: &Tensor, classes: usize, model: EncNet) -> Result<Step> {
    let picture = FeatureMap::from_nchw(x)?;
    let fill = [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)].map(|(mean, std): (f32, f32)| -mean / std);
    Ok(Box::new(move || {
        let scores = SlidingConfig::default().scores(&picture, &fill, classes, |windows| {
            model.predict(&windows.nhwc().permute((0, 3, 1, 2))?, &Pass::inference())
        })?;
        scores.argmax();
        Ok(())
    }))
}

fn training(x: &Tensor, classes: usize, model: EncNet, params: ParamStore) -> Result<Step> {
    let (n, _, h, w) = x.dims4()?;
    let labels: Vec<i64> = (0..(n * h * w) as i64).map(|i| i / 997 % classes as i64).collect();
    let labels = Tensor::from_vec(labels, (n, h, w), &Device::Cpu)?;
    let criterion = Criterion::new(&LossConfig::default(), classes)?;
    let config = SgdConfig { lr: 1e-3, momentum: 0.9, ..SgdConfig::default() };
    let mut optimiser = Sgd::new(config, vec![ParamGroup::all(&params, 1e-4)])?;
    let x = x.clone();
    Ok(Box::new(move || {
        let output = model.forward(&x, &Pass::train(Key::new(2)))?;
        let grads = criterion.losses(&output, &labels)?.total.backward()?;
        drop(output);
        let mut by_name = BTreeMap::new();
        for (name, var) in params.trainable() {
            if let Some(grad) = grads.get(&var) {
                by_name.insert(name, grad.clone());
            }
        }
        optimiser.step(&by_name, 1.0)?;
        Ok(())
    }))
}
