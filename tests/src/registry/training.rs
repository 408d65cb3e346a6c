//! Optimisers and schedules of `vision_train`.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use candle_core::{Device, Tensor, Var};
use vision_train::optim::{AdamConfig, Optimiser, OptimiserConfig, SgdConfig};
use vision_train::{ParamGroup, Schedule};

use super::{Op, op};
use crate::case::{Case, Outputs};

pub(super) const OPS: &[Op] = &[
    op("optim.sgd", &["sgd_step"], sgd),
    op("optim.adam", &["adam_step"], adam),
    op("optim.adamw", &["adam_step"], adamw),
    op("schedule", &[], schedule),
];

fn sgd(case: &Case) -> Result<Outputs> {
    let config = SgdConfig {
        lr: case.args.need_f64("lr")?,
        momentum: case.args.f64("momentum", 0.0)?,
        dampening: case.args.f64("dampening", 0.0)?,
        weight_decay: case.args.f64("weight_decay", 0.0)?,
        nesterov: case.args.bool("nesterov", false)?,
    };
    steps(case, config.into())
}

fn adam(case: &Case) -> Result<Outputs> {
    adam_like(case, AdamConfig::default())
}

fn adamw(case: &Case) -> Result<Outputs> {
    adam_like(case, AdamConfig::adamw())
}

fn adam_like(case: &Case, default: AdamConfig) -> Result<Outputs> {
    let config = AdamConfig {
        lr: case.args.f64("lr", default.lr)?,
        betas: betas(case, default.betas)?,
        eps: case.args.f64("eps", default.eps)?,
        weight_decay: case.args.f64("weight_decay", default.weight_decay)?,
        amsgrad: case.args.bool("amsgrad", default.amsgrad)?,
        ..default
    };
    steps(case, config.into())
}

fn betas(case: &Case, default: [f64; 2]) -> Result<[f64; 2]> {
    match case.args.numbers("betas")?.as_deref() {
        None => Ok(default),
        Some(&[first, second]) => Ok([first, second]),
        Some(other) => bail!("betas are two numbers, found {other:?}"),
    }
}

/// The parameters after the steps of a case. A gradient that a step does not have is none.
fn steps(case: &Case, config: OptimiserConfig) -> Result<Outputs> {
    let mut params = Vec::new();
    for (name, value) in case.params() {
        params.push((name, Var::from_tensor(&value)?));
    }
    let group = ParamGroup {
        name: "all".to_owned(),
        params: params.clone(),
        lr_mult: 1.0,
        weight_decay: config.weight_decay(),
    };
    let mut optimiser = Optimiser::new(config, vec![group])?;
    for step in 0..case.args.need_usize("steps")? {
        let mut grads = BTreeMap::new();
        for (name, _) in &params {
            if let Some(grad) = case.maybe(&format!("{step}.{name}")) {
                grads.insert(name.clone(), grad);
            }
        }
        optimiser.step(&grads, 1.0)?;
    }
    let mut outputs = Outputs::default();
    for (name, var) in &params {
        outputs = outputs.with(name, var.as_detached_tensor());
    }
    Ok(outputs)
}

fn schedule(case: &Case) -> Result<Outputs> {
    let steps = case.args.need_usize("steps")?;
    let args = &case.args;
    let base = args.need_f64("lr")?;
    let total = args.usize("total_iters", steps)? as u64;
    let shape = match args.need_text("name")?.as_str() {
        "constant" => Schedule::Constant,
        "step" | "multistep" => {
            Schedule::Step { milestones: args.counts("milestones")?, gamma: args.need_f64("gamma")? }
        }
        "exponential" => Schedule::Exponential {
            every: args.usize("step_size", 1)? as u64,
            gamma: args.need_f64("gamma")?,
        },
        "cosine" => {
            let total = args.usize("T_max", steps)? as u64;
            Schedule::Cosine { total, last: args.f64("eta_min", 0.0)? / base }
        }
        "poly" => Schedule::Poly { total, power: args.f64("power", 1.0)? },
        "linear" => Schedule::Linear {
            total,
            first: args.f64("start_factor", 1.0 / 3.0)?,
            last: args.f64("end_factor", 1.0)?,
        },
        other => bail!("unknown schedule {other}"),
    };
    let schedule = shape.warmed_up(args.usize("warmup_steps", 0)? as u64, args.f64("warmup_start", 0.0)?);
    let rates: Vec<f64> = (0..steps as u64).map(|step| base * schedule.factor(step)).collect();
    Ok(Outputs::default().with("lr", Tensor::new(rates, &Device::Cpu)?))
}
