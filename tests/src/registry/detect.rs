//! The crate `vision-detect`: the parts of Faster R-CNN and the whole of it.

use anyhow::{Result, bail};
use candle_core::{Device, Tensor};
use vision_core::params::ParamStore;
use vision_core::rng::Key;
use vision_core::{FeatureMap, Pass};
use vision_detect::{
    FasterRcnn, FasterRcnnConfig, FeaturePyramidNetwork, PostprocessConfig, RegionProposalNetwork, RoiPooler,
    RoiPoolerConfig, RpnConfig, Transform, TransformConfig, postprocess, weights,
};

use super::models::{initialise, with_params};
use super::{Op, op};
use crate::case::{Case, Outputs};

pub(super) const OPS: &[Op] = &[
    op("detect.transform", &["interpolate"], transform),
    op("detect.fpn", &["conv2d", "interpolate", "max_pool2d"], fpn),
    op("detect.rpn", &["conv2d", "topk", "nms"], rpn),
    op("detect.roi_pooler", &["roi_align"], roi_pooler),
    op("detect.postprocess", &["nms"], postprocessing),
    op("model.fasterrcnn_resnet50_fpn", &[], fasterrcnn_resnet50_fpn),
];

/// The inputs `NAME0`, `NAME1`, … of a case.
fn list(case: &Case, name: &str) -> Vec<Tensor> {
    (0..).map_while(|index| case.maybe(&format!("{name}{index}"))).collect()
}

fn maps(case: &Case) -> Result<Vec<FeatureMap>> {
    list(case, "map").iter().map(|map| Ok(FeatureMap::from_nchw(map)?)).collect()
}

fn numbered(mut outputs: Outputs, name: &str, tensors: impl IntoIterator<Item = Tensor>) -> Outputs {
    for (index, tensor) in tensors.into_iter().enumerate() {
        outputs = outputs.with(&format!("{name}{index}"), tensor);
    }
    outputs
}

/// Pairs of height and width.
fn sizes(case: &Case, name: &str) -> Result<Vec<[usize; 2]>> {
    let pair = |pair: Vec<f64>| match pair.as_slice() {
        &[height, width] => Ok([height as usize, width as usize]),
        other => bail!("{name}: {other:?} is no pair"),
    };
    case.args.nested(name)?.into_iter().map(pair).collect()
}

fn counts(case: &Case, name: &str) -> Result<Vec<usize>> {
    Ok(case.args.counts(name)?.into_iter().map(|count| count as usize).collect())
}

fn store(case: &Case) -> ParamStore {
    ParamStore::new(Key::new(0), case.dtype(), &case.device)
}

fn transform_config(case: &Case) -> Result<TransformConfig> {
    let default = TransformConfig::default();
    Ok(TransformConfig {
        min_size: case.args.usize("min_size", default.min_size)?,
        max_size: case.args.usize("max_size", default.max_size)?,
        size_divisible: case.args.usize("size_divisible", default.size_divisible)?,
        ..default
    })
}

fn transform(case: &Case) -> Result<Outputs> {
    let batch = Transform::new(transform_config(case)?)?.batch(&list(case, "image"))?;
    let sizes: Vec<i64> = batch.sizes.iter().flatten().map(|&size| size as i64).collect();
    let sizes = Tensor::from_vec(sizes, (batch.sizes.len(), 2), &Device::Cpu)?;
    Ok(Outputs::default().with("batch", batch.pictures.to_nchw()?).with("sizes", sizes))
}

fn fpn(case: &Case) -> Result<Outputs> {
    let params = store(case);
    let (inputs, outputs) = (counts(case, "in_channels")?, case.args.need_usize("out_channels")?);
    let pyramid = FeaturePyramidNetwork::new(&inputs, outputs, params.var_builder())?;
    if case.expect_error.is_none() {
        initialise(case, &params)?;
    }
    let maps = pyramid.forward(&maps(case)?, &Pass::eval())?;
    let count = maps.len() - 1;
    let names = (0..count).map(|level| level.to_string()).chain(["pool".to_owned()]);
    let mut outputs = Outputs::default();
    for (name, map) in names.zip(&maps) {
        outputs = outputs.with(&name, map.to_nchw()?);
    }
    Ok(with_params(outputs, &params))
}

fn rpn(case: &Case) -> Result<Outputs> {
    let (maps, default) = (maps(case)?, RpnConfig::default());
    let config = RpnConfig {
        sizes: case.args.nested("sizes")?,
        aspect_ratios: case.args.numbers("aspect_ratios")?.unwrap_or(default.aspect_ratios),
        pre_nms_top_n: case.args.usize("pre_nms_top_n", default.pre_nms_top_n)?,
        post_nms_top_n: case.args.usize("post_nms_top_n", default.post_nms_top_n)?,
        nms_thresh: case.args.f64("nms_thresh", default.nms_thresh)?,
        score_thresh: case.args.f64("score_thresh", default.score_thresh)?,
        min_size: case.args.f64("min_size", default.min_size)?,
    };
    let Some(padded) = case.args.pair("padded")? else { bail!("argument padded is missing") };
    let sizes = sizes(case, "image_sizes")?;
    let Some(first) = maps.first() else { bail!("the case has no maps") };
    let (_, _, _, channels) = first.dims()?;
    let params = store(case);
    let network = RegionProposalNetwork::new(channels, &config, params.var_builder())?;
    if case.expect_error.is_none() {
        initialise(case, &params)?;
    }
    let output = network.head(&maps, &Pass::inference())?;
    let proposals = network.propose(&output, padded, &sizes)?;
    let nhwc = |maps: Vec<FeatureMap>| maps.into_iter().map(|map| map.nhwc().clone());
    let mut outputs = numbered(Outputs::default(), "objectness", nhwc(output.objectness));
    outputs = numbered(outputs, "deltas", nhwc(output.deltas));
    outputs = numbered(outputs, "boxes", proposals.iter().map(|found| found.boxes.clone()));
    Ok(numbered(outputs, "scores", proposals.into_iter().map(|found| found.scores)))
}

fn roi_pooler(case: &Case) -> Result<Outputs> {
    let default = RoiPoolerConfig::default();
    let level = case.args.i64("canonical_level", i64::from(default.canonical_level))?;
    let config = RoiPoolerConfig {
        output_size: case.args.usize("output_size", default.output_size)?,
        sampling_ratio: case.args.usize("sampling_ratio", default.sampling_ratio)?,
        canonical_size: case.args.f64("canonical_size", default.canonical_size)?,
        canonical_level: i32::try_from(level)?,
    };
    let pooler = RoiPooler::new(&counts(case, "strides")?, config)?;
    Ok(Outputs::one(pooler.forward(&maps(case)?, &list(case, "boxes"))?.to_nchw()?))
}

fn postprocessing(case: &Case) -> Result<Outputs> {
    let default = PostprocessConfig::default();
    let config = PostprocessConfig {
        score_thresh: case.args.f64("score_thresh", default.score_thresh)?,
        nms_thresh: case.args.f64("nms_thresh", default.nms_thresh)?,
        detections_per_img: case.args.usize("detections_per_img", default.detections_per_img)?,
        ..default
    };
    let (logits, offsets) = (case.input("class_logits")?, case.input("box_regression")?);
    let proposals = list(case, "proposals");
    let found = postprocess(&logits, &offsets, &proposals, &sizes(case, "image_sizes")?, &config)?;
    Ok(detections(Outputs::default(), found))
}

fn detections(mut outputs: Outputs, found: Vec<vision_detect::Detections>) -> Outputs {
    for (image, found) in found.into_iter().enumerate() {
        outputs = outputs
            .with(&format!("boxes{image}"), found.boxes)
            .with(&format!("scores{image}"), found.scores)
            .with(&format!("labels{image}"), found.labels);
    }
    outputs
}

fn fasterrcnn_resnet50_fpn(case: &Case) -> Result<Outputs> {
    let mut config = FasterRcnnConfig {
        num_classes: case.args.usize("num_classes", 91)?,
        transform: transform_config(case)?,
        ..FasterRcnnConfig::default()
    };
    let (rpn, post) = (&mut config.rpn, &mut config.post);
    rpn.pre_nms_top_n = case.args.usize("rpn_pre_nms_top_n_test", rpn.pre_nms_top_n)?;
    rpn.post_nms_top_n = case.args.usize("rpn_post_nms_top_n_test", rpn.post_nms_top_n)?;
    post.score_thresh = case.args.f64("box_score_thresh", post.score_thresh)?;
    post.nms_thresh = case.args.f64("box_nms_thresh", post.nms_thresh)?;
    post.detections_per_img = case.args.usize("box_detections_per_img", post.detections_per_img)?;

    let params = store(case);
    let detector = FasterRcnn::new(&config, params.var_builder())?;
    match case.args.text("init")?.as_deref() {
        None => drop(weights::load(&params, case.state_dict())?),
        Some("hash") => hash_init(&params, &case.device)?,
        Some(other) => bail!("unknown init {other}"),
    }
    let (images, pass) = (list(case, "image"), Pass::inference());
    let outputs = detections(Outputs::default(), detector.forward(&images, &pass)?);
    let maps = detector.features(&detector.transform().batch(&images)?, &pass)?;
    let Some(coarsest) = maps.last() else { bail!("the pyramid has no maps") };
    Ok(outputs.with("pool", coarsest.to_nchw()?))
}

/// Factors of He's bound, by beginnings of names.
const GAINS: &[(&str, f64)] = &[
    ("backbone.fpn.", 0.3),
    ("rpn.head.cls_logits.", 1.0),
    ("rpn.head.bbox_pred.", 0.1),
    ("roi_heads.box_predictor.cls_score.", 0.8),
    ("roi_heads.box_predictor.bbox_pred.", 1.0),
];

/// The formula `init: "hash"`, as `detect_cases.py` has it: every number depends on the parameter's name and its position.
fn hash_init(params: &ParamStore, device: &Device) -> Result<()> {
    for (name, var) in params.all() {
        let dims = var.dims().to_vec();
        let (centre, reach) = match dims.as_slice() {
            [_, inner @ ..] if !inner.is_empty() => {
                let gain =
                    GAINS.iter().find(|(start, _)| name.starts_with(start)).map_or(1.0, |(_, gain)| *gain);
                (0.0, (6.0 / inner.iter().product::<usize>() as f64).sqrt() * gain)
            }
            _ if name.ends_with("running_var") => (1.0, 0.5),
            _ if name.ends_with("bn3.weight") => (0.25, 0.1),
            _ if name.ends_with("weight") => (1.0, 0.2),
            _ => (0.0, 0.1),
        };
        let seed = name
            .bytes()
            .fold(2_166_136_261_u32, |seed, byte| (seed ^ u32::from(byte)).wrapping_mul(16_777_619));
        let values = (0..var.elem_count()).map(|position| {
            let hash = f64::from(mixed((position as u32).wrapping_mul(0x9E37_79B9) ^ seed));
            (centre + reach * (hash / 2_147_483_648.0 - 1.0)) as f32
        });
        let tensor = Tensor::from_vec(values.collect::<Vec<f32>>(), dims, device)?;
        var.set(&tensor.to_dtype(var.dtype())?)?;
    }
    Ok(())
}

/// The last step of `MurmurHash3`: every bit depends on every other.
fn mixed(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x85EB_CA6B);
    x ^= x >> 13;
    x = x.wrapping_mul(0xC2B2_AE35);
    x ^ (x >> 16)
}
