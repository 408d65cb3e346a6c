//! Metrics of `vision_eval`.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Tensor};
use vision_eval::coco::{CocoEval, Detection, Overlap, Truth};
use vision_eval::rle::Rle;
use vision_eval::segmentation::{AbsentClass, Segmentation};

use super::{Op, op};
use crate::case::{Case, Outputs};

pub(super) const OPS: &[Op] =
    &[op("segmentation_metrics", &[], segmentation), op("coco_eval", &[], coco_eval)];

/// Both rules for absent classes: `miou` counts them as 0, `miou_skip` leaves them out.
fn segmentation(case: &Case) -> Result<Outputs> {
    let flat = |name: &str| -> Result<Vec<i64>> { Ok(case.input(name)?.flatten_all()?.to_vec1()?) };
    let mut metric =
        Segmentation::new(case.args.need_usize("num_classes")?, case.args.i64("ignore_index", -1)?)?;
    metric.update(&flat("pred")?, &flat("target")?)?;
    let scalar = |value: f64| Tensor::full(value, (), &case.device)?.to_dtype(DType::F64);
    let zero = metric.compute(AbsentClass::Zero);
    let ious: Vec<f64> = metric.ious().into_iter().map(|iou| iou.unwrap_or(0.0)).collect();
    Ok(Outputs::default()
        .with("pix_acc", scalar(zero[0].value)?)
        .with("miou", scalar(zero[1].value)?)
        .with("miou_skip", scalar(metric.compute(AbsentClass::Skip)[1].value)?)
        .with("iou", Tensor::new(ious, &case.device)?))
}

/// Masks are those of the boxes, in pictures of `size` (height, width).
fn coco_eval(case: &Case) -> Result<Outputs> {
    let overlap = match case.args.text("iou_type")?.as_deref() {
        None | Some("bbox") => Overlap::Boxes,
        Some("segm") => Overlap::Masks,
        Some(other) => bail!("iou_type is {other}, not bbox or segm"),
    };
    let size = case.args.pair("size")?;
    let mask = |[x, y, w, h]: [f64; 4]| -> Result<Option<Rle>> {
        if overlap == Overlap::Boxes {
            return Ok(None);
        }
        let [height, width] = size.context("argument size is missing")?;
        let corners = [x, y, x + w, y, x + w, y + h, x, y + h];
        Ok(Some(Rle::from_polygon(height.try_into()?, width.try_into()?, &corners)?))
    };
    let mut truths = Vec::new();
    for [image, x, y, w, h, category, crowd, area] in rows::<8>(case, "gt")? {
        let (bbox, category) = ([x, y, w, h], whole("category", category)?);
        let truth = Truth { bbox, category, crowd: crowd != 0.0, area, mask: mask(bbox)? };
        truths.push((whole("image", image)?, truth));
    }
    let mut detections = Vec::new();
    for [image, x, y, w, h, score, category] in rows::<7>(case, "detections")? {
        let (bbox, category) = ([x, y, w, h], whole("category", category)?);
        detections.push((whole("image", image)?, Detection { bbox, score, category, mask: mask(bbox)? }));
    }
    let ids = truths.iter().map(|(image, _)| *image).chain(detections.iter().map(|(image, _)| *image));
    let images: Vec<u64> = ids.collect::<BTreeSet<_>>().into_iter().collect();
    let mut metric = CocoEval::new(overlap);
    metric.update_lists(&images, &truths, &detections)?;
    Ok(Outputs::default().with("stats", Tensor::new(&metric.summary().stats(), &case.device)?))
}

/// A table of `N` columns.
fn rows<const N: usize>(case: &Case, name: &str) -> Result<Vec<[f64; N]>> {
    let table = case.input(name)?;
    if table.rank() != 2 || table.dims()[1] != N {
        bail!("in.{name} must be (N, {N}), is {:?}", table.dims())
    }
    let values: Vec<f64> = table.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    Ok(values.as_chunks::<N>().0.to_vec())
}

/// A number that stands for an image or a category.
fn whole(what: &str, number: f64) -> Result<u64> {
    if number >= 0.0 && number < 2_f64.powi(53) && number.fract() == 0.0 {
        return Ok(number as u64);
    }
    bail!("{what} {number} is no id")
}
