//! Averages between two logged steps, and how fast it goes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use candle_core::DType;

use crate::error::Result;
use crate::recipe::Scalar;

/// Sums of the numbers since the last logged step. Part of a checkpoint, so that a resumed run logs the
/// same averages.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Window {
    sums: BTreeMap<String, (f64, u64)>,
}

impl Window {
    pub(super) fn add(&mut self, name: &str, value: f64) {
        let entry = self.sums.entry(name.to_owned()).or_insert((0.0, 0));
        entry.0 += value;
        entry.1 += 1;
    }

    /// The averages by name; the window is empty afterwards.
    pub(super) fn take(&mut self) -> Vec<(String, f64)> {
        std::mem::take(&mut self.sums).into_iter().map(|(name, (sum, n))| (name, sum / n as f64)).collect()
    }

    pub(super) fn to_bits(&self) -> BTreeMap<String, (u64, u64)> {
        self.sums.iter().map(|(name, (sum, n))| (name.clone(), (sum.to_bits(), *n))).collect()
    }

    pub(super) fn from_bits(bits: &BTreeMap<String, (u64, u64)>) -> Self {
        Self {
            sums: bits.iter().map(|(name, (sum, n))| (name.clone(), (f64::from_bits(*sum), *n))).collect(),
        }
    }
}

/// Time and samples since the last logged step.
#[derive(Debug)]
pub(super) struct Meter {
    since: Instant,
    waited: Duration,
    samples: u64,
}

impl Meter {
    pub(super) fn start() -> Self {
        Self { since: Instant::now(), waited: Duration::ZERO, samples: 0 }
    }

    pub(super) fn add(&mut self, samples: usize, waited: Duration) {
        self.samples += samples as u64;
        self.waited += waited;
    }

    pub(super) fn images_per_second(&self) -> f64 {
        self.samples as f64 / self.since.elapsed().as_secs_f64().max(1e-9)
    }

    /// Share of the time spent waiting for data.
    pub(super) fn data_wait(&self) -> f64 {
        self.waited.as_secs_f64() / self.since.elapsed().as_secs_f64().max(1e-9)
    }
}

pub(super) fn read_scalar(value: &Scalar) -> Result<f64> {
    Ok(match value {
        Scalar::Number(number) => *number,
        Scalar::Tensor(tensor) => tensor.detach().reshape(())?.to_dtype(DType::F64)?.to_scalar::<f64>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_bring_the_sums_back() {
        let mut window = Window::default();
        for value in [0.1, 0.2, 0.3] {
            window.add("loss", value);
        }
        let mut back = Window::from_bits(&window.to_bits());
        assert_eq!(back, window);
        assert_eq!(back.take(), window.take());
        assert!(window.take().is_empty());
    }
}
