//! Semantic segmentation: a class for every pixel.
//!
//! With `inter_c` the pixels that are class `c` and predicted so, and `union_c` those that are either, counted over all
//! pictures together: `pix_acc = sum of inter / pixels`, `IoU_c = inter_c / union_c`, and `miou` is a mean of those. What a
//! class counts that no pixel has and none was taken for decides between two rules, [`AbsentClass`]; on sets in which
//! every class occurs they agree.

use serde::{Deserialize, Serialize};

use crate::classification::Confusion;
use crate::{Error, Result, UNKNOWN, Value};

/// What was counted of one class: a row of a table of results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassRow {
    /// The class.
    pub class: usize,
    /// Pixels that are this class.
    pub labelled: u64,
    /// Pixels that were taken for this class.
    pub predicted: u64,
    /// Pixels that are it and were taken for it.
    pub hits: u64,
    /// Share of all counted pixels that are this class; 0 when nothing was counted.
    pub area: f64,
    /// Intersection over union; `None` for a class that neither occurs nor is predicted.
    pub iou: Option<f64>,
    /// `hits / labelled`, the accuracy of the class; `None` for a class that does not occur.
    pub recall: Option<f64>,
    /// `hits / predicted`; `None` for a class that is not predicted.
    pub precision: Option<f64>,
    /// The other class that most of its pixels were taken for, the lowest of equals, and how many; `None` without such
    /// pixels.
    pub most_taken_for: Option<(usize, u64)>,
}

/// What a class counts in `miou` that neither occurs nor is predicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AbsentClass {
    /// It counts as an IoU of 0, as in the authors' evaluation of EncNet.
    #[default]
    Zero,
    /// It is left out of the mean, as in MMSegmentation.
    Skip,
}

/// Pixel accuracy and intersection over union over classes `0..num_classes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segmentation {
    confusion: Confusion,
    ignore: i64,
}

impl Segmentation {
    /// An empty metric; pixels labelled `ignore` are not counted, usual are -1 and 255.
    ///
    /// # Errors
    /// [`Error::Argument`] unless `num_classes` is in `1..=8192` and `ignore` is none of the classes.
    pub fn new(num_classes: usize, ignore: i64) -> Result<Self> {
        let confusion = Confusion::new(num_classes)?;
        if usize::try_from(ignore).is_ok_and(|ignore| ignore < num_classes) {
            let problem = format!("{ignore} is one of the {num_classes} classes");
            return Err(Error::Argument { name: "ignore", problem });
        }
        Ok(Self { confusion, ignore })
    }

    /// Counts the pixels of a picture, in any order that both share. If there is an error nothing is counted.
    ///
    /// # Errors
    /// [`Error::Length`] when the two differ in length, [`Error::Class`] when a prediction is no class or a label is
    /// neither a class nor the one to ignore: a label of 255 where -1 is ignored would otherwise pass as a miss.
    pub fn update<P, L>(&mut self, predictions: &[P], labels: &[L]) -> Result<()>
    where
        P: Copy + Into<i64>,
        L: Copy + Into<i64>,
    {
        if predictions.len() != labels.len() {
            let (expected, got) = (labels.len(), predictions.len());
            return Err(Error::Length { what: "predictions", expected, got });
        }
        let pixels =
            || predictions.iter().zip(labels).map(|(&prediction, &label)| (prediction.into(), label.into()));
        for (prediction, label) in pixels() {
            self.confusion.class("prediction", prediction)?;
            if label != self.ignore {
                self.confusion.class("label", label)?;
            }
        }
        for (prediction, label) in pixels() {
            self.confusion.update(prediction, if label == self.ignore { UNKNOWN } else { label })?;
        }
        Ok(())
    }

    /// Adds what another one counted.
    ///
    /// # Errors
    /// [`Error::Merge`] when it has another number of classes or ignores another label.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if self.ignore != other.ignore {
            return Err(Error::Merge { what: "the labels to ignore" });
        }
        self.confusion.merge(&other.confusion)
    }

    /// Which class was taken for which.
    pub fn confusion(&self) -> &Confusion {
        &self.confusion
    }

    /// Intersection and union of each class, in pixels.
    pub fn areas(&self) -> Vec<[u64; 2]> {
        self.rows().into_iter().map(|row| [row.hits, row.labelled + row.predicted - row.hits]).collect()
    }

    /// Everything counted of each class, in order.
    pub fn rows(&self) -> Vec<ClassRow> {
        let (classes, matrix) = (self.confusion.num_classes(), self.confusion.matrix());
        let mut predicted = vec![0u64; classes];
        for row in matrix.chunks_exact(classes) {
            for (sum, &count) in predicted.iter_mut().zip(row) {
                *sum += count;
            }
        }
        let pixels: u64 = predicted.iter().sum();
        let share = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
        let rows = matrix.chunks_exact(classes).zip(predicted).enumerate();
        rows.map(|(class, (row, predicted))| {
            let (hits, labelled) = (row[class], row.iter().sum());
            let others =
                row.iter().copied().enumerate().filter(|&(other, count)| other != class && count > 0);
            ClassRow {
                class,
                labelled,
                predicted,
                hits,
                area: share(labelled, pixels).unwrap_or(0.0),
                iou: share(hits, labelled + predicted - hits),
                recall: share(hits, labelled),
                precision: share(hits, predicted),
                // The last of the largest, from the end.
                most_taken_for: others.rev().max_by_key(|&(_, count)| count),
            }
        })
        .collect()
    }

    /// Intersection over union of each class; `None` for a class that neither occurs nor is predicted.
    pub fn ious(&self) -> Vec<Option<f64>> {
        self.rows().into_iter().map(|row| row.iou).collect()
    }

    /// `pix_acc` and `miou`, both shares of which more is better and with the number of pixels, and `classes_seen`, how
    /// many of the classes occur or are predicted.
    pub fn compute(&self, absent: AbsentClass) -> Vec<Value> {
        let areas = self.areas();
        let pixels = self.confusion.matrix().iter().sum();
        let hits = areas.iter().map(|[inter, _]| inter).sum();
        let seen: Vec<f64> = self.ious().into_iter().flatten().collect();
        let among = match absent {
            AbsentClass::Zero => areas.len(),
            AbsentClass::Skip => seen.len(),
        };
        let mut miou = Value::share("miou", 0, pixels);
        if among > 0 {
            miou.value = seen.iter().sum::<f64>() / among as f64;
        }
        let classes_seen = Value {
            name: "classes_seen".to_owned(),
            value: seen.len() as f64,
            unit: crate::Unit::Count,
            higher_is_better: None,
            count: pixels,
        };
        vec![Value::share("pix_acc", hits, pixels), miou, classes_seen]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Five classes, of which two are never seen.
    fn small() -> Segmentation {
        let mut metric = Segmentation::new(5, -1).unwrap();
        metric.update(&[0u8, 1, 1, 1], &[0i64, 0, 1, 1]).unwrap();
        metric.update(&[2u8, 0, 3, 0], &[2i64, 2, -1, -1]).unwrap();
        metric
    }

    #[test]
    fn both_rules_by_hand() {
        let metric = small();
        assert_eq!(metric.areas(), [[1, 3], [2, 3], [1, 2], [0, 0], [0, 0]]);
        let values = metric.compute(AbsentClass::Zero);
        assert_eq!(values[0], Value::share("pix_acc", 4, 6));
        assert!((values[1].value - 0.3).abs() < 1e-15, "{}", values[1]);
        assert_eq!((values[2].value, values[2].count), (3.0, 6));
        assert!((metric.compute(AbsentClass::Skip)[1].value - 0.5).abs() < 1e-15);
        assert_eq!(metric.ious()[2..], [Some(0.5), None, None]);
    }

    #[test]
    fn rows_by_hand() {
        let mut metric = small();
        metric.update(&[2u8, 1], &[0i64, 2]).unwrap();
        let rows = metric.rows();
        let first = ClassRow {
            class: 0,
            labelled: 3,
            predicted: 2,
            hits: 1,
            area: 0.375,
            iou: Some(0.25),
            recall: Some(1.0 / 3.0),
            precision: Some(0.5),
            most_taken_for: Some((1, 1)),
        };
        assert_eq!(rows[0], first);
        // One pixel each was taken for classes 0 and 1.
        assert_eq!((rows[2].labelled, rows[2].most_taken_for), (3, Some((0, 1))));
        assert_eq!((rows[1].most_taken_for, rows[1].recall, rows[1].precision), (None, Some(1.0), Some(0.5)));
        let absent = (rows[4].iou, rows[4].recall, rows[4].precision, rows[4].area);
        assert_eq!(absent, (None, None, None, 0.0));
    }

    #[test]
    fn shards_add_up_in_any_order() {
        let (mut a, mut b) = (Segmentation::new(3, 255).unwrap(), Segmentation::new(3, 255).unwrap());
        a.update(&[0i64, 1, 2], &[0u8, 255, 1]).unwrap();
        b.update(&[2i64, 2], &[2u8, 0]).unwrap();
        let (mut ab, mut ba) = (a.clone(), b.clone());
        ab.merge(&b).unwrap();
        ba.merge(&a).unwrap();
        assert_eq!(ab, ba);
        assert_eq!(ab.compute(AbsentClass::Zero)[0], Value::share("pix_acc", 2, 4));
        assert!(ab.merge(&Segmentation::new(3, -1).unwrap()).is_err());
        assert!(ab.merge(&Segmentation::new(4, 255).unwrap()).is_err());
    }

    #[test]
    fn pictures_add_up_to_one_pass_in_any_order() {
        let mut one = Segmentation::new(5, -1).unwrap();
        one.update(&[0u8, 1, 1, 1, 2, 0, 3, 0], &[0i64, 0, 1, 1, 2, 2, -1, -1]).unwrap();
        assert_eq!(small(), one);
        let mut other_order = Segmentation::new(5, -1).unwrap();
        other_order.update(&[2u8, 0, 3, 0], &[2i64, 2, -1, -1]).unwrap();
        other_order.update(&[0u8, 1, 1, 1], &[0i64, 0, 1, 1]).unwrap();
        assert_eq!(other_order, one);
        // Sets whose pixels a 32-bit number cannot count: doubling 2 x 2 pixels 32 times.
        for _ in 0..32 {
            let twin = one.clone();
            one.merge(&twin).unwrap();
        }
        assert_eq!(one.areas()[1], [2 << 32, 3 << 32]);
        let value = one.compute(AbsentClass::Zero);
        assert_eq!(value[0], Value::share("pix_acc", 4 << 32, 6 << 32));
        assert!((value[1].value - 0.3).abs() < 1e-15);
    }

    #[test]
    fn what_is_no_class_is_an_error_and_counts_nothing() {
        let mut metric = small();
        let before = metric.clone();
        let label = |class| Err(Error::Class { what: "label", class, classes: 5 });
        assert_eq!(metric.update(&[0u8, 0], &[0i64, 255]), label(255));
        assert!(matches!(metric.update(&[0u8, 5], &[0u8, 0]), Err(Error::Class { what: "prediction", .. })));
        assert!(matches!(metric.update(&[0u8], &[0u8, 0]), Err(Error::Length { .. })));
        assert_eq!(metric, before);
        let mut other = Segmentation::new(5, 255).unwrap();
        assert_eq!(other.update(&[0u8], &[-1i64]), label(-1));
        assert!(Segmentation::new(5, 3).is_err() && Segmentation::new(0, -1).is_err());
    }

    #[test]
    fn nothing_counted_is_zero() {
        let metric = Segmentation::new(2, -1).unwrap();
        assert!(metric.compute(AbsentClass::Skip).iter().all(|value| value.value == 0.0 && value.count == 0));
    }
}
