//! Small networks and their training on the ranks of any collective.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use vision_core::backbones::resnet::{Depth, ResNetClassifier, ResNetConfig, Stem};
use vision_core::dist::{Collective, Single, average_gradients, weigh_loss};
use vision_core::nn::{BatchNorm2d, BatchNormConfig, Conv2d, Linear};
use vision_core::ops::{Conv2dArgs, CrossEntropyArgs, SgdStepArgs, cross_entropy, sgd_step};
use vision_core::params::ParamStore;
use vision_core::rng::Key;
use vision_core::testing::assert_close;
use vision_core::{FeatureMap, Pass, Result};

pub(crate) const CPU: Device = Device::Cpu;

/// Pictures to scores.
pub(crate) type Net = Box<dyn Fn(&FeatureMap, &Pass) -> Result<Tensor>>;
pub(crate) type Build = fn(&ParamStore, &BatchNormConfig) -> Result<Net>;

/// Two convolutions with normalisation and a linear layer.
pub(crate) fn small(params: &ParamStore, norm: &BatchNormConfig) -> Result<Net> {
    let vb = params.var_builder();
    let conv1 = Conv2d::new(3, 4, [3, 3], Conv2dArgs::square(1, 1), false, vb.pp("conv1"))?;
    let bn1 = BatchNorm2d::new(4, norm, vb.pp("bn1"))?;
    let conv2 = Conv2d::new(4, 6, [3, 3], Conv2dArgs::square(2, 1), false, vb.pp("conv2"))?;
    let bn2 = BatchNorm2d::new(6, norm, vb.pp("bn2"))?;
    let fc = Linear::new(6 * 4 * 4, 5, true, vb.pp("fc"))?;
    Ok(Box::new(move |x, pass| {
        let x = bn1.forward_relu(&conv1.forward(x)?, pass.train)?;
        let x = bn2.forward_relu(&conv2.forward(&x)?, pass.train)?;
        let n = x.dims()?.0;
        fc.forward(&x.nhwc().reshape((n, 6 * 4 * 4))?)
    }))
}

/// A ResNet with residuals and shortcuts.
pub(crate) fn resnet(params: &ParamStore, norm: &BatchNormConfig) -> Result<Net> {
    let config = ResNetConfig {
        depth: Depth::R18,
        stem: Stem::Cifar,
        width: 4,
        norm: norm.clone(),
        ..ResNetConfig::default()
    };
    let net = ResNetClassifier::new(&config, 5, params.var_builder())?;
    Ok(Box::new(move |x, pass| net.forward(x, pass)))
}

/// Trains for some steps on this rank's part of each batch of eight; returns parameters and statistics.
pub(crate) fn train(
    build: Build,
    collective: &Arc<dyn Collective>,
    sizes: &[usize],
    dtype: DType,
    steps: u64,
) -> Result<Store> {
    let rank = collective.rank();
    let (from, size) = (sizes[..rank].iter().sum(), sizes[rank]);
    let params = ParamStore::new(Key::new(5), dtype, &CPU);
    let synchronised = BatchNormConfig { collective: Some(collective.clone()), ..BatchNormConfig::default() };
    let net = build(&params, &synchronised)?;
    let mut buffers: BTreeMap<String, Tensor> = BTreeMap::new();
    for step in 0..steps {
        let key = Key::new(9).fold_u64(step);
        let pictures = key.normal((8, 3, 8, 8), 0.2, 1.0, DType::F64, &CPU)?.to_dtype(dtype)?;
        let labels = key.below(5, 8, &CPU)?;
        let (pictures, labels) = (pictures.narrow(0, from, size)?, labels.narrow(0, from, size)?);
        let scores = net(&FeatureMap::from_nchw(&pictures)?, &Pass::train(key))?;
        let loss = cross_entropy(&scores, &labels, &CrossEntropyArgs::default())?;
        let gradients = weigh_loss(collective.as_ref(), &loss, size)?.backward()?;
        let trainable = params.trainable();
        let mut grads: BTreeMap<String, Tensor> = trainable
            .iter()
            .filter_map(|(name, var)| Some((name.clone(), gradients.get(var)?.clone())))
            .collect();
        average_gradients(collective.as_ref(), &trainable, &mut grads, None)?;
        for (name, var) in &trainable {
            let first = !buffers.contains_key(name);
            let buffer = buffers.entry(name.clone()).or_insert(var.as_detached_tensor().zeros_like()?);
            let args = SgdStepArgs {
                lr: 0.05,
                momentum: 0.9,
                dampening: 0.0,
                weight_decay: 1e-3,
                nesterov: false,
                first,
            };
            sgd_step(var, &grads[name], Some(buffer), &args)?;
        }
    }
    let all = params.all().into_iter();
    all.map(|(name, var)| {
        Ok((name, var.as_detached_tensor().flatten_all()?.to_dtype(DType::F64)?.to_vec1()?))
    })
    .collect()
}

pub(crate) type Store = BTreeMap<String, Vec<f64>>;

/// Fails unless `store` is what one rank gets from the whole batches.
pub(crate) fn check_whole(
    store: &Store,
    build: Build,
    sizes: &[usize],
    dtype: DType,
    steps: u64,
    tolerance: f64,
) {
    let single: Arc<dyn Collective> = Arc::new(Single);
    let want = train(build, &single, &[8], dtype, steps).unwrap();
    assert_eq!(store.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>());
    for (name, values) in store {
        let [got, want] = [values, &want[name]].map(|v| Tensor::new(v.as_slice(), &CPU).unwrap());
        if let Err(error) = assert_close(&got, &want, tolerance, tolerance) {
            panic!("{name} on {sizes:?} in {dtype:?}: {error}");
        }
    }
}
