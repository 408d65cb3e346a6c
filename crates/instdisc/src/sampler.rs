//! Which bank rows serve as negatives (paper §3.2: uniform noise over all instances).

use candle_core::{Device, Tensor};
use vision_core::rng::Key;

use crate::error::{Error, Result};

/// Draws negatives uniformly and with replacement over all `rows`, per sample.
///
/// The positive is not excluded unless asked for, as in the released code: a bank of `n` rows returns it
/// by chance `m / n` times per sample. Every draw is a function of the key and its position, so the stream
/// does not depend on the number of threads.
///
/// ```
/// use instdisc::sampler::NegativeSampler;
/// use vision_core::rng::Key;
/// # fn main() -> instdisc::Result<()> {
/// let sampler = NegativeSampler::new(50_000)?;
/// let index = sampler.draw(Key::new(7), &[3, 41], 4096)?;
/// assert_eq!(index.dims(), [2, 4097]);
/// assert_eq!(index.get(1)?.get(0)?.to_scalar::<u32>()?, 41);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct NegativeSampler {
    rows: u32,
    exclude_positive: bool,
    shared: bool,
}

impl NegativeSampler {
    /// A sampler over a bank of `rows` rows.
    ///
    /// # Errors
    /// If `rows` is zero or does not fit in 32 bits.
    pub fn new(rows: usize) -> Result<Self> {
        match u32::try_from(rows) {
            Ok(rows) if rows > 0 => Ok(Self { rows, exclude_positive: false, shared: false }),
            _ => Err(Error::size("bank rows", "1 to 4294967295", rows)),
        }
    }

    /// Never draws a sample's own row (`ensure_neg` of later implementations).
    ///
    /// # Errors
    /// If the bank has a single row: nothing else could be drawn.
    pub fn exclude_positive(mut self, yes: bool) -> Result<Self> {
        if yes && self.rows < 2 {
            return Err(Error::size("bank rows", "at least 2 to exclude the positive", self.rows));
        }
        self.exclude_positive = yes;
        Ok(self)
    }

    /// Draws one set of negatives for the whole batch. Cheaper, and not what the paper does.
    #[must_use]
    pub fn shared_per_batch(mut self, yes: bool) -> Self {
        self.shared = yes;
        self
    }

    /// Row numbers `(B, m + 1)` as `u32`: column 0 is the positive, the others are negatives.
    ///
    /// `key` must differ between steps.
    ///
    /// # Errors
    /// If a positive is not a row of the bank.
    pub fn draw(&self, key: Key, positives: &[u32], negatives: usize) -> Result<Tensor> {
        let mut index = Vec::with_capacity(positives.len() * (negatives + 1));
        for (sample, &positive) in positives.iter().enumerate() {
            if positive >= self.rows {
                return Err(Error::size(
                    format!("row of sample {sample}"),
                    format!("less than {}", self.rows),
                    positive,
                ));
            }
            index.push(positive);
            let first = if self.shared { 0 } else { sample * negatives };
            for counter in first..first + negatives {
                index.push(if self.exclude_positive {
                    // One of the other rows: those from the positive on move up by one.
                    let row = key.below_at(counter as u64, self.rows - 1)?;
                    row + u32::from(row >= positive)
                } else {
                    key.below_at(counter as u64, self.rows)?
                });
            }
        }
        Ok(Tensor::from_vec(index, (positives.len(), negatives + 1), &Device::Cpu)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_uniform() {
        // Chi-square over n = 1000 cells; 1143.9 is the 0.999 quantile of 999 degrees of freedom.
        let (n, draws) = (1000usize, 1_000_000);
        let index = NegativeSampler::new(n).unwrap().draw(Key::new(1), &[0], draws).unwrap();
        let mut cells = vec![0u32; n];
        for &row in &index.flatten_all().unwrap().to_vec1::<u32>().unwrap()[1..] {
            cells[row as usize] += 1;
        }
        let expected = draws as f64 / n as f64;
        let chi2: f64 = cells.iter().map(|&c| (f64::from(c) - expected).powi(2) / expected).sum();
        assert!(chi2 < 1143.9, "{chi2}");
    }

    #[test]
    fn the_positive_is_excluded_on_request_only() {
        let sampler = NegativeSampler::new(5).unwrap();
        let free = sampler.draw(Key::new(2), &[4, 0], 200).unwrap().to_vec2::<u32>().unwrap();
        assert!(free[0][1..].contains(&4));
        let strict = sampler.exclude_positive(true).unwrap();
        for (row, positive) in
            strict.draw(Key::new(2), &[4, 0], 200).unwrap().to_vec2::<u32>().unwrap().iter().zip([4, 0])
        {
            assert_eq!(row[0], positive);
            assert!(!row[1..].contains(&positive));
            for other in (0..5).filter(|&o| o != positive) {
                assert!(row[1..].contains(&other));
            }
        }
    }

    #[test]
    fn shared_negatives_are_the_same_for_all() {
        let rows = NegativeSampler::new(100)
            .unwrap()
            .shared_per_batch(true)
            .draw(Key::new(3), &[1, 2], 10)
            .unwrap()
            .to_vec2::<u32>()
            .unwrap();
        assert_eq!(rows[0][1..], rows[1][1..]);
    }

    #[test]
    fn bad_rows_are_refused() {
        assert!(NegativeSampler::new(0).is_err());
        assert!(NegativeSampler::new(1).unwrap().exclude_positive(true).is_err());
        let error = NegativeSampler::new(3).unwrap().draw(Key::new(0), &[3], 1).unwrap_err();
        assert!(error.to_string().contains("row of sample 0"), "{error}");
    }
}
