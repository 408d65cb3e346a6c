//! Operations that read at places that are data: boxes and offsets.

use anyhow::{Result, bail};
use candle_core::{DType, Device, Tensor, Var};
use vision_core::rng::Key;
use vision_core::{FeatureMap, ops};

use super::ops::{Forward, nhwc, normal};
use super::{Case, Step};

/// One forward and one backward pass of the case's operation.
pub(super) fn step(case: &Case) -> Result<Step> {
    let sizes = case.sizes("input")?;
    let x = Var::from_tensor(&normal("x", &nhwc(&sizes))?)?;
    let map = |x: &Var| FeatureMap::from_nhwc(x.as_tensor().clone());
    let op = case.text("op")?;
    if op == "deform_conv2d" {
        let weight = Var::from_tensor(&normal("w", &case.sizes("weight")?)?)?;
        let places = case.size("offset_groups")? * 9;
        let offset = (normal("offset", &[sizes[0], sizes[2], sizes[3], 2 * places])? * 0.5)?;
        let offset = Var::from_tensor(&offset)?;
        let shape = (sizes[0], sizes[2], sizes[3], places);
        let mask = Key::new(0).fold("mask").uniform(shape, 0.0, 1.0, DType::F32, &Device::Cpu)?;
        let mask = Var::from_tensor(&mask)?;
        let masked = case.text("name")?.contains("masked");
        let args = ops::DeformConv2dArgs {
            padding: [case.size("padding")?; 2],
            dilation: [case.size("dilation")?; 2],
            ..ops::DeformConv2dArgs::default()
        };
        return Ok(repeat(x, move |x| {
            let (offset, mask) = (map(&offset)?, map(&mask)?);
            let mask = masked.then_some(&mask);
            Ok(ops::deform_conv2d_nhwc(&map(x)?, &offset, &weight, None, mask, &args)?.nhwc().clone())
        }));
    }
    let boxes = boxes(case)?;
    let (size, spatial_scale) = (case.size("output")?, case.number("spatial_scale")?);
    let (output_size, ratio) = ([size; 2], case.size_or("ratio", 0));
    let forward: Forward = match op {
        "roi_align" => {
            let args = ops::RoiAlignArgs { output_size, spatial_scale, sampling_ratio: ratio, aligned: true };
            Box::new(move |x| Ok(ops::roi_align_nhwc(&map(x)?, &boxes, &args)?.nhwc().clone()))
        }
        "roi_pool" => {
            let args = ops::RoiPoolArgs { output_size, spatial_scale };
            Box::new(move |x| Ok(ops::roi_pool_nhwc(&map(x)?, &boxes, &args)?.nhwc().clone()))
        }
        "ps_roi_align" => {
            let args = ops::PsRoiAlignArgs { output_size, spatial_scale, sampling_ratio: ratio };
            Box::new(move |x| Ok(ops::ps_roi_align_nhwc(&map(x)?, &boxes, &args)?.nhwc().clone()))
        }
        "ps_roi_pool" => {
            let args = ops::PsRoiPoolArgs { output_size, spatial_scale, ..ops::PsRoiPoolArgs::default() };
            Box::new(move |x| Ok(ops::ps_roi_pool_nhwc(&map(x)?, &boxes, &args)?.nhwc().clone()))
        }
        "deform_ps_roi_pool" => {
            let classes = sizes[1] / (size * size);
            let offset = normal("offset", &[boxes.dims()[0], 2 * classes, size, size])?;
            let offset = Var::from_tensor(&offset)?;
            let args = ops::DeformPsRoiPoolArgs {
                output_size: size,
                group_size: size,
                spatial_scale,
                ..ops::DeformPsRoiPoolArgs::default()
            };
            Box::new(move |x| {
                let y = ops::deform_ps_roi_pool_nhwc(&map(x)?, &boxes, Some(&offset), &args)?;
                Ok(y.nhwc().clone())
            })
        }
        "crop_and_resize" => {
            let (height, width) = (sizes[2] as f64 - 1.0, sizes[3] as f64 - 1.0);
            let side =
                |column: usize, size: f64| boxes.narrow(1, column, 1)?.affine(spatial_scale / size, 0.0);
            let sides = [side(2, height)?, side(1, width)?, side(4, height)?, side(3, width)?];
            let sides = Tensor::cat(&sides, 1)?.contiguous()?;
            let index = boxes.narrow(1, 0, 1)?.squeeze(1)?.to_dtype(DType::U32)?;
            let args = ops::CropAndResizeArgs { crop_size: output_size, ..ops::CropAndResizeArgs::default() };
            Box::new(move |x| Ok(ops::crop_and_resize(&map(x)?, &sides, &index, &args)?.nhwc().clone()))
        }
        op => bail!("no benchmark for {op}"),
    };
    Ok(repeat(x, forward))
}

fn repeat(x: Var, forward: impl Fn(&Var) -> Result<Tensor> + 'static) -> Step {
    Box::new(move || {
        forward(&x)?.sum_all()?.backward()?;
        Ok(())
    })
}

/// Boxes spread over the picture as `benches/torch_peer.py` has them: sides of 16 to 200.
fn boxes(case: &Case) -> Result<Tensor> {
    let (sizes, scale) = (case.sizes("input")?, case.number("spatial_scale")?);
    let count = case.size("boxes")?;
    let mut numbers = Vec::new();
    for k in 0..count {
        let at = |step: usize, size: usize| (k * step) as f64 % (size as f64 / scale - 16.0);
        let (x, y) = (at(71, sizes[3]), at(29, sizes[2]));
        let (width, height) = ((16 + k * 37 % 185) as f64, (16 + k * 53 % 185) as f64);
        numbers.extend([(k % sizes[0]) as f64, x, y, x + width, y + height].map(|n| n as f32));
    }
    Ok(Tensor::from_vec(numbers, (count, 5), &Device::Cpu)?)
}
