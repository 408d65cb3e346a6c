//! Exact non-parametric softmax cross entropy over a whole memory bank, in tiles.
//!
//! `loss[b] = -ln softmax(scale * features[b] bank^T)[target[b]]` (Wu et al., "Unsupervised feature
//! learning via non-parametric instance discrimination", 2018, with `scale = 1 / tau`). The `B x n` logits
//! are never kept: forward walks over tiles of bank rows with a running maximum and sum, backward computes
//! the tiles again, `dloss/df[b] = g[b] scale (sum over j of p[b, j] bank[j] - bank[target[b]])`. Memory is
//! `O(B D)` plus one tile per task, whatever the size of the bank, which gets no gradient.
//!
//! How rows are shared out depends on the sizes only, so results do not depend on the number of threads.

#[cfg(feature = "cuda")]
mod cuda;
pub(super) mod exp;
mod kernels;

use std::sync::OnceLock;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, DType, Device, Layout, Shape, Tensor};

use self::kernels::{Problem, Softmax};
use super::gather_scores::{check_bank, check_rows, check_scale};
use super::support::{check_dtype, check_same_device, cpu_slice, dispatch_float, storage_slice};
use crate::error::{Error, Result};

/// Cross entropy of each feature's softmax over all bank rows, for features `(B, D)`, a bank `(n, D)` of
/// the same float type and `u32` targets `(B,)`; the result is `(B,)`, not reduced.
///
/// Only the features get a gradient. It is computed from the bank as it is when backward runs, so update
/// the bank after backward. A bank that is not contiguous is copied.
///
/// # Errors
/// If shapes, types or devices do not fit, a target is not a row of the bank, or the scale is not finite.
pub fn bank_cross_entropy(features: &Tensor, bank: &Tensor, target: &Tensor, scale: f64) -> Result<Tensor> {
    let rows = check_bank("bank_cross_entropy", features, bank)?;
    check_scale("bank_cross_entropy", scale)?;
    check_dtype("bank_cross_entropy: target", target, DType::U32)?;
    check_same_device("bank_cross_entropy: target", target, features)?;
    let batch = features.dims()[0];
    if target.dims() != [batch] {
        return Err(Error::shape("bank_cross_entropy: target", format!("({batch},)"), target.dims()));
    }
    let target = target.contiguous()?;
    check_rows("bank_cross_entropy: target", &target, rows)?;
    let op = BankCrossEntropy {
        target: if target.device().is_cpu() { target.to_vec1()? } else { Vec::new() },
        scale,
        softmax: OnceLock::new(),
        #[cfg(feature = "cuda")]
        on_device: (target, OnceLock::new()),
    };
    Ok(features.contiguous()?.apply_op2(&bank.detach().contiguous()?, op)?)
}

struct BankCrossEntropy {
    /// On the CPU.
    target: Vec<u32>,
    scale: f64,
    /// Made by forward for backward: 16 bytes per feature.
    softmax: OnceLock<Vec<Softmax>>,
    /// Target and what forward makes for backward, on a CUDA device.
    #[cfg(feature = "cuda")]
    on_device: (Tensor, OnceLock<cuda::Saved>),
}

impl CustomOp2 for BankCrossEntropy {
    fn name(&self) -> &'static str {
        "bank-cross-entropy"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (_, width) = l1.shape().dims2()?;
        let (rows, _) = l2.shape().dims2()?;
        dispatch_float!("bank_cross_entropy: features", s1.dtype(), T => {
            let problem = Problem::<T> {
                features: cpu_slice("bank_cross_entropy: features", s1, l1)?,
                bank: cpu_slice("bank_cross_entropy: bank", s2, l2)?,
                target: &self.target,
                rows,
                width,
                scale: T::from_f64(self.scale),
            };
            let (losses, softmax) = problem.losses();
            // A second forward of the same op object would see the same input.
            let _ = self.softmax.set(softmax);
            Ok((T::to_cpu_storage_owned(losses), self.target.len().into()))
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
        let (target, saved) = &self.on_device;
        let (losses, made) = cuda::forward((s1, l1), (s2, l2), target, self.scale)?;
        // As on the CPU.
        let _ = saved.set(made);
        Ok((losses, target.shape().clone()))
    }

    fn bwd(
        &self,
        features: &Tensor,
        bank: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        if !features.track_op() {
            return Ok((None, None));
        }
        #[cfg(feature = "cuda")]
        if let (target, Some(saved)) = (&self.on_device.0, self.on_device.1.get()) {
            let df = cuda::gradient(saved, features, bank, target, &grad.contiguous()?, self.scale)?;
            return Ok((Some(df), None));
        }
        let softmax = self.softmax.get().ok_or_else(|| {
            Error::argument("bank_cross_entropy", "backward was called without a forward pass on this device")
        })?;
        let grad = grad.contiguous()?;
        let ((fs, fl), (vs, vl), (gs, gl)) =
            (features.storage_and_layout(), bank.storage_and_layout(), grad.storage_and_layout());
        let (rows, width) = bank.dims2()?;
        dispatch_float!("bank_cross_entropy: gradient", features.dtype(), T => {
            let problem = Problem::<T> {
                features: storage_slice("bank_cross_entropy: features", &fs, fl)?,
                bank: storage_slice("bank_cross_entropy: bank", &vs, vl)?,
                target: &self.target,
                rows,
                width,
                scale: T::from_f64(self.scale),
            };
            let df = problem.gradient(softmax, storage_slice("bank_cross_entropy: gradient", &gs, gl)?);
            Ok((Some(Tensor::from_vec(df, features.shape(), &Device::Cpu)?), None))
        })
    }
}

#[cfg(test)]
mod tests;
