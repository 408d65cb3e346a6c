//! The objective of a run: which loss, which negatives, which `Z`.

use candle_core::Tensor;
use vision_core::rng::Key;

use super::{first_batch_z, full_softmax, info_nce, nce, proximal, scores};
use crate::bank::MemoryBank;
use crate::config::{LossConfig, LossKind, ZPolicy};
use crate::error::Result;
use crate::sampler::NegativeSampler;

/// The objective of a training run: which loss, its negatives and its normaliser.
#[derive(Debug)]
pub struct Criterion {
    config: LossConfig,
    kind: LossKind,
    sampler: NegativeSampler,
    z: Option<f64>,
}

/// What one evaluation of the objective gives.
#[derive(Debug)]
pub struct LossOutput {
    /// What to differentiate: the instance loss plus the proximal term.
    pub total: Tensor,
    /// The instance discrimination loss, a scalar.
    pub instance: Tensor,
    /// The proximal term, a scalar, if there is one.
    pub proximal: Option<Tensor>,
}

impl Criterion {
    /// The objective for a bank of `rows` rows. [`LossKind::Auto`] becomes full softmax up to 100,000 rows
    /// and InfoNCE above.
    ///
    /// # Errors
    /// If the configuration does not fit the bank.
    pub fn new(config: &LossConfig, rows: usize) -> Result<Self> {
        let kind = match config.objective {
            LossKind::Auto if rows <= 100_000 => LossKind::FullSoftmax,
            LossKind::Auto => LossKind::InfoNce,
            other => other,
        };
        if kind == LossKind::Nce && config.z == ZPolicy::FrozenFirstBatch && rows < 20_000 {
            tracing::warn!(
                rows,
                "NCE with a frozen Z does not train on small sets; loss.objective = \"full-softmax\" or \
                 \"info-nce\", or loss.z = {{ ema = 0.99 }}, are safer"
            );
        }
        let sampler = NegativeSampler::new(rows)?
            .exclude_positive(config.exclude_positive)?
            .shared_per_batch(config.shared_per_batch);
        let z = match config.z {
            ZPolicy::Fixed(z) => Some(z),
            _ => None,
        };
        Ok(Self { config: config.clone(), kind, sampler, z })
    }

    /// The loss in use, [`LossKind::Auto`] resolved.
    pub fn kind(&self) -> LossKind {
        self.kind
    }

    /// The normaliser in use, once a batch was seen. Part of a run's state.
    pub fn z(&self) -> Option<f64> {
        self.z
    }

    /// Takes a normaliser over from a checkpoint.
    pub fn set_z(&mut self, z: Option<f64>) {
        self.z = z;
    }

    /// The loss of `features` `(B, D)` of the pictures `index`; `key` must differ between steps. The bank
    /// is read only.
    ///
    /// # Errors
    /// If shapes disagree, an index is not a row, or the normaliser is not finite.
    pub fn loss(
        &mut self,
        features: &Tensor,
        bank: &MemoryBank,
        index: &[u32],
        key: Key,
    ) -> Result<LossOutput> {
        let tau = self.config.temperature;
        let instance = match self.kind {
            LossKind::FullSoftmax | LossKind::Auto => {
                full_softmax(features, bank.features(), &Tensor::new(index, features.device())?, tau)?
            }
            LossKind::InfoNce => info_nce(&self.scores(features, bank, index, key)?)?,
            LossKind::Nce => {
                let scores = self.scores(features, bank, index, key)?;
                let z = self.next_z(&scores, bank.rows())?;
                nce(&scores, bank.rows(), z, self.config.form)?
            }
        };
        let lambda = self.config.proximal;
        let proximal =
            if lambda > 0.0 { Some(proximal(features, &bank.rows_at(index)?, lambda)?) } else { None };
        let total = match &proximal {
            Some(term) => (&instance + term)?,
            None => instance.clone(),
        };
        Ok(LossOutput { total, instance, proximal })
    }

    fn scores(&self, features: &Tensor, bank: &MemoryBank, index: &[u32], key: Key) -> Result<Tensor> {
        let drawn = self.sampler.draw(key, index, self.config.negatives)?;
        scores(features, bank.features(), &drawn, self.config.temperature)
    }

    /// `Z` for this batch, by the policy; what is kept for the next batch changes with it.
    fn next_z(&mut self, scores: &Tensor, rows: usize) -> Result<f64> {
        let z = match (self.config.z, self.z) {
            (ZPolicy::Fixed(z), _) | (ZPolicy::FrozenFirstBatch, Some(z)) => z,
            (ZPolicy::Ema(keep), Some(old)) => keep * old + (1.0 - keep) * first_batch_z(scores, rows)?,
            (ZPolicy::FrozenFirstBatch | ZPolicy::Ema(_), None) | (ZPolicy::PerBatch, _) => {
                first_batch_z(scores, rows)?
            }
        };
        self.z = Some(z);
        Ok(z)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use vision_core::ops;

    use super::*;
    use crate::bank::BankInit;

    fn unit(rows: usize, dim: usize, seed: u64) -> Tensor {
        let x = Key::new(seed).normal((rows, dim), 0.0, 1.0, DType::F64, &Device::Cpu).unwrap();
        ops::l2_normalize(&x, 1e-12).unwrap()
    }

    fn scalar(x: &Tensor) -> f64 {
        x.to_dtype(DType::F64).unwrap().to_scalar().unwrap()
    }

    #[test]
    fn initial_losses_are_as_expected() {
        // ln n + 1/(2Dτ²) for softmax, ln m + 1/(2Dτ²) + 1 for NCE.
        let (n, d, batch) = (50_000, 128, 256);
        let bank = MemoryBank::new(n, d, BankInit::Uniform, 0.5, Key::new(1), &Device::Cpu).unwrap();
        let f = unit(batch, d, 2).to_dtype(DType::F32).unwrap();
        let index: Vec<u32> = (0..batch as u32).map(|i| i * 190).collect();
        let config = LossConfig {
            temperature: 0.1,
            objective: LossKind::FullSoftmax,
            proximal: 0.0,
            ..LossConfig::default()
        };
        let mut softmax = Criterion::new(&config, n).unwrap();
        let loss = scalar(&softmax.loss(&f, &bank, &index, Key::new(0)).unwrap().total);
        assert!((loss - 11.21).abs() < 0.15, "softmax {loss}");
        let config = LossConfig { objective: LossKind::Nce, ..config };
        let mut nce = Criterion::new(&config, n).unwrap();
        let loss = scalar(&nce.loss(&f, &bank, &index, Key::new(0)).unwrap().total);
        assert!((loss - 9.71).abs() < 0.2, "nce {loss}");
        assert!((nce.z().unwrap() / n as f64 - 1.478).abs() < 0.02);
    }

    #[test]
    fn z_follows_its_policy() {
        let n = 30_000;
        let bank = MemoryBank::new(n, 16, BankInit::GaussianUnit, 0.5, Key::new(1), &Device::Cpu).unwrap();
        let index = [1u32, 2, 3];
        let run = |z: ZPolicy| {
            let config = LossConfig {
                objective: LossKind::Nce,
                z,
                negatives: 64,
                proximal: 0.0,
                ..LossConfig::default()
            };
            let mut criterion = Criterion::new(&config, n).unwrap();
            (0..3u64)
                .map(|step| {
                    let f = unit(3, 16, step).to_dtype(DType::F32).unwrap();
                    criterion.loss(&f, &bank, &index, Key::new(step)).unwrap();
                    criterion.z().unwrap()
                })
                .collect::<Vec<_>>()
        };
        let batches = run(ZPolicy::PerBatch);
        assert!(batches[0] != batches[1] && batches[1] != batches[2]);
        assert_eq!(run(ZPolicy::FrozenFirstBatch), [batches[0]; 3]);
        assert_eq!(run(ZPolicy::Fixed(5.0)), [5.0; 3]);
        let ema = run(ZPolicy::Ema(0.9));
        assert_eq!(ema[0], batches[0]);
        assert!((ema[1] - (0.9 * batches[0] + 0.1 * batches[1])).abs() < 1e-6 * ema[1]);
    }
}
