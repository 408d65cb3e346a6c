//! The semantic encoding loss (§3.2): which classes are in the picture, predicted from the context alone.

use candle_core::{DType, Device, Tensor};
use vision_core::ops::{BceWithLogitsArgs, binary_cross_entropy_with_logits};

use crate::error::{Error, Result};

/// Which classes occur in each label map: 1 or 0, `(N, classes)` of type `f32`, on the CPU.
///
/// `labels` are `(N, H, W)` of type `i64` or `u32`, those of the crops the model is trained on. A background that is a
/// class counts as one; pixels labelled `ignore` do not count.
///
/// # Errors
/// If the labels have another rank or type, or one of them is neither a class nor `ignore`.
pub fn class_presence(labels: &Tensor, classes: usize, ignore: i64) -> Result<Tensor> {
    CheckedLabels::new(labels, classes, ignore)?.presence()
}

/// Binary cross entropy of `logits` `(N, classes)` against [`class_presence`], the mean over pictures and classes.
///
/// Computed from the logits, so none of them overflows; the authors' code takes logarithms of sigmoids and cuts them off
/// at -100, which shows in logits beyond 100 only.
///
/// # Errors
/// If the shapes differ.
pub fn se_loss(logits: &Tensor, presence: &Tensor) -> Result<Tensor> {
    let presence = presence.to_device(logits.device())?.to_dtype(logits.dtype())?;
    Ok(binary_cross_entropy_with_logits(logits, &presence, &BceWithLogitsArgs::default())?)
}

/// What the losses ask of labels `(N, H, W)` that are classes or ignored: read and checked once.
pub(crate) struct CheckedLabels {
    /// How often each class occurs in each picture, `(N, classes)`.
    counts: Vec<usize>,
    pictures: usize,
    classes: usize,
}

impl CheckedLabels {
    pub(crate) fn new(labels: &Tensor, classes: usize, ignore: i64) -> Result<Self> {
        let &[pictures, h, w] = labels.dims() else {
            return Err(Error::size("labels", "(N, H, W)", format!("{:?}", labels.dims())));
        };
        let numbers: Vec<i64> = match labels.dtype() {
            DType::I64 => labels.flatten_all()?.to_vec1()?,
            DType::U32 => labels.flatten_all()?.to_vec1::<u32>()?.into_iter().map(i64::from).collect(),
            got => return Err(Error::size("type of the labels", "i64 or u32", format!("{got:?}"))),
        };
        let (mut counts, pixels) = (vec![0; pictures * classes], h * w);
        for (position, label) in numbers.into_iter().enumerate().filter(|&(_, label)| label != ignore) {
            let class = usize::try_from(label).ok().filter(|&class| class < classes);
            let count = class.and_then(|class| counts.get_mut(position / pixels * classes + class));
            *count.ok_or(Error::Label { label, position, classes, ignore })? += 1;
        }
        Ok(Self { counts, pictures, classes })
    }

    /// Number of pixels with a class.
    pub(crate) fn pixels(&self) -> usize {
        self.counts.iter().sum()
    }

    /// [`class_presence`].
    pub(crate) fn presence(&self) -> Result<Tensor> {
        let present: Vec<f32> = self.counts.iter().map(|&count| if count > 0 { 1.0 } else { 0.0 }).collect();
        Ok(Tensor::from_vec(present, (self.pictures, self.classes), &Device::Cpu)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presence(labels: &[i64], classes: usize) -> Result<Vec<f32>> {
        let labels = Tensor::from_slice(labels, (1, 1, labels.len()), &Device::Cpu)?;
        Ok(class_presence(&labels, classes, -1)?.flatten_all()?.to_vec1()?)
    }

    #[test]
    fn what_occurs_is_one() {
        for classes in [2, 10, 19, 21, 59, 60, 150, 171, 847] {
            assert_eq!(presence(&[-1, -1, -1], classes).unwrap(), vec![0.0; classes]);
            let mut last = vec![0.0; classes];
            last[classes - 1] = 1.0;
            assert_eq!(presence(&[-1, classes as i64 - 1], classes).unwrap(), last);
        }
        assert_eq!(presence(&[2, 0, 2, -1], 4).unwrap(), [1.0, 0.0, 1.0, 0.0]);
        assert_eq!(presence(&[], 2).unwrap(), [0.0, 0.0]);
        let two = Tensor::new(&[[[0u32, 255]], [[1, 1]]], &Device::Cpu).unwrap();
        let two = class_presence(&two, 2, 255).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(two, [[1.0, 0.0], [0.0, 1.0]]);
    }

    #[test]
    fn other_labels_are_refused() {
        for (labels, classes) in [(vec![0, 255], 21), (vec![0, 21], 21), (vec![1, -2], 21)] {
            let error = presence(&labels, classes).unwrap_err();
            assert!(matches!(error, Error::Label { position: 1, .. }), "{error}");
        }
        let rank = Tensor::zeros((2, 2), DType::I64, &Device::Cpu).unwrap();
        assert!(class_presence(&rank, 2, -1).unwrap_err().to_string().starts_with("labels"));
        let float = Tensor::zeros((1, 2, 2), DType::F32, &Device::Cpu).unwrap();
        assert!(class_presence(&float, 2, -1).is_err());
    }

    #[test]
    fn far_logits_stay_finite() {
        let logits = Tensor::new(&[[200f32, -200.0, 0.5]], &Device::Cpu).unwrap();
        let value = |target: &[f32; 3]| {
            let target = Tensor::new(&[*target], &Device::Cpu).unwrap();
            se_loss(&logits, &target).unwrap().to_scalar::<f32>().unwrap()
        };
        let middle = -(1.0 / (1.0 + (-0.5f32).exp())).ln();
        assert!((value(&[1.0, 0.0, 1.0]) - middle / 3.0).abs() < 1e-6);
        assert!((value(&[0.0, 1.0, 1.0]) - (400.0 + middle) / 3.0).abs() < 1e-4);
        assert!(se_loss(&logits, &Tensor::zeros((1, 2), DType::F32, &Device::Cpu).unwrap()).is_err());
    }
}
