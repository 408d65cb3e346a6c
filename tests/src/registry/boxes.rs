//! Boxes, losses per element, dropout and adding at indices.

use anyhow::{Context, Result, bail};
use candle_core::DType;
use vision_core::boxes::{AnchorGenerator, BoxCoder, ratio_cells};
use vision_core::ops;
use vision_core::rng::Key;

use super::core::{reduction, rows};
use super::{Op, op};
use crate::case::{Case, Outputs};

pub(super) const OPS: &[Op] = &[
    op("box_iou", &["box_iou"], box_iou),
    op("generalized_box_iou", &["box_iou"], generalized_box_iou),
    op("nms", &["nms"], nms),
    op("batched_nms", &["nms"], batched_nms),
    op("soft_nms", &["soft_nms"], soft_nms),
    op(
        "binary_cross_entropy_with_logits",
        &["binary_cross_entropy_with_logits"],
        binary_cross_entropy_with_logits,
    ),
    op("smooth_l1_loss", &["smooth_l1_loss"], smooth_l1_loss),
    op("dropout", &["dropout"], dropout),
    op("index_add", &["index_add"], index_add),
    op("scatter_add", &["index_add"], scatter_add),
    op("box_coder.encode", &[], encode),
    op("box_coder.decode", &[], decode),
    op("anchors", &[], anchors),
];

fn box_iou(case: &Case) -> Result<Outputs> {
    Ok(Outputs::one(ops::box_iou(&case.input("boxes1")?, &case.input("boxes2")?)?))
}

fn generalized_box_iou(case: &Case) -> Result<Outputs> {
    Ok(Outputs::one(ops::generalized_box_iou(&case.input("boxes1")?, &case.input("boxes2")?)?))
}

fn nms(case: &Case) -> Result<Outputs> {
    let args = ops::NmsArgs::new(case.args.need_f64("iou_threshold")?);
    let keep = ops::nms(&case.input("boxes")?, &case.input("scores")?, &args)?;
    Ok(Outputs::default().with("keep", keep))
}

fn batched_nms(case: &Case) -> Result<Outputs> {
    let args = ops::NmsArgs::new(case.args.need_f64("iou_threshold")?);
    let (boxes, scores) = (case.input("boxes")?, case.input("scores")?);
    let keep = ops::batched_nms(&boxes, &scores, &case.input("idxs")?, &args)?;
    Ok(Outputs::default().with("keep", keep))
}

/// Arguments a case leaves out are those of the published code, which counts pixels.
fn soft_nms(case: &Case) -> Result<Outputs> {
    let defaults = ops::SoftNmsArgs::default();
    let args = ops::SoftNmsArgs {
        method: match case.args.text("method")?.as_deref() {
            None | Some("linear") => ops::SoftNmsMethod::Linear,
            Some("gaussian") => ops::SoftNmsMethod::Gaussian,
            Some("hard") => ops::SoftNmsMethod::Hard,
            Some(other) => bail!("unknown method {other}"),
        },
        sigma: case.args.f64("sigma", defaults.sigma)?,
        iou_threshold: case.args.f64("iou_threshold", defaults.iou_threshold)?,
        min_score: case.args.f64("min_score", defaults.min_score)?,
        extent: extent(case, ops::BoxExtent::Inclusive)?,
    };
    let got = ops::soft_nms(&case.input("boxes")?, &case.input("scores")?, &args)?;
    Ok(Outputs::default().with("boxes", got.boxes).with("scores", got.scores).with("keep", got.keep))
}

fn binary_cross_entropy_with_logits(case: &Case) -> Result<Outputs> {
    let args = ops::BceWithLogitsArgs {
        weight: case.maybe("weight"),
        pos_weight: case.maybe("pos_weight"),
        reduction: reduction(case)?,
    };
    let (input, target) = (case.input("input")?, case.input("target")?);
    Ok(Outputs::one(ops::binary_cross_entropy_with_logits(&input, &target, &args)?))
}

fn smooth_l1_loss(case: &Case) -> Result<Outputs> {
    let args = ops::SmoothL1Args { beta: case.args.f64("beta", 1.0)?, reduction: reduction(case)? };
    Ok(Outputs::one(ops::smooth_l1_loss(&case.input("input")?, &case.input("target")?, &args)?))
}

fn dropout(case: &Case) -> Result<Outputs> {
    let key = Key::new(case.args.usize("seed", 0)? as u64);
    Ok(Outputs::one(ops::dropout(&case.input("input")?, case.args.f64("p", 0.5)?, key)?))
}

/// Only the first dimension is there.
fn first_dimension(case: &Case) -> Result<()> {
    match case.args.i64("dim", 0)? {
        0 => Ok(()),
        dim => bail!("only dim = 0 is there, got {dim}"),
    }
}

fn index_add(case: &Case) -> Result<Outputs> {
    first_dimension(case)?;
    Ok(Outputs::one(ops::index_add(&case.input("input")?, &rows(case, "index")?, &case.input("source")?)?))
}

fn scatter_add(case: &Case) -> Result<Outputs> {
    first_dimension(case)?;
    Ok(Outputs::one(ops::scatter_add(&case.input("input")?, &rows(case, "index")?, &case.input("src")?)?))
}

fn extent(case: &Case, default: ops::BoxExtent) -> Result<ops::BoxExtent> {
    Ok(match case.args.text("extent")?.as_deref() {
        None => default,
        Some("inclusive") => ops::BoxExtent::Inclusive,
        Some("continuous") => ops::BoxExtent::Continuous,
        Some(other) => bail!("unknown extent {other}"),
    })
}

fn coder(case: &Case) -> Result<BoxCoder> {
    let defaults = BoxCoder::default();
    let weights = match case.args.numbers("weights")? {
        None => defaults.weights,
        Some(weights) => weights.try_into().ok().context("four weights are needed")?,
    };
    Ok(BoxCoder {
        weights,
        clip: case.args.f64("bbox_xform_clip", defaults.clip)?,
        extent: extent(case, defaults.extent)?,
    })
}

fn encode(case: &Case) -> Result<Outputs> {
    Ok(Outputs::one(coder(case)?.encode(&case.input("boxes")?, &case.input("anchors")?)?))
}

fn decode(case: &Case) -> Result<Outputs> {
    Ok(Outputs::one(coder(case)?.decode(&case.input("deltas")?, &case.input("anchors")?)?))
}

/// Strides that a case leaves out are those of torchvision: whole quotients of image and map.
fn anchors(case: &Case) -> Result<Outputs> {
    let pairs = |name: &str| -> Result<Vec<[usize; 2]>> {
        let counts = case.args.nested(name)?;
        counts.into_iter().map(|pair| to_counts(pair).try_into().ok().context("not a pair")).collect()
    };
    let grids = pairs("grid_sizes")?;
    let image = case.args.pair("image_size")?;
    let mut strides = pairs("strides")?;
    if strides.is_empty() {
        let Some([height, width]) = image else { bail!("argument strides or image_size is missing") };
        strides = grids.iter().map(|[h, w]| [height / h.max(&1), width / w.max(&1)]).collect();
    }
    let (sizes, ratios) = (case.args.nested("sizes")?, case.args.nested("aspect_ratios")?);
    if ratios.len() != sizes.len() {
        bail!("{} lists of aspect ratios for {} of sizes", ratios.len(), sizes.len());
    }
    let cells = sizes.iter().zip(&ratios).map(|(sizes, ratios)| ratio_cells(sizes, ratios));
    let anchors = AnchorGenerator::from_cells(cells.collect::<Result<_, _>>()?);
    Ok(Outputs::one(anchors.all(&grids, &strides, DType::F32)?))
}

fn to_counts(numbers: Vec<f64>) -> Vec<usize> {
    numbers.into_iter().map(|number| number as usize).collect()
}
