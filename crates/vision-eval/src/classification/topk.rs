//! Is the right class among the best k?

use crate::error::cutoffs;
use crate::{Error, Result, UNKNOWN, Value};

/// Share of samples whose label is among the first k classes of a ranking, for several k at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopK {
    ks: Vec<usize>,
    hits: Vec<u64>,
    count: u64,
}

impl TopK {
    /// A metric at the cut-offs `ks`.
    ///
    /// # Errors
    /// [`Error::Argument`] when `ks` is empty, repeats itself or contains 0.
    pub fn new(ks: &[usize]) -> Result<Self> {
        let ks = cutoffs(ks)?;
        Ok(Self { hits: vec![0; ks.len()], ks, count: 0 })
    }

    /// Counts one sample: its classes, best first, and its label. A ranking shorter than k counts as it is; a
    /// label of [`UNKNOWN`] is not counted.
    pub fn update(&mut self, ranking: &[i64], label: i64) {
        if label == UNKNOWN {
            return;
        }
        self.count += 1;
        let rank = ranking.iter().position(|&class| class == label);
        for (&k, hits) in self.ks.iter().zip(&mut self.hits) {
            *hits += u64::from(rank.is_some_and(|rank| rank < k));
        }
    }

    /// Adds what another one counted.
    ///
    /// # Errors
    /// [`Error::Merge`] when it has other cut-offs.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if self.ks != other.ks {
            return Err(Error::Merge { what: "the cut-offs" });
        }
        self.count += other.count;
        self.hits.iter_mut().zip(&other.hits).for_each(|(ours, theirs)| *ours += theirs);
        Ok(())
    }

    /// `topK` for every cut-off, in the order they were given in; fractions from 0 to 1.
    pub fn compute(&self) -> Vec<Value> {
        let share = |(k, &hits)| Value::share(format!("top{k}"), hits, self.count);
        self.ks.iter().zip(&self.hits).map(share).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_hand() {
        let mut metric = TopK::new(&[1, 3]).unwrap();
        metric.update(&[7, 2, 5, 9], 7);
        metric.update(&[7, 2, 5, 9], 5);
        metric.update(&[7, 2, 5, 9], 9);
        metric.update(&[], 9);
        metric.update(&[-1, 4], UNKNOWN);
        let values = metric.compute();
        assert_eq!(values[0], Value::share("top1", 1, 4));
        assert_eq!(values[1], Value::share("top3", 2, 4));
    }

    #[test]
    fn merging_equals_one_pass_and_checks_the_cutoffs() {
        let samples = [([1, 2], 1), ([2, 1], 1), ([3, 2], 1)];
        let mut whole = TopK::new(&[1, 2]).unwrap();
        let mut parts = [whole.clone(), whole.clone()];
        for (i, (ranking, label)) in samples.iter().enumerate() {
            whole.update(ranking, *label);
            parts[i % 2].update(ranking, *label);
        }
        let [mut a, b] = parts;
        a.merge(&b).unwrap();
        assert_eq!(a, whole);
        assert_eq!(a.merge(&TopK::new(&[1]).unwrap()), Err(Error::Merge { what: "the cut-offs" }));
    }

    #[test]
    fn cutoffs_are_checked_and_nothing_is_a_result() {
        for bad in [[].as_slice(), &[0], &[1, 5, 1]] {
            assert!(matches!(TopK::new(bad), Err(Error::Argument { name: "ks", .. })));
        }
        assert_eq!(TopK::new(&[1]).unwrap().compute(), [Value::share("top1", 0, 0)]);
    }
}
