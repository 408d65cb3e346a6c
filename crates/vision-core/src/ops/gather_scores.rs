//! Scaled inner products of each feature with its own selection of bank rows, without gathering them.
//!
//! `out[b, k] = scale * <features[b], bank[index[b, k]]>`: what instance discrimination (Wu et al., 2018)
//! computes for a sample and its negatives. Gathering first would take `B K D` numbers, 537 MB for 256
//! samples, 4,096 negatives and 128 dimensions; here forward writes `B K` scores and backward reads the
//! rows again. The bank is a constant: it gets no gradient and no buffer for one.

#[cfg(feature = "cuda")]
mod cuda;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, DType, Device, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::support::{
    Float, check_device, check_dtype, check_float, check_same_device, cpu_slice, dispatch_float,
    storage_slice,
};
use crate::error::{Error, Result};

/// `scale * <features[b], bank[index[b, k]]>` for features `(B, D)`, a bank `(n, D)` of the same float
/// type and a `u32` index `(B, K)`; the result is `(B, K)`.
///
/// Only the features get a gradient. It is computed from the bank as it is when backward runs, so update
/// the bank after backward. A bank that is not contiguous is copied.
///
/// # Errors
/// If shapes, types or devices do not fit, an index is not a row of the bank, or the scale is not finite.
pub fn gather_scores(features: &Tensor, bank: &Tensor, index: &Tensor, scale: f64) -> Result<Tensor> {
    let rows = check_bank("gather_scores", features, bank)?;
    check_dtype("gather_scores: index", index, DType::U32)?;
    check_same_device("gather_scores: index", index, features)?;
    check_scale("gather_scores", scale)?;
    let batch = features.dims()[0];
    if index.rank() != 2 || index.dims()[0] != batch {
        return Err(Error::shape("gather_scores: index", format!("({batch}, K)"), index.dims()));
    }
    let index = index.contiguous()?;
    check_rows("gather_scores: index", &index, rows)?;
    let op = GatherScores { scale };
    Ok(features.contiguous()?.apply_op3(&bank.detach().contiguous()?, &index, op)?)
}

/// Checks features `(B, D)` and bank `(n, D)`; returns `n`.
pub(super) fn check_bank(op: &str, features: &Tensor, bank: &Tensor) -> Result<usize> {
    let (what_features, what_bank) = (format!("{op}: features"), format!("{op}: bank"));
    check_float(&what_features, features)?;
    check_dtype(&what_bank, bank, features.dtype())?;
    check_device(&what_features, features)?;
    check_same_device(&what_bank, bank, features)?;
    let [_, width] = features.dims() else {
        return Err(Error::shape(what_features, "(B, D)", features.dims()));
    };
    match bank.dims() {
        [rows, w] if w == width => Ok(*rows),
        got => Err(Error::shape(what_bank, format!("(n, {width})"), got)),
    }
}

/// Checks that a factor is finite.
pub(super) fn check_scale(op: &str, scale: f64) -> Result<()> {
    if scale.is_finite() {
        Ok(())
    } else {
        Err(Error::argument(format!("{op}: scale"), format!("{scale} is not finite")))
    }
}

/// Checks that every element of a contiguous `u32` tensor is below `rows`.
pub(super) fn check_rows(what: &str, index: &Tensor, rows: usize) -> Result<()> {
    match first_beyond(what, index, rows)? {
        None => Ok(()),
        Some((position, row)) => Err(Error::argument(
            what,
            format!("{row} at position {position} is not a row of a bank of {rows}"),
        )),
    }
}

/// The first position whose element is not below `rows`, and that element.
fn first_beyond(what: &str, index: &Tensor, rows: usize) -> Result<Option<(usize, u32)>> {
    #[cfg(feature = "cuda")]
    if index.device().is_cuda() {
        return cuda::first_beyond(what, index, rows);
    }
    let (s, l) = index.storage_and_layout();
    let index = storage_slice::<u32>(what, &s, l)?;
    Ok(index.iter().position(|&i| i as usize >= rows).map(|position| (position, index[position])))
}

struct GatherScores {
    scale: f64,
}

impl CustomOp3 for GatherScores {
    fn name(&self) -> &'static str {
        "gather-scores"
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
        let (_, width) = l1.shape().dims2()?;
        let index = cpu_slice::<u32>("gather_scores: index", s3, l3)?;
        dispatch_float!("gather_scores: features", s1.dtype(), T => {
            let features = cpu_slice::<T>("gather_scores: features", s1, l1)?;
            let bank = cpu_slice::<T>("gather_scores: bank", s2, l2)?;
            let (_, columns) = l3.shape().dims2()?;
            let scores = forward(features, bank, index, width, columns, T::from_f64(self.scale));
            Ok((T::to_cpu_storage_owned(scores), l3.shape().clone()))
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
        Ok((cuda::forward((s1, l1), (s2, l2), (s3, l3), self.scale)?, l3.shape().clone()))
    }

    fn bwd(
        &self,
        features: &Tensor,
        bank: &Tensor,
        index: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        if !features.track_op() {
            return Ok((None, None, None));
        }
        let grad = grad.contiguous()?;
        #[cfg(feature = "cuda")]
        if grad.device().is_cuda() {
            return Ok((Some(cuda::gradient(features, bank, index, &grad, self.scale)?), None, None));
        }
        let ((vs, vl), (is, il), (gs, gl)) =
            (bank.storage_and_layout(), index.storage_and_layout(), grad.storage_and_layout());
        let (batch, width) = features.dims2()?;
        let index = storage_slice::<u32>("gather_scores: index", &is, il)?;
        dispatch_float!("gather_scores: gradient", features.dtype(), T => {
            let bank = storage_slice::<T>("gather_scores: bank", &vs, vl)?;
            let g = storage_slice::<T>("gather_scores: gradient", &gs, gl)?;
            let df = backward(g, bank, index, batch, width, T::from_f64(self.scale));
            Ok((Some(Tensor::from_vec(df, features.shape(), &Device::Cpu)?), None, None))
        })
    }
}

/// Inner product with sixteen running sums, which the compiler keeps in vector registers.
fn dot<T: Float>(a: &[T], b: &[T]) -> T {
    const LANES: usize = 16;
    let mut sums = [T::ZERO; LANES];
    let (a_parts, a_rest) = a.as_chunks::<LANES>();
    let (b_parts, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_parts.iter().zip(b_parts) {
        for (sum, (&a, &b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    let rest = a_rest.iter().zip(b_rest).fold(T::ZERO, |sum, (&a, &b)| sum + a * b);
    sums.into_iter().fold(rest, |sum, x| sum + x)
}

/// Scores one task computes.
const CHUNK: usize = 512;

fn forward<T: Float>(
    features: &[T],
    bank: &[T],
    index: &[u32],
    width: usize,
    columns: usize,
    scale: T,
) -> Vec<T> {
    let mut scores = vec![T::ZERO; index.len()];
    if index.is_empty() {
        return scores;
    }
    scores.par_chunks_mut(columns).zip(index.par_chunks(columns)).enumerate().for_each(
        |(b, (scores, index))| {
            let feature = &features[b * width..(b + 1) * width];
            scores.par_chunks_mut(CHUNK).zip(index.par_chunks(CHUNK)).for_each(|(scores, index)| {
                for (score, &row) in scores.iter_mut().zip(index) {
                    *score = scale * dot(feature, &bank[row as usize * width..][..width]);
                }
            });
        },
    );
    scores
}

/// `scale * sum over k of g[b, k] bank[index[b, k]]`, in the order of `k`.
fn backward<T: Float>(g: &[T], bank: &[T], index: &[u32], batch: usize, width: usize, scale: T) -> Vec<T> {
    let mut df = vec![T::ZERO; batch * width];
    if df.is_empty() || index.is_empty() {
        return df;
    }
    let columns = index.len() / batch;
    df.par_chunks_mut(width).zip(g.par_chunks(columns).zip(index.par_chunks(columns))).for_each(
        |(df, (g, index))| {
            for (&g, &row) in g.iter().zip(index) {
                let factor = scale * g;
                for (df, &v) in df.iter_mut().zip(&bank[row as usize * width..][..width]) {
                    *df += factor * v;
                }
            }
        },
    );
    df
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;
    use crate::rng::Key;
    use crate::testing::{assert_close, gradcheck};

    fn random(name: &str, dims: (usize, usize)) -> Tensor {
        Key::new(1).fold(name).normal(dims, 0., 1., DType::F64, &Device::Cpu).unwrap()
    }

    fn index(n: u32, dims: (usize, usize)) -> Tensor {
        Key::new(2).below(n, dims, &Device::Cpu).unwrap()
    }

    #[test]
    fn equals_gathering_first() {
        for (batch, n, width, columns) in
            [(1, 1, 1, 1), (3, 7, 16, 5), (4, 100, 37, 1500), (0, 3, 2, 4), (2, 3, 4, 0)]
        {
            let (f, v, i) =
                (random("f", (batch, width)), random("v", (n, width)), index(n as u32, (batch, columns)));
            let rows = v.index_select(&i.flatten_all().unwrap(), 0).unwrap();
            let rows = rows.reshape((batch, columns, width)).unwrap();
            let want = rows.broadcast_mul(&f.unsqueeze(1).unwrap()).unwrap().sum(2).unwrap();
            let want = want.affine(2.5, 0.).unwrap();
            assert_close(&gather_scores(&f, &v, &i, 2.5).unwrap(), &want, 1e-12, 1e-12).unwrap();
            let single = |t: &Tensor| t.to_dtype(DType::F32).unwrap();
            let got = gather_scores(&single(&f), &single(&v), &i, 2.5).unwrap();
            assert_close(&got, &want, 1e-5, 1e-4).unwrap();
        }
    }

    #[test]
    fn gradient_goes_to_the_features_only() {
        let (v, i) = (random("v", (7, 5)), index(7, (3, 4)));
        gradcheck(|t| gather_scores(&t[0], &v, &i, 3.), &[random("f", (3, 5))], 1e-4, 1e-6).unwrap();
        let (f, bank) = (Var::from_tensor(&random("f", (3, 5))).unwrap(), Var::from_tensor(&v).unwrap());
        // A bank that happens to be part of a graph stays a constant.
        let scores = gather_scores(&f, &bank.affine(1., 0.).unwrap(), &i, 3.).unwrap();
        let grads = scores.sum_all().unwrap().backward().unwrap();
        assert!(grads.get(&bank).is_none());
        assert_eq!(grads.get_ids().count(), 1);
    }

    #[test]
    fn bad_input_is_refused() {
        let (f, v) = (random("f", (3, 5)), random("v", (7, 5)));
        let message =
            gather_scores(&f, &v, &index(1, (3, 2)).affine(1., 7.).unwrap(), 1.).unwrap_err().to_string();
        assert!(message.contains("7 at position 0 is not a row of a bank of 7"), "{message}");
        let i = index(7, (3, 2));
        assert!(matches!(gather_scores(&f, &v, &index(7, (2, 2)), 1.), Err(Error::Shape { .. })));
        assert!(matches!(gather_scores(&f, &random("v", (7, 4)), &i, 1.), Err(Error::Shape { .. })));
        assert!(matches!(
            gather_scores(&f, &v.to_dtype(DType::F32).unwrap(), &i, 1.),
            Err(Error::Dtype { .. })
        ));
        assert!(matches!(
            gather_scores(&f, &v, &i.to_dtype(DType::I64).unwrap(), 1.),
            Err(Error::Dtype { .. })
        ));
    }
}
