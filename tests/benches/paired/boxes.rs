//! Boxes, losses per element, dropout and adding at indices.

use anyhow::{Result, bail};
use candle_core::{Device, Tensor, Var};
use vision_core::ops;
use vision_core::rng::Key;

use super::ops::normal;
use super::{Case, Step};

/// Boxes and scores of a crowded picture, as `torch_peer.py` makes them.
fn detections(count: usize) -> Result<(Tensor, Tensor)> {
    let of = |k: usize| {
        let (x, y) = (k * 7919 % 1000, k * 104_729 % 600);
        [x, y, x + 16 + k * 37 % 185, y + 16 + k * 53 % 185].map(|v| v as f32)
    };
    let boxes: Vec<f32> = (0..count).flat_map(of).collect();
    let scores: Vec<f32> = (0..count).map(|k| (k * 48_271 % 65_537) as f32 / 65_537.0).collect();
    Ok((Tensor::from_vec(boxes, (count, 4), &Device::Cpu)?, Tensor::new(scores, &Device::Cpu)?))
}

/// The case's step, if its operation is one of these.
pub(super) fn step(case: &Case) -> Result<Option<Step>> {
    let op = case.text("op")?.to_owned();
    let sizes = case.sizes("input")?;
    let threshold = || case.0["iou_threshold"].as_f64().unwrap_or(0.5);
    Ok(Some(match op.as_str() {
        "box_iou" | "generalized_box_iou" => {
            let others = case.size("others")?;
            let all = detections(sizes[0] + others)?.0;
            let boxes = Var::from_tensor(&all.narrow(0, 0, sizes[0])?)?;
            let others = Var::from_tensor(&all.narrow(0, sizes[0], others)?)?;
            let generalized = op == "generalized_box_iou";
            Box::new(move || {
                let overlap = if generalized { ops::generalized_box_iou } else { ops::box_iou };
                overlap(&boxes, &others)?.sum_all()?.backward()?;
                Ok(())
            })
        }
        "nms" => {
            let ((boxes, scores), args) = (detections(sizes[0])?, ops::NmsArgs::new(threshold()));
            Box::new(move || {
                ops::nms(&boxes, &scores, &args)?;
                Ok(())
            })
        }
        "batched_nms" => {
            let ((boxes, scores), args) = (detections(sizes[0])?, ops::NmsArgs::new(threshold()));
            let classes = case.size("classes")?;
            let classes: Vec<u32> = (0..sizes[0]).map(|k| (k * 31 % classes) as u32).collect();
            let classes = Tensor::new(classes, &Device::Cpu)?;
            Box::new(move || {
                ops::batched_nms(&boxes, &scores, &classes, &args)?;
                Ok(())
            })
        }
        "soft_nms" => {
            let (boxes, scores) = detections(sizes[0])?;
            let args =
                ops::SoftNmsArgs { method: ops::SoftNmsMethod::Gaussian, ..ops::SoftNmsArgs::default() };
            Box::new(move || {
                ops::soft_nms(&boxes, &scores, &args)?;
                Ok(())
            })
        }
        "binary_cross_entropy_with_logits" | "smooth_l1_loss" | "dropout" | "index_add" | "scatter_add" => {
            gradient_step(&op, case, &sizes)?
        }
        _ => return Ok(None),
    }))
}

/// Operations on a variable input: forward and backward.
fn gradient_step(op: &str, case: &Case, sizes: &[usize]) -> Result<Step> {
    let x = Var::from_tensor(&normal("x", sizes)?)?;
    let target = normal("t", sizes)?;
    Ok(match op {
        "binary_cross_entropy_with_logits" => Box::new(move || {
            let args = ops::BceWithLogitsArgs::default();
            ops::binary_cross_entropy_with_logits(&x, &target, &args)?.backward()?;
            Ok(())
        }),
        "smooth_l1_loss" => Box::new(move || {
            ops::smooth_l1_loss(&x, &target, &ops::SmoothL1Args::default())?.backward()?;
            Ok(())
        }),
        "dropout" => Box::new(move || {
            ops::dropout(&x, 0.5, Key::new(1))?.sum_all()?.backward()?;
            Ok(())
        }),
        "index_add" | "scatter_add" => {
            let (added, [rows, width]) = (case.size("added")?, [sizes[0], sizes[1]]);
            let source = Var::from_tensor(&normal("s", &[added, width])?)?;
            let index: Vec<u32> = (0..added).map(|k| (k * 7919 % rows) as u32).collect();
            let index = Tensor::new(index, &Device::Cpu)?;
            let each = op == "scatter_add";
            let index = if each { index.unsqueeze(1)?.repeat((1, width))? } else { index };
            Box::new(move || {
                let add = if each { ops::scatter_add } else { ops::index_add };
                add(&x, &index, &source)?.sum_all()?.backward()?;
                Ok(())
            })
        }
        _ => bail!("no benchmark for {op}"),
    })
}
