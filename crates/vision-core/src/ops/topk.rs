//! The `k` largest or smallest elements of every row, best first.
//!
//! As `torch.topk` over the last dimension, but fully determined: equal values come in order of their
//! index, and NaN is an error instead of being the largest number. Rows are scanned once with a threshold
//! and a buffer of `2 k` candidates, so a row of millions of elements is neither copied nor sorted.

#[cfg(feature = "cuda")]
pub(super) mod cuda;

use std::cmp::Ordering;

use candle_core::{D, Device, Tensor};
use rayon::prelude::*;

use super::support::{Float, check_device, check_float, dispatch_float, storage_slice};
use crate::error::{Error, Result};

/// Values and indices (`u32`) of the `k` largest elements of the last dimension, or of the smallest if
/// `largest` is false. Both results have the shape of the input with the last dimension replaced by `k`.
///
/// If the input takes part in a graph, so do the values (they are gathered from it); indices never do.
///
/// # Errors
/// If the input is a scalar, not of a float type or on a device without kernels, if `k` is more than the row length, or
/// if an element is NaN.
pub fn topk(input: &Tensor, k: usize, largest: bool) -> Result<(Tensor, Tensor)> {
    check_float("topk: input", input)?;
    check_device("topk: input", input)?;
    let Some(&len) = input.dims().last() else {
        return Err(Error::shape("topk: input", "(..., n)", input.dims()));
    };
    if k > len {
        return Err(Error::argument("topk: k", format!("{k} elements asked of rows of {len}")));
    }
    if u32::try_from(len).is_err() {
        return Err(Error::argument("topk: input", format!("rows of {len} elements exceed 32-bit indices")));
    }
    let mut dims = input.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = k;
    }
    let input = input.contiguous()?;
    #[cfg(feature = "cuda")]
    if input.device().is_cuda() {
        let (values, indices) = cuda::topk(&input, len, k, largest, &dims)?;
        // The tensor library cannot gather nothing there.
        let graph = input.track_op() && values.elem_count() > 0;
        return Ok((if graph { input.gather(&indices, D::Minus1)? } else { values }, indices));
    }
    let (indices, values) = {
        let (s, l) = input.storage_and_layout();
        dispatch_float!("topk: input", input.dtype(), T => {
            let x = storage_slice::<T>("topk: input", &s, l)?;
            let (values, indices) = select(x, len, k, largest)?;
            let indices = Tensor::from_vec(indices, dims.as_slice(), &Device::Cpu)?;
            Ok::<_, Error>((indices, Tensor::from_vec(values, dims.as_slice(), &Device::Cpu)?))
        })?
    };
    let values = if input.track_op() { input.gather(&indices, D::Minus1)? } else { values };
    Ok((values, indices))
}

fn nan_at(row: usize, i: usize) -> Error {
    Error::argument("topk: input", format!("element {i} of row {row} is NaN"))
}

/// Values and indices of all rows, one after the other.
fn select<T: Float>(x: &[T], len: usize, k: usize, largest: bool) -> Result<(Vec<T>, Vec<u32>)> {
    if len == 0 {
        return Ok((Vec::new(), Vec::new()));
    }
    let rows: Vec<Vec<(T, u32)>> = x
        .par_chunks(len)
        .enumerate()
        .map(|(row, x)| {
            if let Some(i) = x.iter().position(|v| v.is_nan()) {
                return Err(nan_at(row, i));
            }
            Ok(if largest { select_row(x, k, |a, b| a > b) } else { select_row(x, k, |a, b| a < b) })
        })
        .collect::<Result<_>>()?;
    Ok(rows.into_iter().flatten().unzip())
}

/// The best `k` of one row, best first.
fn select_row<T: Float>(x: &[T], k: usize, better: impl Fn(T, T) -> bool) -> Vec<(T, u32)> {
    let order = |a: &(T, u32), b: &(T, u32)| {
        if better(a.0, b.0) {
            Ordering::Less
        } else if better(b.0, a.0) {
            Ordering::Greater
        } else {
            a.1.cmp(&b.1)
        }
    };
    if k == 0 {
        return Vec::new();
    }
    let full = (2 * k).max(k + 32).min(x.len().max(k + 1));
    let mut kept: Vec<(T, u32)> = Vec::with_capacity(full);
    // The worst of `k` candidates seen so far: a later element has to be strictly better.
    let mut threshold: Option<T> = None;
    for (i, &value) in x.iter().enumerate() {
        if threshold.is_some_and(|worst| !better(value, worst)) {
            continue;
        }
        kept.push((value, i as u32));
        if kept.len() == full {
            let (_, worst, _) = kept.select_nth_unstable_by(k - 1, order);
            threshold = Some(worst.0);
            kept.truncate(k);
        }
    }
    kept.sort_unstable_by(order);
    kept.truncate(k);
    kept
}

#[cfg(test)]
mod tests {
    use candle_core::DType;
    use proptest::prelude::*;

    use super::*;
    use crate::rng::Key;
    use crate::testing::gradcheck;

    fn indices(x: &Tensor, k: usize, largest: bool) -> Vec<u32> {
        topk(x, k, largest).unwrap().1.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn hand_made_rows() {
        let x = Tensor::new(&[[1.0f32, 5.0, -2.0, 5.0], [0.0, -0.0, 0.0, -1.0]], &Device::Cpu).unwrap();
        let (values, index) = topk(&x, 3, true).unwrap();
        assert_eq!(values.to_vec2::<f32>().unwrap(), [[5.0, 5.0, 1.0], [0.0, -0.0, 0.0]]);
        assert_eq!(index.to_vec2::<u32>().unwrap(), [[1, 3, 0], [0, 1, 2]]);
        assert_eq!(indices(&x, 2, false), [2, 0, 3, 0]);
        assert_eq!(indices(&x.t().unwrap(), 1, true), [0, 0, 1, 0]);
        assert_eq!(topk(&x, 0, true).unwrap().0.dims(), [2, 0]);
        let empty = Tensor::zeros((3, 0), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(topk(&empty, 0, true).unwrap().1.dims(), [3, 0]);
        let infinite = Tensor::new(&[f64::INFINITY, 1., f64::NEG_INFINITY], &Device::Cpu).unwrap();
        assert_eq!(indices(&infinite, 3, true), [0, 1, 2]);
    }

    #[test]
    fn long_rows_equal_a_full_sort() {
        let n = 100_000;
        // Few distinct values, so that ties decide most places.
        let x: Vec<f32> = (0..n).map(|i| (Key::new(1).u64_at(i) % 997) as f32).collect();
        let tensor = Tensor::new(x.as_slice(), &Device::Cpu).unwrap();
        for (largest, k) in [(true, 1), (true, 200), (true, 1024), (false, 1024), (true, n as usize)] {
            let mut want: Vec<u32> = (0..n as u32).collect();
            want.sort_by(|a, b| {
                let order = x[*a as usize].total_cmp(&x[*b as usize]);
                if largest { order.reverse() } else { order }
            });
            assert!(indices(&tensor, k, largest) == want[..k], "{largest} {k}");
        }
    }

    #[test]
    fn values_carry_a_gradient() {
        let x = Key::new(1).normal((3, 6), 0., 1., DType::F64, &Device::Cpu).unwrap();
        gradcheck(|t| Ok(topk(&t[0], 2, true)?.0.sqr()?), std::slice::from_ref(&x), 1e-5, 1e-6).unwrap();
        gradcheck(|t| Ok(topk(&t[0].t()?, 2, false)?.0), &[x], 1e-5, 1e-6).unwrap();
    }

    #[test]
    fn bad_input_is_refused() {
        let x = Tensor::new(&[[1.0f32, 2.0], [0.0, f32::NAN]], &Device::Cpu).unwrap();
        let message = topk(&x, 1, true).unwrap_err().to_string();
        assert!(message.contains("element 1 of row 1 is NaN"), "{message}");
        assert!(matches!(topk(&x, 3, true), Err(Error::Argument { .. })));
        assert!(matches!(topk(&Tensor::new(1f32, &Device::Cpu).unwrap(), 1, true), Err(Error::Shape { .. })));
        assert!(matches!(topk(&x.to_dtype(DType::U32).unwrap(), 1, true), Err(Error::Dtype { .. })));
    }

    proptest! {
        #[test]
        fn equals_a_stable_sort(x in prop::collection::vec(-5i8..5, 1..300), part in 0.0..1.0, largest: bool) {
            let k = (part * x.len() as f64) as usize;
            let tensor = Tensor::from_iter(x.iter().map(|v| f32::from(*v)), &Device::Cpu).unwrap();
            let mut want: Vec<u32> = (0..x.len() as u32).collect();
            want.sort_by_key(|i| if largest { -x[*i as usize] } else { x[*i as usize] });
            prop_assert_eq!(indices(&tensor, k, largest), &want[..k]);
        }
    }
}
