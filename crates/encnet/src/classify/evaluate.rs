//! Measuring a network on a set: accuracy, and what is taken for what.

use vision_core::Pass;
use vision_datasets::{DataRoot, Dataset, LabelledSet, Split};
use vision_eval::classification::{Confusion, TopK};
use vision_eval::{Unit, Value};
use vision_image::draw::{Tile, heat_map, sheet};
use vision_train::{Context, Picture, Report, Table};

use super::config::Config;
use super::data::{self, AnySet};
use super::predict::{probabilities, ranking};
use super::recipe::ClassifyRecipe;
use crate::error::{Error, Result};

/// Rows and columns a picture of confusions can have and still be read.
const MOST_CLASSES_DRAWN: usize = 160;

/// A picture that was taken for another class.
struct Mistake {
    /// Its number in the set.
    index: usize,
    name: String,
    label: usize,
    guess: usize,
    probability: f64,
}

/// Everything `[eval]` asks for, on `split`.
///
/// Values: `top1`, where there are more than five classes `top5`, and `cross_entropy`, the mean of the loss. Pictures
/// without a class are left out.
///
/// # Errors
/// If a picture cannot be read or a forward pass fails.
pub fn evaluate(
    recipe: &ClassifyRecipe,
    cfg: &Config,
    root: &DataRoot,
    split: Split,
    ctx: &Context,
) -> vision_train::Result<Report> {
    let set = data::open(cfg, root, split)?;
    let classes = cfg.model.classes;
    let mut accuracy = TopK::new(if classes > 5 { &[1, 5] } else { &[1] })?;
    let mut confusion = Confusion::new(classes)?;
    let (mut entropy, mut count, mut mistakes) = (0.0, 0u64, Vec::new());
    let mut counted = ctx.count("measuring", set.len());
    for batch in data::test_loader(cfg, set.clone(), ctx.workers)?.epoch(0, 0) {
        let batch = batch?;
        if ctx.interrupted() {
            return Err(Error::Interrupted.into());
        }
        let logits = recipe.model().forward(&batch.pictures(recipe.device())?, &Pass::inference())?;
        let pictures = batch.index.iter().zip(&batch.names).zip(&batch.labels);
        for (logits, ((&index, name), &label)) in logits.to_vec2::<f32>()?.iter().zip(pictures) {
            let Ok(class) = usize::try_from(label) else { continue };
            let probabilities = probabilities(logits);
            let ranking = ranking(&probabilities);
            let (Some(&of_label), Some(&guess)) = (probabilities.get(class), ranking.first()) else {
                return Err(Error::size(format!("class of {name}"), format!("below {classes}"), label).into());
            };
            accuracy.update(&ranking.iter().map(|&class| class as i64).collect::<Vec<_>>(), label);
            confusion.update(guess as i64, label)?;
            // Rounding to 0 must not make the mean infinite.
            entropy -= of_label.max(f64::MIN_POSITIVE).ln();
            count += 1;
            if guess != class {
                let probability = probabilities.get(guess).copied().unwrap_or(0.0);
                mistakes.push(Mistake { index, name: name.clone(), label: class, guess, probability });
            }
        }
        counted.add(batch.len());
    }
    let mut report = Report { values: accuracy.compute(), ..Report::default() };
    report.values.push(Value {
        name: "cross_entropy".to_owned(),
        value: entropy / count.max(1) as f64,
        unit: Unit::Plain,
        higher_is_better: Some(false),
        count,
    });
    // The most certain first; the sort keeps the order of the set among equals.
    mistakes.sort_by(|a, b| b.probability.total_cmp(&a.probability));
    mistakes.truncate(cfg.eval.worst);
    describe(&mut report, &set, &confusion, &mistakes)?;
    Ok(report)
}

fn describe(report: &mut Report, set: &AnySet, confusion: &Confusion, mistakes: &[Mistake]) -> Result<()> {
    let names = set.class_names();
    let name = |class: usize| names.get(class).cloned().unwrap_or_else(|| class.to_string());
    report.tables.push(Table {
        title: "By class".to_owned(),
        header: ["class", "right, in percent", "pictures"].map(str::to_owned).into(),
        rows: confusion
            .recalls()
            .into_iter()
            .zip(confusion.matrix().chunks(names.len().max(1)))
            .enumerate()
            .map(|(class, (recall, row))| {
                let share = recall.map_or("-".to_owned(), |share| format!("{:.2}", 100.0 * share));
                vec![name(class), share, row.iter().sum::<u64>().to_string()]
            })
            .collect(),
    });
    if names.len() <= MOST_CLASSES_DRAWN {
        let cell = if names.len() <= 24 { 24 } else { 10 };
        report.pictures.push(Picture {
            name: "confusion".to_owned(),
            caption: "Of each class's pictures (row), the share that was taken for each class (column)"
                .to_owned(),
            image: heat_map("", &confusion.row_shares(), names, names, cell)?,
        });
    }
    if mistakes.is_empty() {
        return Ok(());
    }
    report.tables.push(Table {
        title: "The most certain errors".to_owned(),
        header: ["picture", "class", "taken for", "probability"].map(str::to_owned).into(),
        rows: mistakes
            .iter()
            .map(|mistake| {
                let probability = format!("{:.3}", mistake.probability);
                vec![mistake.name.clone(), name(mistake.label), name(mistake.guess), probability]
            })
            .collect(),
    });
    let mut tiles = Vec::new();
    for mistake in mistakes {
        tiles.push(Tile::new(set.get(mistake.index)?.image.to_rgb()));
    }
    let rows: Vec<Vec<Tile>> = tiles.chunks(8).map(<[Tile]>::to_vec).collect();
    report.pictures.push(Picture {
        name: "errors".to_owned(),
        caption: "The most certain errors, in the order of their table, row by row".to_owned(),
        image: sheet(&rows, 96, 6, [255; 3])?,
    });
    Ok(())
}
