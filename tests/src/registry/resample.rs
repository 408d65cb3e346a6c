//! Operations of `vision_core::ops` that read between or over pixels: pooling, resizing, sampling.

use anyhow::{Result, bail};
use vision_core::ops;

use super::{Op, op};
use crate::case::{Case, Outputs};

pub(super) const OPS: &[Op] = &[
    op("avg_pool2d", &["avg_pool2d"], avg_pool2d),
    op("interpolate", &["interpolate"], interpolate),
    op("grid_sample", &["grid_sample"], grid_sample),
    op("deform_conv2d", &["deform_conv2d"], deform_conv2d),
];

fn avg_pool2d(case: &Case) -> Result<Outputs> {
    let Some(kernel_size) = case.args.pair("kernel_size")? else { bail!("argument kernel_size is missing") };
    let divisor = case.args.number("divisor_override")?;
    let args = ops::AvgPool2dArgs {
        kernel_size,
        stride: case.args.pair("stride")?.unwrap_or(kernel_size),
        padding: case.args.pair("padding")?.unwrap_or([0, 0]),
        ceil_mode: case.args.bool("ceil_mode", false)?,
        count_include_pad: case.args.bool("count_include_pad", true)?,
        divisor_override: divisor.map(|_| case.args.need_usize("divisor_override")).transpose()?,
    };
    Ok(Outputs::one(ops::avg_pool2d(&case.input("input")?, &args)?))
}

fn interpolate(case: &Case) -> Result<Outputs> {
    let to = match (case.args.pair("size")?, factors(case)?) {
        (Some(size), None) => ops::ResizeTo::Size(size),
        (None, Some(factor)) => {
            ops::ResizeTo::Factor { factor, recompute: case.args.bool("recompute_scale_factor", false)? }
        }
        _ => bail!("one of size and scale_factor must be given"),
    };
    let args = ops::InterpolateArgs {
        mode: match case.args.text("mode")?.as_deref() {
            None | Some("nearest") => ops::InterpolateMode::Nearest,
            Some("bilinear") => ops::InterpolateMode::Bilinear,
            Some(other) => bail!("unknown mode {other}"),
        },
        align_corners: case.args.bool("align_corners", false)?,
        antialias: case.args.bool("antialias", false)?,
    };
    Ok(Outputs::one(ops::interpolate(&case.input("input")?, to, &args)?))
}

/// One factor for both axes or a pair.
fn factors(case: &Case) -> Result<Option<[f64; 2]>> {
    if let Ok(factor) = case.args.number("scale_factor") {
        return Ok(factor.map(|factor| [factor, factor]));
    }
    match case.args.numbers("scale_factor")?.as_deref() {
        Some([y, x]) => Ok(Some([*y, *x])),
        _ => bail!("scale_factor must be a number or a pair"),
    }
}

fn grid_sample(case: &Case) -> Result<Outputs> {
    let args = ops::GridSampleArgs {
        mode: match case.args.text("mode")?.as_deref() {
            None | Some("bilinear") => ops::GridMode::Bilinear,
            Some("nearest") => ops::GridMode::Nearest,
            Some(other) => bail!("unknown mode {other}"),
        },
        padding_mode: match case.args.text("padding_mode")?.as_deref() {
            None | Some("zeros") => ops::GridPadding::Zeros,
            Some("border") => ops::GridPadding::Border,
            Some("reflection") => ops::GridPadding::Reflection,
            Some(other) => bail!("unknown padding mode {other}"),
        },
        align_corners: case.args.bool("align_corners", false)?,
    };
    Ok(Outputs::one(ops::grid_sample(&case.input("input")?, &case.input("grid")?, &args)?))
}

fn deform_conv2d(case: &Case) -> Result<Outputs> {
    let args = ops::DeformConv2dArgs {
        stride: case.args.pair("stride")?.unwrap_or([1, 1]),
        padding: case.args.pair("padding")?.unwrap_or([0, 0]),
        dilation: case.args.pair("dilation")?.unwrap_or([1, 1]),
        border: match case.args.text("border")?.as_deref() {
            None | Some("zeros") => ops::DeformBorder::Zeros,
            Some("clamped") => ops::DeformBorder::Clamped,
            Some(other) => bail!("unknown border {other}"),
        },
    };
    let (input, offset, weight) = (case.input("input")?, case.input("offset")?, case.input("weight")?);
    let (bias, mask) = (case.maybe("bias"), case.maybe("mask"));
    Ok(Outputs::one(ops::deform_conv2d(&input, &offset, &weight, bias.as_ref(), mask.as_ref(), &args)?))
}
