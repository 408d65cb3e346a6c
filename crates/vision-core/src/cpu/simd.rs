//! Vectors of one instruction set, as far as the micro-kernels need them.

#![allow(unsafe_code, reason = "vector instructions and loads through pointers")]
#![allow(clippy::inline_always, reason = "must end up inside the function with the instruction set")]

/// Vector type and instructions. Every method needs the instruction set the type stands for and, where it takes
/// a pointer, `LANES` readable or writable elements there.
pub(super) trait Simd: Copy {
    /// Element.
    type T: Copy;
    /// Vector of `LANES` elements.
    type V: Copy;
    const LANES: usize;

    unsafe fn zero() -> Self::V;
    unsafe fn load(from: *const Self::T) -> Self::V;
    unsafe fn store(to: *mut Self::T, value: Self::V);
    unsafe fn splat(from: *const Self::T) -> Self::V;
    /// `a * b + c`.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// 0 where `a` is below 0; NaN stays.
    unsafe fn relu(a: Self::V) -> Self::V;
    /// Asks for the cache line at `from`, which need not be readable.
    fn prefetch(from: *const Self::T);
}

/// Arrays of eight numbers, which the compiler turns into whatever vectors it may assume.
#[derive(Clone, Copy)]
pub(super) struct Portable<T>(std::marker::PhantomData<T>);

macro_rules! portable {
    ($type:ty) => {
        impl Simd for Portable<$type> {
            type T = $type;
            type V = [$type; 8];
            const LANES: usize = 8;

            #[inline(always)]
            unsafe fn zero() -> Self::V {
                [0.0; 8]
            }
            #[inline(always)]
            unsafe fn load(from: *const $type) -> Self::V {
                // SAFETY: the caller provides eight readable elements; arrays are aligned as their elements.
                unsafe { from.cast::<Self::V>().read() }
            }
            #[inline(always)]
            unsafe fn store(to: *mut $type, value: Self::V) {
                // SAFETY: as above, writable.
                unsafe { to.cast::<Self::V>().write(value) }
            }
            #[inline(always)]
            unsafe fn splat(from: *const $type) -> Self::V {
                // SAFETY: the caller provides a readable element.
                [unsafe { *from }; 8]
            }
            #[inline(always)]
            unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
                std::array::from_fn(|i| a[i] * b[i] + c[i])
            }
            #[inline(always)]
            unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
                std::array::from_fn(|i| a[i] + b[i])
            }
            #[inline(always)]
            unsafe fn relu(a: Self::V) -> Self::V {
                std::array::from_fn(|i| if a[i] < 0.0 { 0.0 } else { a[i] })
            }
            #[inline(always)]
            fn prefetch(_from: *const $type) {}
        }
    };
}
portable!(f32);
portable!(f64);

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    #[allow(clippy::wildcard_imports, reason = "types and some thirty instructions")]
    use std::arch::x86_64::*;

    use super::Simd;

    macro_rules! vectors {
        ($name:ident, $doc:literal, $type:ty, $vector:ty, $lanes:literal, $zero:ident, $load:ident, $store:ident,
         $splat:ident, $fma:ident, $add:ident, $max:ident) => {
            #[doc = $doc]
            #[derive(Clone, Copy)]
            pub(in crate::cpu) struct $name;

            impl Simd for $name {
                type T = $type;
                type V = $vector;
                const LANES: usize = $lanes;

                #[inline(always)]
                unsafe fn zero() -> $vector {
                    // SAFETY: the caller has the instruction set; so below.
                    unsafe { $zero() }
                }
                #[inline(always)]
                unsafe fn load(from: *const $type) -> $vector {
                    // SAFETY: and provides `LANES` readable elements.
                    unsafe { $load(from) }
                }
                #[inline(always)]
                unsafe fn store(to: *mut $type, value: $vector) {
                    // SAFETY: and provides `LANES` writable elements.
                    unsafe { $store(to, value) }
                }
                #[inline(always)]
                unsafe fn splat(from: *const $type) -> $vector {
                    // SAFETY: and provides a readable element.
                    unsafe { $splat(*from) }
                }
                #[inline(always)]
                unsafe fn fma(a: $vector, b: $vector, c: $vector) -> $vector {
                    // SAFETY: as for `zero`.
                    unsafe { $fma(a, b, c) }
                }
                #[inline(always)]
                unsafe fn add(a: $vector, b: $vector) -> $vector {
                    // SAFETY: as for `zero`.
                    unsafe { $add(a, b) }
                }
                #[inline(always)]
                unsafe fn relu(a: $vector) -> $vector {
                    // The second operand is the result if either is NaN.
                    // SAFETY: as for `zero`.
                    unsafe { $max($zero(), a) }
                }
                #[inline(always)]
                fn prefetch(from: *const $type) {
                    // SAFETY: a hint, without effect where nothing can be read.
                    unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
                }
            }
        };
    }
    vectors!(
        Avx2F32,
        "Eight `f32`.",
        f32,
        __m256,
        8,
        _mm256_setzero_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_set1_ps,
        _mm256_fmadd_ps,
        _mm256_add_ps,
        _mm256_max_ps
    );
    vectors!(
        Avx2F64,
        "Four `f64`.",
        f64,
        __m256d,
        4,
        _mm256_setzero_pd,
        _mm256_loadu_pd,
        _mm256_storeu_pd,
        _mm256_set1_pd,
        _mm256_fmadd_pd,
        _mm256_add_pd,
        _mm256_max_pd
    );
    vectors!(
        Avx512F32,
        "Sixteen `f32`.",
        f32,
        __m512,
        16,
        _mm512_setzero_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_set1_ps,
        _mm512_fmadd_ps,
        _mm512_add_ps,
        _mm512_max_ps
    );
    vectors!(
        Avx512F64,
        "Eight `f64`.",
        f64,
        __m512d,
        8,
        _mm512_setzero_pd,
        _mm512_loadu_pd,
        _mm512_storeu_pd,
        _mm512_set1_pd,
        _mm512_fmadd_pd,
        _mm512_add_pd,
        _mm512_max_pd
    );
}
