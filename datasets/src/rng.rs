//! Random numbers for the data side.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

/// A stream of random numbers that belongs to one sample of one epoch.
///
/// `ChaCha8`, keyed by a hash of (seed, epoch, index). The stream does not depend on the
/// worker that draws from it, on the order of samples, or on the machine, and its values are fixed:
/// changing them would change every trained model, so tests pin them.
#[derive(Debug, Clone)]
pub struct SampleRng {
    inner: ChaCha8Rng,
}

impl SampleRng {
    /// The stream of sample `index` in `epoch` of a run with `seed`.
    #[must_use]
    pub fn new(seed: u64, epoch: u64, index: u64) -> Self {
        Self::keyed("sample", seed, epoch, index)
    }

    /// The stream of another purpose, independent of all sample streams.
    pub(crate) fn keyed(purpose: &str, seed: u64, epoch: u64, index: u64) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"vision-datasets/");
        hash.update(purpose.as_bytes());
        hash.update([0]);
        for number in [seed, epoch, index] {
            hash.update(number.to_le_bytes());
        }
        Self { inner: ChaCha8Rng::from_seed(hash.finalize().into()) }
    }

    /// 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        self.inner.next_u32()
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.inner.next_u64()
    }

    /// Uniform in `[0, 1)`, a multiple of 2^-24.
    pub fn uniform(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 / (1u32 << 24) as f32
    }

    /// Uniform in `[0, 1)`, a multiple of 2^-53.
    pub fn uniform_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform between `lo` and `hi`; `lo` itself if they are equal.
    pub fn range(&mut self, lo: f64, hi: f64) -> f64 {
        lo + (hi - lo) * self.uniform_f64()
    }

    /// Uniform in `0..n`, without bias; 0 if `n` is 0.
    pub fn below(&mut self, n: u32) -> u32 {
        if n == 0 {
            return 0;
        }
        // Draws at or above the largest multiple of n would favour small results.
        let reject_from = u32::MAX - (u32::MAX % n + 1) % n;
        loop {
            let draw = self.next_u32();
            if draw <= reject_from {
                return draw % n;
            }
        }
    }

    /// Uniform in `0..n`, without bias; 0 if `n` is 0. For lengths beyond 32 bits.
    pub fn below_u64(&mut self, n: u64) -> u64 {
        if n == 0 {
            return 0;
        }
        if let Ok(small) = u32::try_from(n) {
            return u64::from(self.below(small));
        }
        let reject_from = u64::MAX - (u64::MAX % n + 1) % n;
        loop {
            let draw = self.next_u64();
            if draw <= reject_from {
                return draw % n;
            }
        }
    }

    /// Puts `items` in random order (Fisher-Yates, from the back).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below_u64(last as u64 + 1) as usize;
            items.swap(last, other);
        }
    }
}
