//! Names of parameters, loading, and what a whole detector does with good and bad input.

#![allow(clippy::unwrap_used, reason = "tests")]

use candle_core::{DType, Device, Tensor};
use vision_core::backbones::resnet::Depth;
use vision_core::nn::BatchNormConfig;
use vision_core::params::ParamStore;
use vision_core::rng::Key;
use vision_core::testing::assert_close;
use vision_core::{FeatureMap, Pass};
use vision_detect::{Detections, Error, FasterRcnn, FasterRcnnConfig, Result, weights};
use vision_weights::{Array, StateDict};

/// Names and shapes of the state dict of torchvision 0.29's `fasterrcnn_resnet50_fpn` with frozen normalisation.
const NAMES: &str = include_str!("torchvision_names.txt");

fn store() -> ParamStore {
    ParamStore::new(Key::new(3), DType::F32, &Device::Cpu)
}

/// A network of few numbers whose untrained scores lie about 1 / 3.
fn small() -> FasterRcnnConfig {
    let mut config =
        FasterRcnnConfig { num_classes: 3, fpn_channels: 8, representation_size: 16, ..Default::default() };
    (config.backbone.depth, config.backbone.width) = (Depth::R18, 4);
    (config.transform.min_size, config.transform.max_size) = (96, 160);
    config.rpn.post_nms_top_n = 60;
    config
}

fn detector() -> FasterRcnn {
    FasterRcnn::new(&small(), store().var_builder()).unwrap()
}

fn picture(name: &str, height: usize, width: usize) -> Tensor {
    Key::new(7).fold(name).uniform((3, height, width), 0.0, 1.0, DType::F32, &Device::Cpu).unwrap()
}

fn text<T>(result: Result<T>) -> String {
    result.err().map(|error| error.to_string()).unwrap()
}

fn numbers(found: &Detections) -> (Vec<Vec<f32>>, Vec<f32>, Vec<i64>) {
    (found.boxes.to_vec2().unwrap(), found.scores.to_vec1().unwrap(), found.labels.to_vec1().unwrap())
}

#[test]
fn names_and_shapes_are_torchvisions() {
    let params = store();
    FasterRcnn::new(&FasterRcnnConfig::default(), params.var_builder()).unwrap();
    let line = |(name, var): (String, candle_core::Var)| {
        let sizes = var.dims().iter().map(|size| format!(" {size}"));
        name + &sizes.collect::<String>()
    };
    let ours: Vec<String> = params.all().into_iter().map(line).collect();
    let theirs: Vec<&str> = NAMES.lines().collect();
    assert_eq!(ours.len(), 295);
    assert_eq!(ours, theirs);
    // What torchvision states, and scale and shift of 26560 channels that are frozen there.
    assert_eq!(params.num_parameters(), 41_755_286 + 2 * 26_560);
}

#[test]
fn files_of_torchvision_load() {
    let params = store();
    let model = FasterRcnn::new(&small(), params.var_builder()).unwrap();
    let image = [picture("a", 50, 70)];
    let before = numbers(&model.forward(&image, &Pass::inference()).unwrap()[0]);
    // As a file of before 0.13 names it, with counters as of normalisation that is not frozen.
    let mut old = StateDict::new();
    for (name, array) in params.state_dict().unwrap().iter() {
        let name = match name.rsplit_once(".0.") {
            Some((block, last)) if name.starts_with("backbone.fpn.") => format!("{block}.{last}"),
            _ => name.replace("rpn.head.conv.0.0.", "rpn.head.conv."),
        };
        old.insert(name, array.clone());
    }
    assert!(old.get("rpn.head.conv.weight").is_some());
    old.insert("backbone.body.bn1.num_batches_tracked", Array::from_i64([], &[5]).unwrap());

    let other = ParamStore::new(Key::new(4), DType::F32, &Device::Cpu);
    other.freeze("").unwrap();
    let copy = FasterRcnn::new(&small(), other.var_builder()).unwrap();
    let report = weights::load(&other, old.clone()).unwrap();
    assert_eq!(report.loaded.len(), params.all().len());
    assert_eq!(numbers(&copy.forward(&image, &Pass::inference()).unwrap()[0]), before);

    old.insert("roi_heads.mask_head.0.0.weight", Array::from_f32([1], &[0.0]).unwrap());
    assert!(text(weights::load(&other, old)).contains("roi_heads.mask_head"));
    let mut short = params.state_dict().unwrap();
    short.tensors.remove("rpn.head.cls_logits.bias");
    assert!(text(weights::load(&other, short)).contains("rpn.head.cls_logits.bias"));
}

/// Fused passes without a graph give what plain ones do, and keep nothing.
#[test]
fn inference_equals_evaluation() {
    let model = detector();
    let batch = model.transform().batch(&[picture("a", 50, 70), picture("b", 40, 41)]).unwrap();
    let maps = |pass: &Pass| model.features(&batch, pass).unwrap();
    let (plain, fused) = (maps(&Pass::eval()), maps(&Pass::inference()));
    assert_eq!(fused.len(), 5);
    for (plain, fused) in plain.iter().zip(&fused) {
        assert_close(fused.nhwc(), plain.nhwc(), 1e-5, 1e-5).unwrap();
        assert!(plain.nhwc().track_op() && !fused.nhwc().track_op());
    }
    for pass in [Pass::eval(), Pass::inference()] {
        let proposals = model.proposals(&fused, &batch, &pass).unwrap();
        let found = model.detect(&fused, &proposals, &batch).unwrap();
        assert!(found.iter().all(|found| !found.boxes.track_op() && !found.scores.track_op()));
    }
}

#[test]
fn detections_are_inside_sorted_and_of_their_picture() {
    let model = detector();
    let images = [picture("a", 50, 70), picture("b", 50, 70), picture("c", 30, 90)];
    let found = model.forward(&images, &Pass::inference()).unwrap();
    for (found, image) in found.iter().zip(&images) {
        let (boxes, scores, labels) = numbers(found);
        assert!(!boxes.is_empty() && boxes.len() <= 100);
        let [_, height, width] = image.dims() else { unreachable!() };
        let (height, width) = (*height as f32 + 1e-3, *width as f32 + 1e-3);
        assert!(boxes.iter().all(|b| b[0] >= 0. && b[1] >= 0. && b[2] <= width && b[3] <= height));
        assert!(scores.is_sorted_by(|a, b| a >= b) && scores.iter().all(|score| *score > 0.05));
        assert!(labels.iter().all(|label| (1..3).contains(label)));
    }
    // Pictures of one size do not see each other.
    let pair = model.forward(&images[..2], &Pass::inference()).unwrap();
    for (pair, image) in pair.iter().zip(&images) {
        let alone = model.forward(std::slice::from_ref(image), &Pass::inference()).unwrap();
        assert_eq!(numbers(pair), numbers(&alone[0]));
    }
}

#[test]
fn double_precision_runs() {
    let params = ParamStore::new(Key::new(3), DType::F64, &Device::Cpu);
    let model = FasterRcnn::new(&small(), params.var_builder()).unwrap();
    let image = picture("a", 50, 70).to_dtype(DType::F64).unwrap();
    let found = model.forward(&[image], &Pass::inference()).unwrap();
    assert_eq!(found[0].boxes.dtype(), DType::F64);
    assert!(found[0].boxes.dims()[0] > 0);
}

#[test]
fn nothing_proposed_is_nothing_found() {
    let mut config = small();
    config.rpn.score_thresh = 1.1;
    let model = FasterRcnn::new(&config, store().var_builder()).unwrap();
    let found = model.forward(&[picture("a", 50, 70), picture("b", 20, 20)], &Pass::inference()).unwrap();
    assert_eq!(found.len(), 2);
    for found in found {
        assert_eq!(
            (found.boxes.dims(), found.scores.dims(), found.labels.dims()),
            (&[0, 4][..], &[0][..], &[0][..])
        );
        assert_eq!((found.boxes.dtype(), found.labels.dtype()), (DType::F32, DType::I64));
    }
}

#[test]
fn bad_pictures_are_named() {
    let model = detector();
    let run = |images: &[Tensor]| text(model.forward(images, &Pass::inference()));
    let good = picture("a", 50, 70);
    assert!(run(&[]).starts_with("images: expected at least one picture"));
    assert!(
        run(&[good.clone(), good.unsqueeze(0).unwrap()]).starts_with("images: picture 1: expected (C, H, W)")
    );
    assert!(run(&[good.narrow(0, 0, 1).unwrap()]).contains("(3, H, W)"));
    assert!(run(&[good.narrow(1, 0, 0).unwrap()]).contains("at least one pixel"));
    assert!(run(&[good.to_dtype(DType::U8).unwrap()]).contains("f32 or f64"));
    assert!(run(&[good.to_dtype(DType::F64).unwrap()]).contains("dtype"));
    assert!(run(&[good.affine(f64::NAN, 0.0).unwrap()]).contains("NaN"));
    let train = model.forward(&[good], &Pass::train(Key::new(0)));
    assert!(matches!(train, Err(Error::Config { key, .. }) if key == "pass"));
}

#[test]
fn bad_configurations_are_named() {
    let with = |change: &dyn Fn(&mut FasterRcnnConfig)| {
        let mut config = small();
        change(&mut config);
        text(FasterRcnn::new(&config, store().var_builder()))
    };
    assert!(with(&|c| c.num_classes = 1).starts_with("num_classes"));
    assert!(with(&|c| c.fpn_channels = 0).starts_with("fpn: channels"));
    assert!(with(&|c| c.representation_size = 0).starts_with("representation_size"));
    assert!(with(&|c| c.transform.std = vec![1., 0., 1.]).contains("transform.std"));
    assert!(with(&|c| c.transform.std.truncate(2)).starts_with("transform.std"));
    assert!(with(&|c| c.transform.mean.truncate(2)).starts_with("transform.mean"));
    assert!(with(&|c| c.transform.min_size = 0).starts_with("transform.min_size"));
    assert!(with(&|c| c.transform.size_divisible = 0).starts_with("transform.size_divisible"));
    assert!(with(&|c| c.rpn.sizes.truncate(4)).starts_with("rpn.sizes: 4"));
    assert!(with(&|c| c.rpn.sizes[2].push(5.)).starts_with("rpn.sizes"));
    assert!(with(&|c| c.rpn.sizes[2][0] = -1.).contains("anchors: sizes"));
    assert!(with(&|c| c.rpn.aspect_ratios.clear()).starts_with("rpn.sizes"));
    assert!(with(&|c| c.rpn.nms_thresh = f64::NAN).starts_with("rpn.nms_thresh"));
    assert!(with(&|c| c.pooler.output_size = 0).starts_with("pooler.output_size"));
    assert!(with(&|c| c.pooler.canonical_size = 0.).starts_with("pooler.canonical_size"));
    assert!(with(&|c| c.post.score_thresh = f64::NAN).starts_with("post.score_thresh"));
    assert!(with(&|c| c.post.box_weights[1] = 0.).starts_with("post.box_weights"));
}

#[test]
fn normalisation_of_the_published_weights_adds_nothing() {
    let norm = |config: FasterRcnnConfig| config.backbone.norm;
    let frozen = BatchNormConfig { frozen: true, ..BatchNormConfig::default() };
    assert_eq!(norm(FasterRcnnConfig::default()), frozen);
    assert_eq!(norm(FasterRcnnConfig::coco_v1()), BatchNormConfig { eps: 0., ..frozen });
}

#[test]
fn maps_and_proposals_must_fit() {
    let model = detector();
    let batch = model.transform().batch(&[picture("a", 50, 70)]).unwrap();
    let maps = model.features(&batch, &Pass::inference()).unwrap();
    assert!(text(model.proposals(&maps[..4], &batch, &Pass::inference())).starts_with("rpn: maps"));
    let proposals = model.proposals(&maps, &batch, &Pass::inference()).unwrap();
    assert!(text(model.detect(&maps[1..], &proposals, &batch)).starts_with("pooler: maps"));
    let twice = [proposals[0].clone(), proposals[0].clone()];
    assert!(text(model.detect(&maps, &twice, &batch)).starts_with("pooler: lists of boxes"));
    let mut wide = maps.clone();
    wide[0] = FeatureMap::from_nhwc(Tensor::zeros((1, 4, 4, 9), DType::F32, &Device::Cpu).unwrap()).unwrap();
    assert!(matches!(model.proposals(&wide, &batch, &Pass::inference()), Err(Error::Core(_))));
}
