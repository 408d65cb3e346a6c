//! Plumbing of losses that are a function of one input and one target element.

#[cfg(feature = "cuda")]
pub(super) mod cuda;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Device, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::bank_cross_entropy::exp::Score;
use super::cross_entropy::Reduction;
use super::support::{
    check_device, check_float, check_same_device, cpu_slice, dispatch_float, storage_slice, vectorised,
};
use crate::error::{Error, Result};

/// A loss per element. Slices hold the elements from number `first` on and have one length, at most [`BLOCK`].
///
/// Implementations are compiled with the features of [`vectorised`] if they are `#[inline(always)]`.
pub(super) trait PointLoss: Send + Sync + 'static {
    const NAME: &'static str;

    /// Losses of `x` for the targets `t`.
    fn values<T: Score>(&self, first: usize, x: &[T], t: &[T], out: &mut [T]);

    /// `scale` times the derivatives of the losses by `x`.
    fn input_slopes<T: Score>(&self, first: usize, x: &[T], t: &[T], scale: T, out: &mut [T]);

    /// `scale` times the derivatives of the losses by `t`.
    fn target_slopes<T: Score>(&self, first: usize, x: &[T], t: &[T], scale: T, out: &mut [T]);

    /// What the kernels `NAME_each`, `NAME_sums` and `NAME_gradient` get.
    #[cfg(feature = "cuda")]
    fn constants(&self) -> cuda::Constants;
}

/// Elements treated together.
pub(super) const BLOCK: usize = 1024;
/// Elements of a task: a multiple of [`BLOCK`].
const CHUNK: usize = 16 * BLOCK;

/// The reduced losses of `input` for `target`, which have one shape; both get gradients.
pub(super) fn pointwise_loss<L: PointLoss>(
    loss: L,
    input: &Tensor,
    target: &Tensor,
    reduction: Reduction,
) -> Result<Tensor> {
    Ok(input.contiguous()?.apply_op2(&target.contiguous()?, LossOp { loss, reduction })?)
}

/// Fails unless both tensors are of one float type and shape, on one device.
pub(super) fn check_pair(op: &str, input: &Tensor, target: &Tensor) -> Result<()> {
    check_float(&format!("{op}: input"), input)?;
    check_device(&format!("{op}: input"), input)?;
    let what = format!("{op}: target");
    check_same_device(&what, target, input)?;
    if target.dims() != input.dims() {
        return Err(Error::shape(what, format!("{:?}", input.dims()), target.dims()));
    }
    if target.dtype() != input.dtype() {
        return Err(Error::Dtype { what, expected: format!("{:?}", input.dtype()), got: target.dtype() });
    }
    Ok(())
}

struct LossOp<L> {
    loss: L,
    reduction: Reduction,
}

impl<L: PointLoss> LossOp<L> {
    fn each<T: Score>(&self, x: &[T], t: &[T]) -> Vec<T> {
        let mut out = vec![T::ZERO; x.len()];
        let chunks = out.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK).zip(t.par_chunks(CHUNK)));
        chunks.enumerate().for_each(|(chunk, (out, (x, t)))| {
            let blocks = out.chunks_mut(BLOCK).zip(x.chunks(BLOCK).zip(t.chunks(BLOCK)));
            for (block, (out, (x, t))) in blocks.enumerate() {
                vectorised(|| self.loss.values(chunk * CHUNK + block * BLOCK, x, t, out));
            }
        });
        out
    }

    /// Added up in `f64`, in an order that depends on the number of elements only.
    fn sum<T: Score>(&self, x: &[T], t: &[T]) -> f64 {
        let sum_chunk = |(chunk, (x, t)): (usize, (&[T], &[T]))| {
            let mut out = [T::ZERO; BLOCK];
            let mut sums = [0.0; 8];
            for (block, (x, t)) in x.chunks(BLOCK).zip(t.chunks(BLOCK)).enumerate() {
                let out = &mut out[..x.len()];
                vectorised(|| {
                    self.loss.values(chunk * CHUNK + block * BLOCK, x, t, out);
                    let (parts, rest) = out.as_chunks::<8>();
                    for part in parts {
                        for (sum, x) in sums.iter_mut().zip(part) {
                            *sum += x.to_f64();
                        }
                    }
                    for (sum, x) in sums.iter_mut().zip(rest) {
                        *sum += x.to_f64();
                    }
                });
            }
            sums.iter().sum::<f64>()
        };
        let parts: Vec<f64> =
            x.par_chunks(CHUNK).zip(t.par_chunks(CHUNK)).enumerate().map(sum_chunk).collect();
        parts.iter().sum()
    }

    fn gradient<T: Score>(&self, x: &[T], t: &[T], g: &[T], of_target: bool) -> Vec<T> {
        let (scale, each) = match self.reduction {
            Reduction::None => (T::ONE, true),
            Reduction::Sum => (g[0], false),
            Reduction::Mean => (T::from_f64(g[0].to_f64() / x.len() as f64), false),
        };
        let mut out = vec![T::ZERO; x.len()];
        let chunks = out.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK).zip(t.par_chunks(CHUNK)));
        chunks.enumerate().for_each(|(chunk, (out, (x, t)))| {
            let blocks = out.chunks_mut(BLOCK).zip(x.chunks(BLOCK).zip(t.chunks(BLOCK)));
            for (block, (out, (x, t))) in blocks.enumerate() {
                let first = chunk * CHUNK + block * BLOCK;
                vectorised(|| {
                    if of_target {
                        self.loss.target_slopes(first, x, t, scale, out);
                    } else {
                        self.loss.input_slopes(first, x, t, scale, out);
                    }
                    if each {
                        for (out, &g) in out.iter_mut().zip(&g[first..]) {
                            *out *= g;
                        }
                    }
                });
            }
        });
        out
    }
}

impl<L: PointLoss> CustomOp2 for LossOp<L> {
    fn name(&self) -> &'static str {
        L::NAME
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        dispatch_float!(format!("{}: input", L::NAME), s1.dtype(), T => {
            let x = cpu_slice::<T>(L::NAME, s1, l1)?;
            let t = cpu_slice::<T>(L::NAME, s2, l2)?;
            Ok(match self.reduction {
                Reduction::None => (T::to_cpu_storage_owned(self.each(x, t)), l1.shape().clone()),
                Reduction::Sum => (T::to_cpu_storage_owned(vec![T::from_f64(self.sum(x, t))]), ().into()),
                Reduction::Mean => {
                    let mean = self.sum(x, t) / x.len() as f64;
                    (T::to_cpu_storage_owned(vec![T::from_f64(mean)]), ().into())
                }
            })
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
        Ok(cuda::forward(self, (s1, l1), (s2, l2))?)
    }

    fn bwd(
        &self,
        input: &Tensor,
        target: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        #[cfg(feature = "cuda")]
        if grad.device().is_cuda() {
            let gradient = |like: &Tensor, of_target| {
                like.track_op().then(|| cuda::gradient(self, input, target, &grad, of_target)).transpose()
            };
            return Ok((gradient(input, false)?, gradient(target, true)?));
        }
        let (xs, xl) = input.storage_and_layout();
        let (ts, tl) = target.storage_and_layout();
        let (gs, gl) = grad.storage_and_layout();
        dispatch_float!(format!("{}: gradient", L::NAME), grad.dtype(), T => {
            let x = storage_slice::<T>(L::NAME, &xs, xl)?;
            let t = storage_slice::<T>(L::NAME, &ts, tl)?;
            let g = storage_slice::<T>(L::NAME, &gs, gl)?;
            let gradient = |like: &Tensor, of_target| {
                if !like.track_op() {
                    return Ok(None);
                }
                let values = self.gradient(x, t, g, of_target);
                Tensor::from_vec(values, like.shape(), &Device::Cpu).map(Some)
            };
            Ok((gradient(input, false)?, gradient(target, true)?))
        })
    }
}
