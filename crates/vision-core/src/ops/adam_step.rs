//! One step of Adam or AdamW, in place and in one pass over memory per tensor.
//!
//! With gradient `g`, step `t` counted from 1, rates `b1` and `b2` of the averages, weight decay `w` and learning
//! rate `lr`, as `torch.optim.Adam` and `torch.optim.AdamW`: Adam adds `w p` to the gradient, AdamW multiplies `p`
//! by `1 - lr w` instead; then
//!
//! ```text
//! m += (1 - b1) (g - m)
//! v  = b2 v + (1 - b2) g^2
//! p -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)
//! ```
//!
//! AMSGrad divides by the largest `v` so far instead of `v`. Nothing here takes part in a graph.

#[cfg(feature = "cuda")]
mod cuda;

use std::cell::Cell;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, Layout, Tensor};
use rayon::prelude::*;

use super::support::{
    Float, check_apart, check_contiguous, check_device, check_dims, check_dtype, check_float,
    check_same_device, cpu_slice, cpu_slice_mut, dispatch_float, vectorised,
};
use crate::error::{Error, Result};

/// Constants of [`adam_step`]. The defaults are those of `torch.optim.Adam`, at its first step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamStepArgs {
    /// Learning rate of this step.
    pub lr: f64,
    /// Shares of the old average and of the old average of squares; each 0 to below 1.
    pub betas: [f64; 2],
    /// Added to the root that is divided by.
    pub eps: f64,
    /// L2 penalty added to the gradient or, if `decoupled`, share of the parameter that `lr` takes away.
    pub weight_decay: f64,
    /// Weight decay as in AdamW.
    pub decoupled: bool,
    /// Divide by the largest average of squares so far.
    pub amsgrad: bool,
    /// Which step of this parameter this is, from 1.
    pub step: u64,
}

impl Default for AdamStepArgs {
    fn default() -> Self {
        Self {
            lr: 1e-3,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.0,
            decoupled: false,
            amsgrad: false,
            step: 1,
        }
    }
}

impl AdamStepArgs {
    /// Averages kept for every element of a parameter: of gradients, of squares, and the largest of the latter
    /// with AMSGrad.
    pub fn averages(&self) -> usize {
        2 + usize::from(self.amsgrad)
    }
}

/// Updates `param` and its averages `state` with the gradient `grad` of the same shape. `state` has one axis more in
/// front: the average of gradients, that of squares and, with AMSGrad, the largest of the latter; all 0 before the
/// first step.
///
/// # Errors
/// If shapes, element types (`f32` or `f64`) or devices do not fit, the parameter or the state is not contiguous, two
/// of the tensors share memory, a share is not in 0 to below 1, or the step is 0.
pub fn adam_step(param: &Tensor, grad: &Tensor, state: &Tensor, args: &AdamStepArgs) -> Result<()> {
    check_float("adam_step: param", param)?;
    check_device("adam_step: param", param)?;
    check_dims("adam_step: grad", grad, param.dims())?;
    check_dims("adam_step: state", state, &[&[args.averages()], param.dims()].concat())?;
    for (what, tensor) in [("adam_step: grad", grad), ("adam_step: state", state)] {
        check_dtype(what, tensor, param.dtype())?;
        check_same_device(what, tensor, param)?;
        check_apart(what, tensor, param)?;
    }
    check_apart("adam_step: grad", grad, state)?;
    check_contiguous("adam_step: param", param)?;
    check_contiguous("adam_step: state", state)?;
    if !args.betas.iter().all(|beta| (0.0..1.0).contains(beta)) {
        let problem = format!("{:?} are not in 0 to below 1", args.betas);
        return Err(Error::argument("adam_step: betas", problem));
    }
    if args.step == 0 {
        return Err(Error::argument("adam_step: step", "the first one is 1"));
    }
    if param.elem_count() == 0 {
        return Ok(());
    }
    let grad = grad.contiguous()?;
    let factors = Factors::new(args);
    Ok(state.inplace_op1(&Step { factors, param, grad: &grad })?)
}

/// What the constants of a step come to.
#[derive(Clone, Copy, Debug)]
struct Factors {
    /// Kept of the parameter.
    keep: f64,
    /// Of the parameter, added to the gradient.
    decay: f64,
    betas: [f64; 2],
    /// Divides the root of the average of squares.
    root: f64,
    eps: f64,
    /// On the quotient; negative.
    rate: f64,
    amsgrad: bool,
}

impl Factors {
    fn new(args: &AdamStepArgs) -> Self {
        let AdamStepArgs { lr, betas, eps, weight_decay, decoupled, amsgrad, step } = *args;
        let [first, second] = betas.map(|beta| 1.0 - beta.powf(step as f64));
        Self {
            keep: if decoupled { 1.0 - lr * weight_decay } else { 1.0 },
            decay: if decoupled { 0.0 } else { weight_decay },
            betas,
            root: second.sqrt(),
            eps,
            rate: -lr / first,
            amsgrad,
        }
    }
}

/// Elements handed to a thread at a time.
const CHUNK: usize = 1 << 13;

/// Updates parameters and averages, all slices of one length; `most` is empty without AMSGrad.
fn update<T: Float>(factors: &Factors, param: &mut [T], grad: &[T], state: &mut [T]) {
    let (m, rest) = state.split_at_mut(param.len());
    let (v, most) = rest.split_at_mut(param.len());
    let parts = param.par_chunks_mut(CHUNK).zip(grad.par_chunks(CHUNK));
    let parts = parts.zip(m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK)));
    if factors.amsgrad {
        parts.zip(most.par_chunks_mut(CHUNK)).for_each(|(((p, g), (m, v)), most)| {
            let step = Elements::new(factors);
            vectorised(|| {
                let averages = m.iter_mut().zip(v).zip(most);
                for ((p, &g), ((m, v), most)) in p.iter_mut().zip(g).zip(averages) {
                    step.average(*p, g, m, v);
                    // NaN wins, as in `torch.maximum`.
                    *most = if *v > *most || v.is_nan() { *v } else { *most };
                    step.move_by(p, *m, *most);
                }
            });
        });
    } else {
        parts.for_each(|((p, g), (m, v))| {
            let step = Elements::new(factors);
            vectorised(|| {
                for ((p, &g), (m, v)) in p.iter_mut().zip(g).zip(m.iter_mut().zip(v)) {
                    step.average(*p, g, m, v);
                    step.move_by(p, *m, *v);
                }
            });
        });
    }
}

/// [`Factors`] in the element type.
struct Elements<T> {
    keep: T,
    decay: T,
    /// New shares of the average of gradients and of squares, and the old share of the latter.
    shares: [T; 3],
    root: T,
    eps: T,
    rate: T,
}

impl<T: Float> Elements<T> {
    fn new(factors: &Factors) -> Self {
        let [b1, b2] = factors.betas;
        Self {
            keep: T::from_f64(factors.keep),
            decay: T::from_f64(factors.decay),
            shares: [1.0 - b1, 1.0 - b2, b2].map(T::from_f64),
            root: T::from_f64(factors.root),
            eps: T::from_f64(factors.eps),
            rate: T::from_f64(factors.rate),
        }
    }

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "part of a loop over elements")]
    fn average(&self, p: T, g: T, m: &mut T, v: &mut T) {
        let [new, new_square, old_square] = self.shares;
        let g = g + p * self.decay;
        *m += (g - *m) * new;
        *v = *v * old_square + new_square * g * g;
    }

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "part of a loop over elements")]
    fn move_by(&self, p: &mut T, m: T, v: T) {
        *p = *p * self.keep + self.rate * m / (v.sqrt() / self.root + self.eps);
    }
}

/// The step as an operation on the averages. An operation of the tensor library changes one tensor only, so it holds
/// another one, on the parameter, that is given the memory of the averages.
struct Step<'a> {
    factors: Factors,
    param: &'a Tensor,
    grad: &'a Tensor,
}

impl Step<'_> {
    fn with(&self, memory: Memory<'_>, layout: &Layout) -> candle_core::Result<()> {
        let update = Update { factors: self.factors, state: Cell::new(Some((memory, layout))) };
        self.param.inplace_op2(self.grad, &update)
    }
}

impl InplaceOp1 for Step<'_> {
    fn name(&self) -> &'static str {
        "adam-step"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        self.with(Memory::Cpu(storage), layout)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> candle_core::Result<()> {
        self.with(Memory::Cuda(storage), layout)
    }
}

/// Where the averages lie.
enum Memory<'a> {
    Cpu(&'a mut CpuStorage),
    #[cfg(feature = "cuda")]
    Cuda(&'a mut CudaStorage),
}

/// The step as an operation on the parameter, run once.
struct Update<'a> {
    factors: Factors,
    state: Cell<Option<(Memory<'a>, &'a Layout)>>,
}

fn misplaced() -> Error {
    Error::argument("adam_step: state", "does not lie where the parameter lies")
}

impl InplaceOp2 for Update<'_> {
    fn name(&self) -> &'static str {
        "adam-update"
    }

    fn cpu_fwd(
        &self,
        s1: &mut CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<()> {
        let Some((Memory::Cpu(state), layout)) = self.state.take() else {
            return Err(misplaced().into());
        };
        dispatch_float!("adam_step: grad", s2.dtype(), T => {
            let grad = cpu_slice::<T>("adam_step: grad", s2, l2)?;
            let param = cpu_slice_mut::<T>("adam_step: param", s1, l1)?;
            update(&self.factors, param, grad, cpu_slice_mut("adam_step: state", state, layout)?);
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
        let Some((Memory::Cuda(state), layout)) = self.state.take() else {
            return Err(misplaced().into());
        };
        Ok(cuda::update(&self.factors, (s1, l1), (s2, l2), (state, layout))?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::rng::Key;
    use crate::testing::assert_close;

    fn vector(values: &[f64]) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap()
    }

    /// Shares of a half, so that all but the last quotient is exact.
    const ARGS: AdamStepArgs = AdamStepArgs {
        lr: 0.5,
        betas: [0.5, 0.5],
        eps: 1.0,
        weight_decay: 0.25,
        decoupled: false,
        amsgrad: false,
        step: 2,
    };

    #[test]
    fn each_form_by_hand() {
        // The gradient is 2 or, with the penalty, 3; the corrections are 3/4 and its root.
        let root = 0.75_f64.sqrt();
        let rate = 0.5 / 0.75;
        for (args, want, state_want) in [
            (ARGS, 4.0 - rate * 2.0 / (6.5_f64.sqrt() / root + 1.0), [2.0, 6.5, 5.0]),
            (
                AdamStepArgs { decoupled: true, ..ARGS },
                3.5 - rate * 1.5 / (4_f64.sqrt() / root + 1.0),
                [1.5, 4.0, 5.0],
            ),
            (
                AdamStepArgs { amsgrad: true, ..ARGS },
                4.0 - rate * 2.0 / (6.5_f64.sqrt() / root + 1.0),
                [2.0, 6.5, 6.5],
            ),
            (
                AdamStepArgs { amsgrad: true, decoupled: true, ..ARGS },
                3.5 - rate * 1.5 / (5_f64.sqrt() / root + 1.0),
                [1.5, 4.0, 5.0],
            ),
        ] {
            let (param, grad) = (vector(&[4.0]), vector(&[2.0]));
            let all = vector(&[1.0, 4.0, 5.0]).reshape((3, 1)).unwrap();
            let state = all.narrow(0, 0, args.averages()).unwrap();
            adam_step(&param, &grad, &state, &args).unwrap();
            assert_close(&param, &vector(&[want]), 1e-15, 0.0).unwrap();
            assert_eq!(all.flatten_all().unwrap().to_vec1::<f64>().unwrap(), state_want, "{args:?}");
        }
    }

    #[test]
    fn large_tensors_are_the_same_as_their_parts() {
        let draw = |name: &str, std: f64| {
            let key = Key::new(1).fold(name);
            key.normal(2 * CHUNK + 77, 0.0, std, DType::F32, &Device::Cpu).unwrap()
        };
        let (param, grad) = (draw("p", 1.0), draw("g", 0.1));
        for amsgrad in [false, true] {
            let args = AdamStepArgs { amsgrad, ..AdamStepArgs::default() };
            let dims = (args.averages(), param.elem_count());
            let state = Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
            let whole = param.copy().unwrap();
            adam_step(&whole, &grad, &state, &args).unwrap();
            for start in [0, 1000, 2 * CHUNK - 3] {
                let part = |x: &Tensor| x.narrow(0, start, 50).unwrap().copy().unwrap();
                let (piece, state) = (part(&param), Tensor::zeros((dims.0, 50), DType::F32, &Device::Cpu));
                adam_step(&piece, &part(&grad), &state.unwrap(), &args).unwrap();
                assert_close(&part(&whole), &piece, 0.0, 0.0).unwrap();
            }
        }
    }

    #[test]
    fn wrong_arguments_are_named() {
        let (param, grad) = (vector(&[1.0, 2.0]), vector(&[0.5, 0.5]));
        let state = Tensor::zeros((2, 2), DType::F64, &Device::Cpu).unwrap();
        let problem = |param: &Tensor, grad: &Tensor, state: &Tensor, args: AdamStepArgs| {
            adam_step(param, grad, state, &args).unwrap_err().to_string()
        };
        assert!(problem(&param, &vector(&[1.0]), &state, ARGS).contains("grad"));
        assert!(problem(&param, &param, &state, ARGS).contains("grad: shares its memory"));
        assert!(problem(&param, &state.get(0).unwrap(), &state, ARGS).contains("grad: shares its memory"));
        assert!(problem(&state.get(0).unwrap(), &grad, &state, ARGS).contains("state: shares its memory"));
        assert!(problem(&param, &grad, &state, AdamStepArgs { amsgrad: true, ..ARGS }).contains("state"));
        assert!(problem(&param, &grad, &state.t().unwrap(), ARGS).contains("state: must be contiguous"));
        assert!(problem(&param, &grad, &state, AdamStepArgs { betas: [0.9, 1.0], ..ARGS }).contains("betas"));
        assert!(problem(&param, &grad, &state, AdamStepArgs { step: 0, ..ARGS }).contains("step"));
        assert!(problem(&param.to_dtype(DType::F32).unwrap(), &grad, &state, ARGS).contains("grad"));
        let empty = Tensor::zeros((0, 3), DType::F32, &Device::Cpu).unwrap();
        let state = Tensor::zeros((2, 0, 3), DType::F32, &Device::Cpu).unwrap();
        adam_step(&empty, &empty.copy().unwrap(), &state, &ARGS).unwrap();
    }
}
