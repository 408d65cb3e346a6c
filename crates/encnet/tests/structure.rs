//! Sizes, names and counts of the authors' models.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::BTreeSet;

use candle_core::{DType, Device, Tensor};
use common::numbers;
use encnet::cifar::{CifarConfig, CifarNet};
use encnet::config::{Arch, Auxiliary, BackboneConfig, HeadConfig, Method};
use encnet::weights::{self, Source};
use encnet::{EncNet, Error, ModelConfig, Preset};
use vision_core::backbones::resnet::{ResNet, ResNetConfig, Stem};
use vision_core::params::ParamStore;
use vision_core::rng::Key;
use vision_core::{FeatureMap, Pass};
use vision_weights::{Array, StateDict};

fn store() -> ParamStore {
    ParamStore::new(Key::new(0), DType::F32, &Device::Cpu)
}

fn build(config: &ModelConfig) -> ParamStore {
    let params = store();
    EncNet::new(config, params.var_builder()).unwrap();
    params
}

fn of(arch: Arch, classes: usize, lateral: bool) -> ModelConfig {
    let base = ModelConfig::default();
    let backbone = BackboneConfig { arch, ..base.backbone.clone() };
    ModelConfig { classes, backbone, head: HeadConfig { lateral, ..base.head.clone() }, ..base }
}

/// A network of the right layers and names, and few numbers.
fn thin(preset: Preset) -> ModelConfig {
    let base = ModelConfig::preset(preset, 7);
    let backbone = BackboneConfig { width: 2, ..base.backbone.clone() };
    ModelConfig { backbone, head: HeadConfig { channels: 4, ..base.head.clone() }, ..base }
}

#[test]
fn numbers_of_parameters() {
    for (config, count) in [
        (of(Arch::ResNet50, 59, true), 43_915_217),
        (of(Arch::ResNet101, 59, true), 62_907_345),
        (of(Arch::ResNet50, 150, false), 36_164_578),
        (of(Arch::ResNet101, 150, false), 55_156_706),
        (of(Arch::ResNet50, 21, true), 43_866_463),
        (of(Arch::ResNet101, 21, true), 62_858_591),
        (ModelConfig::preset(Preset::V043, 59), 43_791_441),
    ] {
        let params = build(&config);
        assert_eq!(params.num_parameters(), count, "{:?} {}", config.backbone.arch, config.classes);
        if count == 43_915_217 {
            let part = |prefix: &str| -> usize {
                let all = params.trainable();
                let own = all.iter().filter(|(name, _)| name.starts_with(prefix));
                own.map(|(_, var)| var.elem_count()).sum()
            };
            assert_eq!(part("pretrained."), 23_631_808);
            assert_eq!(part("head."), 17_908_438);
            assert_eq!(part("head.encmodule."), 572_571);
            assert_eq!(part("auxlayer."), 2_374_971);
        }
    }
}

/// Those of the other presets, with a ResNet-50 and 59 classes: counted by hand from parts that are known.
#[test]
fn numbers_of_parameters_of_every_preset() {
    let (deep, plain, aux) = (23_631_808, 23_631_808 - 123_776, 2_374_971);
    let conv = |from: usize, to: usize, side: usize| from * to * side * side + 2 * to;
    let linear = |from: usize, to: usize| from * to + to;
    // Codewords, scales and the normalisation over the codes.
    let encoding = 32 * 512 + 32 + 2 * 32;
    let module = encoding + linear(512, 512) + linear(512, 59);
    let head = conv(2048, 512, 3) + module + linear(512, 59);
    let lateral = conv(512, 512, 1) + conv(1024, 512, 1) + conv(1536, 512, 3);
    let projection = conv(512, 512, 1);
    let second = conv(1024, 512, 3) + encoding + linear(512, 59);
    for (preset, count) in [
        (Preset::Paper, plain + head + second),
        (Preset::V042, plain + head + aux),
        (Preset::Head, deep + head + projection + lateral + aux),
        (Preset::Fcn, deep + conv(2048, 512, 3) + linear(512, 59) + aux),
    ] {
        assert_eq!(build(&ModelConfig::preset(preset, 59)).num_parameters(), count, "{preset:?}");
    }
    // The parts are right: these are V043 and V1.
    let rest = head + projection + lateral + aux;
    assert_eq!((plain + rest, deep + rest), (43_791_441, 43_915_217));
}

#[test]
fn numbers_of_parameters_of_the_cifar_networks() {
    for (config, count) in [
        (CifarConfig::small(), 3_514_250),
        (CifarConfig::default(), 16_788_234),
        (CifarConfig::plain(4), 2_777_482),
        (CifarConfig::plain(8), 11_092_746),
    ] {
        let params = store();
        CifarNet::new(&config, params.var_builder()).unwrap();
        assert_eq!(params.num_parameters(), count, "{config:?}");
    }
}

#[test]
fn sizes_of_the_stages() {
    let model = EncNet::new(&thin(Preset::V1), store().var_builder()).unwrap();
    for (size, fine, coarse) in [
        ([65, 65], [17, 17], [9, 9]),
        ([97, 129], [25, 33], [13, 17]),
        ([480, 480], [120, 120], [60, 60]),
        ([481, 481], [121, 121], [61, 61]),
        ([33, 33], [9, 9], [5, 5]),
    ] {
        let pictures = Tensor::zeros((1, 3, size[0], size[1]), DType::F32, &Device::Cpu).unwrap();
        let output = model.forward(&pictures, &Pass::inference()).unwrap();
        let got: Vec<[usize; 2]> =
            output.stages[1..].iter().map(|map| map.dims().map(|(_, h, w, _)| [h, w]).unwrap()).collect();
        assert_eq!(got, [fine, coarse, coarse, coarse], "{size:?}");
        assert_eq!(output.main.dims().unwrap(), (1, size[0], size[1], 7));
    }
}

/// Every name of the authors' files of EncNet, with so many blocks in the third stage.
fn names(third: usize, lateral: bool) -> impl Iterator<Item = String> {
    let mut names = Vec::new();
    let mut add = |prefix: &str, kinds: &[&str]| {
        names.extend(kinds.iter().map(|kind| format!("{prefix}.{kind}")));
    };
    let bn = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"];
    let conv_bn = |add: &mut dyn FnMut(&str, &[&str]), prefix: &str| {
        add(&format!("{prefix}.0"), &["weight"]);
        add(&format!("{prefix}.1"), &bn);
    };
    for (conv, norm) in [("conv1.0", "conv1.1"), ("conv1.3", "conv1.4"), ("conv1.6", "bn1")] {
        add(&format!("pretrained.{conv}"), &["weight"]);
        add(&format!("pretrained.{norm}"), &bn);
    }
    for (stage, blocks) in (1..).zip([3, 4, third, 3]) {
        for block in 0..blocks {
            let at = format!("pretrained.layer{stage}.{block}");
            for number in 1..4 {
                add(&format!("{at}.conv{number}"), &["weight"]);
                add(&format!("{at}.bn{number}"), &bn);
            }
            if block == 0 {
                conv_bn(&mut add, &format!("{at}.downsample"));
            }
        }
    }
    conv_bn(&mut add, "head.conv5");
    if lateral {
        for prefix in ["head.connect.0", "head.connect.1", "head.fusion"] {
            conv_bn(&mut add, prefix);
        }
    }
    conv_bn(&mut add, "head.encmodule.encoding");
    add("head.encmodule.encoding.3", &["codewords", "scale"]);
    add("head.encmodule.encoding.4", &bn);
    for prefix in ["head.encmodule.fc.0", "head.encmodule.selayer", "head.conv6.1", "auxlayer.conv5.4"] {
        add(prefix, &["weight", "bias"]);
    }
    conv_bn(&mut add, "auxlayer.conv5");
    names.into_iter()
}

#[test]
fn names_of_the_authors_files() {
    for (arch, lateral, count) in [
        (Arch::ResNet50, true, 381),
        (Arch::ResNet50, false, 363),
        (Arch::ResNet101, true, 687),
        (Arch::ResNet101, false, 669),
    ] {
        let mut config = thin(Preset::V1);
        (config.backbone.arch, config.head.lateral) = (arch, lateral);
        let state = weights::export(&build(&config), Source::Native).unwrap();
        assert_eq!(state.len(), count);
        let counters = state.names().filter(|name| name.ends_with("num_batches_tracked")).count();
        assert_eq!(counters, state.names().filter(|name| name.ends_with("running_var")).count());
        let wanted: BTreeSet<String> = names(if arch == Arch::ResNet50 { 6 } else { 23 }, lateral).collect();
        let found: BTreeSet<String> = state.names().map(str::to_owned).collect();
        assert_eq!(found.symmetric_difference(&wanted).collect::<Vec<_>>(), Vec::<&String>::new());
    }
}

#[test]
fn every_source_comes_back_as_it_went() {
    for (preset, target) in [
        (Preset::V1, Source::Native),
        (Preset::V1, Source::MmSegmentation),
        (Preset::V042, Source::V042),
        (Preset::Paper, Source::V042),
        (Preset::Fcn, Source::Native),
    ] {
        let params = build(&thin(preset));
        let exported = weights::export(&params, target).unwrap();
        assert_eq!(weights::detect(exported.names()), target);
        let other = ParamStore::new(Key::new(9), DType::F32, &Device::Cpu);
        EncNet::new(&thin(preset), other.var_builder()).unwrap();
        weights::load(&other, exported).unwrap();
        assert_eq!(other.state_dict().unwrap(), params.state_dict().unwrap(), "{target:?}");
    }
    let projected = build(&thin(Preset::V1));
    assert!(matches!(weights::export(&projected, Source::V042), Err(Error::Config { .. })));
    let fcn = build(&thin(Preset::Fcn));
    assert!(matches!(weights::export(&fcn, Source::MmSegmentation), Err(Error::Config { .. })));
}

#[test]
fn files_that_do_not_fit_are_refused_by_name() {
    let params = build(&thin(Preset::V1));
    let good = weights::export(&params, Source::Native).unwrap();
    let with = |change: &dyn Fn(&mut StateDict)| {
        let mut state = good.clone();
        change(&mut state);
        weights::load(&params, state).map_err(|error| error.to_string())
    };
    assert!(with(&|_| ()).is_ok());
    let one = || Array::from_f32([1], &[1.0]).unwrap();
    let unknown = with(&|state| drop(state.insert("head.conv7.weight", one()))).unwrap_err();
    assert!(unknown.contains("head.conv7.weight") && unknown.contains("unexpected"), "{unknown}");
    let missing = with(&|state| drop(state.remove("head.conv6.1.bias"))).unwrap_err();
    assert!(missing.contains("head.conv6.1.bias") && missing.contains("missing"), "{missing}");
    let shape = with(&|state| drop(state.insert("auxlayer.conv5.4.bias", one()))).unwrap_err();
    assert!(shape.contains("auxlayer.conv5.4.bias") && shape.contains("shape"), "{shape}");
    with(&|state| drop(state.insert("pretrained.fc.weight", one()))).unwrap();
    for (name, value) in [("scale", f32::NAN), ("codewords", f32::INFINITY)] {
        let name = format!("head.encmodule.encoding.3.{name}");
        let broken = with(&|state| {
            let array = state.get(&name).unwrap();
            let mut values = array.to_f32().unwrap();
            values[1] = value;
            let array = Array::from_f32(array.shape.clone(), &values).unwrap();
            state.insert(name.clone(), array);
        });
        let broken = broken.unwrap_err();
        assert!(broken.contains(&name) && broken.contains("element 1"), "{broken}");
    }
}

#[test]
fn a_backbone_named_by_timm() {
    let source = store();
    let config = ResNetConfig { stem: Stem::Deep, width: 2, output_stride: 8, ..ResNetConfig::default() };
    let net = ResNet::new(&config, source.var_builder()).unwrap();
    for (at, (name, var)) in (0..).zip(source.all()) {
        let range = if name.ends_with("running_var") { [0.5, 1.5] } else { [-0.5, 0.5] };
        let key = Key::new(7).fold_u64(at);
        var.set(&key.uniform(var.dims(), range[0], range[1], DType::F32, &Device::Cpu).unwrap()).unwrap();
    }
    let mut state = source.state_dict().unwrap();
    state.insert("fc.weight", Array::from_f32([2, 64], &[0.5; 128]).unwrap());
    state.insert("bn1.num_batches_tracked", Array::from_i64([], &[3]).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("resnet50s.safetensors");
    state.save(&path).unwrap();

    let file = vision_weights::open(&path).unwrap().state_dict().unwrap();
    let params = store();
    let model = EncNet::new(&thin(Preset::V1), params.var_builder()).unwrap();
    let before = numbers(&params.get("head.conv5.0.weight").unwrap());
    let report = weights::load_backbone(&params, file).unwrap();
    assert_eq!(report.loaded.len(), source.all().len());
    assert_eq!(numbers(&params.get("head.conv5.0.weight").unwrap()), before);
    let pictures = Key::new(8).normal((2, 3, 41, 33), 0.0, 1.0, DType::F32, &Device::Cpu).unwrap();
    let want = net.forward_features(&FeatureMap::from_nchw(&pictures).unwrap(), &Pass::eval()).unwrap();
    let got = model.forward(&pictures, &Pass::eval()).unwrap().stages;
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(&want) {
        assert_eq!(numbers(got.nhwc()), numbers(want.nhwc()));
    }
    let mut lacking = state.clone();
    lacking.remove("layer4.2.bn3.weight");
    let error = weights::load_backbone(&params, lacking).unwrap_err().to_string();
    assert!(error.contains("pretrained.layer4.2.bn3.weight"), "{error}");
}

#[test]
fn every_preset_runs_and_every_parameter_learns() {
    for preset in Preset::ALL {
        let config = thin(preset);
        let params = store();
        let model = EncNet::new(&config, params.var_builder()).unwrap();
        let pictures = Key::new(4).normal((2, 3, 33, 33), 0.0, 1.0, DType::F32, &Device::Cpu).unwrap();
        let labels = Key::new(5).below(7, (2, 33, 33), &Device::Cpu).unwrap();
        let output = model.forward(&pictures, &Pass::train(Key::new(6))).unwrap();
        let fcn = config.method == Method::Fcn;
        assert_eq!(output.se_logits.is_none(), fcn, "{preset:?}");
        assert_eq!(output.aux.is_some(), config.head.auxiliary == Auxiliary::Fcn);
        assert_eq!(output.aux_se_logits.is_some(), config.head.auxiliary == Auxiliary::Context);
        let criterion = encnet::Criterion::new(&encnet::LossConfig::default(), 7).unwrap();
        let losses = criterion.losses(&output, &labels).unwrap();
        let grads = losses.total.backward().unwrap();
        for (name, var) in params.trainable() {
            assert!(grads.get(&var).is_some(), "{preset:?}: {name}");
        }
    }
}

#[test]
fn pictures_of_another_shape_are_refused() {
    let model = EncNet::new(&thin(Preset::V1), store().var_builder()).unwrap();
    for dims in [vec![1, 1, 33, 33], vec![3, 33, 33], vec![1, 3, 0, 33]] {
        let pictures = Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
        assert!(matches!(model.forward(&pictures, &Pass::eval()), Err(Error::Size { .. })));
    }
    let none = ModelConfig { classes: 0, ..thin(Preset::V1) };
    assert!(matches!(EncNet::new(&none, store().var_builder()), Err(Error::Config { .. })));
}
