//! Cross entropy of logits against class indices, as `torch.nn.functional.cross_entropy`.
//!
//! With `p = softmax(logits)` over the class dimension, target `y`, class weights `w` (1 unless given), `C`
//! classes and label smoothing `e`, the loss of one position is
//! `-(1 - e) w_y ln p_y - (e / C) sum_c w_c ln p_c`, and 0 where `y` is the ignored index. `Mean` divides
//! the sum by the sum of `w_y` over the positions that count; without any such position it is NaN (0 / 0)
//! with a gradient of zero, as in PyTorch. Logarithms are taken of shifted sums, so no logit overflows.

#[cfg(feature = "cuda")]
mod cuda;
mod gradient;

use std::sync::OnceLock;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::bank_cross_entropy::exp::Score;
use super::support::{
    Float, check_device, check_float, cpu_slice, dispatch_float, storage_slice, vectorised,
};
use crate::error::{Error, Result};

/// How the losses of the positions become the result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reduction {
    /// Not at all: the result has the shape of the target.
    None,
    /// The mean; that of the cross entropy is weighted by the weight of each target's class.
    #[default]
    Mean,
    /// The sum.
    Sum,
}

/// Options of [`cross_entropy`]; the defaults are PyTorch's.
#[derive(Clone, Debug)]
pub struct CrossEntropyArgs {
    /// One weight per class, `(C,)`, of a float type; it gets no gradient.
    pub weight: Option<Tensor>,
    /// Target value that marks positions without loss.
    pub ignore_index: i64,
    /// How the losses of the positions become the result.
    pub reduction: Reduction,
    /// Share of the target that is spread evenly over the classes, in `[0, 1]`.
    pub label_smoothing: f64,
}

impl Default for CrossEntropyArgs {
    fn default() -> Self {
        Self { weight: None, ignore_index: -100, reduction: Reduction::Mean, label_smoothing: 0. }
    }
}

/// Cross entropy of `logits` `(N, C)` or `(N, C, d1, ...)` with a target `(N,)` or `(N, d1, ...)` of class
/// indices (`u32` or `i64`). The result is a scalar, or of the target's shape with [`Reduction::None`].
///
/// # Errors
/// If shapes, types or devices do not fit, if a target is neither a class nor the ignored index, if the
/// smoothing is out of range, or if the weight takes part in a graph.
pub fn cross_entropy(logits: &Tensor, target: &Tensor, args: &CrossEntropyArgs) -> Result<Tensor> {
    check_float("cross_entropy: logits", logits)?;
    check_device("cross_entropy: logits", logits)?;
    let [n, classes, rest @ ..] = logits.dims() else {
        return Err(Error::shape("cross_entropy: logits", "(N, C, ...)", logits.dims()));
    };
    let target_dims: Vec<usize> = [n].into_iter().chain(rest).copied().collect();
    if target.dims() != target_dims {
        return Err(Error::shape("cross_entropy: target", format!("{target_dims:?}"), target.dims()));
    }
    if !(0. ..=1.).contains(&args.label_smoothing) {
        let problem = format!("{} is not in [0, 1]", args.label_smoothing);
        return Err(Error::argument("cross_entropy: label_smoothing", problem));
    }
    let op = CrossEntropy {
        target: targets(target, *classes, args.ignore_index)?,
        target_dims,
        weight: args.weight.as_ref().map(|w| class_weights(w, *classes)).transpose()?,
        reduction: args.reduction,
        smoothing: args.label_smoothing,
        saved: OnceLock::new(),
        #[cfg(feature = "cuda")]
        device_saved: OnceLock::new(),
    };
    Ok(logits.contiguous()?.apply_op1(op)?)
}

/// Class indices in row-major order, [`IGNORED`] for those without loss.
fn targets(target: &Tensor, classes: usize, ignore_index: i64) -> Result<Vec<u32>> {
    let indices: Vec<i64> = match target.dtype() {
        DType::I64 => target.flatten_all()?.to_vec1()?,
        DType::U32 => target.flatten_all()?.to_vec1::<u32>()?.into_iter().map(i64::from).collect(),
        got => {
            let what = "cross_entropy: target".into();
            return Err(Error::Dtype { what, expected: "i64 or u32".into(), got });
        }
    };
    let check = |(position, index): (usize, i64)| {
        if index == ignore_index {
            return Ok(IGNORED);
        }
        u32::try_from(index).ok().filter(|&c| (c as usize) < classes && c != IGNORED).ok_or_else(|| {
            Error::argument(
                "cross_entropy: target",
                format!(
                    "index {index} at position {position} is neither one of the {classes} classes nor the \
                     ignored index {ignore_index}"
                ),
            )
        })
    };
    indices.into_iter().enumerate().map(check).collect()
}

fn class_weights(weight: &Tensor, classes: usize) -> Result<Vec<f64>> {
    check_float("cross_entropy: weight", weight)?;
    if weight.dims() != [classes] {
        return Err(Error::shape("cross_entropy: weight", format!("[{classes}]"), weight.dims()));
    }
    if weight.track_op() {
        let problem = "class weights get no gradient; detach them";
        return Err(Error::argument("cross_entropy: weight", problem));
    }
    Ok(weight.to_dtype(DType::F64)?.to_vec1()?)
}

/// Stands for the ignored index.
const IGNORED: u32 = u32::MAX;

/// Positions whose classes are walked together, so that inner loops run over consecutive memory.
const BLOCK: usize = 256;
/// Rows of logits worth handing to a thread.
const ROWS: usize = 16;

struct CrossEntropy {
    target: Vec<u32>,
    target_dims: Vec<usize>,
    weight: Option<Vec<f64>>,
    reduction: Reduction,
    smoothing: f64,
    /// Made by forward for backward: 16 bytes per position.
    saved: OnceLock<Saved>,
    /// The same on a CUDA device.
    #[cfg(feature = "cuda")]
    device_saved: OnceLock<cuda::Saved>,
}

struct Saved {
    /// Maximum of the logits and sum of `exp(logit - maximum)`, per position.
    softmax: Vec<(f64, f64)>,
    /// Sum of the weights of the targets that count.
    total_weight: f64,
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        dispatch_float!("cross_entropy: logits", s.dtype(), T => {
            let x = cpu_slice::<T>("cross_entropy: logits", s, l)?;
            let (classes, inner) = split(l.dims());
            let (losses, softmax) = self.losses(x, classes, inner);
            let valid = self.target.iter().filter(|&&y| y != IGNORED);
            let total_weight = valid.map(|&y| self.weight_of(y)).sum::<f64>();
            // A second forward of the same op object would see the same input.
            let _ = self.saved.set(Saved { softmax, total_weight });
            let sum = || losses.iter().sum::<f64>();
            Ok(match self.reduction {
                Reduction::None => {
                    let losses = losses.into_iter().map(T::from_f64).collect();
                    (T::to_cpu_storage_owned(losses), self.target_dims.clone().into())
                }
                Reduction::Sum => (T::to_cpu_storage_owned(vec![T::from_f64(sum())]), ().into()),
                Reduction::Mean => (T::to_cpu_storage_owned(vec![T::from_f64(sum() / total_weight)]), ().into()),
            })
        })
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, s: &CudaStorage, l: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        let (out, saved) = cuda::forward(self, s, l)?;
        let _ = self.device_saved.set(saved);
        let shape = if self.reduction == Reduction::None { self.target_dims.clone() } else { Vec::new() };
        Ok((out, shape.into()))
    }

    fn bwd(&self, arg: &Tensor, _res: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        if !arg.track_op() {
            return Ok(None);
        }
        #[cfg(feature = "cuda")]
        if let Some(saved) = self.device_saved.get() {
            return Ok(Some(cuda::gradient(self, saved, arg, &grad.contiguous()?)?));
        }
        let saved = self.saved.get().ok_or_else(|| {
            Error::argument("cross_entropy", "backward was called without a forward pass on this device")
        })?;
        let grad = grad.contiguous()?;
        let ((xs, xl), (gs, gl)) = (arg.storage_and_layout(), grad.storage_and_layout());
        dispatch_float!("cross_entropy: gradient", arg.dtype(), T => {
            let x = storage_slice::<T>("cross_entropy: logits", &xs, xl)?;
            let g = storage_slice::<T>("cross_entropy: gradient", &gs, gl)?;
            let dx = self.gradient(x, g, saved, split(arg.dims()));
            Tensor::from_vec(dx, arg.shape(), &Device::Cpu).map(Some)
        })
    }
}

/// Number of classes and of positions behind them.
fn split(dims: &[usize]) -> (usize, usize) {
    match dims {
        [_, classes, rest @ ..] => (*classes, rest.iter().product()),
        _ => (0, 0),
    }
}

impl CrossEntropy {
    fn weight_of(&self, class: u32) -> f64 {
        self.weight.as_ref().map_or(1., |w| w[class as usize])
    }

    /// Losses and softmax statistics of every position, in row-major order.
    fn losses<T: Score>(&self, x: &[T], classes: usize, inner: usize) -> (Vec<f64>, Vec<(f64, f64)>) {
        let count = self.target.len();
        let (mut losses, mut softmax) = (vec![0.; count], vec![(0., 0.); count]);
        // Without classes every position is an ignored one.
        if count == 0 || classes == 0 {
            return (losses, softmax);
        }
        if inner == 1 {
            let rows = losses.par_iter_mut().zip(&mut softmax).zip(&self.target).zip(x.par_chunks(classes));
            rows.with_min_len(ROWS).for_each(|(((loss, softmax), &target), row)| {
                let (top, sum) = vectorised(|| statistics(row));
                let mean = if self.smoothing > 0. { self.shifted_sum(row, top) } else { 0. };
                *softmax = (top.to_f64(), sum);
                *loss = self.loss(target, |class| row[class], (top, sum), mean, classes);
            });
            return (losses, softmax);
        }
        let blocks = losses.par_chunks_mut(inner).zip(softmax.par_chunks_mut(inner)).enumerate();
        blocks.for_each(|(n, (losses, softmax))| {
            let image = &x[n * classes * inner..(n + 1) * classes * inner];
            let target = &self.target[n * inner..(n + 1) * inner];
            let parts =
                losses.par_chunks_mut(BLOCK).zip(softmax.par_chunks_mut(BLOCK)).zip(target.par_chunks(BLOCK));
            parts.enumerate().for_each(|(block, ((losses, softmax), target))| {
                self.block_losses(image, inner, block * BLOCK, target, losses, softmax);
            });
        });
        (losses, softmax)
    }

    /// As [`Self::losses`] for the positions from `start` of one image.
    fn block_losses<T: Score>(
        &self,
        image: &[T],
        inner: usize,
        start: usize,
        target: &[u32],
        losses: &mut [f64],
        softmax: &mut [(f64, f64)],
    ) {
        let len = target.len();
        let rows = || image.chunks_exact(inner).map(|row| &row[start..start + len]);
        let mut top = vec![T::NEG_INFINITY; len];
        let mut sums = vec![0.; len];
        // Sum over the classes of `w_c (x_c - top)`, which smoothing needs.
        let mut shifted = vec![0.; if self.smoothing > 0. { len } else { 0 }];
        vectorised(|| {
            for row in rows() {
                for (top, &x) in top.iter_mut().zip(row) {
                    *top = if x > *top { x } else { *top };
                }
            }
            for (class, row) in rows().enumerate() {
                for ((sum, &x), &top) in sums.iter_mut().zip(row).zip(&top) {
                    *sum += (x - top).exp_nonpositive().to_f64();
                }
                let weight = self.weight_of(class as u32);
                for ((shifted, &x), &top) in shifted.iter_mut().zip(row).zip(&top) {
                    *shifted += weight * (x - top).to_f64();
                }
            }
        });
        let classes = image.len() / inner;
        for (i, (&y, (loss, saved))) in target.iter().zip(losses.iter_mut().zip(softmax)).enumerate() {
            *saved = (top[i].to_f64(), sums[i]);
            let logit = |class: usize| image[class * inner + start + i];
            *loss = self.loss(y, logit, (top[i], sums[i]), shifted.get(i).copied().unwrap_or(0.), classes);
        }
    }

    /// The loss of a position: `shifted` is the sum over the classes of `w_c (x_c - top)`, for smoothing only.
    fn loss<T: Float>(
        &self,
        target: u32,
        logit: impl Fn(usize) -> T,
        (top, sum): (T, f64),
        shifted: f64,
        classes: usize,
    ) -> f64 {
        if target == IGNORED {
            return 0.;
        }
        let log_sum = sum.ln();
        let own = (logit(target as usize) - top).to_f64();
        let loss = (1. - self.smoothing) * self.weight_of(target) * (log_sum - own);
        if self.smoothing > 0. {
            let (even, total) = self.even_share(classes);
            return loss + even * (total * log_sum - shifted);
        }
        loss
    }

    /// Sum over the classes of `w_c (x_c - top)`.
    fn shifted_sum<T: Float>(&self, row: &[T], top: T) -> f64 {
        let terms =
            row.iter().enumerate().map(|(class, &x)| self.weight_of(class as u32) * (x - top).to_f64());
        terms.sum()
    }

    /// `e / C`, and the sum of all class weights.
    fn even_share(&self, classes: usize) -> (f64, f64) {
        let total = self.weight.as_ref().map_or(classes as f64, |w| w.iter().sum());
        (self.smoothing / classes as f64, total)
    }
}

/// Maximum of a row of logits and sum of `exp(x - maximum)`, in several lanes so that both become vector code.
#[inline(always)]
#[allow(clippy::inline_always, reason = "must be compiled with the features of `vectorised`")]
fn statistics<T: Score>(row: &[T]) -> (T, f64) {
    const LANES: usize = 16;
    let larger = |a: T, b: T| if b > a { b } else { a };
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut tops = [T::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (top, &x) in tops.iter_mut().zip(chunk) {
            *top = larger(*top, x);
        }
    }
    let top = tops.iter().chain(rest).fold(T::NEG_INFINITY, |top, &x| larger(top, x));
    let mut sums = [0.; LANES];
    for chunk in chunks {
        for (sum, &x) in sums.iter_mut().zip(chunk) {
            *sum += (x - top).exp_nonpositive().to_f64();
        }
    }
    let rest = rest.iter().map(|&x| (x - top).exp_nonpositive().to_f64());
    (top, sums.into_iter().chain(rest).sum())
}

#[cfg(test)]
mod tests;
