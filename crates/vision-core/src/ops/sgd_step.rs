//! One step of stochastic gradient descent, in place and in one pass over memory per tensor.
//!
//! With gradient `g`, weight decay `w`, momentum `m`, dampening `d` and rate `lr`, as `torch.optim.SGD`:
//! `g += w p`; `b = g` at the first step and `b = m b + (1 - d) g` afterwards; the direction is `g + m b` with
//! Nesterov, `b` without it, and `g` without momentum; `p -= lr * direction`. Nothing here takes part in a graph.

#[cfg(feature = "cuda")]
mod cuda;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, InplaceOp2, InplaceOp3, Layout, Tensor};
use rayon::prelude::*;

use super::support::{
    Float, check_contiguous, check_device, check_dims, check_dtype, check_float, check_same_device,
    cpu_slice, cpu_slice_mut, dispatch_float, vectorised,
};
use crate::error::{Error, Result};

/// Constants of [`sgd_step`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdStepArgs {
    /// Learning rate of this step.
    pub lr: f64,
    /// Factor on the previous direction.
    pub momentum: f64,
    /// Share of the new gradient kept out of the momentum.
    pub dampening: f64,
    /// L2 penalty added to the gradient.
    pub weight_decay: f64,
    /// Look ahead along the momentum.
    pub nesterov: bool,
    /// This is the first step: the momentum becomes the gradient.
    pub first: bool,
}

/// Updates `param` and, if there is one, its momentum `buffer` with the gradient `grad`; all of one shape.
///
/// # Errors
/// If shapes, element types (`f32` or `f64`) or devices differ, the parameter or the buffer is not contiguous, or
/// there is momentum without a buffer.
pub fn sgd_step(param: &Tensor, grad: &Tensor, buffer: Option<&Tensor>, args: &SgdStepArgs) -> Result<()> {
    check_float("sgd_step: param", param)?;
    check_device("sgd_step: param", param)?;
    for (what, tensor) in
        [("sgd_step: param", Some(param)), ("sgd_step: grad", Some(grad)), ("sgd_step: buffer", buffer)]
    {
        if let Some(tensor) = tensor {
            check_dims(what, tensor, param.dims())?;
            check_dtype(what, tensor, param.dtype())?;
            check_same_device(what, tensor, param)?;
        }
    }
    check_contiguous("sgd_step: param", param)?;
    let grad = grad.contiguous()?;
    let step = Update { args: *args };
    if args.momentum == 0.0 {
        return Ok(param.inplace_op2(&grad, &step)?);
    }
    let Some(buffer) = buffer else {
        return Err(Error::argument("sgd_step: buffer", "momentum needs one"));
    };
    check_contiguous("sgd_step: buffer", buffer)?;
    buffer.inplace_op3(&grad, param, &Momentum { args: *args })?;
    Ok(param.inplace_op3(&grad, buffer, &step)?)
}

/// Elements handed to a thread at a time.
const CHUNK: usize = 1 << 14;

/// Calls `work` with pieces of three slices of one length.
fn chunks<T: Float>(to: &mut [T], a: &[T], b: &[T], work: impl Fn(&mut T, T, T) + Sync) {
    to.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK))).for_each(|(to, (a, b))| {
        vectorised(|| {
            for ((to, &a), &b) in to.iter_mut().zip(a).zip(b) {
                work(to, a, b);
            }
        });
    });
}

/// The new momentum, from the gradient and the parameter.
struct Momentum {
    args: SgdStepArgs,
}

impl InplaceOp3 for Momentum {
    fn name(&self) -> &'static str {
        "sgd-momentum"
    }

    fn cpu_fwd(
        &self,
        s1: &mut CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> candle_core::Result<()> {
        let args = self.args;
        dispatch_float!("sgd_step: grad", s2.dtype(), T => {
            let (grad, param) = (cpu_slice::<T>("sgd_step: grad", s2, l2)?, cpu_slice::<T>("sgd_step: param", s3, l3)?);
            let [decay, momentum, keep] =
                [args.weight_decay, args.momentum, 1.0 - args.dampening].map(<T as candle_core::WithDType>::from_f64);
            let buffer = cpu_slice_mut::<T>("sgd_step: buffer", s1, l1)?;
            if args.first {
                chunks(buffer, grad, param, |b, g, p| *b = g + p * decay);
            } else {
                chunks(buffer, grad, param, |b, g, p| *b = *b * momentum + (g + p * decay) * keep);
            }
            Ok(())
        })
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        s1: &mut CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
        s3: &CudaStorage,
        l3: &Layout,
    ) -> candle_core::Result<()> {
        Ok(cuda::momentum(&self.args, (s1, l1), (s2, l2), (s3, l3))?)
    }
}

/// The new parameter, from the gradient and the momentum.
struct Update {
    args: SgdStepArgs,
}

impl InplaceOp2 for Update {
    fn name(&self) -> &'static str {
        "sgd-update"
    }

    fn cpu_fwd(
        &self,
        s1: &mut CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<()> {
        let args = self.args;
        dispatch_float!("sgd_step: grad", s2.dtype(), T => {
            let grad = cpu_slice::<T>("sgd_step: grad", s2, l2)?;
            let [decay, lr] = [args.weight_decay, args.lr].map(<T as candle_core::WithDType>::from_f64);
            chunks(cpu_slice_mut::<T>("sgd_step: param", s1, l1)?, grad, grad, |p, g, _| *p -= (g + *p * decay) * lr);
            Ok(())
        })
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        s1: &mut CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
    ) -> candle_core::Result<()> {
        Ok(cuda::update(&self.args, (s1, l1), (s2, l2), None)?)
    }
}

impl InplaceOp3 for Update {
    fn name(&self) -> &'static str {
        "sgd-update"
    }

    fn cpu_fwd(
        &self,
        s1: &mut CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> candle_core::Result<()> {
        let args = self.args;
        dispatch_float!("sgd_step: grad", s2.dtype(), T => {
            let (grad, buffer) = (cpu_slice::<T>("sgd_step: grad", s2, l2)?, cpu_slice::<T>("sgd_step: buffer", s3, l3)?);
            let [decay, momentum, lr] =
                [args.weight_decay, args.momentum, args.lr].map(<T as candle_core::WithDType>::from_f64);
            let param = cpu_slice_mut::<T>("sgd_step: param", s1, l1)?;
            if args.nesterov {
                chunks(param, grad, buffer, |p, g, b| *p -= (g + *p * decay + b * momentum) * lr);
            } else {
                chunks(param, grad, buffer, |p, _, b| *p -= b * lr);
            }
            Ok(())
        })
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        s1: &mut CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
        s3: &CudaStorage,
        l3: &Layout,
    ) -> candle_core::Result<()> {
        Ok(cuda::update(&self.args, (s1, l1), (s2, l2), Some((s3, l3)))?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    fn vector(values: &[f64]) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap()
    }

    const ARGS: SgdStepArgs = SgdStepArgs {
        lr: 0.5,
        momentum: 0.0,
        dampening: 0.0,
        weight_decay: 0.25,
        nesterov: false,
        first: false,
    };

    #[test]
    fn each_form_by_hand() {
        for (args, want, buffer_want) in [
            (ARGS, 4.0 - 0.5 * 3.0, 8.0),
            (SgdStepArgs { momentum: 0.5, first: true, ..ARGS }, 4.0 - 0.5 * 3.0, 3.0),
            (SgdStepArgs { momentum: 0.5, dampening: 0.5, ..ARGS }, 4.0 - 0.5 * 5.5, 5.5),
            (SgdStepArgs { momentum: 0.5, nesterov: true, ..ARGS }, 4.0 - 0.5 * (3.0 + 3.5), 7.0),
        ] {
            let (param, grad, buffer) = (vector(&[4.0]), vector(&[2.0]), vector(&[8.0]));
            sgd_step(&param, &grad, Some(&buffer), &args).unwrap();
            assert_eq!(param.to_vec1::<f64>().unwrap(), [want], "{args:?}");
            assert_eq!(buffer.to_vec1::<f64>().unwrap(), [buffer_want], "{args:?}");
        }
    }

    #[test]
    fn wrong_arguments_are_named() {
        let (param, grad) = (vector(&[1.0, 2.0]), vector(&[1.0]));
        let problem = |grad: &Tensor, buffer: Option<&Tensor>, args: SgdStepArgs| {
            sgd_step(&param, grad, buffer, &args).unwrap_err().to_string()
        };
        assert!(problem(&grad, None, ARGS).contains("grad"));
        assert!(
            problem(&param.copy().unwrap(), None, SgdStepArgs { momentum: 0.9, ..ARGS }).contains("buffer")
        );
        assert!(problem(&param.to_dtype(DType::F32).unwrap(), None, ARGS).contains("grad"));
        let empty = Tensor::zeros(0, DType::F32, &Device::Cpu).unwrap();
        sgd_step(&empty, &empty.copy().unwrap(), None, &ARGS).unwrap();
    }
}
