//! Overlap of every box of one set with every box of another, as `torchvision.ops` 0.29.
//!
//! Boxes are rows `x1, y1, x2, y2` in any unit, with continuous corners. With `I` the area of the
//! intersection (sides below zero count as zero), `U = A1 + A2 - I` and `C` the area of the smallest box
//! around both, `box_iou` is `I / U` and `generalized_box_iou` is `I / U - (C - U) / C`, which stays
//! informative for boxes apart. Areas are products of signed sides: as in torchvision, a box with `x2 < x1`
//! is not refused and gives a meaningless number, and two boxes without area give NaN.
//!
//! Both sets get gradients. Where two coordinates are equal, each gets half of the gradient of their minimum
//! or maximum, and a side of exactly zero passes none, as PyTorch's `max` and `clamp` do.

#[cfg(feature = "cuda")]
mod cuda;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Device, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::box_columns::{area, check_boxes, columns};
use super::support::{
    Float, check_same_device, chunk_rows, cpu_slice, dispatch_float, storage_slice, vectorised,
};
use crate::error::{Error, Result};

/// Intersection over union of `boxes1` `(N, 4)` with `boxes2` `(M, 4)`, as `(N, M)`.
///
/// # Errors
/// If the boxes are not two `(.., 4)` tensors on one device, of one type, `f32` or `f64`.
pub fn box_iou(boxes1: &Tensor, boxes2: &Tensor) -> Result<Tensor> {
    overlap::<false>("box_iou", boxes1, boxes2)
}

/// Generalised intersection over union of `boxes1` `(N, 4)` with `boxes2` `(M, 4)`, as `(N, M)`, in `(-1, 1]`
/// for proper boxes.
///
/// # Errors
/// As [`box_iou`].
pub fn generalized_box_iou(boxes1: &Tensor, boxes2: &Tensor) -> Result<Tensor> {
    overlap::<true>("generalized_box_iou", boxes1, boxes2)
}

fn overlap<const GENERALIZED: bool>(name: &'static str, boxes1: &Tensor, boxes2: &Tensor) -> Result<Tensor> {
    check_boxes(&format!("{name}: boxes1"), boxes1)?;
    check_boxes(&format!("{name}: boxes2"), boxes2)?;
    check_same_device(&format!("{name}: boxes2"), boxes2, boxes1)?;
    if boxes1.dtype() != boxes2.dtype() {
        let (what, expected) = (format!("{name}: boxes2"), format!("{:?}", boxes1.dtype()));
        return Err(Error::Dtype { what, expected, got: boxes2.dtype() });
    }
    Ok(boxes1.contiguous()?.apply_op2(&boxes2.contiguous()?, Overlap::<GENERALIZED> { name })?)
}

/// [`generalized_box_iou`] if `GENERALIZED`, else [`box_iou`].
struct Overlap<const GENERALIZED: bool> {
    name: &'static str,
}

impl<const GENERALIZED: bool> CustomOp2 for Overlap<GENERALIZED> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        dispatch_float!(format!("{}: boxes1", self.name), s1.dtype(), T => {
            let a = cpu_slice::<T>("box_iou: boxes1", s1, l1)?;
            let b = cpu_slice::<T>("box_iou: boxes2", s2, l2)?;
            let out = forward::<T, GENERALIZED>(a, b);
            Ok((T::to_cpu_storage_owned(out), Shape::from((a.len() / 4, b.len() / 4))))
        })
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        let out = cuda::forward((s1, l1), (s2, l2), GENERALIZED)?;
        Ok((out, Shape::from((l1.dims()[0], l2.dims()[0]))))
    }

    fn bwd(
        &self,
        boxes1: &Tensor,
        boxes2: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let wanted = (boxes1.track_op(), boxes2.track_op());
        let grad = grad.contiguous()?;
        #[cfg(feature = "cuda")]
        if grad.device().is_cuda() {
            let columns = boxes2.dims()[0];
            let first = || cuda::gradient(boxes1, boxes2, &grad, GENERALIZED, [columns, 1]);
            let second = || cuda::gradient(boxes2, boxes1, &grad, GENERALIZED, [1, columns]);
            return Ok((wanted.0.then(first).transpose()?, wanted.1.then(second).transpose()?));
        }
        let (s1, l1) = boxes1.storage_and_layout();
        let (s2, l2) = boxes2.storage_and_layout();
        let (gs, gl) = grad.storage_and_layout();
        dispatch_float!(format!("{}: gradient", self.name), grad.dtype(), T => {
            let a = storage_slice::<T>("box_iou: boxes1", &s1, l1)?;
            let b = storage_slice::<T>("box_iou: boxes2", &s2, l2)?;
            let g = storage_slice::<T>("box_iou: gradient", &gs, gl)?;
            let (da, db) = backward::<T, GENERALIZED>(a, b, g);
            let tensor = |values, like: &Tensor| Tensor::from_vec(values, like.shape(), &Device::Cpu);
            Ok((
                wanted.0.then(|| tensor(da, boxes1)).transpose()?,
                wanted.1.then(|| tensor(db, boxes2)).transpose()?,
            ))
        })
    }
}

/// NaN if one of them is, as PyTorch's `max`; a choice without branches.
#[inline(always)]
#[allow(clippy::inline_always, reason = "part of vectorised loops")]
fn larger<T: Float>(a: T, b: T) -> T {
    if a > b || a.is_nan() { a } else { b }
}

/// The counterpart of [`larger`].
#[inline(always)]
#[allow(clippy::inline_always, reason = "part of vectorised loops")]
fn smaller<T: Float>(a: T, b: T) -> T {
    if a < b || a.is_nan() { a } else { b }
}

/// Zero instead of numbers below it; NaN stays.
#[inline(always)]
#[allow(clippy::inline_always, reason = "part of vectorised loops")]
fn side<T: Float>(x: T) -> T {
    if x < T::ZERO { T::ZERO } else { x }
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "part of vectorised loops")]
fn pair<T: Float, const GENERALIZED: bool>(a: [T; 4], area_a: T, b: [T; 4], area_b: T) -> T {
    let w = side(smaller(a[2], b[2]) - larger(a[0], b[0]));
    let h = side(smaller(a[3], b[3]) - larger(a[1], b[1]));
    let intersection = w * h;
    let union = area_a + area_b - intersection;
    let iou = intersection / union;
    if !GENERALIZED {
        return iou;
    }
    let w = side(larger(a[2], b[2]) - smaller(a[0], b[0]));
    let h = side(larger(a[3], b[3]) - smaller(a[1], b[1]));
    let around = w * h;
    iou - (around - union) / around
}

fn forward<T: Float, const GENERALIZED: bool>(a: &[T], b: &[T]) -> Vec<T> {
    let (rows, width) = (a.len() / 4, b.len() / 4);
    let mut out = vec![T::ZERO; rows * width];
    if out.is_empty() {
        return out;
    }
    let [x1, y1, x2, y2] = columns(b, &(0..width as u32));
    let areas: Vec<T> = (0..width).map(|j| area([x1[j], y1[j], x2[j], y2[j]], T::ZERO)).collect();
    let chunk = chunk_rows(rows, width);
    out.par_chunks_mut(chunk * width).zip(a.par_chunks(chunk * 4)).for_each(|(out, a)| {
        vectorised(|| {
            let (a, _) = a.as_chunks::<4>();
            for (out, &a) in out.chunks_exact_mut(width).zip(a) {
                let area_a = area(a, T::ZERO);
                let corners = x1.iter().zip(&y1).zip(x2.iter().zip(&y2));
                for ((out, ((&x1, &y1), (&x2, &y2))), &area_b) in out.iter_mut().zip(corners).zip(&areas) {
                    *out = pair::<T, GENERALIZED>(a, area_a, [x1, y1, x2, y2], area_b);
                }
            }
        });
    });
    out
}

/// Share of the gradient `g` of `max(own, other)` that `own` gets.
#[inline(always)]
#[allow(clippy::inline_always, reason = "part of vectorised loops")]
fn of_larger<T: Float>(own: T, other: T, g: T) -> T {
    let g = if own == other { g * T::from_f64(0.5) } else { g };
    if own < other { T::ZERO } else { g }
}

/// Share of the gradient `g` of `min(own, other)` that `own` gets.
#[inline(always)]
#[allow(clippy::inline_always, reason = "part of vectorised loops")]
fn of_smaller<T: Float>(own: T, other: T, g: T) -> T {
    let g = if own == other { g * T::from_f64(0.5) } else { g };
    if own > other { T::ZERO } else { g }
}

/// Gradients of both boxes of a pair whose result has the gradient `g`.
#[inline(always)]
#[allow(clippy::inline_always, reason = "part of vectorised loops")]
fn pair_gradient<T: Float, const GENERALIZED: bool>(a: [T; 4], b: [T; 4], g: T) -> ([T; 4], [T; 4]) {
    let (area_a, area_b) = (area(a, T::ZERO), area(b, T::ZERO));
    let raw_w = smaller(a[2], b[2]) - larger(a[0], b[0]);
    let raw_h = smaller(a[3], b[3]) - larger(a[1], b[1]);
    let (w, h) = (side(raw_w), side(raw_h));
    let intersection = w * h;
    let union = area_a + area_b - intersection;
    let mut d_union = -g * (intersection / union / union);
    let passed = |raw: T, g: T| if raw > T::ZERO { g } else { T::ZERO };
    let (mut da, mut db) = ([T::ZERO; 4], [T::ZERO; 4]);
    if GENERALIZED {
        let raw_w = larger(a[2], b[2]) - smaller(a[0], b[0]);
        let raw_h = larger(a[3], b[3]) - smaller(a[1], b[1]);
        let (w, h) = (side(raw_w), side(raw_h));
        let around = w * h;
        let d_around = g * ((around - union) / around / around) - g / around;
        d_union += g / around;
        for (k, d) in [(0, passed(raw_w, d_around * h)), (1, passed(raw_h, d_around * w))] {
            da[k] -= of_smaller(a[k], b[k], d);
            db[k] -= of_smaller(b[k], a[k], d);
            da[k + 2] += of_larger(a[k + 2], b[k + 2], d);
            db[k + 2] += of_larger(b[k + 2], a[k + 2], d);
        }
    }
    let d_intersection = g / union - d_union;
    for (k, d) in [(0, passed(raw_w, d_intersection * h)), (1, passed(raw_h, d_intersection * w))] {
        da[k] -= of_larger(a[k], b[k], d);
        db[k] -= of_larger(b[k], a[k], d);
        da[k + 2] += of_smaller(a[k + 2], b[k + 2], d);
        db[k + 2] += of_smaller(b[k + 2], a[k + 2], d);
    }
    for (own, d) in [(a, &mut da), (b, &mut db)] {
        let (dw, dh) = (d_union * (own[3] - own[1]), d_union * (own[2] - own[0]));
        d[0] -= dw;
        d[1] -= dh;
        d[2] += dw;
        d[3] += dh;
    }
    (da, db)
}

/// Pairs whose gradients are computed side by side.
const LANES: usize = 8;

fn backward<T: Float, const GENERALIZED: bool>(a: &[T], b: &[T], g: &[T]) -> (Vec<T>, Vec<T>) {
    let (rows, width) = (a.len() / 4, b.len() / 4);
    let (mut da, mut db) = (vec![T::ZERO; a.len()], vec![T::ZERO; b.len()]);
    if g.is_empty() {
        return (da, db);
    }
    let corners = columns(b, &(0..width as u32));
    // Few enough parts that their sums for `boxes2` stay small beside the work.
    let chunk = chunk_rows(rows, width).max(rows.div_ceil(64));
    let parts: Vec<[Vec<T>; 4]> = da
        .par_chunks_mut(chunk * 4)
        .zip(a.par_chunks(chunk * 4).zip(g.par_chunks(chunk * width)))
        .map(|(da, (a, g))| {
            let mut sums: [Vec<T>; 4] = std::array::from_fn(|_| vec![T::ZERO; width]);
            vectorised(|| {
                let (da, _) = da.as_chunks_mut::<4>();
                let (a, _) = a.as_chunks::<4>();
                for ((da, &a), g) in da.iter_mut().zip(a).zip(g.chunks_exact(width)) {
                    *da = row_gradient::<T, GENERALIZED>(a, &corners, g, &mut sums);
                }
            });
            sums
        })
        .collect();
    for part in parts {
        for (k, column) in part.into_iter().enumerate() {
            for (db, x) in db.chunks_exact_mut(4).zip(column) {
                db[k] += x;
            }
        }
    }
    (da, db)
}

/// Gradient of box `a` from its row of pairs; those of the others are added to `sums`.
#[inline(always)]
#[allow(clippy::inline_always, reason = "must be compiled with the features of `vectorised`")]
fn row_gradient<T: Float, const GENERALIZED: bool>(
    a: [T; 4],
    corners: &[Vec<T>; 4],
    g: &[T],
    sums: &mut [Vec<T>; 4],
) -> [T; 4] {
    let mut own = [[T::ZERO; LANES]; 4];
    let whole = g.len() / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        let lanes = |x: &[T]| -> [T; LANES] { std::array::from_fn(|l| x[start + l]) };
        let b: [[T; LANES]; 4] = std::array::from_fn(|k| lanes(&corners[k]));
        let g = lanes(g);
        let mut other = [[T::ZERO; LANES]; 4];
        for l in 0..LANES {
            let (da, db) = pair_gradient::<T, GENERALIZED>(a, [b[0][l], b[1][l], b[2][l], b[3][l]], g[l]);
            for k in 0..4 {
                own[k][l] += da[k];
                other[k][l] = db[k];
            }
        }
        for (sums, other) in sums.iter_mut().zip(&other) {
            for (sum, &x) in sums[start..start + LANES].iter_mut().zip(other) {
                *sum += x;
            }
        }
    }
    let mut total = own.map(|lanes| lanes.into_iter().fold(T::ZERO, |sum, x| sum + x));
    for (j, &g) in g.iter().enumerate().skip(whole) {
        let (da, db) = pair_gradient::<T, GENERALIZED>(a, std::array::from_fn(|k| corners[k][j]), g);
        for k in 0..4 {
            total[k] += da[k];
            sums[k][j] += db[k];
        }
    }
    total
}

#[cfg(test)]
mod tests;
