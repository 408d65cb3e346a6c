//! Operations of `vision_core::ops` over boxes on a map.

use anyhow::{Result, bail};
use vision_core::{FeatureMap, ops};

use super::{Op, op};
use crate::case::{Case, Outputs};

pub(super) const OPS: &[Op] = &[
    op("roi_align", &["roi_align"], roi_align),
    op("roi_pool", &["roi_pool"], roi_pool),
    op("ps_roi_align", &["ps_roi_align"], ps_roi_align),
    op("ps_roi_pool", &["ps_roi_pool"], ps_roi_pool),
    op("deform_ps_roi_pool", &["deform_ps_roi_pool"], deform_ps_roi_pool),
    op("crop_and_resize", &["crop_and_resize"], crop_and_resize),
];

fn output_size(case: &Case) -> Result<[usize; 2]> {
    let Some(size) = case.args.pair("output_size")? else { bail!("argument output_size is missing") };
    Ok(size)
}

/// The reference's -1 is our 0.
fn sampling_ratio(case: &Case) -> Result<usize> {
    Ok(usize::try_from(case.args.i64("sampling_ratio", -1)?.max(0))?)
}

fn roi_align(case: &Case) -> Result<Outputs> {
    let args = ops::RoiAlignArgs {
        output_size: output_size(case)?,
        spatial_scale: case.args.f64("spatial_scale", 1.0)?,
        sampling_ratio: sampling_ratio(case)?,
        aligned: case.args.bool("aligned", false)?,
    };
    Ok(Outputs::one(ops::roi_align(&case.input("input")?, &case.input("boxes")?, &args)?))
}

fn roi_pool(case: &Case) -> Result<Outputs> {
    let args = ops::RoiPoolArgs {
        output_size: output_size(case)?,
        spatial_scale: case.args.f64("spatial_scale", 1.0)?,
    };
    Ok(Outputs::one(ops::roi_pool(&case.input("input")?, &case.input("boxes")?, &args)?))
}

fn ps_roi_align(case: &Case) -> Result<Outputs> {
    let args = ops::PsRoiAlignArgs {
        output_size: output_size(case)?,
        spatial_scale: case.args.f64("spatial_scale", 1.0)?,
        sampling_ratio: sampling_ratio(case)?,
    };
    Ok(Outputs::one(ops::ps_roi_align(&case.input("input")?, &case.input("boxes")?, &args)?))
}

fn ps_roi_pool(case: &Case) -> Result<Outputs> {
    let args = ops::PsRoiPoolArgs {
        output_size: output_size(case)?,
        spatial_scale: case.args.f64("spatial_scale", 1.0)?,
        rounding: match case.args.text("rounding")?.as_deref() {
            None | Some("after_scaling") => ops::PsRoiRounding::AfterScaling,
            Some("before_scaling") => ops::PsRoiRounding::BeforeScaling,
            Some(other) => bail!("unknown rounding {other}"),
        },
    };
    Ok(Outputs::one(ops::ps_roi_pool(&case.input("input")?, &case.input("boxes")?, &args)?))
}

fn deform_ps_roi_pool(case: &Case) -> Result<Outputs> {
    let default = ops::DeformPsRoiPoolArgs::default();
    let args = ops::DeformPsRoiPoolArgs {
        output_size: case.args.need_usize("output_size")?,
        spatial_scale: case.args.f64("spatial_scale", 1.0)?,
        group_size: case.args.need_usize("group_size")?,
        part_size: case.args.usize("part_size", 0)?,
        sample_per_part: case.args.usize("sample_per_part", default.sample_per_part)?,
        trans_std: case.args.f64("trans_std", default.trans_std)?,
    };
    let (input, boxes, offset) = (case.input("input")?, case.input("boxes")?, case.maybe("offset"));
    Ok(Outputs::one(ops::deform_ps_roi_pool(&input, &boxes, offset.as_ref(), &args)?))
}

fn crop_and_resize(case: &Case) -> Result<Outputs> {
    let Some(crop_size) = case.args.pair("crop_size")? else { bail!("argument crop_size is missing") };
    let args = ops::CropAndResizeArgs {
        crop_size,
        method: match case.args.text("method")?.as_deref() {
            None | Some("bilinear") => ops::CropMethod::Bilinear,
            Some("nearest") => ops::CropMethod::Nearest,
            Some(other) => bail!("unknown method {other}"),
        },
        extrapolation_value: case.args.f64("extrapolation_value", 0.0)?,
    };
    let image = FeatureMap::from_nhwc(case.input("image")?)?;
    let crops = ops::crop_and_resize(&image, &case.input("boxes")?, &case.input("box_ind")?, &args)?;
    Ok(Outputs::one(crops.nhwc().clone()))
}
