//! Numbers, tables and pictures of an evaluation.

use vision_datasets::{IGNORE_LABEL, SampleRng};
use vision_eval::Value;
use vision_eval::segmentation::{AbsentClass, Segmentation};
use vision_image::LabelMap;
use vision_image::draw::{LabelStyle, Tile, heat_map, overlay, sheet, titled};
use vision_train::{Picture, Report, Table};

use super::Judged;
use crate::config::train::{Config, EvalMode};
use crate::data::AnySet;
use crate::error::Result;

/// The set of whose results the paper counts the background as a class.
const PASCAL_CONTEXT: &str = "pascal-context";

/// Rows and columns a picture of confusions can have and still be read.
const MOST_CLASSES_DRAWN: usize = 160;

pub(super) fn report(cfg: &Config, set: &AnySet, metric: &Segmentation, worst: &[Judged]) -> Result<Report> {
    let mut report = Report { values: values(cfg, set.name(), metric), ..Report::default() };
    report.tables.push(classes(set, metric));
    let names = set.class_names();
    if names.len() <= MOST_CLASSES_DRAWN {
        let shares = metric.confusion().row_shares();
        let cell = if names.len() <= 24 { 24 } else { 10 };
        report.pictures.push(Picture {
            name: "confusion".to_owned(),
            caption: "Of each class's pixels (row), the share that was taken for each class (column)"
                .to_owned(),
            image: heat_map("", &shares, names, names, cell)?,
        });
    }
    if !worst.is_empty() {
        report.tables.push(worst_table(set, worst));
        report.pictures.push(worst_sheet(cfg, set, worst)?);
    }
    Ok(report)
}

fn values(cfg: &Config, set: &str, metric: &Segmentation) -> Vec<Value> {
    let by = |absent: AbsentClass| metric.compute(absent);
    let named = |values: Vec<Value>, name: &str, as_name: &str| {
        values
            .into_iter()
            .find(|value| value.name == name)
            .map(|value| Value { name: as_name.to_owned(), ..value })
    };
    let chosen = by(cfg.eval.absent.into());
    let mut values: Vec<Value> = ["miou", "pix_acc", "classes_seen"]
        .into_iter()
        .filter_map(|name| named(chosen.clone(), name, name))
        .chain(named(by(AbsentClass::Zero), "miou", "miou_zero"))
        .chain(named(by(AbsentClass::Skip), "miou", "miou_skip"))
        .collect();
    if set == PASCAL_CONTEXT
        && let Some(miou) = values.iter().find(|value| value.name == "miou_zero").cloned()
    {
        values.push(Value {
            name: "miou60".to_owned(),
            value: with_background(miou.value, cfg.model.classes),
            ..miou
        });
    }
    values
}

/// The mean over one class more, a background that is never right: how the paper counts 60 classes of PASCAL-Context,
/// where 52.6 over 59 classes are 51.7 over 60.
pub fn with_background(miou: f64, classes: usize) -> f64 {
    miou * classes as f64 / (classes as f64 + 1.0)
}

fn classes(set: &AnySet, metric: &Segmentation) -> Table {
    let percent = |share: Option<f64>| share.map_or("-".to_owned(), |share| format!("{:.2}", 100.0 * share));
    let names = set.class_names();
    let name = |class: usize| names.get(class).map_or("?", String::as_str);
    Table {
        title: "By class, in percent".to_owned(),
        header: ["class", "IoU", "recall", "precision", "share of pixels", "most taken for"]
            .map(str::to_owned)
            .into(),
        rows: metric
            .rows()
            .into_iter()
            .map(|row| {
                let other = row.most_taken_for.map_or("-".to_owned(), |(class, _)| name(class).to_owned());
                vec![
                    name(row.class).to_owned(),
                    percent(row.iou),
                    percent(row.recall),
                    percent(row.precision),
                    percent(Some(row.area)),
                    other,
                ]
            })
            .collect(),
    }
}

/// What the pictures of the sheet are called.
fn worst_table(set: &AnySet, worst: &[Judged]) -> Table {
    let row =
        |judged: &Judged| vec![set.sample_name(judged.index), format!("{:.2}", 100.0 * judged.accuracy)];
    Table {
        title: "Most wrong pixels".to_owned(),
        header: ["picture", "pixels right, in percent"].map(str::to_owned).into(),
        rows: worst.iter().map(row).collect(),
    }
}

/// Rows of picture, prediction and labels.
fn worst_sheet(cfg: &Config, set: &AnySet, worst: &[Judged]) -> Result<Picture> {
    const CELL: u32 = 160;
    const GAP: u32 = 6;
    const PAPER: [u8; 3] = [255; 3];
    let style = LabelStyle {
        alpha: 0.7,
        ignore: Some(IGNORE_LABEL),
        ignore_color: Some([255; 3]),
        ..LabelStyle::new(set.palette())
    };
    let mut rows = Vec::new();
    for judged in worst {
        let mut sample = set.get(judged.index)?;
        if cfg.eval.mode == EvalMode::Whole {
            // What was measured is the picture after its transforms, none of which is random.
            let mut rng = SampleRng::new(cfg.run.seed, 0, judged.index as u64);
            sample = cfg.data.whole_pipeline().augment(sample, &mut rng)?;
        }
        let [height, width] = judged.size;
        let prediction = LabelMap::new(width as u32, height as u32, judged.prediction.clone())?;
        rows.push(vec![
            Tile::new(sample.image.to_rgb()),
            Tile::new(overlay(&sample.image, &prediction, &style)?),
            Tile::new(overlay(&sample.image, &sample.labels, &style)?),
        ]);
    }
    let plain = sheet(&rows, CELL, GAP, PAPER)?;
    Ok(Picture {
        name: "worst".to_owned(),
        caption: "The pictures with the most wrong pixels, worst first; the table has their names".to_owned(),
        image: titled(&plain, &["picture", "prediction", "labels"], CELL, GAP, PAPER)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check 24.
    #[test]
    fn the_headline_counts_the_background() {
        assert!((100.0 * with_background(0.526, 59) - 51.723).abs() < 1e-3);
    }
}
