//! The two inner loops of every matrix product and convolution.
//!
//! [`Kernels::tile`] multiplies a few rows, found through pointers, with a panel of packed weights: the rows of a
//! convolution are the input pixels its windows see, so nothing is copied together first. [`Kernels::outer`] sums
//! outer products over pixels, for the gradient of the weights.

#![allow(unsafe_code, reason = "vector instructions and loads through pointers")]
#![allow(clippy::inline_always, reason = "must end up inside the function with the instruction set")]

use std::mem::MaybeUninit;

use super::simd::{Portable, Simd};
use super::{Isa, active};

/// One tile of a product: `rows` rows of results, each as wide as a panel.
pub(crate) struct Tile<T> {
    /// `runs` groups of [`Shape::rows`] pointers, each to the consecutive elements of that row's input.
    pub(crate) inputs: *const *const T,
    /// Elements to skip behind every pointer.
    pub(crate) offset: usize,
    /// Number of groups.
    pub(crate) runs: usize,
    /// Elements to read of each run.
    pub(crate) len: usize,
    /// Weights, `(runs, len, Shape::columns)`.
    pub(crate) panel: *const T,
    /// Where the results of a row go, `Shape::rows` pointers of which the first `rows` are used.
    pub(crate) outputs: *const *mut T,
    /// Rows to write.
    pub(crate) rows: usize,
    /// Elements of a row to write.
    pub(crate) columns: usize,
    /// Whether to add to what is there.
    pub(crate) accumulate: bool,
    /// What happens to a sum before it is written.
    pub(crate) finish: Finish<T>,
}

/// The last step of a tile.
pub(crate) struct Finish<T> {
    /// Factors of each row, `Shape::columns` elements; null for ones.
    pub(crate) scale: *const T,
    /// Added to each row after that, `Shape::columns` elements; null for zeros.
    pub(crate) bias: *const T,
    /// What is added to each row after the bias, as [`Tile::outputs`]; null for zeros.
    pub(crate) residuals: *const *const T,
    /// Whether to replace negative results by zero.
    pub(crate) relu: bool,
}

/// A block of a sum of outer products: `into[m, n] = sum over p of inputs[p][m] * panel[p, n]`, or `+=`.
pub(crate) struct Outer<T> {
    /// `pixels` pointers, each to `rows` consecutive elements.
    pub(crate) inputs: *const *const T,
    /// Elements to skip from there.
    pub(crate) offset: usize,
    /// Number of pixels.
    pub(crate) pixels: usize,
    /// `(pixels, Shape::columns)`.
    pub(crate) panel: *const T,
    /// `(rows, Shape::columns)`.
    pub(crate) into: *mut T,
    /// Rows of the block, any number.
    pub(crate) rows: usize,
    /// Whether to add to what is there.
    pub(crate) accumulate: bool,
}

/// Size of the register tile of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

/// The kernels of one instruction set, element type and panel width.
#[derive(Clone, Copy)]
pub(crate) struct Kernels<T> {
    pub(crate) shape: Shape,
    /// Needs the instruction set, and what the fields of [`Tile`] promise.
    pub(crate) tile: unsafe fn(&Tile<T>),
    /// Needs the instruction set, and what the fields of [`Outer`] promise.
    pub(crate) outer: unsafe fn(&Outer<T>),
}

/// Largest number of rows of any kernel.
pub(crate) const MAX_ROWS: usize = 14;
/// Largest width of a panel of any kernel.
pub(crate) const MAX_COLUMNS: usize = 32;

/// `width` elements, of which a vector takes what it has room for; fewer go through `buffer`.
#[inline(always)]
unsafe fn load_part<S: Simd>(from: *const S::T, width: usize, buffer: *mut S::T) -> S::V {
    // SAFETY: the caller provides `width` readable elements and a vector's room in `buffer`.
    unsafe {
        if width >= S::LANES {
            return S::load(from);
        }
        S::store(buffer, S::zero());
        std::ptr::copy_nonoverlapping(from, buffer, width);
        S::load(buffer)
    }
}

#[inline(always)]
unsafe fn tile<S: Simd, const ROWS: usize, const VECTORS: usize>(tile: &Tile<S::T>) {
    // SAFETY: in this function every pointer stays within what the fields of `Tile` promise, and the caller has
    // the instruction set of `S`.
    unsafe {
        // What the last step will touch comes from memory meanwhile.
        for row in 0..tile.rows {
            for v in 0..VECTORS {
                S::prefetch((*tile.outputs.add(row)).wrapping_add(v * S::LANES));
                if !tile.finish.residuals.is_null() {
                    S::prefetch((*tile.finish.residuals.add(row)).wrapping_add(v * S::LANES));
                }
            }
        }
        let mut sums = [[S::zero(); VECTORS]; ROWS];
        let mut panel = tile.panel;
        for run in 0..tile.runs {
            let inputs: [*const S::T; ROWS] = *tile.inputs.add(run * ROWS).cast();
            let inputs = inputs.map(|input| input.add(tile.offset));
            for k in 0..tile.len {
                let mut weights = [S::zero(); VECTORS];
                for (v, weight) in weights.iter_mut().enumerate() {
                    *weight = S::load(panel.add(v * S::LANES));
                }
                panel = panel.add(VECTORS * S::LANES);
                for (sums, input) in sums.iter_mut().zip(inputs) {
                    let input = S::splat(input.add(k));
                    for (sum, weight) in sums.iter_mut().zip(weights) {
                        *sum = S::fma(input, weight, *sum);
                    }
                }
            }
        }
        // Written out once: rows are counted at run time below, and the sums above must stay in registers.
        let mut done = MaybeUninit::<[[S::V; VECTORS]; ROWS]>::uninit();
        let done: *mut S::V = done.as_mut_ptr().cast();
        for (row, sums) in sums.iter().enumerate() {
            for (v, &sum) in sums.iter().enumerate() {
                done.add(row * VECTORS + v).write(sum);
            }
        }
        if tile.columns == VECTORS * S::LANES {
            finish_whole::<S, VECTORS>(tile, done);
        } else {
            finish_part::<S, VECTORS>(tile, done);
        }
    }
}

/// Writes the sums of a tile all of whose columns are wanted.
#[inline(always)]
unsafe fn finish_whole<S: Simd, const VECTORS: usize>(tile: &Tile<S::T>, done: *const S::V) {
    // SAFETY: as in `tile`; `done` holds `rows` rows of sums.
    unsafe {
        let Finish { scale, bias, residuals, relu } = tile.finish;
        let (mut scales, mut shifts) = ([S::zero(); VECTORS], [S::zero(); VECTORS]);
        for v in 0..VECTORS {
            if !scale.is_null() {
                scales[v] = S::load(scale.add(v * S::LANES));
            }
            if !bias.is_null() {
                shifts[v] = S::load(bias.add(v * S::LANES));
            }
        }
        for row in 0..tile.rows {
            let to = *tile.outputs.add(row);
            let residual = if residuals.is_null() { std::ptr::null() } else { *residuals.add(row) };
            for v in 0..VECTORS {
                let skip = v * S::LANES;
                let mut sum = *done.add(row * VECTORS + v);
                if tile.accumulate {
                    sum = S::add(sum, S::load(to.add(skip).cast_const()));
                }
                sum =
                    if scale.is_null() { S::add(sum, shifts[v]) } else { S::fma(sum, scales[v], shifts[v]) };
                if !residual.is_null() {
                    sum = S::add(sum, S::load(residual.add(skip)));
                }
                if relu {
                    sum = S::relu(sum);
                }
                S::store(to.add(skip), sum);
            }
        }
    }
}

/// As [`finish_whole`], for the last panel: what reaches past the last column goes through a buffer.
#[inline(always)]
unsafe fn finish_part<S: Simd, const VECTORS: usize>(tile: &Tile<S::T>, done: *const S::V) {
    // SAFETY: as in `finish_whole`.
    unsafe {
        let Finish { scale, bias, residuals, relu } = tile.finish;
        for row in 0..tile.rows {
            let to = *tile.outputs.add(row);
            let residual = if residuals.is_null() { std::ptr::null() } else { *residuals.add(row) };
            for v in 0..VECTORS {
                let mut sum = *done.add(row * VECTORS + v);
                let skip = v * S::LANES;
                if tile.columns <= skip {
                    continue;
                }
                let width = tile.columns - skip;
                let mut buffer = MaybeUninit::<[S::T; MAX_COLUMNS]>::uninit();
                let buffer: *mut S::T = buffer.as_mut_ptr().cast();
                if tile.accumulate {
                    sum = S::add(sum, load_part::<S>(to.add(skip).cast_const(), width, buffer));
                }
                let shift = if bias.is_null() { S::zero() } else { S::load(bias.add(skip)) };
                sum = if scale.is_null() {
                    S::add(sum, shift)
                } else {
                    S::fma(sum, S::load(scale.add(skip)), shift)
                };
                if !residual.is_null() {
                    sum = S::add(sum, load_part::<S>(residual.add(skip), width, buffer));
                }
                if relu {
                    sum = S::relu(sum);
                }
                if width >= S::LANES {
                    S::store(to.add(skip), sum);
                } else {
                    S::store(buffer, sum);
                    std::ptr::copy_nonoverlapping(buffer, to.add(skip), width);
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn outer_rows<S: Simd, const ROWS: usize, const VECTORS: usize>(outer: &Outer<S::T>, first: usize) {
    // SAFETY: as in `tile`, for the fields of `Outer`; `first + ROWS <= rows`.
    unsafe {
        let mut sums = [[S::zero(); VECTORS]; ROWS];
        let mut panel = outer.panel;
        for p in 0..outer.pixels {
            let input = (*outer.inputs.add(p)).add(outer.offset + first);
            let mut weights = [S::zero(); VECTORS];
            for (v, weight) in weights.iter_mut().enumerate() {
                *weight = S::load(panel.add(v * S::LANES));
            }
            panel = panel.add(VECTORS * S::LANES);
            for (m, sums) in sums.iter_mut().enumerate() {
                let input = S::splat(input.add(m));
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum = S::fma(input, weight, *sum);
                }
            }
        }
        for (m, sums) in sums.iter().enumerate() {
            for (v, &sum) in sums.iter().enumerate() {
                let to = outer.into.add((first + m) * VECTORS * S::LANES + v * S::LANES);
                let before = if outer.accumulate { S::load(to) } else { S::zero() };
                S::store(to, S::add(before, sum));
            }
        }
    }
}

#[inline(always)]
unsafe fn outer<S: Simd, const ROWS: usize, const VECTORS: usize>(outer: &Outer<S::T>) {
    let mut first = 0;
    // SAFETY: rows `first..first + n` lie within the block; the rest is passed on.
    unsafe {
        while outer.rows - first >= ROWS {
            outer_rows::<S, ROWS, VECTORS>(outer, first);
            first += ROWS;
        }
        while outer.rows - first >= 4 {
            outer_rows::<S, 4, VECTORS>(outer, first);
            first += 4;
        }
        if outer.rows - first >= 2 {
            outer_rows::<S, 2, VECTORS>(outer, first);
            first += 2;
        }
        if outer.rows > first {
            outer_rows::<S, 1, VECTORS>(outer, first);
        }
    }
}

/// Makes the kernels of one tile shape, compiled for `$features`.
macro_rules! kernels {
    ($name:ident, $simd:ty, $type:ty, $rows:literal x $vectors:literal $(, $features:literal)?) => {
        mod $name {
            use super::*;

            $(#[target_feature(enable = $features)])?
            unsafe fn tile_of(tile: &Tile<$type>) {
                // SAFETY: passed on to the caller.
                unsafe { super::tile::<$simd, $rows, $vectors>(tile) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn outer_of(outer: &Outer<$type>) {
                // SAFETY: passed on to the caller.
                unsafe { super::outer::<$simd, $rows, $vectors>(outer) }
            }

            pub(super) const KERNELS: Kernels<$type> = Kernels {
                shape: Shape { rows: $rows, columns: $vectors * <$simd as Simd>::LANES },
                tile: tile_of,
                outer: outer_of,
            };
            const _: () = assert!(KERNELS.shape.rows <= MAX_ROWS && KERNELS.shape.columns <= MAX_COLUMNS);
            // Rows of panels are copied in steps of eight.
            const _: () = assert!(KERNELS.shape.columns % 8 == 0);
        }
    };
}

kernels!(portable_f32, Portable<f32>, f32, 4 x 1);
kernels!(portable_f64, Portable<f64>, f64, 2 x 1);
#[cfg(target_arch = "x86_64")]
kernels!(avx2_f32, crate::cpu::simd::x86::Avx2F32, f32, 6 x 2, "avx2,fma");
#[cfg(target_arch = "x86_64")]
kernels!(avx2_f32_narrow, crate::cpu::simd::x86::Avx2F32, f32, 12 x 1, "avx2,fma");
#[cfg(target_arch = "x86_64")]
kernels!(avx2_f64, crate::cpu::simd::x86::Avx2F64, f64, 6 x 2, "avx2,fma");
#[cfg(target_arch = "x86_64")]
kernels!(avx512_f32, crate::cpu::simd::x86::Avx512F32, f32, 12 x 2, "avx512f,avx512bw,avx512dq,avx512vl");
#[cfg(target_arch = "x86_64")]
kernels!(avx512_f32_narrow, crate::cpu::simd::x86::Avx512F32, f32, 14 x 1, "avx512f,avx512bw,avx512dq,avx512vl");
#[cfg(target_arch = "x86_64")]
kernels!(avx512_f64, crate::cpu::simd::x86::Avx512F64, f64, 12 x 2, "avx512f,avx512bw,avx512dq,avx512vl");

/// Element types with kernels.
pub(crate) trait HasKernels: Sized {
    /// The kernels to use for results of `columns` columns on this processor.
    fn kernels(columns: usize) -> Kernels<Self>;
}

/// Whether panels of half the width waste clearly less on `columns` columns.
fn narrow_is_better(columns: usize, wide: usize) -> bool {
    let padded = |width: usize| columns.div_ceil(width) * width;
    padded(wide / 2) * 5 <= padded(wide) * 4
}

impl HasKernels for f32 {
    fn kernels(columns: usize) -> Kernels<f32> {
        match active() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 if narrow_is_better(columns, 32) => avx512_f32_narrow::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512_f32::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 if narrow_is_better(columns, 16) => avx2_f32_narrow::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2_f32::KERNELS,
            _ => portable_f32::KERNELS,
        }
    }
}

impl HasKernels for f64 {
    fn kernels(_columns: usize) -> Kernels<f64> {
        match active() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512_f64::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2_f64::KERNELS,
            _ => portable_f64::KERNELS,
        }
    }
}

#[cfg(test)]
mod tests;
