//! The encoding layer of Deep TEN and EncNet (Zhang et al., 2017 and 2018): residuals to learnt codewords, softly assigned.
//!
//! For positions `x[i]`, codewords `c[k]` and scales `s[k]`, all of one picture,
//!
//! - `d[i, k] = |x[i] - c[k]|²`, divided by the number of channels with `normalize_distance`,
//! - `a[i, ·] = softmax over k of s[k] d[i, k]`,
//! - `e[k] = sum over i of a[i, k] (x[i] - c[k])`.
//!
//! Shapes are `(B, N, D)`, `(K, D)`, `(K,)` and `(B, K, D)`. As in the authors' code (PyTorch-Encoding 1.0.1) the scale is
//! the negative of the paper's smoothing factor, and the sum is not divided by `N`. With `g` the gradient of `e`,
//! `u[i, k] = (x[i] - c[k]) · g[k]` and `q = a (u - sum over j of a[·, j] u[·, j])`, gradients are
//!
//! - `ds[k] = sum of q[i, k] d[i, k]`, from the distances, where the authors' code divides by the scale and fails at 0,
//! - `dx[i] = sum over k of a[i, k] g[k] + 2 s[k] q[i, k] (x[i] - c[k])`,
//! - `dc[k] = -sum over i of a[i, k] g[k] + 2 s[k] q[i, k] (x[i] - c[k])`; the authors' CPU code has the wrong sign in
//!   the second term, their CUDA code has not.
//!
//! Distances are `|x|² - 2 x·c + |c|²` and aggregates `aᵀ x - (sum of a) c`, so that all is matrix products over blocks of
//! positions; nothing of size `N K D` exists. Backward keeps `a`, `K / D` of the input's size.

#[cfg(feature = "cuda")]
mod cuda;
mod kernels;
mod products;

use std::sync::OnceLock;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, DType, Device, Layout, Shape, Tensor};

use self::kernels::{Kept, Problem, Wanted};
use super::support::{
    check_device, check_dims, check_dtype, check_float, check_result, check_same_device, contiguous,
    cpu_slice, dispatch_float, storage_slice,
};
use crate::FeatureMap;
use crate::error::{Error, Result};

/// Options of [`encoding`]; the default is the authors' code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodingArgs {
    /// Whether to divide squared distances by the number of channels, so that the softmax of untrained layers does not
    /// pick one codeword for almost everything.
    pub normalize_distance: bool,
}

/// Encodes `input` `(B, N, D)` with `codewords` `(K, D)` and `scale` `(K,)`, all `f32` or all `f64`, as `(B, K, D)`. All
/// three get gradients.
///
/// # Errors
/// If shapes, types or devices do not fit, or there are no positions, channels or codewords.
pub fn encoding(input: &Tensor, codewords: &Tensor, scale: &Tensor, args: &EncodingArgs) -> Result<Tensor> {
    check(input, codewords, scale)?;
    let tracked = [input, codewords, scale].iter().any(|tensor| tensor.track_op());
    let op = Encoding {
        args: *args,
        keep: tracked,
        kept: OnceLock::new(),
        #[cfg(feature = "cuda")]
        on_device: OnceLock::new(),
    };
    Ok(contiguous(input)?.apply_op3(&codewords.contiguous()?, &scale.contiguous()?, op)?)
}

/// [`encoding`] of the pixels of a feature map `(B, H, W, D)`.
///
/// # Errors
/// As [`encoding`].
pub fn encoding_nhwc(
    input: &FeatureMap,
    codewords: &Tensor,
    scale: &Tensor,
    args: &EncodingArgs,
) -> Result<Tensor> {
    let (b, h, w, d) = input.dims()?;
    encoding(&input.nhwc().reshape((b, h * w, d))?, codewords, scale, args)
}

/// The soft assignments `a` of [`encoding`], `(B, N, K)`: no gradient, and computed on the CPU.
///
/// # Errors
/// As [`encoding`].
pub fn codeword_assignments(
    input: &Tensor,
    codewords: &Tensor,
    scale: &Tensor,
    args: &EncodingArgs,
) -> Result<Tensor> {
    check(input, codewords, scale)?;
    let local = |tensor: &Tensor| tensor.detach().to_device(&Device::Cpu)?.contiguous();
    let (x, c, s) = (local(input)?, local(codewords)?, local(scale)?);
    let ((b, n, _), (k, _)) = (x.dims3()?, c.dims2()?);
    let ((xs, xl), (cs, cl), (ss, sl)) =
        (x.storage_and_layout(), c.storage_and_layout(), s.storage_and_layout());
    dispatch_float!("codeword_assignments: input", x.dtype(), T => {
        let (x, c) = (storage_slice::<T>("encoding: input", &xs, xl)?, storage_slice("encoding: codewords", &cs, cl)?);
        let problem = Problem::new(x, c, storage_slice("encoding: scale", &ss, sl)?, [b, n], args.normalize_distance);
        let (_, kept) = problem.forward(true);
        Ok(Tensor::from_vec(kept.map_or_else(Vec::new, |kept| kept.assignments), (b, n, k), &Device::Cpu)?)
    })
}

/// How much each codeword is used: [`codeword_usage`].
#[derive(Clone, Debug, PartialEq)]
pub struct CodewordUsage {
    /// Mean assignment of each codeword over all positions; they sum to 1.
    pub mean: Vec<f64>,
    /// Mean over all positions of the entropy of its assignments, in nats: 0 if each position has one codeword, `ln K` if
    /// all have the same share in it.
    pub entropy: f64,
}

/// Which codewords are used and how sharply, to see whether one of them takes everything.
///
/// # Errors
/// As [`encoding`], and if the batch is empty.
pub fn codeword_usage(
    input: &Tensor,
    codewords: &Tensor,
    scale: &Tensor,
    args: &EncodingArgs,
) -> Result<CodewordUsage> {
    let assignments = codeword_assignments(input, codewords, scale, args)?;
    let (b, n, k) = assignments.dims3()?;
    if b == 0 {
        return Err(Error::shape("codeword_usage: input", "(B, N, D) with a picture", input.dims()));
    }
    let assignments: Vec<f64> = assignments.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    let (mut mean, mut entropy) = (vec![0.0; k], 0.0);
    for row in assignments.chunks(k) {
        for (mean, &a) in mean.iter_mut().zip(row) {
            *mean += a;
            entropy -= if a > 0.0 { a * a.ln() } else { 0.0 };
        }
    }
    let positions = (b * n) as f64;
    Ok(CodewordUsage {
        mean: mean.into_iter().map(|sum| sum / positions).collect(),
        entropy: entropy / positions,
    })
}

fn check(input: &Tensor, codewords: &Tensor, scale: &Tensor) -> Result<()> {
    check_float("encoding: input", input)?;
    check_device("encoding: input", input)?;
    let &[b, n, d] = input.dims() else {
        return Err(Error::shape("encoding: input", "(B, N, D)", input.dims()));
    };
    if n == 0 || d == 0 {
        return Err(Error::shape("encoding: input", "(B, N, D) with a position and a channel", input.dims()));
    }
    let &[k, width] = codewords.dims() else {
        return Err(Error::shape("encoding: codewords", "(K, D)", codewords.dims()));
    };
    if k == 0 || width != d {
        return Err(Error::shape(
            "encoding: codewords",
            format!("(K, {d}) with K of at least 1"),
            codewords.dims(),
        ));
    }
    check_dims("encoding: scale", scale, &[k])?;
    check_result("encoding: input", &[b, n.max(d), k])?;
    for (what, tensor) in [("encoding: codewords", codewords), ("encoding: scale", scale)] {
        check_dtype(what, tensor, input.dtype())?;
        check_same_device(what, tensor, input)?;
    }
    Ok(())
}

struct Encoding {
    args: EncodingArgs,
    /// Whether backward may come.
    keep: bool,
    /// Made by forward for backward.
    kept: OnceLock<AnyKept>,
    /// The same on a CUDA device.
    #[cfg(feature = "cuda")]
    on_device: OnceLock<cuda::Kept>,
}

/// What forward keeps, of either element type.
enum AnyKept {
    F32(Kept<f32>),
    F64(Kept<f64>),
}

/// An element type that [`AnyKept`] holds.
trait Keeps: Sized {
    fn wrap(kept: Kept<Self>) -> AnyKept;
    fn of(kept: &AnyKept) -> Option<&Kept<Self>>;
}

impl Keeps for f32 {
    fn wrap(kept: Kept<Self>) -> AnyKept {
        AnyKept::F32(kept)
    }
    fn of(kept: &AnyKept) -> Option<&Kept<Self>> {
        if let AnyKept::F32(kept) = kept { Some(kept) } else { None }
    }
}

impl Keeps for f64 {
    fn wrap(kept: Kept<Self>) -> AnyKept {
        AnyKept::F64(kept)
    }
    fn of(kept: &AnyKept) -> Option<&Kept<Self>> {
        if let AnyKept::F64(kept) = kept { Some(kept) } else { None }
    }
}

impl CustomOp3 for Encoding {
    fn name(&self) -> &'static str {
        "encoding"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let ((b, n, d), (k, _)) = (l1.shape().dims3()?, l2.shape().dims2()?);
        dispatch_float!("encoding: input", s1.dtype(), T => {
            let problem = Problem::<T>::new(
                cpu_slice("encoding: input", s1, l1)?,
                cpu_slice("encoding: codewords", s2, l2)?,
                cpu_slice("encoding: scale", s3, l3)?,
                [b, n],
                self.args.normalize_distance,
            );
            let (encoded, kept) = problem.forward(self.keep);
            if let Some(kept) = kept {
                // A second forward of the same op object would see the same input.
                let _ = self.kept.set(T::wrap(kept));
            }
            Ok((T::to_cpu_storage_owned(encoded), (b, k, d).into()))
        })
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
        s3: &CudaStorage,
        l3: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        let ((b, _, d), (k, _)) = (l1.shape().dims3()?, l2.shape().dims2()?);
        let (encoded, kept) = cuda::forward((s1, l1), (s2, l2), (s3, l3), self.args.normalize_distance)?;
        // As on the CPU.
        let _ = self.on_device.set(kept);
        Ok((encoded, (b, k, d).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        c: &Tensor,
        s: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let wanted = Wanted { input: x.track_op(), codes: c.track_op() || s.track_op() };
        let grad = grad.contiguous()?;
        #[cfg(feature = "cuda")]
        if let Some(kept) = self.on_device.get() {
            let (dx, dc, ds) = cuda::backward(kept, [x, c, s, &grad], wanted, self.args.normalize_distance)?;
            return Ok((dx, dc.filter(|_| c.track_op()), ds.filter(|_| s.track_op())));
        }
        let (b, n, _) = x.dims3()?;
        let ((xs, xl), (cs, cl)) = (x.storage_and_layout(), c.storage_and_layout());
        let ((ss, sl), (gs, gl)) = (s.storage_and_layout(), grad.storage_and_layout());
        dispatch_float!("encoding: gradient", x.dtype(), T => {
            let kept = self.kept.get().and_then(T::of).ok_or_else(|| {
                Error::argument("encoding", "backward was called without a forward pass on this device")
            })?;
            let problem = Problem::<T>::new(
                storage_slice("encoding: input", &xs, xl)?,
                storage_slice("encoding: codewords", &cs, cl)?,
                storage_slice("encoding: scale", &ss, sl)?,
                [b, n],
                self.args.normalize_distance,
            );
            let grads = problem.backward(kept, storage_slice("encoding: gradient", &gs, gl)?, wanted);
            let tensor = |data: Option<Vec<T>>, like: &Tensor| {
                let data = data.filter(|_| like.track_op());
                data.map(|data| Tensor::from_vec(data, like.shape(), &Device::Cpu)).transpose()
            };
            Ok((tensor(grads.input, x)?, tensor(grads.codewords, c)?, tensor(grads.scale, s)?))
        })
    }
}

#[cfg(test)]
mod formula_tests;
#[cfg(test)]
mod tests;
