//! Metrics of `vision_eval`.

use anyhow::Result;
use candle_core::{DType, Tensor};
use vision_eval::segmentation::{AbsentClass, Segmentation};

use super::{Op, op};
use crate::case::{Case, Outputs};

pub(super) const OPS: &[Op] = &[op("segmentation_metrics", &[], segmentation)];

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
