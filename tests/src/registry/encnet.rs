//! The paper crate `encnet`: encoding, context encoding module, SE-loss.

use anyhow::{Result, bail};
use encnet::Context;
use encnet::config::{Aggregate, ContextConfig, Gate, Projection};
use encnet::se;
use vision_core::nn::BatchNormConfig;
use vision_core::params::ParamStore;
use vision_core::rng::Key;
use vision_core::{FeatureMap, ops};

use super::models::{initialise, pass, with_params};
use super::{Op, op};
use crate::case::{Case, Outputs};

pub(super) const OPS: &[Op] = &[
    op("encnet.encoding", &["encoding"], encoding),
    op("encnet.context", &["encoding", "batch_norm", "linear"], context),
    op("encnet.se_loss", &["binary_cross_entropy_with_logits"], se_loss),
];

fn encoding(case: &Case) -> Result<Outputs> {
    let args = ops::EncodingArgs { normalize_distance: case.args.bool("normalize_distance", false)? };
    let (x, codewords, scale) = (case.input("x")?, case.input("codewords")?, case.input("scale")?);
    let encoded = ops::encoding(&x, &codewords, &scale, &args)?;
    let assignments = ops::codeword_assignments(&x, &codewords, &scale, &args)?;
    Ok(Outputs::default().with("encoded", encoded).with("assignments", assignments.to_device(&case.device)?))
}

fn context(case: &Case) -> Result<Outputs> {
    let config = ContextConfig {
        codes: case.args.need_usize("codes")?,
        projection: match case.args.need_text("projection")?.as_str() {
            "none" => Projection::None,
            "norm" => Projection::Norm,
            other => bail!("unknown projection {other}"),
        },
        aggregate: match case.args.need_text("aggregate")?.as_str() {
            "sum" => Aggregate::Sum,
            "mean" => Aggregate::Mean,
            other => bail!("unknown aggregate {other}"),
        },
        gate: match case.args.need_text("gate")?.as_str() {
            "plain" => Gate::Plain,
            "residual" => Gate::Residual,
            "residual-relu" => Gate::ResidualRelu,
            other => bail!("unknown gate {other}"),
        },
        ..ContextConfig::default()
    };
    let map = FeatureMap::from_nchw(&case.input("x")?)?;
    let (_, _, _, channels) = map.dims()?;
    let params = ParamStore::new(Key::new(0), case.dtype(), &case.device);
    let (classes, norm) = (case.args.need_usize("classes")?, BatchNormConfig::default());
    let module = Context::new(channels, classes, &config, &norm, params.var_builder())?;
    initialise(case, &params)?;
    let output = module.forward(&map, &pass(case)?)?;
    let Some(logits) = output.class_logits else { bail!("the module predicts no classes") };
    let outputs = Outputs::default()
        .with("map", output.map.to_nchw()?)
        .with("gate", output.gate)
        .with("classes", logits);
    Ok(with_params(outputs, &params))
}

fn se_loss(case: &Case) -> Result<Outputs> {
    let logits = case.input("logits")?;
    let (_, classes) = logits.dims2()?;
    let target = se::class_presence(&case.input("labels")?, classes, case.args.i64("ignore_index", -1)?)?;
    let loss = se::se_loss(&logits, &target)?;
    Ok(Outputs::default().with("loss", loss).with("target", target.to_dtype(logits.dtype())?))
}
