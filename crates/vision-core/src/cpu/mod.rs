//! What the processor can do, and the inner loops written for it.
//!
//! One binary runs everywhere: the widest instruction set the processor has is chosen at run time, and
//! [`limit`] can hold it back.

pub(crate) mod kernels;
mod memory;
mod simd;

use std::sync::atomic::{AtomicU8, Ordering};

pub use memory::keep_memory;

/// Instruction sets with kernels of their own, narrow to wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Isa {
    /// What the compiler may assume on any processor of the target.
    Portable,
    /// AVX2 and fused multiply-add.
    Avx2,
    /// AVX-512 (F, BW, DQ, VL).
    Avx512,
}

impl Isa {
    /// The name used on command lines: `portable`, `avx2` or `avx512`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    /// The set of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Portable, Self::Avx2, Self::Avx512].into_iter().find(|isa| isa.name() == name)
    }

    fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Portable,
            1 => Self::Avx2,
            _ => Self::Avx512,
        }
    }
}

/// The widest set kernels may use; see [`limit`].
static LIMIT: AtomicU8 = AtomicU8::new(Isa::Avx512 as u8);

/// The widest set this processor has.
pub fn detected() -> Isa {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
        {
            return Isa::Avx512;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Isa::Avx2;
        }
    }
    Isa::Portable
}

/// The set that kernels use from now on: the widest the processor has, within the [`limit`].
pub fn active() -> Isa {
    detected().min(Isa::from_u8(LIMIT.load(Ordering::Relaxed)))
}

/// Keeps the kernels of this process from using anything wider than `isa`.
///
/// For tests of the narrower kernels. Results of different sets differ by rounding; a run that should repeat
/// bit by bit on several machines sets the same limit on all of them. Products of the `gemm` library choose
/// for themselves.
pub fn limit(isa: Isa) {
    LIMIT.store(isa as u8, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back() {
        for isa in [Isa::Portable, Isa::Avx2, Isa::Avx512] {
            assert_eq!(Isa::from_name(isa.name()), Some(isa));
            assert_eq!(Isa::from_u8(isa as u8), isa);
        }
        assert_eq!(Isa::from_name("sse"), None);
        assert!(active() <= detected());
    }
}
