//! Every measurement beside what it has to beat.

use vision_eval::{Unit, Value};
use vision_train::Table;

use super::features::Features;
use super::metrics::{cross_view, knn};
use crate::config::train::Config;
use crate::error::Result;

/// Names of the headline numbers; baselines put a prefix in front.
const MEASURES: &[(&str, &str)] = &[
    ("knn", "weighted kNN, top-1"),
    ("knn_top5", "weighted kNN, top-5"),
    ("nn", "nearest neighbour, top-1"),
    ("cross_view_top1", "retrieval across views, top-1"),
    ("cross_view_top5", "retrieval across views, top-5"),
];

/// Which measurements a configuration asks for.
#[derive(Clone, Copy)]
pub(super) struct Needed {
    pub(super) knn: bool,
    pub(super) cross_view: bool,
    /// Whether the training pictures are the test pictures.
    pub(super) same: bool,
}

impl Needed {
    /// The pictures that look for their partners: of both parts, unless they are the same.
    pub(super) fn views(self, train: &Features, test: &Features) -> Result<Features> {
        if self.same { Ok(test.clone()) } else { train.clone().followed_by(test) }
    }

    pub(super) fn measure(
        self,
        cfg: &Config,
        train: &Features,
        test: &Features,
        prefix: &str,
        values: &mut Vec<Value>,
    ) -> Result<()> {
        if self.knn {
            values.extend(knn(train, test, cfg, prefix)?);
        }
        if self.cross_view {
            values.extend(cross_view(&self.views(train, test)?, cfg)?.values(prefix));
        }
        Ok(())
    }
}

fn get(values: &[Value], name: &str) -> Option<f64> {
    values.iter().find(|value| value.name == name).map(|value| value.value)
}

/// How far each measurement lies above its baselines.
pub(super) fn differences(values: &[Value]) -> Vec<Value> {
    let mut over = Vec::new();
    for (name, _) in MEASURES {
        let Some(ours) = get(values, name) else { continue };
        for baseline in ["raw", "random"] {
            if let Some(theirs) = get(values, &format!("{baseline}_{name}")) {
                over.push(Value {
                    name: format!("{name}_over_{baseline}"),
                    value: ours - theirs,
                    unit: Unit::Fraction,
                    higher_is_better: Some(true),
                    count: 1,
                });
            }
        }
    }
    over
}

/// One row per feature, one column per measurement.
pub(super) fn table(cfg: &Config, values: &[Value]) -> Table {
    let measures: Vec<_> = MEASURES.iter().filter(|(name, _)| get(values, name).is_some()).collect();
    let rows =
        [("learned", ""), ("memory bank", "bank_"), ("raw pixels", "raw_"), ("untrained network", "random_")];
    let rows = rows
        .iter()
        .map(|(title, prefix)| {
            let cells = measures.iter().map(|(name, _)| {
                get(values, &format!("{prefix}{name}"))
                    .map_or_else(|| "-".to_owned(), |v| format!("{:.1} %", 100.0 * v))
            });
            std::iter::once((*title).to_owned()).chain(cells).collect::<Vec<_>>()
        })
        .filter(|row: &Vec<String>| row.iter().skip(1).any(|cell| cell != "-"))
        .collect();
    let mut header = vec!["feature".to_owned()];
    header.extend(measures.iter().map(|(_, title)| (*title).to_owned()));
    Table { title: format!("{}: the learned feature and its baselines", cfg.data.name), header, rows }
}

#[cfg(test)]
mod tests {
    use super::super::fraction;
    use super::*;

    #[test]
    fn baselines_stand_beside_the_result() {
        let values = [("knn", 0.8), ("raw_knn", 0.7), ("random_knn", 0.5), ("bank_knn", 0.75)]
            .map(|(name, value)| fraction(name.to_owned(), value, 10));
        let over = differences(&values);
        assert_eq!(over[0].name, "knn_over_raw");
        assert!((over[1].value - 0.3).abs() < 1e-12);
        let table = table(&Config::default(), &values);
        assert_eq!(table.header.len(), 2);
        assert_eq!(table.rows[1], ["memory bank", "75.0 %"]);
        assert_eq!(table.rows.len(), 4);
    }
}
