//! The weighted nearest-neighbour vote of instance discrimination (Wu, Xiong, Yu, Lin, CVPR 2018, section 3.4).
//!
//! Finding the neighbours is somebody else's work; here they vote. Neighbour `i` with similarity `s_i` gives its
//! class `exp(s_i / sigma)`. Only ratios of scores matter, so weights are taken relative to the nearest labelled
//! neighbour: `exp((s_i - s_max) / sigma)` cannot overflow, however small sigma is.

use std::collections::{BTreeMap, BTreeSet};

use crate::classification::TopK;
use crate::{Error, Result, UNKNOWN, Value};

/// The vote and its two settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WeightedKnn {
    /// Neighbours that vote; the paper takes 200.
    pub k: usize,
    /// How fast weights fall with similarity, above 0; the paper takes 0.07.
    pub sigma: f64,
}

/// Classes in order of their votes.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranking {
    /// Every known class with its score, best first. Classes with a vote come first, in order of score, equal
    /// scores by label; classes without follow with score 0, by label.
    pub classes: Vec<(i64, f64)>,
    /// The similarity whose weight is 1: that of the nearest neighbour with a known label. `None` when no
    /// neighbour has one. A score times `exp(reference / sigma)` is the plain sum of `exp(s / sigma)`.
    pub reference: Option<f64>,
}

impl Ranking {
    /// The class with the most votes; `None` when no class is known.
    pub fn prediction(&self) -> Option<i64> {
        self.classes.first().map(|&(class, _)| class)
    }
}

impl WeightedKnn {
    /// A vote of `k` neighbours with bandwidth `sigma`.
    ///
    /// # Errors
    /// [`Error::Argument`] unless `k` is at least 1 and `sigma` a finite number above 0.
    pub fn new(k: usize, sigma: f64) -> Result<Self> {
        let knn = Self { k, sigma };
        knn.validate()?;
        Ok(knn)
    }

    fn validate(&self) -> Result<()> {
        if self.k == 0 {
            return Err(Error::Argument { name: "k", problem: "nobody votes".to_owned() });
        }
        if !(self.sigma.is_finite() && self.sigma > 0.0) {
            return Err(Error::Argument { name: "sigma", problem: format!("{} is not above 0", self.sigma) });
        }
        Ok(())
    }

    /// Lets the first `k` neighbours of one query vote.
    ///
    /// `rows` and `similarities` hold its neighbours, the most similar first and equal ones by rising row;
    /// `labels` has the class of every row, [`UNKNOWN`] where there is none. Such neighbours count among the `k`
    /// but do not vote. Every class of `labels` is ranked; who ranks many queries saves time with
    /// [`WeightedKnn::rank_among`].
    ///
    /// # Errors
    /// [`Error::TooFew`] when there are fewer than `k` labels or neighbours, [`Error::Length`] when `rows` and
    /// `similarities` differ in length, [`Error::NotFinite`], [`Error::Row`] or [`Error::Order`] for a neighbour
    /// that is not as described, [`Error::Argument`] for settings that [`WeightedKnn::new`] refuses.
    pub fn rank(&self, rows: &[u32], similarities: &[f32], labels: &[i64]) -> Result<Ranking> {
        self.rank_among(rows, similarities, labels, &classes(labels))
    }

    /// [`WeightedKnn::rank`] with the classes to rank given: those of [`classes`].
    ///
    /// # Errors
    /// Those of [`WeightedKnn::rank`].
    pub fn rank_among(
        &self,
        rows: &[u32],
        similarities: &[f32],
        labels: &[i64],
        classes: &[i64],
    ) -> Result<Ranking> {
        self.validate()?;
        self.check(rows, similarities, labels)?;
        let mut reference = None;
        let mut votes: BTreeMap<i64, f64> = BTreeMap::new();
        for (&row, &similarity) in rows.iter().zip(similarities).take(self.k) {
            let label = labels[row as usize];
            if label != UNKNOWN {
                let similarity = f64::from(similarity);
                let reference = *reference.get_or_insert(similarity);
                *votes.entry(label).or_default() += ((similarity - reference) / self.sigma).exp();
            }
        }
        let silent = classes.iter().filter(|class| !votes.contains_key(class)).map(|&class| (class, 0.0));
        let silent: Vec<(i64, f64)> = silent.collect();
        let mut ranked: Vec<(i64, f64)> = votes.into_iter().collect();
        // The sort is stable and the map was in order of labels.
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
        ranked.extend(silent);
        Ok(Ranking { classes: ranked, reference })
    }

    fn check(&self, rows: &[u32], similarities: &[f32], labels: &[i64]) -> Result<()> {
        let k = self.k;
        if rows.len() != similarities.len() {
            let (expected, got) = (rows.len(), similarities.len());
            return Err(Error::Length { what: "similarities", expected, got });
        }
        if labels.len() < k {
            return Err(Error::TooFew { k, what: "the training set", got: labels.len() });
        }
        if rows.len() < k {
            return Err(Error::TooFew { k, what: "the list of neighbours", got: rows.len() });
        }
        let mut previous: Option<(f32, u32)> = None;
        for (position, (&row, &value)) in rows.iter().zip(similarities).take(k).enumerate() {
            if !value.is_finite() {
                return Err(Error::NotFinite { position, row, value });
            }
            if row as usize >= labels.len() {
                return Err(Error::Row { position, row, rows: labels.len() });
            }
            if previous.is_some_and(|(before, above)| before < value || (before == value && above >= row)) {
                return Err(Error::Order { position });
            }
            previous = Some((value, row));
        }
        Ok(())
    }
}

/// The classes that occur in `labels`, in order; [`UNKNOWN`] is none.
pub fn classes(labels: &[i64]) -> Vec<i64> {
    let distinct: BTreeSet<i64> = labels.iter().copied().filter(|&label| label != UNKNOWN).collect();
    distinct.into_iter().collect()
}

/// Top-k accuracy of the vote over a set of queries.
#[derive(Debug, Clone, PartialEq)]
pub struct KnnAccuracy {
    knn: WeightedKnn,
    labels: Vec<i64>,
    classes: Vec<i64>,
    accuracy: TopK,
}

impl KnnAccuracy {
    /// A metric over a training set with these labels, at the cut-offs `topk`. A cut-off beyond the number of
    /// classes that vote is filled with silent classes by label, which says little.
    ///
    /// # Errors
    /// [`Error::TooFew`] when the training set has fewer than `k` rows, [`Error::Argument`] when `topk` is
    /// empty, repeats itself or contains 0, or for settings that [`WeightedKnn::new`] refuses.
    pub fn new(knn: WeightedKnn, train_labels: Vec<i64>, topk: &[usize]) -> Result<Self> {
        knn.validate()?;
        if train_labels.len() < knn.k {
            return Err(Error::TooFew { k: knn.k, what: "the training set", got: train_labels.len() });
        }
        Ok(Self { knn, classes: classes(&train_labels), labels: train_labels, accuracy: TopK::new(topk)? })
    }

    /// Counts one query: its neighbours as [`WeightedKnn::rank`] wants them, and its label. A query labelled
    /// [`UNKNOWN`] is checked but not counted; one whose class the training set lacks is a miss.
    ///
    /// # Errors
    /// Those of [`WeightedKnn::rank`]; the query is not counted then.
    pub fn update(&mut self, rows: &[u32], similarities: &[f32], label: i64) -> Result<()> {
        let ranking = self.knn.rank_among(rows, similarities, &self.labels, &self.classes)?;
        let order: Vec<i64> = ranking.classes.into_iter().map(|(class, _)| class).collect();
        self.accuracy.update(&order, label);
        Ok(())
    }

    /// Adds what another one counted.
    ///
    /// # Errors
    /// [`Error::Merge`] when it has other settings, training labels or cut-offs.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if self.knn != other.knn {
            return Err(Error::Merge { what: "the settings of the vote" });
        }
        if self.labels != other.labels {
            return Err(Error::Merge { what: "the training labels" });
        }
        self.accuracy.merge(&other.accuracy)
    }

    /// `topK` for every cut-off, in the order they were given in; fractions from 0 to 1.
    pub fn compute(&self) -> Vec<Value> {
        self.accuracy.compute()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABELS: [i64; 6] = [30, 10, 10, UNKNOWN, 20, 40];

    #[test]
    fn votes_by_hand() {
        let knn = WeightedKnn::new(4, 0.5).unwrap();
        let ranking = knn.rank(&[3, 0, 1, 2, 4], &[0.9, 0.5, 0.25, 0.0, -0.5], &LABELS).unwrap();
        assert_eq!(ranking.reference, Some(0.5));
        let ten = (-0.5f64).exp() + (-1.0f64).exp();
        assert_eq!(ranking.classes, [(30, 1.0), (10, ten), (20, 0.0), (40, 0.0)]);
        assert_eq!(ranking.prediction(), Some(30));
    }

    #[test]
    fn equal_votes_go_to_the_lower_label() {
        let ranking = WeightedKnn::new(2, 0.1).unwrap().rank(&[0, 4], &[0.5, 0.5], &LABELS).unwrap();
        assert_eq!(ranking.classes, [(20, 1.0), (30, 1.0), (10, 0.0), (40, 0.0)]);
    }

    #[test]
    fn a_vanishing_vote_still_beats_none() {
        // exp(-2 / 0.001) is 0 in 64 bits.
        let ranking = WeightedKnn::new(2, 0.001).unwrap().rank(&[0, 5], &[1.0, -1.0], &LABELS).unwrap();
        assert_eq!(ranking.classes, [(30, 1.0), (40, 0.0), (10, 0.0), (20, 0.0)]);
        // Unknown neighbours do not push the others down to nothing.
        let ranking = WeightedKnn::new(2, 0.001).unwrap().rank(&[3, 5], &[1.0, -1.0], &LABELS).unwrap();
        assert_eq!(ranking.classes[0], (40, 1.0));
    }

    #[test]
    fn neighbours_without_labels_leave_the_order_of_labels() {
        let ranking = WeightedKnn::new(1, 0.1).unwrap().rank(&[3], &[0.5], &LABELS).unwrap();
        assert_eq!(ranking.classes, [(10, 0.0), (20, 0.0), (30, 0.0), (40, 0.0)]);
        assert_eq!(ranking.reference, None);
        let nobody = WeightedKnn::new(1, 0.1).unwrap().rank(&[0], &[0.5], &[UNKNOWN]).unwrap();
        assert_eq!(nobody.prediction(), None);
    }

    #[test]
    fn bad_neighbours_are_errors() {
        let rank = |rows: &[u32], similarities: &[f32]| {
            WeightedKnn::new(2, 0.1).unwrap().rank(rows, similarities, &LABELS).unwrap_err()
        };
        assert!(matches!(rank(&[0, 1], &[0.5, f32::NAN]), Error::NotFinite { position: 1, row: 1, .. }));
        assert!(matches!(rank(&[0, 1], &[f32::INFINITY, 0.0]), Error::NotFinite { position: 0, .. }));
        assert_eq!(rank(&[0, 6], &[0.5, 0.4]), Error::Row { position: 1, row: 6, rows: 6 });
        assert_eq!(rank(&[0, 1], &[0.4, 0.5]), Error::Order { position: 1 });
        assert_eq!(rank(&[1, 0], &[0.5, 0.5]), Error::Order { position: 1 });
        assert_eq!(rank(&[1, 1], &[0.5, 0.5]), Error::Order { position: 1 });
        assert_eq!(rank(&[0], &[0.5]), Error::TooFew { k: 2, what: "the list of neighbours", got: 1 });
        assert_eq!(rank(&[0, 1], &[0.5]), Error::Length { what: "similarities", expected: 2, got: 1 });
    }

    #[test]
    fn settings_are_checked() {
        for (k, sigma) in [(0, 0.1), (1, 0.0), (1, -1.0), (1, f64::NAN), (1, f64::INFINITY)] {
            assert!(matches!(WeightedKnn::new(k, sigma), Err(Error::Argument { .. })), "{k} {sigma}");
        }
        let knn = WeightedKnn::new(7, 0.1).unwrap();
        let error = Error::TooFew { k: 7, what: "the training set", got: 6 };
        assert_eq!(KnnAccuracy::new(knn, LABELS.to_vec(), &[1]), Err(error.clone()));
        assert_eq!(knn.rank(&[], &[], &LABELS), Err(error));
        assert!(KnnAccuracy::new(WeightedKnn::new(1, 0.1).unwrap(), LABELS.to_vec(), &[]).is_err());
    }

    #[test]
    fn merging_checks_the_settings() {
        let metric = |k, labels: &[i64]| {
            KnnAccuracy::new(WeightedKnn::new(k, 0.1).unwrap(), labels.to_vec(), &[1]).unwrap()
        };
        let mut ours = metric(1, &LABELS);
        assert!(matches!(ours.merge(&metric(2, &LABELS)), Err(Error::Merge { .. })));
        assert!(matches!(ours.merge(&metric(1, &LABELS[1..])), Err(Error::Merge { .. })));
        ours.merge(&metric(1, &LABELS)).unwrap();
        assert_eq!(ours.compute(), [Value::share("top1", 0, 0)]);
    }
}
