use candle_core::{DType, Device};

use super::*;
use crate::params::ParamStore;
use crate::rng::Key;
use crate::testing::assert_close;

const CPU: Device = Device::Cpu;

fn store(dtype: DType) -> ParamStore {
    ParamStore::new(Key::new(0), dtype, &CPU)
}

fn narrow(stem: Stem, depth: Depth) -> ResNetConfig {
    ResNetConfig { depth, stem, width: 4, ..ResNetConfig::default() }
}

fn pictures(n: usize, size: usize) -> FeatureMap {
    let x = Key::new(2).normal((n, 3, size, size), 0.0, 1.0, DType::F32, &CPU).unwrap();
    FeatureMap::from_nchw(&x).unwrap()
}

#[test]
fn parameter_counts_are_torchvisions() {
    for (depth, classes, count) in [(Depth::R18, 1000, 11_689_512), (Depth::R50, 1000, 25_557_032)] {
        let params = store(DType::F32);
        let config = ResNetConfig { depth, ..ResNetConfig::default() };
        ResNetClassifier::new(&config, classes, params.var_builder()).unwrap();
        assert_eq!(params.num_parameters(), count, "{depth:?}");
    }
    // The CIFAR form with an embedding of 128 numbers.
    let params = store(DType::F32);
    let config = ResNetConfig { depth: Depth::R18, stem: Stem::Cifar, ..ResNetConfig::default() };
    ResNetClassifier::new(&config, 128, params.var_builder()).unwrap();
    assert_eq!(params.num_parameters(), 11_234_496);
}

#[test]
fn names_are_torchvisions() {
    let params = store(DType::F32);
    ResNetClassifier::new(&narrow(Stem::ImageNet, Depth::R50), 10, params.var_builder()).unwrap();
    for (name, dims) in [
        ("conv1.weight", vec![4, 3, 7, 7]),
        ("bn1.running_var", vec![4]),
        ("layer1.0.downsample.0.weight", vec![16, 4, 1, 1]),
        ("layer1.0.downsample.1.running_mean", vec![16]),
        ("layer1.1.conv1.weight", vec![4, 16, 1, 1]),
        ("layer2.0.conv2.weight", vec![8, 8, 3, 3]),
        ("layer4.2.bn3.bias", vec![128]),
        ("fc.weight", vec![10, 128]),
    ] {
        assert_eq!(params.get(name).unwrap().dims(), dims, "{name}");
    }
    // One convolution and four normalisation tensors per layer, weight and bias of fc.
    assert_eq!(params.all().len(), 53 * 5 + 2);
}

#[test]
fn maps_are_as_described() {
    for (stem, depth, size) in
        [(Stem::ImageNet, Depth::R18, 64), (Stem::Cifar, Depth::R50, 16), (Stem::ImageNet, Depth::R34, 33)]
    {
        let params = store(DType::F32);
        let net = ResNet::new(&narrow(stem, depth), params.var_builder()).unwrap();
        let maps = net.features(&pictures(2, size), &Pass::eval()).unwrap();
        assert_eq!(maps.len(), net.info().len());
        for (map, info) in maps.iter().zip(net.info()) {
            let side = size.div_ceil(info.stride);
            assert_eq!(map.dims().unwrap(), (2, side, side, info.channels), "{}", info.name);
        }
        assert_eq!(net.pooled(&maps[4]).unwrap().dims(), [2, net.out_channels()]);
    }
}

#[test]
fn deep_stems_have_the_names_and_sizes_of_timm() {
    // Backbones of 23,631,808 and 23,527,264 parameters, without the classifier.
    for (stem, channels, count) in
        [(Stem::Deep, [64, 64, 128], 23_631_808), (Stem::DeepNarrow, [32, 32, 64], 23_527_264)]
    {
        let params = store(DType::F32);
        let net =
            ResNet::new(&ResNetConfig { stem, ..ResNetConfig::default() }, params.var_builder()).unwrap();
        assert_eq!(params.num_parameters(), count, "{stem:?}");
        assert_eq!(net.info()[0].channels, channels[2]);
        let dims = |name: &str| params.get(name).unwrap().dims().to_vec();
        assert_eq!(dims("conv1.0.weight"), [channels[0], 3, 3, 3]);
        assert_eq!(dims("conv1.1.running_mean"), [channels[0]]);
        assert_eq!(dims("conv1.3.weight"), [channels[1], channels[0], 3, 3]);
        assert_eq!(dims("conv1.4.weight"), [channels[1]]);
        assert_eq!(dims("conv1.6.weight"), [channels[2], channels[1], 3, 3]);
        assert_eq!(dims("bn1.bias"), [channels[2]]);
        assert_eq!(dims("layer1.0.conv1.weight"), [64, channels[2], 1, 1]);
    }
}

#[test]
fn dilation_keeps_the_size_of_later_stages() {
    let dilated = |depth, output_stride, multi_grid| {
        let config = ResNetConfig { output_stride, multi_grid, ..narrow(Stem::Deep, depth) };
        let params = store(DType::F32);
        ResNet::new(&config, params.var_builder()).unwrap()
    };
    let net = dilated(Depth::R50, 8, false);
    assert_eq!(net.dilations(), [vec![1; 3], vec![1; 4], vec![1, 2, 2, 2, 2, 2], vec![2, 4, 4]]);
    for (size, sides) in [([97, 129], [[25, 33], [13, 17]]), ([33, 65], [[9, 17], [5, 9]])] {
        let x = Tensor::zeros((1, size[0], size[1], 3), DType::F32, &CPU).unwrap();
        let maps = net.features(&FeatureMap::from_nhwc(x).unwrap(), &Pass::inference()).unwrap();
        for (map, side) in maps[1..].iter().zip([sides[0], sides[1], sides[1], sides[1]]) {
            let (_, h, w, _) = map.dims().unwrap();
            assert_eq!([h, w], side);
        }
    }
    assert_eq!(net.info().iter().map(|info| info.stride).collect::<Vec<_>>(), [2, 4, 8, 8, 8]);
    let deep = dilated(Depth::R101, 8, false).dilations();
    assert_eq!(deep[2], [vec![1], vec![2; 22]].concat());
    assert_eq!(deep[3], [2, 4, 4]);
    assert_eq!(dilated(Depth::R50, 8, true).dilations()[3], [4, 8, 16]);
    assert_eq!(dilated(Depth::R50, 16, false).dilations()[2..], [vec![1; 6], vec![1, 2, 2]]);
    // Both convolutions of basic blocks, of which the first of a stage keeps the dilation before.
    assert_eq!(dilated(Depth::R18, 8, false).dilations()[2..], [vec![1, 2, 2, 2], vec![2, 4, 4, 4]]);
    assert_eq!(dilated(Depth::R50, 64, false).dilations().concat(), [1; 16]);
}

#[test]
fn impossible_strides_and_widths_are_refused() {
    let message =
        |config: ResNetConfig| ResNet::new(&config, store(DType::F32).var_builder()).unwrap_err().to_string();
    for output_stride in [0, 2, 12] {
        let config = ResNetConfig { output_stride, ..narrow(Stem::ImageNet, Depth::R18) };
        assert!(message(config).starts_with("ResNet: output_stride"), "{output_stride}");
    }
    let odd = ResNetConfig { width: 5, ..narrow(Stem::DeepNarrow, Depth::R18) };
    assert!(message(odd).starts_with("ResNet: width"));
}

#[test]
fn every_parameter_gets_a_gradient_and_training_moves_the_statistics() {
    for depth in [Depth::R18, Depth::R50] {
        let params = store(DType::F32);
        let net = ResNetClassifier::new(&narrow(Stem::Cifar, depth), 5, params.var_builder()).unwrap();
        let logits = net.forward(&pictures(4, 16), &Pass::train(Key::new(0))).unwrap();
        let grads = logits.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        for (name, var) in params.trainable() {
            let grad = grads.get(&var).unwrap_or_else(|| panic!("{name} has no gradient"));
            let size: f32 = grad.sqr().unwrap().sum_all().unwrap().to_scalar().unwrap();
            assert!(size.is_finite() && size > 0.0, "{name}: {size}");
        }
        for (name, var) in params.buffers() {
            let initial = if name.ends_with("running_var") { 1.0 } else { 0.0 };
            assert!(var.to_vec1::<f32>().unwrap().iter().any(|&v| v != initial), "{name}");
        }
    }
}

#[test]
fn frozen_stages_get_no_gradient_and_keep_their_statistics() {
    let params = store(DType::F32);
    params.freeze("conv1").unwrap();
    params.freeze("bn1").unwrap();
    params.freeze("layer1").unwrap();
    let net = ResNetClassifier::new(&narrow(Stem::Cifar, Depth::R18), 5, params.var_builder()).unwrap();
    let logits = net.forward(&pictures(4, 16), &Pass::train(Key::new(0))).unwrap();
    let grads = logits.sqr().unwrap().sum_all().unwrap().backward().unwrap();
    for (name, var) in params.all() {
        let frozen = ["conv1.", "bn1.", "layer1."].iter().any(|p| name.starts_with(p));
        let buffer = name.contains("running");
        assert_eq!(grads.get(&var).is_some(), !frozen && !buffer, "{name}");
        if buffer && frozen {
            let initial = if name.ends_with("running_var") { 1.0 } else { 0.0 };
            assert!(var.to_vec1::<f32>().unwrap().iter().all(|&v| v == initial), "{name}");
        }
    }
}

#[test]
fn initial_weights_follow_the_configuration() {
    let spread = |config: &ResNetConfig, name: &str| {
        let params = store(DType::F32);
        ResNet::new(config, params.var_builder()).unwrap();
        let weight = params.get(name).unwrap();
        let square: f32 = weight.sqr().unwrap().mean_all().unwrap().to_scalar().unwrap();
        f64::from(square)
    };
    let config = ResNetConfig { depth: Depth::R18, width: 32, ..ResNetConfig::default() };
    // 2 / (9 * 256) for a normal distribution over the fan-out; 1 / (3 * 9 * 128) for the uniform one.
    let name = "layer4.0.conv1.weight";
    let normal = spread(&config, name) * 9.0 * 256.0 / 2.0;
    let uniform = spread(&ResNetConfig { stem: Stem::Cifar, ..config.clone() }, name) * 27.0 * 128.0;
    assert!((normal - 1.0).abs() < 0.02 && (uniform - 1.0).abs() < 0.02, "{normal} {uniform}");
    let zero = ResNetConfig { zero_init_residual: true, ..config };
    assert_eq!(spread(&zero, "layer2.1.bn2.weight"), 0.0);
    assert_eq!(spread(&zero, "layer2.1.bn1.weight"), 1.0);
}

#[test]
fn an_empty_batch_passes_and_a_wrong_picture_is_refused() {
    let params = store(DType::F32);
    let net = ResNetClassifier::new(&narrow(Stem::ImageNet, Depth::R18), 5, params.var_builder()).unwrap();
    let none = FeatureMap::from_nhwc(Tensor::zeros((0, 64, 64, 3), DType::F32, &CPU).unwrap()).unwrap();
    assert_eq!(net.forward(&none, &Pass::eval()).unwrap().dims(), [0, 5]);
    let grey = FeatureMap::from_nhwc(Tensor::zeros((1, 64, 64, 1), DType::F32, &CPU).unwrap()).unwrap();
    assert!(net.forward(&grey, &Pass::eval()).unwrap_err().to_string().contains("weight"));
    let zero = ResNetConfig { width: 0, ..ResNetConfig::default() };
    assert!(ResNet::new(&zero, params.var_builder()).unwrap_err().to_string().contains("width"));
}

#[test]
fn evaluation_does_not_depend_on_the_batch() {
    let params = store(DType::F32);
    let net = ResNetClassifier::new(&narrow(Stem::Cifar, Depth::R18), 5, params.var_builder()).unwrap();
    let batch = pictures(3, 16);
    let all = net.forward(&batch, &Pass::eval()).unwrap();
    let one = FeatureMap::from_nhwc(batch.nhwc().narrow(0, 1, 1).unwrap()).unwrap();
    let one = net.forward(&one, &Pass::eval()).unwrap();
    assert_close(&one, &all.narrow(0, 1, 1).unwrap(), 1e-5, 1e-6).unwrap();
}

#[test]
fn inference_keeps_no_graph() {
    let params = store(DType::F32);
    let net = ResNetClassifier::new(&narrow(Stem::Cifar, Depth::R18), 5, params.var_builder()).unwrap();
    let x = pictures(2, 16);
    let (kept, cut) = (net.forward(&x, &Pass::eval()).unwrap(), net.forward(&x, &Pass::inference()).unwrap());
    assert!(kept.track_op() && !cut.track_op());
    assert_close(&cut, &kept, 1e-4, 1e-4).unwrap();
}
