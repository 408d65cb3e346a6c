//! Measuring a feature: weighted nearest-neighbour classification (paper §4.1), retrieval across two views
//! of the same instances, both beside raw pixels and the untrained network, and pictures of neighbours.

mod baselines;
mod features;
mod metrics;
mod sheets;

use vision_core::params::ParamStore;
use vision_core::rng::Key;
use vision_datasets::{DataRoot, Split};
use vision_eval::{Unit, Value};
use vision_train::{Context, Report};

pub use features::{Features, embed, raw_pixels};
pub use metrics::{Retrieval, cross_view, knn};
pub use sheets::{neighbour_sheet, pair_sheet};

use crate::config::train::Config;
use crate::data;
use crate::error::Result;
use crate::model::InstDisc;
use crate::recipe::InstDiscRecipe;

/// Everything `[eval]` asks for, on `split` against the training split.
///
/// Values: `knn`, `knn_top5`, `nn` with features computed anew; `bank_knn`, `bank_nn` with the rows of the
/// memory bank as they are, as the released code prints; `cross_view_top1`, `cross_view_top5` among the
/// pictures of both parts. With baselines, the same measured on raw pixels (`raw_*`) and on the untrained network (`random_*`), and the
/// distance to both (`*_over_raw`, `*_over_random`).
///
/// # Errors
/// If a picture cannot be read or a forward pass fails.
pub fn evaluate(
    recipe: &InstDiscRecipe,
    cfg: &Config,
    root: &DataRoot,
    split: Split,
    ctx: &Context,
) -> Result<Report> {
    let eval = &cfg.eval;
    let train_set = data::open(&cfg.data, root, cfg.data.train_split)?;
    let same = split == cfg.data.train_split;
    let test_set = if same { train_set.clone() } else { data::open(&cfg.data, root, split)? };
    let needed = baselines::Needed { knn: eval.knn, cross_view: eval.cross_view, same };

    let measure = |model: &InstDisc, report: &mut Report, prefix: &str| -> Result<(Features, Features)> {
        let train = embed(model, cfg, &train_set, ctx)?;
        let test = if same { train.clone() } else { embed(model, cfg, &test_set, ctx)? };
        needed.measure(cfg, &train, &test, prefix, &mut report.values)?;
        Ok((train, test))
    };
    let mut report = Report::default();
    let (train, test) = measure(recipe.model(), &mut report, "")?;
    if eval.knn
        && let Some(bank) = recipe.bank()
        && bank.rows() == train.len()
    {
        let rows = train.with_rows(bank.dim(), bank.features().flatten_all()?.to_vec1()?)?;
        let queries = embed_kind_of_bank(recipe, cfg, &test_set, ctx, &test)?;
        report.values.extend(knn(&rows, &queries, cfg, "bank_")?);
    }
    if eval.baselines {
        report.values.extend(recipe.baselines(split, || {
            let mut found = Report::default();
            let raw_train = raw_pixels(cfg, &train_set)?;
            let raw_test = if same { raw_train.clone() } else { raw_pixels(cfg, &test_set)? };
            needed.measure(cfg, &raw_train, &raw_test, "raw_", &mut found.values)?;
            // The same seed gives the same first weights as the run had.
            let params = ParamStore::new(Key::new(cfg.run.seed).fold("init"), ctx.dtype, recipe.device());
            let untrained = InstDisc::new(&cfg.model, params.var_builder())?;
            measure(&untrained, &mut found, "random_")?;
            Ok(found.values)
        })?);
        let over = baselines::differences(&report.values);
        report.tables.push(baselines::table(cfg, &report.values));
        report.values.extend(over);
    }
    if eval.sheet_queries > 0 {
        if eval.cross_view {
            report.pictures.push(pair_sheet(cfg, [&train_set, &test_set], &needed.views(&train, &test)?)?);
        }
        if eval.knn {
            report.pictures.push(neighbour_sheet(cfg, &train_set, &test_set, &train, &test, same)?);
        }
    }
    Ok(report)
}

/// The bank holds embeddings, whatever vector the other measurements compare.
fn embed_kind_of_bank(
    recipe: &InstDiscRecipe,
    cfg: &Config,
    set: &data::AnySet,
    ctx: &Context,
    have: &Features,
) -> Result<Features> {
    use crate::config::train::FeatureKind;
    if cfg.eval.features == FeatureKind::Embedding && !cfg.eval.centre {
        return Ok(have.clone());
    }
    let mut plain = cfg.clone();
    plain.eval.features = FeatureKind::Embedding;
    plain.eval.centre = false;
    embed(recipe.model(), &plain, set, ctx)
}

fn fraction(name: String, value: f64, count: usize) -> Value {
    Value { name, value, unit: Unit::Fraction, higher_is_better: Some(true), count: count as u64 }
}
