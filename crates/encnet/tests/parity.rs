//! Numbers of the authors' code (last state, run on PyTorch 2) for a whole EncNet given by formulas.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use common::{fill, mean_std, near, numbers, stream, tensor};
use encnet::config::HeadConfig;
use encnet::{Criterion, EncNet, LossConfig, ModelConfig};
use vision_core::params::ParamStore;
use vision_core::rng::Key;
use vision_core::{FeatureMap, Pass};

fn model(config: &ModelConfig, dtype: DType) -> (EncNet, ParamStore) {
    let params = ParamStore::new(Key::new(0), dtype, &Device::Cpu);
    let model = EncNet::new(config, params.var_builder()).unwrap();
    fill(&params);
    (model, params)
}

fn first(map: &Tensor, count: usize) -> Vec<f64> {
    numbers(map)[..count].to_vec()
}

#[test]
fn numbers_of_the_generator() {
    let first =
        [0.766_621_589_660_644_5, 0.133_123_040_199_279_79, 0.182_379_364_967_346_2, -0.773_099_422_454_834];
    assert_eq!([0, 1, 2, 3].map(|i| stream(0, i)), first);
    assert_eq!([0, 1].map(|i| stream(7, i)), [0.475_411_176_681_518_55, -0.794_962_644_577_026_4]);
}

#[test]
fn evaluation_of_encnet_resnet50s() {
    let (model, params) = model(&ModelConfig::default(), DType::F32);
    assert_eq!(params.all().len(), 319);
    let pictures = tensor(2001, &[2, 3, 65, 65], DType::F32, |v| v);
    for pass in [Pass::inference(), Pass::eval()] {
        let output = model.forward(&pictures, &pass).unwrap();
        let maps: Vec<_> = output.stages.iter().map(FeatureMap::nhwc).collect();
        near("c3", &mean_std(maps[3]), &[0.497_062_7, 0.537_711_4], 0.0, 1e-5);
        near("c4", &mean_std(maps[4]), &[0.413_645_9, 0.531_623_4], 0.0, 1e-5);
        let main = output.main.to_nchw().unwrap();
        assert_eq!(main.dims(), [2, 59, 65, 65]);
        near("main", &mean_std(&main), &[0.111_246_7, 1.204_348_8], 2e-7, 1e-5);
        near("main", &first(&main, 3), &[-0.366_207_7, -0.434_733_7, -0.503_259_8], 2e-4, 0.0);
        let all = numbers(&main);
        near("main", &all[all.len() - 2..], &[-0.102_210_4, -0.102_921_9], 2e-4, 0.0);
        let se = output.se_logits.unwrap();
        near("se", &mean_std(&se), &[0.000_561_35, 1.170_871_5], 1e-6, 1e-5);
        near("se", &first(&se, 3), &[-0.008_285_1, -0.401_824_2, 0.136_673_6], 2e-4, 0.0);
        let aux = output.aux.unwrap().to_nchw().unwrap();
        near("aux", &mean_std(&aux), &[0.009_385_9, 0.836_173_0], 2e-7, 1e-5);
        near("aux", &first(&aux, 3), &[0.003_484_7, -0.009_705_8, -0.022_896_3], 2e-4, 0.0);

        let mut counts = BTreeMap::<u32, usize>::new();
        let best = output.main.nhwc().argmax(3).unwrap().flatten_all().unwrap();
        best.to_vec1::<u32>().unwrap().into_iter().for_each(|class| *counts.entry(class).or_default() += 1);
        let mut classes: Vec<_> = counts.into_iter().collect();
        classes.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        assert_eq!(classes[..3].iter().map(|(class, _)| *class).collect::<Vec<_>>(), [15, 39, 43]);

        let predicted = model.predict(&pictures, &pass).unwrap();
        assert_eq!(numbers(predicted.nhwc()), numbers(output.main.nhwc()));
        assert_eq!(predicted.nhwc().track_op(), pass.graph);
    }
}

#[test]
fn training_of_encnet_resnet50s() {
    let head = HeadConfig { dropout: 0.0, ..HeadConfig::default() };
    let config = ModelConfig { head, ..ModelConfig::default() };
    let (model, params) = model(&config, DType::F32);
    let pictures = tensor(2001, &[2, 3, 65, 65], DType::F32, |v| v);
    let labels = tensor(2002, &[2, 65, 65], DType::F64, |v| (f64::midpoint(v, 1.0) * 60.0).floor() - 1.0);
    let labels = labels.to_dtype(DType::I64).unwrap();
    let output = model.forward(&pictures, &Pass::train(Key::new(1))).unwrap();
    let criterion = Criterion::new(&LossConfig::default(), config.classes).unwrap();
    let losses = criterion.losses(&output, &labels).unwrap();
    near("loss", &numbers(&losses.total), &[5.855_230_4], 0.0, 2e-5);

    let grads = losses.total.backward().unwrap();
    for (name, norm, relative) in [
        ("head.encmodule.encoding.3.codewords", 0.008_560_05, 1e-3),
        ("head.encmodule.encoding.3.scale", 1.195e-7, 2e-2),
        ("head.encmodule.encoding.0.weight", 0.006_126_8, 1e-3),
        ("head.encmodule.fc.0.weight", 0.023_956_1, 1e-3),
        ("head.conv6.1.weight", 2.344_720_7, 1e-3),
        ("head.conv5.0.weight", 1.600_006_7, 1e-3),
        ("auxlayer.conv5.0.weight", 0.152_789_0, 1e-3),
        ("pretrained.layer4.0.conv2.weight", 0.378_645_0, 1e-3),
        ("pretrained.conv1.0.weight", 1.452_734_6, 1e-3),
    ] {
        let grad = numbers(grads.get(&params.get(name).unwrap()).unwrap());
        let got = grad.iter().map(|g| g * g).sum::<f64>().sqrt();
        near(name, &[got], &[norm], 0.0, relative);
    }
    for (name, want) in [
        ("head.encmodule.encoding.4.running_mean", 0.110_285_8),
        ("head.encmodule.encoding.4.running_var", 1.173_557_5),
        ("pretrained.bn1.running_var", 1.184_577_6),
    ] {
        near(name, &mean_std(&params.get(name).unwrap())[..1], &[want], 1e-5, 0.0);
    }
}
