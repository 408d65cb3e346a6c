//! Whole networks: a forward pass, or a training step with its optimiser.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Result, bail};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use vision_core::backbones::resnet::{Depth, ResNetClassifier, ResNetConfig, Stem};
use vision_core::nn::{BatchNorm2d, BatchNormConfig, Conv2d};
use vision_core::params::ParamStore;
use vision_core::rng::Key;
use vision_core::{FeatureMap, Pass, ops};
use vision_train::ParamGroup;
use vision_train::optim::{Sgd, SgdConfig};

use super::{Case, Step};

/// A network from pictures to logits or a map.
type Forward = Box<dyn Fn(&FeatureMap, &Pass) -> Result<Tensor>>;

fn resnet(depth: Depth, stem: Stem, classes: usize, vb: VarBuilder<'_>) -> Result<Forward> {
    let net = ResNetClassifier::new(&ResNetConfig { depth, stem, ..ResNetConfig::default() }, classes, vb)?;
    Ok(Box::new(move |x, pass| Ok(net.forward(x, pass)?)))
}

/// Seven 4x4 convolutions of stride 2 down to one pixel and seven transposed ones back, with skips.
struct UNet {
    down: Vec<(Conv2d, Option<BatchNorm2d>)>,
    up: Vec<(Tensor, Tensor, BatchNorm2d)>,
    last: (Tensor, Tensor),
}

impl UNet {
    const WIDTHS: [usize; 7] = [64, 128, 256, 512, 512, 512, 512];

    fn new(vb: &VarBuilder<'_>) -> Result<Self> {
        let norm = BatchNormConfig::default();
        let (mut inputs, mut down, mut up) = (3, Vec::new(), Vec::new());
        for (level, width) in Self::WIDTHS.into_iter().enumerate() {
            let vb = vb.pp(format!("down.{level}"));
            let args = ops::Conv2dArgs::square(2, 1);
            let conv = Conv2d::new(inputs, width, [4, 4], args, true, vb.pp("0"))?;
            let inner = level > 0 && level + 1 < Self::WIDTHS.len();
            let norm = if inner { Some(BatchNorm2d::new(width, &norm, vb.pp("1"))?) } else { None };
            down.push((conv, norm));
            inputs = width;
        }
        for (level, width) in Self::WIDTHS.into_iter().rev().skip(1).enumerate() {
            let vb = vb.pp(format!("up.{level}"));
            let weight = vb.get((inputs, width, 4, 4), "0.weight")?;
            up.push((weight, vb.get(width, "0.bias")?, BatchNorm2d::new(width, &norm, vb.pp("1"))?));
            inputs = 2 * width;
        }
        Ok(Self { down, up, last: (vb.get((inputs, 2, 4, 4), "last.weight")?, vb.get(2, "last.bias")?) })
    }

    fn forward(&self, x: &FeatureMap, pass: &Pass) -> Result<Tensor> {
        let args = ops::ConvTranspose2dArgs::square(2, 1);
        let (mut x, mut kept) = (x.clone(), Vec::new());
        for (conv, norm) in &self.down {
            x = conv.forward(&x)?;
            x = match norm {
                Some(norm) => norm.forward_relu(&x, pass.train)?,
                None => FeatureMap::from_nhwc(ops::relu(x.nhwc())?)?,
            };
            kept.push(x.clone());
        }
        kept.pop();
        for (weight, bias, norm) in &self.up {
            x = norm.forward_relu(&ops::conv_transpose2d_nhwc(&x, weight, Some(bias), &args)?, pass.train)?;
            if let Some(skip) = kept.pop() {
                x = FeatureMap::from_nhwc(Tensor::cat(&[skip.nhwc(), x.nhwc()], 3)?)?;
            }
        }
        let (weight, bias) = &self.last;
        Ok(ops::conv_transpose2d_nhwc(&x, weight, Some(bias), &args)?.nhwc().clone())
    }
}

/// The case's network with parameters from `vb`.
fn resnet_or_unet(case: &Case, vb: VarBuilder<'_>) -> Result<Forward> {
    match case.text("op")? {
        "model.resnet18" => resnet(Depth::R18, Stem::ImageNet, 1000, vb),
        "model.resnet50" => resnet(Depth::R50, Stem::ImageNet, 1000, vb),
        "model.cifar_resnet18" => resnet(Depth::R18, Stem::Cifar, 10, vb),
        "model.unet" => {
            let net = UNet::new(&vb)?;
            Ok(Box::new(move |x: &FeatureMap, pass: &Pass| net.forward(x, pass)))
        }
        other => bail!("no model is called {other}"),
    }
}

/// A step of the case's network.
pub(super) fn step(case: &Case) -> Result<Step> {
    let params = ParamStore::new(Key::new(0), DType::F32, &Device::Cpu);
    let forward_only = case.text("mode")? == "forward";
    let mut vb = params.var_builder();
    if forward_only {
        // As loaded from a file: weights that never change. A first network says which there are.
        drop(resnet_or_unet(case, vb)?);
        let all = params.trainable().into_iter().chain(params.buffers());
        let fixed: HashMap<String, Tensor> =
            all.map(|(name, var)| Ok((name, var.as_tensor().copy()?.detach()))).collect::<Result<_>>()?;
        vb = VarBuilder::from_tensors(fixed, DType::F32, &Device::Cpu);
    }
    let forward = resnet_or_unet(case, vb)?;
    let sizes = case.sizes("input")?;
    let x = Key::new(1).normal(sizes.as_slice(), 0.0, 1.0, DType::F32, &Device::Cpu)?;
    if forward_only {
        return Ok(Box::new(move || {
            forward(&FeatureMap::from_nchw(&x)?, &Pass::inference())?;
            Ok(())
        }));
    }
    let config = SgdConfig { lr: 1e-3, momentum: 0.9, ..SgdConfig::default() };
    let mut optimiser = Sgd::new(config, vec![ParamGroup::all(&params, 5e-4)])?;
    let target: Vec<u32> = (0..sizes[0]).map(|i| (i % 10) as u32).collect();
    let target = Tensor::new(target, &Device::Cpu)?;
    Ok(Box::new(move || {
        let y = forward(&FeatureMap::from_nchw(&x)?, &Pass::train(Key::new(2)))?;
        let loss = if y.rank() == 2 {
            ops::cross_entropy(&y, &target, &ops::CrossEntropyArgs::default())?
        } else {
            y.sqr()?.mean_all()?
        };
        let grads = loss.backward()?;
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
