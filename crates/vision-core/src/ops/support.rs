//! Shared plumbing of the operations: slices of tensors, typed dispatch, checks.

use std::any::Any;
use std::cell::Cell;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Shape, Storage, Tensor, WithDType};
use rayon::prelude::*;

use crate::cpu::kernels::HasKernels;
use crate::cpu::{Isa, active};
use crate::error::{Error, Result};

/// The element types of the CPU kernels: `f32` and `f64`.
///
/// Arithmetic comes from [`WithDType`]; this adds what kernels need beyond it.
pub(crate) trait Float: WithDType + Default + std::ops::Neg<Output = Self> + HasKernels {
    /// Zero.
    const ZERO: Self;
    /// One.
    const ONE: Self;
    /// Negative infinity.
    const NEG_INFINITY: Self;
    /// The smallest finite number.
    const LOWEST: Self;

    /// Whether this is not a number.
    fn is_nan(self) -> bool;
    /// `e` to this power.
    fn exp(self) -> Self;
    /// `ln(1 + self)`, exact near zero.
    fn ln_1p(self) -> Self;
    /// Absolute value.
    fn abs(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// The largest number of this type that is not above `x`; NaN stays NaN.
    fn from_f64_down(x: f64) -> Self;
    /// Calls `work` with a buffer that this thread keeps, of any length and content.
    ///
    /// Blocks of a kernel reuse their memory this way instead of asking the system for fresh pages.
    fn with_scratch<R>(work: impl FnOnce(&mut Vec<Self>) -> R) -> R;
}

macro_rules! impl_float {
    ($type:ident) => {
        impl Float for $type {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const NEG_INFINITY: Self = $type::NEG_INFINITY;
            const LOWEST: Self = $type::MIN;

            fn is_nan(self) -> bool {
                $type::is_nan(self)
            }
            fn exp(self) -> Self {
                $type::exp(self)
            }
            fn ln_1p(self) -> Self {
                $type::ln_1p(self)
            }
            fn abs(self) -> Self {
                $type::abs(self)
            }
            fn sqrt(self) -> Self {
                $type::sqrt(self)
            }
            #[allow(clippy::cast_lossless, reason = "one of the types is f64 itself")]
            fn from_f64_down(x: f64) -> Self {
                let near = x as $type;
                if near as f64 > x { near.next_down() } else { near }
            }
            fn with_scratch<R>(work: impl FnOnce(&mut Vec<Self>) -> R) -> R {
                thread_local! {
                    static SCRATCH: Cell<Vec<$type>> = const { Cell::new(Vec::new()) };
                }
                // Taken out, so that a nested call gets a buffer of its own.
                let mut buffer = SCRATCH.take();
                let result = work(&mut buffer);
                SCRATCH.set(buffer);
                result
            }
        }
    };
}
impl_float!(f32);
impl_float!(f64);

/// Runs `$body` with `$T` naming `f32` or `f64` after the `DType` `$dtype`; anything else is a typed error.
///
/// `$body` is an expression of type `Result<_, E>` with `E: From<Error>`.
macro_rules! dispatch_float {
    ($what:expr, $dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::F32 => {
                #[allow(unused_imports, reason = "`$body` may use the trait")]
                use candle_core::WithDType as _;
                type $T = f32;
                $body
            }
            candle_core::DType::F64 => {
                #[allow(unused_imports, reason = "`$body` may use the trait")]
                use candle_core::WithDType as _;
                type $T = f64;
                $body
            }
            got => Err($crate::error::Error::Dtype {
                what: $what.to_string(),
                expected: "f32 or f64".to_string(),
                got,
            }
            .into()),
        }
    };
}
pub(crate) use dispatch_float;

/// The elements of a contiguous CPU tensor, from what a custom op's `cpu_fwd` receives.
pub(crate) fn cpu_slice<'a, T: WithDType>(
    what: &str,
    storage: &'a CpuStorage,
    layout: &Layout,
) -> Result<&'a [T]> {
    let all = T::cpu_storage_as_slice(storage)?;
    let (start, end) =
        layout.contiguous_offsets().ok_or_else(|| Error::argument(what, "the tensor must be contiguous"))?;
    all.get(start..end).ok_or_else(|| Error::argument(what, "the layout does not fit the storage"))
}

/// The elements of a contiguous CPU tensor that is updated in place.
pub(crate) fn cpu_slice_mut<'a, T: Float>(
    what: &str,
    storage: &'a mut CpuStorage,
    layout: &Layout,
) -> Result<&'a mut [T]> {
    let found = storage.dtype();
    let all: &mut dyn Any = match storage {
        CpuStorage::F32(all) => all,
        CpuStorage::F64(all) => all,
        _ => {
            return Err(Error::Dtype {
                what: what.to_string(),
                expected: "f32 or f64".to_string(),
                got: found,
            });
        }
    };
    let (start, end) =
        layout.contiguous_offsets().ok_or_else(|| Error::argument(what, "the tensor must be contiguous"))?;
    let slice = all.downcast_mut::<Vec<T>>().and_then(|all| all.get_mut(start..end));
    slice.ok_or_else(|| Error::argument(what, "the layout does not fit the storage"))
}

/// The elements of a contiguous CPU tensor, from [`Tensor::storage_and_layout`]:
/// `let (s, l) = x.storage_and_layout(); let x = storage_slice::<f32>("op: x", &s, l)?;`.
pub(crate) fn storage_slice<'a, T: WithDType>(
    what: &str,
    storage: &'a Storage,
    layout: &Layout,
) -> Result<&'a [T]> {
    match storage {
        Storage::Cpu(cpu) => cpu_slice(what, cpu, layout),
        Storage::Cuda(_) => Err(not_on_cpu(what, "a CUDA device")),
        Storage::Metal(_) => Err(not_on_cpu(what, "a Metal device")),
    }
}

fn not_on_cpu(what: &str, got: &str) -> Error {
    Error::Device { what: what.to_string(), expected: "the CPU".to_string(), got: got.to_string() }
}

/// Fails unless `tensor` lies on the CPU or on a CUDA device.
pub(crate) fn check_device(what: &str, tensor: &Tensor) -> Result<()> {
    match tensor.device() {
        Device::Cpu | Device::Cuda(_) => Ok(()),
        Device::Metal(_) => Err(Error::Device {
            what: what.to_string(),
            expected: "the CPU or a CUDA device".to_string(),
            got: "a Metal device".to_string(),
        }),
    }
}

/// Fails unless `tensor` lies on the device of `other`, the operation's main input.
pub(crate) fn check_same_device(what: &str, tensor: &Tensor, other: &Tensor) -> Result<()> {
    if tensor.device().same_device(other.device()) {
        Ok(())
    } else {
        let name = |tensor: &Tensor| format!("{:?}", tensor.device().location());
        Err(Error::Device { what: what.to_string(), expected: name(other), got: name(tensor) })
    }
}

/// Fails unless `tensor` is of type `f32` or `f64`.
pub(crate) fn check_float(what: &str, tensor: &Tensor) -> Result<()> {
    match tensor.dtype() {
        DType::F32 | DType::F64 => Ok(()),
        got => Err(Error::Dtype { what: what.to_string(), expected: "f32 or f64".to_string(), got }),
    }
}

/// Fails unless `tensor` has the element type `dtype`.
pub(crate) fn check_dtype(what: &str, tensor: &Tensor, dtype: DType) -> Result<()> {
    if tensor.dtype() == dtype {
        Ok(())
    } else {
        Err(Error::Dtype { what: what.to_string(), expected: format!("{dtype:?}"), got: tensor.dtype() })
    }
}

/// Fails unless `tensor` has exactly the sizes `dims`.
pub(crate) fn check_dims(what: &str, tensor: &Tensor, dims: &[usize]) -> Result<()> {
    if tensor.dims() == dims { Ok(()) } else { Err(Error::shape(what, format!("{dims:?}"), tensor.dims())) }
}

/// Fails if a result of the sizes `dims` cannot be held in memory, which the argument `what` asks for. Sizes of 0 do not
/// excuse others: there are loops over those.
pub(crate) fn check_result(what: &str, dims: &[usize]) -> Result<()> {
    const LONGEST: usize = 1 << 31;
    let elements = dims.iter().try_fold(1usize, |all, &size| all.checked_mul(size.max(1)));
    if elements.is_some_and(|n| n <= isize::MAX as usize / 16) && dims.iter().all(|&size| size <= LONGEST) {
        Ok(())
    } else {
        Err(Error::argument(what, format!("a result of {dims:?} does not fit into memory")))
    }
}

/// Fails unless `tensor` can be updated in place as one run of memory.
pub(crate) fn check_contiguous(what: &str, tensor: &Tensor) -> Result<()> {
    if tensor.is_contiguous() {
        Ok(())
    } else {
        Err(Error::argument(what, "must be contiguous to be updated in place"))
    }
}

/// Fails if `tensor` lies in the memory of `other`, which is updated while `tensor` is read.
pub(crate) fn check_apart(what: &str, tensor: &Tensor, other: &Tensor) -> Result<()> {
    // One lock at a time: the two may be the same.
    let place = |tensor: &Tensor| std::ptr::from_ref::<Storage>(&tensor.storage_and_layout().0).addr();
    if place(tensor) == place(other) {
        Err(Error::argument(what, "shares its memory with another argument that is updated in place"))
    } else {
        Ok(())
    }
}

/// `tensor` with its elements in order.
///
/// The tensor library's own function asks a CUDA device to copy nothing if the tensor is empty, which is an error there.
pub(crate) fn contiguous(tensor: &Tensor) -> Result<Tensor> {
    if tensor.elem_count() == 0 && !tensor.is_contiguous() {
        return Ok(tensor.apply_op1(NothingInOrder)?);
    }
    Ok(tensor.contiguous()?)
}

/// An empty tensor as a contiguous one.
struct NothingInOrder;

impl CustomOp1 for NothingInOrder {
    fn name(&self) -> &'static str {
        "contiguous"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok((s.clone(), l.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, s: &CudaStorage, l: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        Ok((crate::cuda::empty(s.device(), s.dtype(), 0)?, l.shape().clone()))
    }

    fn bwd(&self, _arg: &Tensor, _res: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        Ok(Some(grad.clone()))
    }
}

/// Number of rows of `width` elements that make a chunk of work large enough to hand to a thread.
///
/// It depends on the sizes only, so sums over chunks do not depend on the number of threads.
pub(crate) fn chunk_rows(rows: usize, width: usize) -> usize {
    const ELEMENTS: usize = 1 << 15;
    (ELEMENTS / width.max(1)).clamp(1, rows.max(1))
}

/// Sums of the columns of a matrix of rows of `width` elements, in `f64` and in an order that depends on
/// the sizes only.
pub(crate) fn column_sums<T: Float>(rows: &[T], width: usize) -> Vec<f64> {
    if width == 0 {
        return Vec::new();
    }
    let chunk = chunk_rows(rows.len() / width, width) * width;
    let partial: Vec<Vec<f64>> = rows
        .par_chunks(chunk)
        .map(|rows| {
            let mut sums = vec![0.0; width];
            for row in rows.chunks_exact(width) {
                for (sum, &x) in sums.iter_mut().zip(row) {
                    *sum += x.to_f64();
                }
            }
            sums
        })
        .collect();
    add_up(partial, width)
}

/// The element-wise sum of vectors of `len` numbers, added in order.
pub(crate) fn add_up(parts: Vec<Vec<f64>>, len: usize) -> Vec<f64> {
    parts.into_iter().fold(vec![0.0; len], |mut sum, part| {
        for (sum, x) in sum.iter_mut().zip(part) {
            *sum += x;
        }
        sum
    })
}

/// Runs `work` compiled for AVX2 where the processor has it.
///
/// For loops over slices that the compiler turns into vector code. Nothing is contracted or reordered, so
/// the result is the same bit for bit.
#[inline(always)]
#[allow(clippy::inline_always, reason = "the closure must end up inside the function with the feature")]
pub(crate) fn vectorised<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn with_avx2<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        if active() >= Isa::Avx2 {
            #[allow(unsafe_code, reason = "calls code that needs a feature of the processor")]
            // SAFETY: `active` is never wider than what was detected.
            return unsafe { with_avx2(work) };
        }
    }
    work()
}
