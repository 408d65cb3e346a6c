//! Comparison of tensors with a tolerance.

use candle_core::{DType, Device, Tensor};

use crate::error::Error;

/// Why two tensors are not close: a message that names the worst element.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Mismatch(String);

impl From<Mismatch> for Error {
    fn from(mismatch: Mismatch) -> Self {
        Self::argument("comparison", mismatch.0)
    }
}

impl From<candle_core::Error> for Mismatch {
    fn from(error: candle_core::Error) -> Self {
        Self(format!("the tensors cannot be compared: {error}"))
    }
}

impl Mismatch {
    pub(super) fn new(message: String) -> Self {
        Self(message)
    }
}

/// Checks that shapes are equal and `|got - want| <= atol + rtol * |want|` holds for every element.
///
/// Element types and devices may differ; the comparison is made in `f64`. NaN equals NaN, an infinity
/// equals itself only. The worst element is the one that exceeds its tolerance most.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use vision_core::testing::assert_close;
/// let want = Tensor::new(&[1.0_f32, 2.0], &Device::Cpu)?;
/// let got = Tensor::new(&[1.0_f32, 2.5], &Device::Cpu)?;
/// let error = assert_close(&got, &want, 1e-6, 0.0).unwrap_err().to_string();
/// assert!(error.contains("at [1]"));
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// A [`Mismatch`] with both shapes, or with the number of elements that differ and the worst one's index,
/// values and difference.
pub fn assert_close(got: &Tensor, want: &Tensor, rtol: f64, atol: f64) -> Result<(), Mismatch> {
    if got.dims() != want.dims() {
        return Err(Mismatch(format!("shape: got {:?}, want {:?}", got.dims(), want.dims())));
    }
    let (g, w) = (flat(got)?, flat(want)?);
    let mut bad = 0;
    let mut worst = (0, 0.);
    for (i, (g, w)) in g.iter().zip(&w).enumerate() {
        let excess = excess(*g, *w, rtol, atol);
        if excess > 0. {
            bad += 1;
            if excess > worst.1 {
                worst = (i, excess);
            }
        }
    }
    if bad == 0 {
        return Ok(());
    }
    let (g, w) = (g[worst.0], w[worst.0]);
    Err(Mismatch(format!(
        "{bad} of {} elements differ; worst at {:?}: got {g:e}, want {w:e}, difference {:.3e} (rtol {rtol:e}, atol {atol:e})",
        got.elem_count(),
        index(worst.0, got.dims()),
        (g - w).abs(),
    )))
}

/// By how much a pair exceeds its tolerance; 0 if it does not.
fn excess(got: f64, want: f64, rtol: f64, atol: f64) -> f64 {
    if got == want || got.is_nan() && want.is_nan() {
        return 0.;
    }
    let excess = (got - want).abs() - (atol + rtol * want.abs());
    // NaN against a number, or an infinite tolerance: nothing is worse.
    if excess.is_nan() || !got.is_finite() || !want.is_finite() { f64::INFINITY } else { excess.max(0.) }
}

fn flat(tensor: &Tensor) -> candle_core::Result<Vec<f64>> {
    tensor.detach().to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

/// The multi-index of a row-major position.
pub(super) fn index(mut position: usize, dims: &[usize]) -> Vec<usize> {
    let mut index = vec![0; dims.len()];
    for (i, &size) in index.iter_mut().zip(dims).rev() {
        *i = position % size.max(1);
        position /= size.max(1);
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(v: &[f64]) -> Tensor {
        Tensor::new(v, &Device::Cpu).unwrap()
    }

    #[test]
    fn tolerances_and_special_values() {
        let want = tensor(&[1., 100., f64::NAN, f64::INFINITY]);
        assert!(assert_close(&tensor(&[1.01, 101., f64::NAN, f64::INFINITY]), &want, 0.011, 0.).is_ok());
        for wrong in [
            [1.01, 101.5, f64::NAN, f64::INFINITY],
            [1., 100., 0., f64::INFINITY],
            [1., 100., f64::NAN, f64::NEG_INFINITY],
            [f64::NAN, 100., f64::NAN, f64::INFINITY],
        ] {
            assert!(assert_close(&tensor(&wrong), &want, 0.011, 0.).is_err());
        }
        assert!(assert_close(&tensor(&[0.1]), &tensor(&[0.]), 0., 0.1).is_ok());
    }

    #[test]
    fn message_names_the_worst_element() {
        let want = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
        let got = tensor(&[0., 0., 0.2, 0., 0., 0.5]).reshape((2, 3)).unwrap();
        let message = assert_close(&got, &want, 0., 0.1).unwrap_err().to_string();
        assert!(message.contains("2 of 6") && message.contains("at [1, 2]"), "{message}");
        let message = assert_close(&got, &want.reshape(6).unwrap(), 0., 1.).unwrap_err().to_string();
        assert!(message.contains("got [2, 3], want [6]"), "{message}");
    }
}
