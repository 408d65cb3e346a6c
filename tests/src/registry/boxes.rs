//! Boxes, losses per element, dropout and adding at indices.

use anyhow::Result;
use vision_core::ops;

use super::{Op, op};
use crate::case::{Case, Outputs};

pub(super) const OPS: &[Op] = &[
    op("box_iou", &["box_iou"], box_iou),
    op("generalized_box_iou", &["box_iou"], generalized_box_iou),
    op("nms", &["nms"], nms),
    op("batched_nms", &["nms"], batched_nms),
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
