//! The memory bank: one unit-length feature per training picture (paper §3.1, "Learning with a memory bank").

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use vision_core::ops;
use vision_core::rng::Key;
use vision_weights::{Array, StateDict};

use crate::error::{Error, Result};

/// How rows are filled before their picture was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BankInit {
    /// Uniform in `±1/sqrt(D/3)`, expected squared length 1: the released code.
    #[default]
    Uniform,
    /// The same, then normalised to unit length.
    UniformUnit,
    /// Uniform on the sphere: Gaussian, then normalised. What the paper's text says.
    GaussianUnit,
}

/// `V ∈ R^{n×D}`: row `i` belongs to picture `i` of the training set.
///
/// The order of a training step is forward, loss, backward, then [`MemoryBank::update`] with the features
/// of before the optimiser step. Updating before or after that step gives the same result; updating before
/// `backward` does not, since the loss reads the rows again there.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use instdisc::bank::{BankInit, MemoryBank};
/// use vision_core::rng::Key;
/// # fn main() -> instdisc::Result<()> {
/// let mut bank = MemoryBank::new(4, 2, BankInit::GaussianUnit, 0.0, Key::new(1), &Device::Cpu)?;
/// let feature = Tensor::new(&[[0.6f32, 0.8]], &Device::Cpu)?;
/// bank.update(&[2], &feature)?;
/// assert_eq!(bank.features().get(2)?.to_vec1::<f32>()?, [0.6, 0.8]);
/// assert_eq!(bank.visits(), [0, 0, 1, 0]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct MemoryBank {
    features: Tensor,
    visits: Vec<u32>,
    momentum: f64,
}

impl MemoryBank {
    /// A bank of `rows` rows of `dim` numbers. `momentum` is the share of the old row kept by an update,
    /// in `[0, 1]`: 0.5 in the released code, 0 with the paper's proximal term.
    ///
    /// # Errors
    /// If `rows` or `dim` is zero, or `momentum` is outside `[0, 1]`.
    pub fn new(
        rows: usize,
        dim: usize,
        init: BankInit,
        momentum: f64,
        key: Key,
        device: &Device,
    ) -> Result<Self> {
        if rows == 0 || dim == 0 {
            return Err(Error::size(
                "memory bank",
                "at least one row and one column",
                format!("{rows} x {dim}"),
            ));
        }
        check_momentum(momentum)?;
        let bound = 1.0 / (dim as f64 / 3.0).sqrt();
        let features = match init {
            BankInit::Uniform | BankInit::UniformUnit => {
                key.uniform((rows, dim), -bound, bound, DType::F32, device)?
            }
            BankInit::GaussianUnit => key.normal((rows, dim), 0.0, 1.0, DType::F32, device)?,
        };
        let features = match init {
            BankInit::Uniform => features,
            BankInit::UniformUnit | BankInit::GaussianUnit => ops::l2_normalize(&features, 1e-12)?,
        };
        Ok(Self { features, visits: vec![0; rows], momentum })
    }

    /// A bank around given rows `(n, D)`, such as those of a published checkpoint.
    ///
    /// # Errors
    /// If the tensor is not a matrix of `f32`, a row is not finite, or `momentum` is outside `[0, 1]`.
    pub fn from_features(features: &Tensor, momentum: f64) -> Result<Self> {
        check_momentum(momentum)?;
        let (rows, _) = features.dims2()?;
        let features = features.to_dtype(DType::F32)?.force_contiguous()?;
        for (row, values) in features.to_vec2::<f32>()?.iter().enumerate() {
            if values.iter().any(|v| !v.is_finite()) {
                return Err(Error::BadRow { what: "memory bank".into(), row });
            }
        }
        Ok(Self { features, visits: vec![0; rows], momentum })
    }

    /// Number of rows, `n`.
    pub fn rows(&self) -> usize {
        self.visits.len()
    }

    /// Length of a row, `D`.
    pub fn dim(&self) -> usize {
        self.features.dims().get(1).copied().unwrap_or(0)
    }

    /// All rows, `(n, D)`. No gradient ever reaches them.
    pub fn features(&self) -> &Tensor {
        &self.features
    }

    /// How often each row was updated.
    pub fn visits(&self) -> &[u32] {
        &self.visits
    }

    /// A copy of some rows, `(B, D)`, detached from later updates.
    ///
    /// # Errors
    /// If an index is not a row.
    pub fn rows_at(&self, index: &[u32]) -> Result<Tensor> {
        self.check(index)?;
        let index = Tensor::new(index, self.features.device())?;
        Ok(self.features.index_select(&index, 0)?)
    }

    /// Writes `u = μ·V[y] + (1 − μ)·f`, `V[y] = u / ‖u‖` for each sample, in batch order: a picture that
    /// occurs twice is updated twice. Nothing is written if any row would not be finite.
    ///
    /// # Errors
    /// If sizes disagree, an index is not a row, or a new row would have length zero or not be finite.
    pub fn update(&mut self, index: &[u32], features: &Tensor) -> Result<()> {
        self.check(index)?;
        if features.dims() != [index.len(), self.dim()] {
            return Err(Error::size(
                "bank update",
                format!("({}, {})", index.len(), self.dim()),
                format!("{:?}", features.dims()),
            ));
        }
        let rows = Tensor::new(index, self.features.device())?;
        ops::momentum_update_rows(&self.features, &rows, &features.detach(), self.momentum)?;
        for &row in index {
            if let Some(visits) = self.visits.get_mut(row as usize) {
                *visits = visits.saturating_add(1);
            }
        }
        Ok(())
    }

    /// Everything needed to go on: tensors `features` and `visits`.
    ///
    /// # Errors
    /// If the rows cannot be copied to memory.
    pub fn state(&self) -> Result<StateDict> {
        let mut state = StateDict::new();
        let values = self.features.flatten_all()?.to_vec1::<f32>()?;
        state.insert("features", Array::from_f32([self.rows(), self.dim()], &values)?);
        state.insert("visits", Array::from_u32([self.rows()], &self.visits)?);
        Ok(state)
    }

    /// Takes over what [`MemoryBank::state`] wrote.
    ///
    /// # Errors
    /// If a tensor is missing or has another size than this bank; the bank is unchanged then.
    pub fn restore(&mut self, state: &StateDict) -> Result<()> {
        let features = state.require("features")?;
        let visits = state.require("visits")?.to_u32()?;
        if features.shape != [self.rows(), self.dim()] || visits.len() != self.rows() {
            return Err(Error::size(
                "memory bank of the checkpoint",
                format!("{} x {}", self.rows(), self.dim()),
                format!("{:?}", features.shape),
            ));
        }
        self.features =
            Tensor::from_vec(features.to_f32()?, (self.rows(), self.dim()), self.features.device())?;
        self.visits = visits;
        Ok(())
    }

    fn check(&self, index: &[u32]) -> Result<()> {
        match index.iter().find(|&&row| row as usize >= self.rows()) {
            Some(row) => Err(Error::size("bank row", format!("less than {}", self.rows()), row)),
            None => Ok(()),
        }
    }
}

fn check_momentum(momentum: f64) -> Result<()> {
    if (0.0..=1.0).contains(&momentum) {
        Ok(())
    } else {
        Err(Error::config("bank.momentum", format!("must be within 0 and 1, is {momentum}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bank(momentum: f64) -> MemoryBank {
        MemoryBank::new(6, 8, BankInit::Uniform, momentum, Key::new(3), &Device::Cpu).unwrap()
    }

    fn norms(bank: &MemoryBank) -> Vec<f32> {
        bank.features().sqr().unwrap().sum(1).unwrap().sqrt().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn initial_rows_have_the_stated_lengths() {
        let n = 4000;
        let key = Key::new(5);
        let uniform = MemoryBank::new(n, 128, BankInit::Uniform, 0.5, key, &Device::Cpu).unwrap();
        let mean: f32 = norms(&uniform).iter().map(|v| v * v).sum::<f32>() / n as f32;
        assert!((mean - 1.0).abs() < 0.01, "{mean}");
        let bound = 1.0 / (128f32 / 3.0).sqrt();
        let max = uniform.features().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
        assert!(max <= bound && max > 0.99 * bound);
        for init in [BankInit::UniformUnit, BankInit::GaussianUnit] {
            let unit = MemoryBank::new(10, 128, init, 0.5, key, &Device::Cpu).unwrap();
            assert!(norms(&unit).iter().all(|v| (v - 1.0).abs() < 1e-6));
        }
    }

    #[test]
    fn an_update_touches_its_rows_only_and_normalises_them() {
        let mut bank = bank(0.5);
        let before = bank.features().to_vec2::<f32>().unwrap();
        let features = Key::new(9).normal((2, 8), 0.0, 1.0, DType::F32, &Device::Cpu).unwrap();
        bank.update(&[4, 1], &features).unwrap();
        let after = bank.features().to_vec2::<f32>().unwrap();
        for row in [0, 2, 3, 5] {
            assert_eq!(before[row], after[row]);
        }
        for row in [1, 4] {
            assert!((norms(&bank)[row] - 1.0).abs() < 1e-6);
            assert_ne!(before[row], after[row]);
        }
        assert_eq!(bank.visits(), [0, 1, 0, 0, 1, 0]);
    }

    #[test]
    fn momentum_one_keeps_the_direction_and_duplicates_follow_the_batch() {
        let mut keep = bank(1.0);
        let old = keep.rows_at(&[2]).unwrap();
        let unit = ops::l2_normalize(&old, 1e-12).unwrap().to_vec2::<f32>().unwrap();
        keep.update(&[2], &old.neg().unwrap()).unwrap();
        for (a, b) in keep.rows_at(&[2]).unwrap().to_vec2::<f32>().unwrap()[0].iter().zip(&unit[0]) {
            assert!((a - b).abs() < 1e-6);
        }
        let features = Key::new(9).normal((2, 8), 0.0, 1.0, DType::F32, &Device::Cpu).unwrap();
        let (mut both, mut one_by_one) = (bank(0.5), bank(0.5));
        both.update(&[3, 3], &features).unwrap();
        for row in 0..2 {
            one_by_one.update(&[3], &features.narrow(0, row, 1).unwrap()).unwrap();
        }
        assert_eq!(
            both.features().to_vec2::<f32>().unwrap(),
            one_by_one.features().to_vec2::<f32>().unwrap()
        );
    }

    #[test]
    fn a_bad_update_changes_nothing() {
        let mut bank = bank(0.0);
        let before = bank.features().to_vec2::<f32>().unwrap();
        let mut rows = vec![1f32; 16];
        rows[12] = f32::NAN;
        let features = Tensor::from_vec(rows, (2, 8), &Device::Cpu).unwrap();
        assert!(bank.update(&[0, 1], &features).is_err());
        assert!(bank.update(&[0, 1], &Tensor::zeros((2, 8), DType::F32, &Device::Cpu).unwrap()).is_err());
        assert!(bank.update(&[6], &Tensor::ones((1, 8), DType::F32, &Device::Cpu).unwrap()).is_err());
        assert!(bank.update(&[0], &Tensor::ones((1, 7), DType::F32, &Device::Cpu).unwrap()).is_err());
        assert_eq!(before, bank.features().to_vec2::<f32>().unwrap());
        assert_eq!(bank.visits(), [0; 6]);
    }

    #[test]
    fn state_round_trip() {
        let mut bank1 = bank(0.5);
        bank1.update(&[5], &Tensor::ones((1, 8), DType::F32, &Device::Cpu).unwrap()).unwrap();
        let mut bank2 = MemoryBank::new(6, 8, BankInit::Uniform, 0.5, Key::new(99), &Device::Cpu).unwrap();
        bank2.restore(&bank1.state().unwrap()).unwrap();
        assert_eq!(bank1.features().to_vec2::<f32>().unwrap(), bank2.features().to_vec2::<f32>().unwrap());
        assert_eq!(bank1.visits(), bank2.visits());
        let mut other = MemoryBank::new(7, 8, BankInit::Uniform, 0.5, Key::new(9), &Device::Cpu).unwrap();
        assert!(other.restore(&bank1.state().unwrap()).is_err());
    }

    #[test]
    fn impossible_banks_are_refused() {
        assert!(MemoryBank::new(0, 8, BankInit::Uniform, 0.5, Key::new(0), &Device::Cpu).is_err());
        assert!(MemoryBank::new(2, 8, BankInit::Uniform, 1.5, Key::new(0), &Device::Cpu).is_err());
    }
}
