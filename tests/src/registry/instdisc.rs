//! The paper crate `instdisc`: losses, bank, neighbours, network.

use anyhow::{Result, bail};
use candle_core::{DType, Tensor};
use instdisc::config::{Arch, ModelConfig, StemKind};
use instdisc::loss::{self, NceForm};
use instdisc::{InstDisc, MemoryBank};
use vision_core::ops;
use vision_core::params::ParamStore;
use vision_core::rng::Key;
use vision_eval::knn::WeightedKnn;

use super::core::rows;
use super::models::{initialise, pass, with_state};
use super::{Op, op};
use crate::case::{Case, Outputs};

pub(super) const OPS: &[Op] = &[
    op("instdisc.nce", &["gather_scores", "softplus"], nce),
    op("instdisc.full_softmax", &["bank_cross_entropy"], full_softmax),
    op("instdisc.infonce", &["gather_scores", "cross_entropy"], info_nce),
    op("instdisc.bank_update", &["momentum_update"], bank_update),
    op("instdisc.knn", &["inner_product_topk"], knn),
    op("instdisc.proximal", &[], proximal),
    op("instdisc.model", &["l2_normalize"], model),
];

fn scores(case: &Case) -> Result<Tensor> {
    let (features, bank, index) = (case.input("features")?, case.input("bank")?, rows(case, "index")?);
    Ok(loss::scores(&features, &bank, &index, case.args.need_f64("tau")?)?)
}

fn nce(case: &Case) -> Result<Outputs> {
    let form = match case.args.need_text("form")?.as_str() {
        "epsilon" => NceForm::Epsilon,
        "log_space" => NceForm::LogSpace,
        other => bail!("unknown form {other}"),
    };
    let n = case.input("bank")?.dim(0)?;
    let scores = scores(case)?;
    let z = match case.args.number("z")? {
        Some(z) => z,
        None => loss::first_batch_z(&scores, n)?,
    };
    let loss = loss::nce(&scores, n, z, form)?;
    let z = Tensor::new(z, &case.device)?.to_dtype(scores.dtype())?;
    Ok(Outputs::default().with("loss", loss).with("z", z).with("scores", scores))
}

fn full_softmax(case: &Case) -> Result<Outputs> {
    let (features, bank, target) = (case.input("features")?, case.input("bank")?, rows(case, "target")?);
    let loss = loss::full_softmax(&features, &bank, &target, case.args.need_f64("tau")?)?;
    Ok(Outputs::default().with("loss", loss))
}

fn info_nce(case: &Case) -> Result<Outputs> {
    Ok(Outputs::default().with("loss", loss::info_nce(&scores(case)?)?))
}

fn bank_update(case: &Case) -> Result<Outputs> {
    let index = rows(case, "index")?.to_vec1::<u32>()?;
    let mut bank = MemoryBank::from_features(&case.input("bank")?, case.args.need_f64("momentum")?)?;
    bank.update(&index, &case.input("features")?)?;
    Ok(Outputs::default().with("bank", bank.features().clone()))
}

fn knn(case: &Case) -> Result<Outputs> {
    let (features, bank) = (case.input("features")?, case.input("bank")?);
    let labels = case.input("labels")?.to_vec1::<i64>()?;
    let k = case.args.need_usize("k")?;
    let vote = WeightedKnn::new(k, case.args.need_f64("sigma")?)?;
    let (similarities, neighbours) = ops::inner_product_topk(&features, &bank, k)?;
    let (mut classes, mut shares) = (Vec::new(), Vec::new());
    let (mut queries, mut width) = (0, 0);
    for (near, similar) in neighbours.to_vec2::<u32>()?.iter().zip(similarities.to_vec2::<f32>()?) {
        let ranking = vote.rank(near, &similar, &labels)?;
        let total: f64 = ranking.classes.iter().map(|(_, score)| score).sum();
        classes.extend(ranking.classes.iter().map(|(class, _)| *class));
        shares.extend(ranking.classes.iter().map(|(_, score)| (score / total) as f32));
        width = ranking.classes.len();
        queries += 1;
    }
    Ok(Outputs::default()
        .with("neighbours", neighbours)
        .with("classes", Tensor::from_vec(classes, (queries, width), &case.device)?)
        .with("shares", Tensor::from_vec(shares, (queries, width), &case.device)?))
}

fn proximal(case: &Case) -> Result<Outputs> {
    let (features, previous) = (case.input("features")?, case.input("previous")?);
    let loss = loss::proximal(&features, &previous, case.args.need_f64("lambda")?)?;
    Ok(Outputs::default().with("loss", loss))
}

fn model(case: &Case) -> Result<Outputs> {
    let config = ModelConfig {
        arch: match case.args.usize("depth", 18)? {
            18 => Arch::ResNet18,
            34 => Arch::ResNet34,
            50 => Arch::ResNet50,
            other => bail!("unknown depth {other}"),
        },
        stem: match case.args.need_text("stem")?.as_str() {
            "cifar" => StemKind::Cifar,
            "imagenet" => StemKind::ImageNet,
            other => bail!("unknown stem {other}"),
        },
        embedding: case.args.usize("dim", 128)?,
        ..ModelConfig::default()
    };
    let input = case.input("input")?;
    let dtype = if input.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let params = ParamStore::new(Key::new(0), dtype, &case.device);
    let model = InstDisc::new(&config, params.var_builder())?;
    initialise(case, &params)?;
    let embedding = model.forward(&input, &pass(case)?)?.embedding;
    Ok(with_state(Outputs::default().with("embedding", embedding), &params))
}
