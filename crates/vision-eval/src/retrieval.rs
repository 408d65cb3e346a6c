//! Is the thing looked for among the first k found?

use crate::error::cutoffs;
use crate::{Error, Result, Value};

/// Recall at k: the share of queries whose first right answer is among the best k, for several k at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recall {
    ks: Vec<usize>,
    hits: Vec<u64>,
    count: u64,
}

impl Recall {
    /// A metric at the cut-offs `ks`.
    ///
    /// # Errors
    /// [`Error::Argument`] when `ks` is empty, repeats itself or contains 0.
    pub fn new(ks: &[usize]) -> Result<Self> {
        let ks = cutoffs(ks)?;
        Ok(Self { hits: vec![0; ks.len()], ks, count: 0 })
    }

    /// Counts one query. `rank_of_first_hit` is the position of the first right answer, 0 for the best; `None`
    /// when none was found.
    pub fn update(&mut self, rank_of_first_hit: Option<usize>) {
        self.count += 1;
        for (&k, hits) in self.ks.iter().zip(&mut self.hits) {
            *hits += u64::from(rank_of_first_hit.is_some_and(|rank| rank < k));
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

    /// `recall_at_K` for every cut-off, in the order they were given in; fractions from 0 to 1.
    pub fn compute(&self) -> Vec<Value> {
        let share = |(k, &hits)| Value::share(format!("recall_at_{k}"), hits, self.count);
        self.ks.iter().zip(&self.hits).map(share).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_hand() {
        let mut a = Recall::new(&[1, 10]).unwrap();
        let mut b = a.clone();
        a.update(Some(0));
        a.update(Some(9));
        b.update(Some(10));
        b.update(None);
        b.merge(&a).unwrap();
        assert_eq!(b.compute(), [Value::share("recall_at_1", 1, 4), Value::share("recall_at_10", 2, 4)]);
        assert!(b.merge(&Recall::new(&[1]).unwrap()).is_err());
        assert!(Recall::new(&[]).is_err());
        assert_eq!(Recall::new(&[5]).unwrap().compute()[0].count, 0);
    }
}
