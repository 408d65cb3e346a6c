//! Update of the rows of a memory bank: a moving average, renormalised.
//!
//! For each pair `(y, f)` in batch order: `u = momentum * bank[y] + (1 - momentum) * f`,
//! `bank[y] = u / ||u||`. As in the released code of instance discrimination (Wu et al., 2018), where
//! several rows of a batch with the same index had an undefined result: here they follow each other.

#[cfg(feature = "cuda")]
mod cuda;

use std::any::Any;
use std::collections::BTreeMap;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Tensor};

use super::gather_scores::{check_bank, check_rows};
use super::support::{Float, check_dtype, check_same_device, dispatch_float, storage_slice};
use crate::error::{Error, Result};

/// Updates the rows `index` `(B,)` (`u32`) of a contiguous bank `(n, D)` in place with features `(B, D)`.
/// `momentum` in `[0, 1]` is the share of the old row: 0 replaces it, 1 only renormalises it.
///
/// All rows are computed and checked before the first one is written: after an error the bank is as it
/// was. Nothing here takes part in a graph. The computation runs in `f64` and is rounded once per update.
///
/// # Errors
/// If shapes, types or devices do not fit, the bank is not contiguous, an index is not a row of the bank,
/// the momentum is out of range, or a new row has a norm of zero or one that is not finite.
pub fn momentum_update_rows(bank: &Tensor, index: &Tensor, features: &Tensor, momentum: f64) -> Result<()> {
    let rows = check_bank("momentum_update_rows", features, bank)?;
    check_dtype("momentum_update_rows: index", index, DType::U32)?;
    check_same_device("momentum_update_rows: index", index, features)?;
    let batch = features.dims()[0];
    if index.dims() != [batch] {
        return Err(Error::shape("momentum_update_rows: index", format!("({batch},)"), index.dims()));
    }
    if !(0. ..=1.).contains(&momentum) {
        let problem = format!("{momentum} is not in [0, 1]");
        return Err(Error::argument("momentum_update_rows: momentum", problem));
    }
    if !bank.is_contiguous() {
        return Err(Error::argument(
            "momentum_update_rows: bank",
            "must be contiguous to be updated in place",
        ));
    }
    let (index, features) = (index.contiguous()?, features.contiguous()?);
    check_rows("momentum_update_rows: index", &index, rows)?;
    #[cfg(feature = "cuda")]
    if bank.device().is_cuda() {
        return cuda::update(bank, &index, &features, momentum);
    }
    dispatch_float!("momentum_update_rows: bank", bank.dtype(), T => {
        let rows = {
            let ((vs, vl), (is, il), (fs, fl)) =
                (bank.storage_and_layout(), index.storage_and_layout(), features.storage_and_layout());
            new_rows(
                storage_slice::<T>("momentum_update_rows: bank", &vs, vl)?,
                storage_slice::<u32>("momentum_update_rows: index", &is, il)?,
                storage_slice::<T>("momentum_update_rows: features", &fs, fl)?,
                momentum,
            )?
        };
        Ok(bank.inplace_op1(&WriteRows::<T> { rows, width: features.dims()[1] })?)
    })
}

/// The rows that change, after the whole batch.
fn new_rows<T: Float>(
    bank: &[T],
    index: &[u32],
    features: &[T],
    momentum: f64,
) -> Result<BTreeMap<u32, Vec<T>>> {
    let mut rows: BTreeMap<u32, Vec<T>> = BTreeMap::new();
    if index.is_empty() {
        return Ok(rows);
    }
    let width = features.len() / index.len();
    for (b, &y) in index.iter().enumerate() {
        let row = rows.entry(y).or_insert_with(|| bank[y as usize * width..][..width].to_vec());
        let feature = &features[b * width..(b + 1) * width];
        let mix = |(v, f): (&T, &T)| momentum * v.to_f64() + (1. - momentum) * f.to_f64();
        let mixed: Vec<f64> = row.iter().zip(feature).map(mix).collect();
        let norm = mixed.iter().map(|u| u * u).sum::<f64>().sqrt();
        if !(norm.is_finite() && norm > 0.) {
            return Err(bad_norm(b, y, norm));
        }
        for (v, u) in row.iter_mut().zip(mixed) {
            *v = T::from_f64(u / norm);
        }
    }
    Ok(rows)
}

fn bad_norm(b: usize, y: u32, norm: f64) -> Error {
    Error::argument(
        "momentum_update_rows",
        format!("batch row {b} would give bank row {y} a norm of {norm}; the bank is unchanged"),
    )
}

/// Writes whole rows of a contiguous matrix.
struct WriteRows<T> {
    rows: BTreeMap<u32, Vec<T>>,
    width: usize,
}

impl<T: Float> InplaceOp1 for WriteRows<T> {
    fn name(&self) -> &'static str {
        "momentum-update-rows"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let bank: &mut dyn Any = match storage {
            CpuStorage::F32(bank) => bank,
            CpuStorage::F64(bank) => bank,
            other => candle_core::bail!("momentum_update_rows: bank of type {:?}", other.dtype()),
        };
        let Some(bank) = bank.downcast_mut::<Vec<T>>() else {
            candle_core::bail!("momentum_update_rows: the bank is not of type {:?}", T::DTYPE)
        };
        for (&y, row) in &self.rows {
            let start = layout.start_offset() + y as usize * self.width;
            bank[start..start + self.width].copy_from_slice(row);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::rng::Key;
    use crate::testing::assert_close;

    fn random(name: &str, dims: (usize, usize), dtype: DType) -> Tensor {
        Key::new(1).fold(name).normal(dims, 0., 1., dtype, &Device::Cpu).unwrap()
    }

    fn index(v: &[u32]) -> Tensor {
        Tensor::new(v, &Device::Cpu).unwrap()
    }

    #[test]
    fn rows_are_mixed_normalised_and_follow_batch_order() {
        let bank = Tensor::new(&[[1.0f32, 0.0], [0.0, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap();
        let features = Tensor::new(&[[0.0f32, 1.0], [3.0, 4.0], [1.0, 0.0]], &Device::Cpu).unwrap();
        // Row 2 twice: first (1.5, 2.5) normalised, then averaged with (1, 0).
        momentum_update_rows(&bank, &index(&[2, 0, 2]), &features, 0.5).unwrap();
        let first = [1.5 / 8.5_f32.sqrt(), 2.5 / 8.5_f32.sqrt()];
        let second = [0.5 * first[0] + 0.5, 0.5 * first[1]];
        let norm = (second[0] * second[0] + second[1] * second[1]).sqrt();
        let half = 2_f32.sqrt() / 2.;
        let want = [[2.0 / 8_f32.sqrt(), half], [0.0, 2.0], [second[0] / norm, second[1] / norm]];
        assert_close(&bank, &Tensor::new(&want, &Device::Cpu).unwrap(), 1e-6, 0.).unwrap();
    }

    #[test]
    fn unit_norms_and_the_ends_of_the_momentum() {
        let features = random("f", (4, 33), DType::F32);
        let y = index(&[5, 0, 9, 3]);
        let unit = |t: &Tensor| crate::ops::l2_normalize(t, 0.).unwrap();
        for (momentum, want) in [
            (0., unit(&features)),
            (1., unit(&random("v", (10, 33), DType::F32).index_select(&y, 0).unwrap())),
        ] {
            let bank = random("v", (10, 33), DType::F32);
            momentum_update_rows(&bank, &y, &features, momentum).unwrap();
            assert_close(&bank.index_select(&y, 0).unwrap(), &want, 1e-6, 1e-7).unwrap();
            let others = index(&[1, 2, 4, 6, 7, 8]);
            let before = random("v", (10, 33), DType::F32).index_select(&others, 0).unwrap();
            assert_close(&bank.index_select(&others, 0).unwrap(), &before, 0., 0.).unwrap();
        }
    }

    #[test]
    fn works_on_a_part_of_a_larger_tensor() {
        let all = random("v", (10, 3), DType::F64);
        let part = all.narrow(0, 4, 3).unwrap();
        let before = all.copy().unwrap();
        momentum_update_rows(&part, &index(&[1]), &random("f", (1, 3), DType::F64), 0.).unwrap();
        let moved = |row: usize| {
            let difference = all.get(row).unwrap().sub(&before.get(row).unwrap()).unwrap();
            difference.sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap() > 0.
        };
        assert_eq!((0..10).filter(|row| moved(*row)).collect::<Vec<_>>(), [5]);
    }

    #[test]
    fn errors_leave_the_bank_alone() {
        let bank = random("v", (4, 3), DType::F32);
        let before = bank.copy().unwrap();
        let f =
            |rows: &[[f32; 3]]| Tensor::new(rows.concat(), &Device::Cpu).unwrap().reshape(((), 3)).unwrap();
        let good = [1.0, 0.0, 0.0];
        let message =
            momentum_update_rows(&bank, &index(&[0, 1]), &f(&[good, [0.; 3]]), 0.).unwrap_err().to_string();
        assert!(message.contains("batch row 1") && message.contains("bank row 1"), "{message}");
        for bad in [f32::NAN, f32::INFINITY] {
            let features = f(&[good, [bad, 0., 0.]]);
            assert!(matches!(
                momentum_update_rows(&bank, &index(&[0, 1]), &features, 0.5),
                Err(Error::Argument { .. })
            ));
        }
        assert!(matches!(
            momentum_update_rows(&bank, &index(&[0, 4]), &f(&[good, good]), 0.5),
            Err(Error::Argument { .. })
        ));
        assert!(matches!(
            momentum_update_rows(&bank, &index(&[0]), &f(&[good]), 1.5),
            Err(Error::Argument { .. })
        ));
        assert!(matches!(
            momentum_update_rows(&bank, &index(&[0]), &f(&[good, good]), 0.5),
            Err(Error::Shape { .. })
        ));
        let strided = random("v", (3, 4), DType::F32).t().unwrap();
        assert!(matches!(
            momentum_update_rows(&strided, &index(&[0]), &f(&[good]), 0.5),
            Err(Error::Argument { .. })
        ));
        assert_close(&bank, &before, 0., 0.).unwrap();
        // Features may be a view of the bank itself: they are read before anything is written.
        momentum_update_rows(&bank, &index(&[2, 3]), &bank.narrow(0, 0, 2).unwrap(), 0.).unwrap();
        let want = crate::ops::l2_normalize(&before.narrow(0, 0, 2).unwrap(), 0.).unwrap();
        assert_close(&bank.narrow(0, 2, 2).unwrap(), &want, 1e-6, 0.).unwrap();
        let empty = Tensor::zeros((0, 3), DType::F32, &Device::Cpu).unwrap();
        let bank = before.copy().unwrap();
        momentum_update_rows(&bank, &Tensor::zeros(0, DType::U32, &Device::Cpu).unwrap(), &empty, 0.5)
            .unwrap();
        assert_close(&bank, &before, 0., 0.).unwrap();
    }
}
