//! Which class is taken for which.

use crate::{Error, Result, UNKNOWN, Value};

/// The matrix takes 8 bytes times the square of this: half a gigabyte.
const MAX_CLASSES: usize = 8192;

/// A confusion matrix over classes `0..num_classes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confusion {
    num_classes: usize,
    matrix: Vec<u64>,
}

impl Confusion {
    /// An empty matrix.
    ///
    /// # Errors
    /// [`Error::Argument`] unless `num_classes` is in `1..=8192`.
    pub fn new(num_classes: usize) -> Result<Self> {
        if !(1..=MAX_CLASSES).contains(&num_classes) {
            let problem = format!("{num_classes} is outside 1..={MAX_CLASSES}");
            return Err(Error::Argument { name: "num_classes", problem });
        }
        Ok(Self { num_classes, matrix: vec![0; num_classes * num_classes] })
    }

    /// Counts one sample; a label of [`UNKNOWN`] is not counted.
    ///
    /// # Errors
    /// [`Error::Class`] when the prediction or the label is no class.
    pub fn update(&mut self, prediction: i64, label: i64) -> Result<()> {
        let column = self.class("prediction", prediction)?;
        if label == UNKNOWN {
            return Ok(());
        }
        let row = self.class("label", label)?;
        self.matrix[row * self.num_classes + column] += 1;
        Ok(())
    }

    /// The class as an index, if it is one.
    pub(crate) fn class(&self, what: &'static str, class: i64) -> Result<usize> {
        let classes = self.num_classes;
        let found = usize::try_from(class).ok().filter(|&class| class < classes);
        found.ok_or(Error::Class { what, class, classes })
    }

    /// Adds what another one counted.
    ///
    /// # Errors
    /// [`Error::Merge`] when it has another number of classes.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if self.num_classes != other.num_classes {
            return Err(Error::Merge { what: "the numbers of classes" });
        }
        self.matrix.iter_mut().zip(&other.matrix).for_each(|(ours, theirs)| *ours += theirs);
        Ok(())
    }

    /// Number of classes.
    pub fn num_classes(&self) -> usize {
        self.num_classes
    }

    /// The counts, `num_classes x num_classes`, row-major: a row per label, a column per prediction.
    pub fn matrix(&self) -> &[u64] {
        &self.matrix
    }

    /// The share of each class that was recognised; `None` for a class without samples.
    pub fn recalls(&self) -> Vec<Option<f64>> {
        let recall = |(class, row): (usize, &[u64])| {
            let count: u64 = row.iter().sum();
            (count > 0).then(|| row[class] as f64 / count as f64)
        };
        self.matrix.chunks(self.num_classes).enumerate().map(recall).collect()
    }

    /// The matrix with each row divided by its sum: the share of a class's samples that was taken for each class; `None`
    /// in the rows of classes without samples.
    pub fn row_shares(&self) -> Vec<Option<f64>> {
        let shares = |row: &[u64]| {
            let sum: u64 = row.iter().sum();
            row.iter().map(move |&count| (sum > 0).then(|| count as f64 / sum as f64)).collect::<Vec<_>>()
        };
        self.matrix.chunks(self.num_classes).flat_map(shares).collect()
    }

    /// `accuracy` over all samples, and `mean_class_accuracy`: the mean of [`Confusion::recalls`] over the
    /// classes that have samples.
    pub fn compute(&self) -> Vec<Value> {
        let count = self.matrix.iter().sum();
        let hits = self.matrix.iter().step_by(self.num_classes + 1).sum();
        let recalls: Vec<f64> = self.recalls().into_iter().flatten().collect();
        let mut mean = Value::share("mean_class_accuracy", 0, count);
        if !recalls.is_empty() {
            mean.value = recalls.iter().sum::<f64>() / recalls.len() as f64;
        }
        vec![Value::share("accuracy", hits, count), mean]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_hand() {
        let mut metric = Confusion::new(3).unwrap();
        for (prediction, label) in [(0, 0), (0, 0), (1, 0), (0, 0), (1, 2), (0, UNKNOWN)] {
            metric.update(prediction, label).unwrap();
        }
        assert_eq!(metric.matrix(), [3, 1, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(metric.recalls(), [Some(0.75), None, Some(0.0)]);
        assert_eq!(metric.row_shares()[..4], [Some(0.75), Some(0.25), Some(0.0), None]);
        assert_eq!(metric.row_shares()[6..], [Some(0.0), Some(1.0), Some(0.0)]);
        let [accuracy, mean] = metric.compute().try_into().unwrap();
        assert_eq!(accuracy, Value::share("accuracy", 3, 5));
        assert_eq!((mean.value, mean.count), (0.375, 5));
    }

    #[test]
    fn classes_outside_the_matrix_are_errors() {
        let mut metric = Confusion::new(2).unwrap();
        let error = Error::Class { what: "prediction", class: 2, classes: 2 };
        assert_eq!(metric.update(2, 0), Err(error));
        assert!(matches!(metric.update(0, -2), Err(Error::Class { what: "label", .. })));
        assert!(matches!(metric.update(-1, 0), Err(Error::Class { .. })));
        assert!(Confusion::new(0).is_err() && Confusion::new(usize::MAX).is_err());
        assert!(metric.merge(&Confusion::new(3).unwrap()).is_err());
        assert_eq!(metric.compute()[1].value, 0.0);
    }

    #[test]
    fn merging_adds_up() {
        let mut a = Confusion::new(2).unwrap();
        let mut b = a.clone();
        a.update(0, 0).unwrap();
        b.update(0, 1).unwrap();
        b.update(0, 0).unwrap();
        a.merge(&b).unwrap();
        assert_eq!(a.matrix(), [2, 0, 1, 0]);
    }
}
