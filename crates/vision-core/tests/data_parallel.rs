//! Training on several ranks equals training on one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use vision_core::backbones::resnet::{Depth, ResNetClassifier, ResNetConfig, Stem};
use vision_core::dist::{Collective, Single, Threads, average_gradients, weigh_loss};
use vision_core::nn::{BatchNorm2d, BatchNormConfig, Conv2d, Linear};
use vision_core::ops::{Conv2dArgs, CrossEntropyArgs, SgdStepArgs, cross_entropy, sgd_step};
use vision_core::params::ParamStore;
use vision_core::rng::Key;
use vision_core::testing::assert_close;
use vision_core::{FeatureMap, Pass, Result};

const CPU: Device = Device::Cpu;
const PATIENT: Duration = Duration::from_secs(120);

/// Pictures to scores.
type Net = Box<dyn Fn(&FeatureMap, &Pass) -> Result<Tensor>>;
type Build = fn(&ParamStore, &BatchNormConfig) -> Result<Net>;

/// Two convolutions with normalisation and a linear layer.
fn small(params: &ParamStore, norm: &BatchNormConfig) -> Result<Net> {
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
fn resnet(params: &ParamStore, norm: &BatchNormConfig) -> Result<Net> {
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
fn train(
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

type Store = BTreeMap<String, Vec<f64>>;

fn on_ranks(build: Build, sizes: &[usize], dtype: DType, steps: u64) -> Vec<Store> {
    Threads::run(sizes.len(), PATIENT, |ranks| {
        let collective: Arc<dyn Collective> = Arc::new(ranks);
        train(build, &collective, sizes, dtype, steps)
    })
    .into_iter()
    .map(|result| result.expect("no rank panics").unwrap())
    .collect()
}

fn check(build: Build, sizes: &[usize], dtype: DType, steps: u64, tolerance: f64) {
    let single: Arc<dyn Collective> = Arc::new(Single);
    let want = train(build, &single, &[8], dtype, steps).unwrap();
    let got = on_ranks(build, sizes, dtype, steps);
    for store in &got {
        assert!(store == &got[0], "{sizes:?}: ranks differ");
        assert_eq!(store.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>());
        for (name, values) in store {
            let [got, want] = [values, &want[name]].map(|v| Tensor::new(v.as_slice(), &CPU).unwrap());
            if let Err(error) = assert_close(&got, &want, tolerance, tolerance) {
                panic!("{name} on {sizes:?} in {dtype:?}: {error}");
            }
        }
    }
}

#[test]
fn a_small_net_trains_as_on_one_rank() {
    for sizes in [&[4, 4][..], &[7, 1], &[3, 3, 2], &[0, 5, 3], &[2, 2, 2, 2], &[0, 1, 0, 7]] {
        check(small, sizes, DType::F64, 3, 1e-10);
        check(small, sizes, DType::F32, 1, 1e-5);
    }
}

#[test]
fn a_resnet_trains_as_on_one_rank() {
    check(resnet, &[5, 3], DType::F64, 2, 1e-9);
    check(resnet, &[4, 0, 4], DType::F64, 2, 1e-9);
}

#[test]
fn two_runs_are_equal_bit_for_bit() {
    for sizes in [&[3, 5][..], &[2, 4, 0, 2]] {
        assert!(on_ranks(small, sizes, DType::F32, 3) == on_ranks(small, sizes, DType::F32, 3));
    }
}
