//! Operations of `vision_core::ops` that `PyTorch` has under the same name.

use anyhow::{Result, bail};
use candle_core::{DType, Tensor};
use vision_core::ops;

use super::{Op, op};
use crate::case::{Case, Outputs};

pub(super) const OPS: &[Op] = &[
    op("conv2d", &["conv2d"], conv2d),
    op("conv_transpose2d", &["conv_transpose2d"], conv_transpose2d),
    op("max_pool2d", &["max_pool2d"], max_pool2d),
    op("adaptive_avg_pool2d", &["adaptive_avg_pool2d"], adaptive_avg_pool2d),
    op("adaptive_max_pool2d", &["adaptive_max_pool2d"], adaptive_max_pool2d),
    op("batch_norm", &["batch_norm"], batch_norm),
    op("relu", &["relu"], relu),
    op("linear", &["linear"], linear),
    op("cross_entropy", &["cross_entropy"], cross_entropy),
    op("normalize", &["l2_normalize"], normalize),
    op("softplus", &["softplus"], softplus),
    op("topk", &["topk"], topk),
    op("inner_product_topk", &["inner_product_topk"], inner_product_topk),
];

fn conv2d(case: &Case) -> Result<Outputs> {
    let args = ops::Conv2dArgs {
        stride: case.args.pair("stride")?.unwrap_or([1, 1]),
        padding: case.args.pair("padding")?.unwrap_or([0, 0]),
        dilation: case.args.pair("dilation")?.unwrap_or([1, 1]),
        groups: case.args.usize("groups", 1)?,
    };
    let bias = case.maybe("bias");
    Ok(Outputs::one(ops::conv2d(&case.input("input")?, &case.input("weight")?, bias.as_ref(), &args)?))
}

fn conv_transpose2d(case: &Case) -> Result<Outputs> {
    let args = ops::ConvTranspose2dArgs {
        stride: case.args.pair("stride")?.unwrap_or([1, 1]),
        padding: case.args.pair("padding")?.unwrap_or([0, 0]),
        output_padding: case.args.pair("output_padding")?.unwrap_or([0, 0]),
        dilation: case.args.pair("dilation")?.unwrap_or([1, 1]),
        groups: case.args.usize("groups", 1)?,
    };
    let (input, weight, bias) = (case.input("input")?, case.input("weight")?, case.maybe("bias"));
    Ok(Outputs::one(ops::conv_transpose2d(&input, &weight, bias.as_ref(), &args)?))
}

fn max_pool2d(case: &Case) -> Result<Outputs> {
    let Some(kernel_size) = case.args.pair("kernel_size")? else { bail!("argument kernel_size is missing") };
    let args = ops::Pool2dArgs {
        kernel_size,
        stride: case.args.pair("stride")?.unwrap_or(kernel_size),
        padding: case.args.pair("padding")?.unwrap_or([0, 0]),
        dilation: case.args.pair("dilation")?.unwrap_or([1, 1]),
        ceil_mode: case.args.bool("ceil_mode", false)?,
    };
    Ok(Outputs::one(ops::max_pool2d(&case.input("input")?, &args)?))
}

fn adaptive_avg_pool2d(case: &Case) -> Result<Outputs> {
    let Some(size) = case.args.pair("output_size")? else { bail!("argument output_size is missing") };
    Ok(Outputs::one(ops::adaptive_avg_pool2d(&case.input("input")?, size)?))
}

fn adaptive_max_pool2d(case: &Case) -> Result<Outputs> {
    let Some(size) = case.args.pair("output_size")? else { bail!("argument output_size is missing") };
    Ok(Outputs::one(ops::adaptive_max_pool2d(&case.input("input")?, size)?))
}

fn batch_norm(case: &Case) -> Result<Outputs> {
    if case.args.usize("world_size", 1)? > 1 {
        return super::ranks::batch_norm(case);
    }
    let (training, momentum) = (case.args.bool("training", false)?, case.args.f64("momentum", 0.1)?);
    let eps = case.args.f64("eps", 1e-5)?;
    let running_mean = candle_core::Var::from_tensor(&case.input("running_mean")?)?;
    let running_var = candle_core::Var::from_tensor(&case.input("running_var")?)?;
    let stats = ops::BatchStats { running_mean: &running_mean, running_var: &running_var };
    let (weight, bias) = (case.input("weight")?, case.input("bias")?);
    let output = ops::batch_norm(&case.input("input")?, &weight, &bias, stats, training, momentum, eps)?;
    Ok(Outputs::one(output)
        .with("running_mean", running_mean.as_detached_tensor())
        .with("running_var", running_var.as_detached_tensor()))
}

fn relu(case: &Case) -> Result<Outputs> {
    Ok(Outputs::one(ops::relu(&case.input("input")?)?))
}

fn linear(case: &Case) -> Result<Outputs> {
    let bias = case.maybe("bias");
    Ok(Outputs::one(ops::linear(&case.input("input")?, &case.input("weight")?, bias.as_ref())?))
}

fn cross_entropy(case: &Case) -> Result<Outputs> {
    let args = ops::CrossEntropyArgs {
        weight: case.maybe("weight"),
        ignore_index: case.args.i64("ignore_index", -100)?,
        reduction: reduction(case)?,
        label_smoothing: case.args.f64("label_smoothing", 0.0)?,
    };
    Ok(Outputs::one(ops::cross_entropy(&case.input("input")?, &case.input("target")?, &args)?))
}

/// The argument `reduction` of a loss.
pub(super) fn reduction(case: &Case) -> Result<ops::Reduction> {
    Ok(match case.args.text("reduction")?.as_deref() {
        None | Some("mean") => ops::Reduction::Mean,
        Some("sum") => ops::Reduction::Sum,
        Some("none") => ops::Reduction::None,
        Some(other) => bail!("unknown reduction {other}"),
    })
}

fn normalize(case: &Case) -> Result<Outputs> {
    let input = case.input("input")?;
    let (p, dim) = (case.args.f64("p", 2.0)?, case.args.i64("dim", 1)?);
    if p != 2.0 || (dim != -1 && dim != input.rank() as i64 - 1) {
        bail!("only p = 2 along the last dimension is there, got p = {p}, dim = {dim}");
    }
    Ok(Outputs::one(ops::l2_normalize(&input, case.args.f64("eps", 1e-12)?)?))
}

fn softplus(case: &Case) -> Result<Outputs> {
    Ok(Outputs::one(ops::softplus(&case.input("input")?)?))
}

fn topk(case: &Case) -> Result<Outputs> {
    let largest = case.args.bool("largest", true)?;
    let (values, indices) = ops::topk(&case.input("input")?, case.args.need_usize("k")?, largest)?;
    Ok(Outputs::default().with("values", values).with("indices", indices))
}

fn inner_product_topk(case: &Case) -> Result<Outputs> {
    let (queries, rows) = (case.input("queries")?, case.input("rows")?);
    let (values, indices) = ops::inner_product_topk(&queries, &rows, case.args.need_usize("k")?)?;
    Ok(Outputs::default().with("values", values).with("indices", indices))
}

/// Row numbers of a case as `u32`, the type our operations index with.
pub(super) fn rows(case: &Case, name: &str) -> Result<Tensor> {
    let rows = case.input(name)?;
    // The tensor library's kernels fail on nothing on a CUDA device.
    if rows.elem_count() == 0 {
        return Ok(Tensor::zeros(rows.shape(), DType::U32, rows.device())?);
    }
    Ok(rows.to_dtype(DType::U32)?)
}
