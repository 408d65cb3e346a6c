//! The two measurements.

use std::collections::BTreeMap;

use vision_eval::Value;
use vision_eval::knn::{KnnAccuracy, WeightedKnn};

use super::features::Features;
use super::fraction;
use crate::config::train::Config;
use crate::error::{Error, Result};

/// Queries searched at a time.
const BLOCK: usize = 512;

/// Weighted nearest-neighbour classification of `test` by `train`, both normalised: `{prefix}knn`, `{prefix}knn_top5` with
/// `eval.knn_k` neighbours and weights `exp(s/σ)`, and `{prefix}nn` with the single nearest.
///
/// # Errors
/// If there is nothing to search.
pub fn knn(train: &Features, test: &Features, cfg: &Config, prefix: &str) -> Result<Vec<Value>> {
    let (train, test) = (train.clone().normalised()?, test.clone().normalised()?);
    let index = train.index()?;
    let k = cfg.eval.knn_k.min(train.len());
    let sigma = cfg.eval.knn_sigma.unwrap_or(cfg.loss.temperature);
    let mut many = KnnAccuracy::new(WeightedKnn::new(k, sigma)?, train.labels.clone(), &[1, 5])?;
    let mut nearest = KnnAccuracy::new(WeightedKnn::new(1, sigma)?, train.labels.clone(), &[1])?;
    for (block, labels) in test.rows.chunks(BLOCK * test.dim).zip(test.labels.chunks(BLOCK)) {
        for (hits, &label) in index.search(block, k)?.iter().zip(labels) {
            let (rows, scores): (Vec<u32>, Vec<f32>) = hits.iter().map(|hit| (hit.row, hit.score)).unzip();
            many.update(&rows, &scores, label)?;
            nearest.update(&rows[..1], &scores[..1], label)?;
        }
    }
    let find = |values: Vec<Value>, name: &str, ours: &str| {
        values
            .into_iter()
            .find(|value| value.name == name)
            .map(|value| Value { name: format!("{prefix}{ours}"), ..value })
    };
    let many = many.compute();
    Ok([
        find(many.clone(), "top1", "knn"),
        find(many, "top5", "knn_top5"),
        find(nearest.compute(), "top1", "nn"),
    ]
    .into_iter()
    .flatten()
    .collect())
}

/// What retrieval across two views found: every picture with a partner asks once, in both directions.
#[derive(Clone, Debug)]
pub struct Retrieval {
    /// Rows that have a partner: those of the first group, then those of the second.
    pub queries: Vec<usize>,
    /// For each query, the five best rows of the other group.
    pub found: Vec<Vec<usize>>,
    /// For each query, its partner's row.
    pub partner: Vec<usize>,
}

impl Retrieval {
    /// Share of queries whose partner is among the best `k` (at most 5).
    pub fn recall(&self, k: usize) -> f64 {
        let hits = self
            .found
            .iter()
            .zip(&self.partner)
            .filter(|(found, partner)| found.iter().take(k).any(|f| f == *partner));
        hits.count() as f64 / self.queries.len().max(1) as f64
    }

    /// `{prefix}cross_view_top1` and `{prefix}cross_view_top5`.
    pub fn values(&self, prefix: &str) -> Vec<Value> {
        [1, 5]
            .map(|k| fraction(format!("{prefix}cross_view_top{k}"), self.recall(k), self.queries.len()))
            .into()
    }
}

/// For every picture `A/NAME` of one group, the nearest pictures of the other group `B`, in both directions;
/// its partner is `B/NAME`. Groups are ordered by name. With `eval.centre` each group's mean is subtracted
/// first.
///
/// # Errors
/// If names do not form exactly two groups that share a name.
pub fn cross_view(features: &Features, cfg: &Config) -> Result<Retrieval> {
    let mut groups: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    for (row, name) in features.names.iter().enumerate() {
        // The last two parts of the path: pictures in folders have longer names.
        let mut parts = name.rsplitn(3, '/');
        if let (Some(picture), Some(group)) = (parts.next(), parts.next()) {
            groups.entry(group).or_default().insert(picture, row);
        }
    }
    let mut in_order = groups.values();
    let (Some(first), Some(second), None) = (in_order.next(), in_order.next(), in_order.next()) else {
        return Err(Error::config(
            "eval.cross_view",
            format!("needs two groups of pictures GROUP/NAME, the sets have {}", groups.len()),
        ));
    };
    let mut retrieval = Retrieval { queries: Vec::new(), found: Vec::new(), partner: Vec::new() };
    retrieval.search(features, first, second, cfg.eval.centre)?;
    retrieval.search(features, second, first, cfg.eval.centre)?;
    if retrieval.queries.is_empty() {
        return Err(Error::config("eval.cross_view", "the two groups share no picture name"));
    }
    Ok(retrieval)
}

impl Retrieval {
    /// Asks for every picture of `from` that `to` has as well.
    fn search(
        &mut self,
        features: &Features,
        from: &BTreeMap<&str, usize>,
        to: &BTreeMap<&str, usize>,
        centre: bool,
    ) -> Result<()> {
        let prepare = |rows: &[usize]| {
            let rows = features.select(rows);
            if centre { rows.clone().centred(&rows.mean()) } else { rows.normalised() }
        };
        let (queries, partners): (Vec<usize>, Vec<usize>) =
            from.iter().filter_map(|(name, &row)| to.get(name).map(|&partner| (row, partner))).unzip();
        if queries.is_empty() {
            return Ok(());
        }
        let gallery: Vec<usize> = to.values().copied().collect();
        let (asked, index) = (prepare(&queries)?, prepare(&gallery)?.index()?);
        for block in asked.rows.chunks(BLOCK * asked.dim) {
            for hits in index.search(block, 5.min(gallery.len()))? {
                self.found.push(hits.into_iter().map(|hit| gallery[hit.row as usize]).collect());
            }
        }
        self.queries.extend(queries);
        self.partner.extend(partners);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(names: &[&str], rows: Vec<f32>) -> Features {
        Features {
            dim: rows.len() / names.len(),
            rows,
            labels: (0..names.len() as i64).map(|i| i % 2).collect(),
            names: names.iter().map(|&n| n.to_owned()).collect(),
            fingerprint: "test".into(),
        }
    }

    #[test]
    fn partners_are_found_by_name() {
        let names = ["b/x.png", "a/x.png", "b/y.png", "a/y.png", "b/z.png"];
        let angle = |degrees: f32| [degrees.to_radians().cos(), degrees.to_radians().sin()];
        let rows = [angle(0.0), angle(5.0), angle(90.0), angle(20.0), angle(22.0)].concat();
        let found = cross_view(&features(&names, rows), &Config::default()).unwrap();
        assert_eq!((found.queries, found.partner), (vec![1, 3, 0, 2], vec![0, 2, 1, 3]));
        assert_eq!(found.found, [vec![0, 4, 2], vec![4, 0, 2], vec![1, 3], vec![3, 1]]);
    }

    #[test]
    fn recall_counts_the_best() {
        let found =
            Retrieval { queries: vec![0, 1], found: vec![vec![2, 3], vec![2, 3]], partner: vec![2, 3] };
        assert_eq!((found.recall(1), found.recall(5)), (0.5, 1.0));
    }

    #[test]
    fn other_groupings_are_refused() {
        for names in [["a/x", "a/y"], ["a/x", "b/y"], ["x", "y"]] {
            let error = cross_view(&features(&names, vec![1.0, 2.0]), &Config::default()).unwrap_err();
            assert!(error.to_string().contains("eval.cross_view"), "{error}");
        }
    }

    #[test]
    fn neighbours_vote() {
        let train = features(&["a", "b", "c", "d"], vec![1.0, 0.0, 0.0, 1.0, 0.99, 0.1, 0.1, 0.99]);
        let mut test = features(&["q", "r"], vec![1.0, 0.05, 0.05, 1.0]);
        test.labels = vec![0, 0];
        let values = knn(&train, &test, &Config::default(), "x_").unwrap();
        let names: Vec<&str> = values.iter().map(|v| v.name.as_str()).collect();
        assert_eq!(names, ["x_knn", "x_knn_top5", "x_nn"]);
        assert_eq!((values[0].value, values[2].value), (0.5, 0.5));
    }
}
