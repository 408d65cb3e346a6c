//! Counter-based random numbers: the value at a position depends on a key and that position alone.
//!
//! The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as
//! 1, 2, 3", 2011). There is no state to advance, so results do not depend on the number of threads or
//! on the order of calls, and a run that is resumed needs nothing but its seed and its counters.
//!
//! The 128-bit Philox counter is used as `[position low, position high, attempt, domain]`. The domain
//! keeps the different kinds of draws of one key apart; it is part of the value-stable format.

use candle_core::{DType, Device, Shape, Tensor};
use rayon::prelude::*;

use crate::error::{Error, Result};

/// What a Philox block is used for: the last counter word.
mod domain {
    pub(super) const BITS: u32 = 0;
    pub(super) const BELOW: u32 = 1;
    pub(super) const BELOW_RETRY: u32 = 2;
    pub(super) const NORMAL: u32 = 3;
    pub(super) const FOLD_NAME: u32 = 4;
    pub(super) const FOLD_NUMBER: u32 = 5;
    pub(super) const MASK: u32 = 6;
}

/// Elements one rayon task fills; small enough to share the work, large enough to pay for a task.
const CHUNK: usize = 1 << 14;

/// Words that [`Key::mask_words`] makes at once: those of [`LANES`] blocks.
pub(crate) const MASK_WORDS: usize = 4 * LANES;
/// Blocks computed side by side.
const LANES: usize = 8;

/// A random key: names a stream of random numbers.
///
/// Derive one key per use with [`Key::fold`] and [`Key::fold_u64`] instead of sharing one:
///
/// ```
/// use vision_core::rng::Key;
/// let step = Key::new(7).fold("train").fold_u64(1200);
/// assert_eq!(step.u64_at(3), step.u64_at(3));
/// assert_ne!(step.u64_at(3), step.fold("dropout").u64_at(3));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(u64);

impl Key {
    /// The root key of a seed. The seed is the Philox key itself.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The key of `name` below this key.
    ///
    /// The name goes through 64-bit FNV-1a, the hash through one Philox block under this key. Equal
    /// names give equal keys on every platform and in every version.
    #[must_use]
    pub fn fold(&self, name: &str) -> Self {
        self.derive(fnv1a(name.as_bytes()), domain::FOLD_NAME)
    }

    /// The key of `number` below this key; never the key of a name by construction.
    #[must_use]
    pub fn fold_u64(&self, number: u64) -> Self {
        self.derive(number, domain::FOLD_NUMBER)
    }

    /// 64 random bits at position `counter`.
    pub fn u64_at(&self, counter: u64) -> u64 {
        // One block holds two values.
        join(half(self.block(counter >> 1, 0, domain::BITS), counter))
    }

    /// A uniform number in `[0, 1)` at position `counter`, a multiple of 2^-53.
    pub fn f64_at(&self, counter: u64) -> f64 {
        unit(self.u64_at(counter))
    }

    /// A uniform integer in `0..n` at position `counter`, without modulo bias (Lemire's method:
    /// multiply, and draw again in the rare case that the product falls into the uneven rest).
    ///
    /// # Errors
    /// If `n` is 0.
    pub fn below_at(&self, counter: u64, n: u32) -> Result<u32> {
        if n == 0 {
            return Err(Error::argument("Key::below_at: n", "must be at least 1"));
        }
        Ok(self.below_unchecked(counter, n))
    }

    /// A tensor of uniform numbers in `[lo, hi)`; element `i` in row-major order is made from
    /// [`Key::f64_at`] of `i`. An `f32` tensor holds the rounded values of the `f64` one.
    ///
    /// # Errors
    /// If `dtype` is neither `F32` nor `F64`, or `lo < hi` does not hold for finite numbers.
    pub fn uniform(
        &self,
        shape: impl Into<Shape>,
        lo: f64,
        hi: f64,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        if !(lo.is_finite() && hi.is_finite() && lo < hi) {
            return Err(Error::argument(
                "Key::uniform: lo, hi",
                format!("{lo} and {hi} are not finite numbers with lo < hi"),
            ));
        }
        // Rounding may reach `hi`; the interval stays half open.
        let top = hi.next_down();
        let value = |i: u64| (lo + (hi - lo) * self.f64_at(i)).min(top);
        floats("Key::uniform", shape.into(), hi, value, dtype, device)
    }

    /// A tensor of normal numbers with the given mean and standard deviation (Box-Muller; elements
    /// `2i` and `2i + 1` come from one pair of uniform numbers).
    ///
    /// Values are stable up to the last bits of the platform's `ln`, `sin` and `cos`.
    ///
    /// # Errors
    /// If `dtype` is neither `F32` nor `F64`, or `std` is negative, or one of the numbers is not finite.
    pub fn normal(
        &self,
        shape: impl Into<Shape>,
        mean: f64,
        std: f64,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        if !(mean.is_finite() && std.is_finite() && std >= 0.) {
            return Err(Error::argument(
                "Key::normal: mean, std",
                format!("{mean} and {std} are not finite numbers with std >= 0"),
            ));
        }
        let value = |i: u64| mean + std * self.standard_normal_at(i);
        floats("Key::normal", shape.into(), f64::INFINITY, value, dtype, device)
    }

    /// A `u32` tensor of uniform integers in `0..n`; element `i` is [`Key::below_at`] of `i`.
    ///
    /// # Errors
    /// If `n` is 0.
    pub fn below(&self, n: u32, shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
        if n == 0 {
            return Err(Error::argument("Key::below: n", "must be at least 1"));
        }
        let shape = shape.into();
        let data = fill(shape.elem_count(), |i| self.below_unchecked(i, n));
        Ok(Tensor::from_vec(data, shape, &Device::Cpu)?.to_device(device)?)
    }

    /// Writes the 32 random words number `32 group` to `32 group + 31` of this key's stream for masks. Word
    /// `8 w + l` of a group is word `w` of block `8 group + l`, an order that vector instructions like.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "part of vectorised loops")]
    pub(crate) fn mask_words(self, group: u64, out: &mut [u32; MASK_WORDS]) {
        let first = group.wrapping_mul(LANES as u64);
        let mut counter = [[0; LANES], [(first >> 32) as u32; LANES], [0; LANES], [domain::MASK; LANES]];
        // Groups are whole multiples of the lanes, so the low word does not overflow within one.
        for (l, low) in counter[0].iter_mut().enumerate() {
            *low = (first as u32).wrapping_add(l as u32);
        }
        let words = philox_lanes(counter, [self.0 as u32, (self.0 >> 32) as u32]);
        for (out, words) in out.as_chunks_mut::<LANES>().0.iter_mut().zip(words) {
            *out = words;
        }
    }

    /// The two halves of the key and the domain of [`Key::mask_words`], for kernels that make the same words.
    #[cfg(feature = "cuda")]
    pub(crate) fn mask_counter(self) -> [u32; 3] {
        [self.0 as u32, (self.0 >> 32) as u32, domain::MASK]
    }

    fn derive(self, payload: u64, domain: u32) -> Self {
        Self(join(half(self.block(payload, 0, domain), 0)))
    }

    fn block(self, position: u64, attempt: u32, domain: u32) -> [u32; 4] {
        philox4x32_10(
            [position as u32, (position >> 32) as u32, attempt, domain],
            [self.0 as u32, (self.0 >> 32) as u32],
        )
    }

    /// `n` must not be 0.
    fn below_unchecked(self, counter: u64, n: u32) -> u32 {
        // The first attempt shares its block with three neighbours; later ones are rare and have their own.
        let first = self.block(counter >> 2, 0, domain::BELOW)[(counter & 3) as usize];
        let mut product = u64::from(first) * u64::from(n);
        let threshold = n.wrapping_neg() % n;
        let mut attempt = 0;
        while (product as u32) < threshold {
            product = u64::from(self.block(counter, attempt, domain::BELOW_RETRY)[0]) * u64::from(n);
            attempt = attempt.wrapping_add(1);
        }
        (product >> 32) as u32
    }

    fn standard_normal_at(self, counter: u64) -> f64 {
        let block = self.block(counter >> 1, 0, domain::NORMAL);
        // 1 - u lies in (0, 1], so the logarithm is finite.
        let radius = (-2. * (1. - unit(join(half(block, 0)))).ln()).sqrt();
        let angle = std::f64::consts::TAU * unit(join(half(block, 1)));
        if counter & 1 == 0 { radius * angle.cos() } else { radius * angle.sin() }
    }
}

/// A float tensor of `value(i)`, all of them below `hi` also after rounding to `f32`.
fn floats(
    what: &str,
    shape: Shape,
    hi: f64,
    value: impl Fn(u64) -> f64 + Sync,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    let count = shape.elem_count();
    let tensor = match dtype {
        DType::F64 => Tensor::from_vec(fill(count, value), shape, &Device::Cpu)?,
        DType::F32 => {
            // The largest `f32` below `hi`, whichever way `hi` itself rounds.
            let rounded = hi as f32;
            let top = if hi.is_finite() && f64::from(rounded) >= hi { rounded.next_down() } else { rounded };
            Tensor::from_vec(fill(count, |i| (value(i) as f32).min(top)), shape, &Device::Cpu)?
        }
        got => {
            return Err(Error::Dtype { what: what.into(), expected: "F32 or F64".into(), got });
        }
    };
    Ok(tensor.to_device(device)?)
}

/// `value(i)` for `i` in `0..count`, in parallel.
fn fill<T: Default + Clone + Send>(count: usize, value: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let mut data = vec![T::default(); count];
    data.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, part)| {
        for (i, x) in part.iter_mut().enumerate() {
            *x = value((chunk * CHUNK + i) as u64);
        }
    });
    data
}

fn half(block: [u32; 4], which: u64) -> [u32; 2] {
    if which & 1 == 0 { [block[0], block[1]] } else { [block[2], block[3]] }
}

fn join(words: [u32; 2]) -> u64 {
    u64::from(words[0]) | u64::from(words[1]) << 32
}

/// The top 53 bits as a number in `[0, 1)`.
fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 * (1. / (1_u64 << 53) as f64)
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Constants of Philox.
const MULTIPLIERS: [u64; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Ten rounds of Philox with four 32-bit words.
fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        let a = MULTIPLIERS[0] * u64::from(counter[0]);
        let b = MULTIPLIERS[1] * u64::from(counter[2]);
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
    }
    counter
}

/// [`philox4x32_10`] of several counters, without branches.
#[inline(always)]
#[allow(clippy::inline_always, reason = "part of vectorised loops")]
fn philox_lanes(mut counter: [[u32; LANES]; 4], mut key: [u32; 2]) -> [[u32; LANES]; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        let mut next = [[0; LANES]; 4];
        for l in 0..LANES {
            let a = MULTIPLIERS[0] * u64::from(counter[0][l]);
            let b = MULTIPLIERS[1] * u64::from(counter[2][l]);
            next[0][l] = (b >> 32) as u32 ^ counter[1][l] ^ key[0];
            next[1][l] = b as u32;
            next[2][l] = (a >> 32) as u32 ^ counter[3][l] ^ key[1];
            next[3][l] = a as u32;
        }
        counter = next;
    }
    counter
}

#[cfg(test)]
mod tests;
