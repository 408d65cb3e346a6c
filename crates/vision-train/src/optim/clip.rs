//! Limits on the size of gradients.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};

use crate::error::Result;

/// The L2 norm of all gradients taken as one vector, summed in f64.
///
/// # Errors
/// If a tensor cannot be read from its device.
pub fn grad_norm(grads: &BTreeMap<String, Tensor>) -> Result<f64> {
    let mut sum = 0.0;
    for grad in grads.values() {
        sum += grad.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?;
    }
    Ok(sum.sqrt())
}

/// Scales all gradients by `max_norm / (norm + 1e-6)` if their norm is larger than `max_norm`, as PyTorch's
/// `clip_grad_norm_` does, and returns the norm before. A norm that is not finite changes nothing.
///
/// # Errors
/// If a tensor operation fails.
pub fn clip_grad_norm(grads: &mut BTreeMap<String, Tensor>, max_norm: f64) -> Result<f64> {
    let norm = grad_norm(grads)?;
    let factor = max_norm / (norm + 1e-6);
    if norm.is_finite() && factor < 1.0 {
        for grad in grads.values_mut() {
            *grad = (&*grad * factor)?;
        }
    }
    Ok(norm)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn large_gradients_shrink_and_small_ones_stay() {
        let grad = |v: [f32; 2]| Tensor::new(&v, &Device::Cpu).unwrap();
        let mut grads =
            BTreeMap::from([("a".to_owned(), grad([3.0, 0.0])), ("b".to_owned(), grad([0.0, 4.0]))]);
        assert_eq!(clip_grad_norm(&mut grads, 10.0).unwrap(), 5.0);
        assert_eq!(grads["a"].to_vec1::<f32>().unwrap(), [3.0, 0.0]);
        assert_eq!(clip_grad_norm(&mut grads, 1.0).unwrap(), 5.0);
        assert!((grad_norm(&grads).unwrap() - 1.0).abs() < 1e-6);
    }

    #[test]
    fn nothing_to_clip_is_no_error() {
        assert_eq!(clip_grad_norm(&mut BTreeMap::new(), 1.0).unwrap(), 0.0);
    }
}
