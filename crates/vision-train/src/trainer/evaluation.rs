//! Evaluations during a run and the page that shows them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use vision_eval::Value;

use super::Outcome;
use super::session::Session;
use crate::config::{Check, check_expectations};
use crate::error::{Error, Result};
use crate::recipe::{Plot, Recipe};
use crate::report::{Page, Report, Series, read_values, write_report};
use crate::run_folder::{RunFolder, read_text};
use crate::sinks::Row;

impl<R: Recipe> Session<'_, R> {
    /// `epoch-N` after N whole epochs, `step-N` if the run ends within one.
    fn stem(&self) -> String {
        if self.position.batch == 0 {
            format!("epoch-{}", self.position.epoch)
        } else {
            format!("step-{}", self.position.step)
        }
    }

    fn eval_path(&self) -> PathBuf {
        self.folder.eval().join(format!("{}.json", self.stem()))
    }

    /// Whether the current position was evaluated, now or before a restart.
    pub(super) fn evaluated(&self) -> Result<bool> {
        self.ranks.first_does("whether it was evaluated", || Ok(self.eval_path().exists()))
    }

    /// Measures the model and writes numbers, pictures and the report page. The current position is saved already.
    pub(super) fn evaluate(&mut self) -> Result<()> {
        let ranks = self.ranks.clone();
        if ranks.several() && R::evaluates_on_every_rank(&self.resolved.config) {
            let cfg = &self.resolved.config;
            let start = Instant::now();
            let report = self.recipe.evaluate(cfg, self.data, R::eval_split(cfg), self.ctx);
            let report = ranks.agree("evaluation", report)?;
            let seconds = start.elapsed().as_secs_f64();
            return ranks.first_does("report", || self.publish(report, seconds));
        }
        ranks.first_does("evaluation", || self.evaluate_here())
    }

    fn evaluate_here(&mut self) -> Result<()> {
        let cfg = &self.resolved.config;
        let split = R::eval_split(cfg);
        let (step, epoch) = (self.position.step, self.position.epoch);
        self.progress.message(&format!("evaluating at step {step} (epoch {epoch}) on {split}"));
        let start = Instant::now();
        let report = self.recipe.evaluate(cfg, self.data, split, self.ctx)?;
        let seconds = start.elapsed().as_secs_f64();
        self.publish(report, seconds)
    }

    /// Writes what an evaluation found.
    fn publish(&mut self, report: Report, seconds: f64) -> Result<()> {
        let split = R::eval_split(&self.resolved.config);
        let (step, epoch) = (self.position.step, self.position.epoch);
        let split_name = split.to_string();
        let mut rows: Vec<(&str, String, f64)> = report
            .values
            .iter()
            .map(|value| (split_name.as_str(), value.name.clone(), value.value))
            .collect();
        rows.push((split_name.as_str(), "evaluation_seconds".to_owned(), seconds));
        self.log(epoch, rows)?;
        for picture in &report.pictures {
            let png = vision_image::encode_png(&picture.image)?;
            let tag = format!("{split}/{}", picture.name);
            if let Some(files) = &mut self.files {
                files.events.image(step, &tag, picture.image.width(), picture.image.height(), &png)?;
            }
        }
        self.choose_best(&report.values)?;
        let summary: Vec<String> =
            report.values.iter().map(|value| format!("{} {:.4}", value.name, value.value)).collect();
        self.progress.message(&format!("{} ({seconds:.1} s)", summary.join("  ")));
        tracing::info!(step, epoch, split = %split, values = summary.join(", "), "evaluation");
        self.report = Some(report);
        self.write_page(&[])?;
        // Last, because its existence says that the evaluation is done.
        if let Some(report) = &self.report {
            write_report(report, &self.folder.eval(), &self.stem(), step, epoch)?;
        }
        Ok(())
    }

    /// Points `best` at the current checkpoint if it beats the one `best` names.
    fn choose_best(&mut self, values: &[Value]) -> Result<()> {
        let chosen = match &self.config().best_metric {
            None => values.iter().find(|value| value.higher_is_better.is_some()),
            Some(name) => {
                let found = values.iter().find(|value| value.name == *name);
                if found.is_none() {
                    let names: Vec<&str> = values.iter().map(|value| value.name.as_str()).collect();
                    return Err(Error::config(
                        &self.resolved.source,
                        "run.best_metric",
                        format!("the evaluation has no `{name}`; it has {}", names.join(", ")),
                    ));
                }
                found
            }
        };
        let Some(value) = chosen.filter(|value| value.value.is_finite()) else { return Ok(()) };
        let higher = value.higher_is_better.unwrap_or(true);
        let Some(files) = &self.files else { return Ok(()) };
        let better = match files.store.best()? {
            Some(best) if best.metric.as_deref() == Some(&value.name) => {
                best.value.is_none_or(|old| if higher { value.value > old } else { value.value < old })
            }
            _ => true,
        };
        if better && let Some((_, checkpoint)) = &self.saved {
            files.store.mark_best(checkpoint, &value.name, value.value)?;
        }
        Ok(())
    }

    fn write_page(&self, checks: &[Check]) -> Result<()> {
        let Some(files) = &self.files else { return Ok(()) };
        let page = Page {
            title: format!("{} training run", R::NAME),
            subtitle: format!(
                "{}: step {}, epoch {} of {}",
                self.resolved.source,
                self.position.step,
                self.position.epoch,
                self.config().epochs
            ),
            checks,
            report: self.report.as_ref(),
            curves: curves(files.metrics.rows(), R::PLOTS),
            facts: files.facts.clone(),
            config: &self.resolved.toml,
        };
        page.write(&self.folder.report())
    }

    /// Checks what was expected and closes the run.
    pub(super) fn outcome(&mut self) -> Result<Outcome> {
        let checkpoint = self.save()?;
        // Bits, because a value may be NaN.
        let bits: BTreeMap<String, u64> = self.ranks.first_does("values", || {
            let values = read_values(&self.eval_path())?;
            Ok(values.into_iter().map(|(name, value)| (name, value.to_bits())).collect())
        })?;
        let values: BTreeMap<String, f64> =
            bits.into_iter().map(|(name, bits)| (name, f64::from_bits(bits))).collect();
        let checks = check_expectations(&self.resolved.expect, |name: &str| values.get(name).copied());
        // A run that was finished already has its page.
        if self.report.is_some() {
            self.write_page(&checks)?;
        }
        Ok(Outcome {
            step: self.position.step,
            epoch: self.position.epoch,
            samples: self.position.samples,
            values,
            checks,
            checkpoint,
            report: self.folder.report(),
        })
    }
}

/// Removes evaluations that the checkpoint at `step` does not know (all of them for a new run), and returns
/// the steps of those that stay.
pub(super) fn kept_evaluations(folder: &RunFolder, step: Option<u64>) -> Result<BTreeSet<u64>> {
    #[derive(serde::Deserialize)]
    struct Saved {
        step: u64,
    }
    let eval = folder.eval();
    let failed = |error| Error::io(&eval, error);
    let mut kept = BTreeSet::new();
    for entry in fs::read_dir(&eval).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let saved: Saved = serde_json::from_str(&read_text(&path)?).map_err(|error| Error::Format {
            what: path.display().to_string(),
            problem: error.to_string(),
        })?;
        if step.is_some_and(|step| saved.step <= step) {
            kept.insert(saved.step);
        } else {
            fs::remove_file(&path).map_err(|error| Error::io(&path, error))?;
        }
    }
    Ok(kept)
}

/// Points of one number over the steps.
type Points = Vec<(f64, f64)>;

/// Losses first, then evaluations, then the learning rate and what concerns the machine. Numbers of the
/// evaluation are drawn together as `plots` say; without any, each by itself.
fn curves(rows: &[Row], plots: &[Plot]) -> Vec<Series> {
    const EVALUATION: u8 = 1;
    let mut lines: BTreeMap<(u8, &str, &str), Points> = BTreeMap::new();
    for row in rows {
        let Some(value) = row.value else { continue };
        let rank = match (row.split.as_str(), row.name.as_str()) {
            ("train", "lr") => 2,
            ("train", _) => 0,
            ("system", _) | (_, "evaluation_seconds") => 3,
            _ => EVALUATION,
        };
        lines.entry((rank, &row.split, &row.name)).or_default().push((row.step as f64, value));
    }
    let alone = |(&(_, split, name), points): (&(u8, &str, &str), &Points)| Series {
        title: format!("{split}: {name}"),
        x_label: "step".to_owned(),
        y_label: name.to_owned(),
        lines: vec![(name.to_owned(), points.clone())],
    };
    if plots.is_empty() {
        return lines.iter().map(alone).collect();
    }
    let splits: BTreeSet<&str> =
        lines.keys().filter(|(rank, ..)| *rank == EVALUATION).map(|(_, split, _)| *split).collect();
    let lines = &lines;
    let together = splits.iter().flat_map(|&split| {
        plots.iter().filter_map(move |plot| {
            let line = |name: &&str| {
                lines.get(&(EVALUATION, split, *name)).map(|points| ((*name).to_owned(), points.clone()))
            };
            let lines: Vec<(String, Points)> = plot.names.iter().filter_map(line).collect();
            (!lines.is_empty()).then(|| Series {
                title: format!("{split}: {}", plot.title),
                x_label: "step".to_owned(),
                y_label: String::new(),
                lines,
            })
        })
    });
    let before = lines.iter().filter(|((rank, ..), _)| *rank < EVALUATION).map(alone);
    let after = lines.iter().filter(|((rank, ..), _)| *rank > EVALUATION).map(alone);
    before.chain(together).chain(after).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(step: u64, split: &str, name: &str) -> Row {
        Row { step, epoch: 0, split: split.to_owned(), name: name.to_owned(), value: Some(step as f64) }
    }

    #[test]
    fn numbers_of_an_evaluation_share_a_plot() {
        let rows = [
            row(1, "train", "loss"),
            row(1, "train", "lr"),
            row(2, "test", "knn"),
            row(2, "test", "raw_knn"),
            row(2, "test", "other"),
            row(4, "test", "knn"),
        ];
        let titles = |series: &[Series]| series.iter().map(|s| s.title.clone()).collect::<Vec<_>>();
        let plots = [
            Plot { title: "accuracy", names: &["knn", "missing", "raw_knn"] },
            Plot { title: "nothing", names: &["absent"] },
        ];
        let drawn = curves(&rows, &plots);
        assert_eq!(titles(&drawn), ["train: loss", "test: accuracy", "train: lr"]);
        assert_eq!(
            drawn[1].lines,
            [("knn".to_owned(), vec![(2.0, 2.0), (4.0, 4.0)]), ("raw_knn".to_owned(), vec![(2.0, 2.0)])]
        );
        assert_eq!(curves(&rows, &[]).len(), 5);
    }
}
