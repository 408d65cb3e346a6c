//! Single operations.

use anyhow::{Result, bail};
use candle_core::{DType, Device, Tensor, Var};
use vision_core::rng::Key;
use vision_core::{FeatureMap, ops};

use super::{Case, Step};

/// The operation on its variable input.
pub(super) type Forward = Box<dyn Fn(&Var) -> Result<Tensor>>;

pub(super) fn normal(name: &str, shape: &[usize]) -> Result<Tensor> {
    Ok(Key::new(0).fold(name).normal(shape, 0.0, 1.0, DType::F32, &Device::Cpu)?)
}

/// `(N, C, H, W)` sizes as `(N, H, W, C)`, other ranks as they are.
pub(super) fn nhwc(sizes: &[usize]) -> Vec<usize> {
    match *sizes {
        [n, c, h, w] => vec![n, h, w, c],
        _ => sizes.to_vec(),
    }
}

/// Features, codewords and scales of a case of `encoding`, as an untrained layer has them.
pub(super) fn encoding_inputs(case: &Case) -> Result<[Var; 3]> {
    let (sizes, codes) = (case.sizes("input")?, case.size("codes")?);
    let Some(&channels) = sizes.last() else { bail!("the input has no channels") };
    let draw = |name: &str, shape: &[usize], low: f64, high: f64| {
        let numbers = Key::new(0).fold(name).uniform(shape, low, high, DType::F32, &Device::Cpu)?;
        Ok::<_, anyhow::Error>(Var::from_tensor(&numbers)?)
    };
    let bound = 1.0 / ((codes * channels) as f64).sqrt();
    let codewords = draw("codewords", &[codes, channels], -bound, bound)?;
    Ok([Var::from_tensor(&normal("x", &sizes)?)?, codewords, draw("scale", &[codes], -1.0, 0.0)?])
}

/// One forward and one backward pass of the case's operation.
pub(super) fn step(case: &Case) -> Result<Step> {
    if let Some(step) = super::boxes::step(case)? {
        return Ok(step);
    }
    let sizes = case.sizes("input")?;
    let x = Var::from_tensor(&normal("x", &nhwc(&sizes))?)?;
    let weight = match case.sizes("weight") {
        Ok(sizes) => Some(Var::from_tensor(&normal("w", &sizes)?)?),
        Err(_) => None,
    };
    let (stride, padding) = (case.size_or("stride", 1), case.size_or("padding", 0));
    let groups = case.size_or("groups", 1);
    let map = move |x: &Var| FeatureMap::from_nhwc(x.as_tensor().clone());
    if case.sizes("weight").is_ok() && case.text("op")? == "deform_conv2d" || case.size("boxes").is_ok() {
        return super::regions::step(case);
    }
    let forward: Forward = match (case.text("op")?, weight) {
        ("conv2d", Some(weight)) => {
            let args = ops::Conv2dArgs { groups, ..ops::Conv2dArgs::square(stride, padding) };
            Box::new(move |x| Ok(ops::conv2d_nhwc(&map(x)?, &weight, None, &args)?.nhwc().clone()))
        }
        ("conv_transpose2d", Some(weight)) => {
            let args =
                ops::ConvTranspose2dArgs { groups, ..ops::ConvTranspose2dArgs::square(stride, padding) };
            Box::new(move |x| Ok(ops::conv_transpose2d_nhwc(&map(x)?, &weight, None, &args)?.nhwc().clone()))
        }
        ("max_pool2d", None) => {
            let args = ops::Pool2dArgs::square(case.size("kernel")?, stride, padding);
            Box::new(move |x| Ok(ops::max_pool2d_nhwc(&map(x)?, &args)?.nhwc().clone()))
        }
        ("adaptive_avg_pool2d", None) => {
            let size = [case.size("output")?; 2];
            Box::new(move |x| Ok(ops::adaptive_avg_pool2d_nhwc(&map(x)?, size)?.nhwc().clone()))
        }
        ("adaptive_max_pool2d", None) => {
            let size = [case.size("output")?; 2];
            Box::new(move |x| Ok(ops::adaptive_max_pool2d_nhwc(&map(x)?, size)?.nhwc().clone()))
        }
        ("batch_norm", None) => {
            let channels = sizes[1];
            let vector = |value: f64| Ok::<_, anyhow::Error>(Var::from_tensor(&full(channels, value)?)?);
            let (mean, var, scale, bias) = (vector(0.0)?, vector(1.0)?, vector(1.0)?, vector(0.0)?);
            let args = ops::BatchNormArgs { training: true, ..ops::BatchNormArgs::default() };
            Box::new(move |x| {
                let stats = ops::BatchStats { running_mean: &mean, running_var: &var };
                Ok(ops::batch_norm_nhwc(&map(x)?, &scale, &bias, stats, &args, None)?.nhwc().clone())
            })
        }
        ("relu", None) => Box::new(move |x| Ok(ops::relu(x)?)),
        ("linear", Some(weight)) => Box::new(move |x| Ok(ops::linear(x, &weight, None)?)),
        ("cross_entropy", None) => {
            let target: Vec<u32> = (0..sizes[0]).map(|i| (i % sizes[1]) as u32).collect();
            let target = Tensor::new(target, &Device::Cpu)?;
            Box::new(move |x| Ok(ops::cross_entropy(x, &target, &ops::CrossEntropyArgs::default())?))
        }
        ("avg_pool2d", None) => {
            let size = case.size("kernel")?;
            let args = ops::AvgPool2dArgs {
                kernel_size: [size; 2],
                stride: [stride; 2],
                ..ops::AvgPool2dArgs::default()
            };
            Box::new(move |x| Ok(ops::avg_pool2d_nhwc(&map(x)?, &args)?.nhwc().clone()))
        }
        ("interpolate", None) => {
            let to = ops::ResizeTo::Size([case.size("output")?; 2]);
            let args = ops::InterpolateArgs {
                mode: ops::InterpolateMode::Bilinear,
                ..ops::InterpolateArgs::default()
            };
            Box::new(move |x| Ok(ops::interpolate_nhwc(&map(x)?, to, &args)?.nhwc().clone()))
        }
        ("grid_sample", None) => {
            let grid = Key::new(0).fold("grid").uniform(
                (sizes[0], sizes[2], sizes[3], 2),
                -1.0,
                1.0,
                DType::F32,
                &Device::Cpu,
            )?;
            let grid = Var::from_tensor(&grid)?;
            Box::new(move |x| {
                Ok(ops::grid_sample_nhwc(&map(x)?, &grid, &ops::GridSampleArgs::default())?.nhwc().clone())
            })
        }
        ("sgd_step", None) => {
            let (grad, buffer) = (normal("g", &sizes)?, normal("b", &sizes)?);
            let args = ops::SgdStepArgs {
                lr: 1e-3,
                momentum: 0.9,
                dampening: 0.0,
                weight_decay: 5e-4,
                nesterov: false,
                first: false,
            };
            Box::new(move |x| {
                ops::sgd_step(x, &grad, Some(&buffer), &args)?;
                Ok(buffer.clone())
            })
        }
        ("adam_step", None) => {
            let (grad, state) = (normal("g", &sizes)?, normal("b", &[&[2], sizes.as_slice()].concat())?);
            let state = state.sqr()?;
            let args = ops::AdamStepArgs { weight_decay: 1e-2, decoupled: true, ..Default::default() };
            Box::new(move |x| {
                ops::adam_step(x, &grad, &state, &args)?;
                Ok(state.clone())
            })
        }
        ("softplus", None) => Box::new(move |x| Ok(ops::softplus(x)?)),
        ("l2_normalize", None) => Box::new(move |x| Ok(ops::l2_normalize(x, 1e-12)?)),
        ("encoding", None) => {
            let [_, codewords, scale] = encoding_inputs(case)?;
            let args = ops::EncodingArgs::default();
            Box::new(move |x| Ok(ops::encoding(x, &codewords, &scale, &args)?))
        }
        ("topk", None) => {
            let k = case.size("k")?;
            Box::new(move |x| Ok(ops::topk(&x.as_detached_tensor(), k, true)?.0))
        }
        (op, None) => return bank_step(op, case, x),
        (op, _) => bail!("no benchmark for {op}"),
    };
    Ok(Box::new(move || {
        let y = forward(&x)?;
        if y.track_op() {
            y.sum_all()?.backward()?;
        }
        Ok(())
    }))
}

/// Operations on the rows of a memory bank.
fn bank_step(op: &str, case: &Case, x: Var) -> Result<Step> {
    let rows = case.size("rows")?;
    let (batch, width) = x.dims2()?;
    let bank = ops::l2_normalize(&normal("bank", &[rows, width])?, 1e-12)?;
    let index: Vec<u32> = (0..batch).map(|i| (i * 7 % rows) as u32).collect();
    let index = Tensor::new(index, &Device::Cpu)?;
    let tau = 1.0 / 0.07;
    let forward: Forward = match op {
        "inner_product_topk" => {
            let k = case.size("k")?;
            Box::new(move |x| Ok(ops::inner_product_topk(&x.as_detached_tensor(), &bank, k)?.0))
        }
        "gather_scores" => {
            let k = case.size("k")?;
            let drawn: Vec<u32> = (0..batch * k).map(|i| (i * 31 % rows) as u32).collect();
            let drawn = Tensor::from_vec(drawn, (batch, k), &Device::Cpu)?;
            Box::new(move |x| Ok(ops::gather_scores(x, &bank, &drawn, tau)?))
        }
        "bank_cross_entropy" => Box::new(move |x| Ok(ops::bank_cross_entropy(x, &bank, &index, tau)?)),
        "momentum_update_rows" => Box::new(move |x| {
            ops::momentum_update_rows(&bank, &index, &x.as_detached_tensor(), 0.5)?;
            Ok(bank.clone())
        }),
        _ => bail!("no benchmark for {op}"),
    };
    Ok(Box::new(move || {
        let y = forward(&x)?;
        if y.track_op() {
            y.sum_all()?.backward()?;
        }
        Ok(())
    }))
}

fn full(len: usize, value: f64) -> Result<Tensor> {
    Ok(Tensor::full(value as f32, len, &Device::Cpu)?)
}
