//! Whether a result is what the reference computed, and where it is furthest off.

use candle_core::{DType, Device, Tensor};
use vision_weights::{Array, Dtype};

/// `|got - want| <= absolute + relative * |want|`, for every element.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tolerance {
    /// `rtol` of the case.
    pub relative: f64,
    /// `atol` of the case.
    pub absolute: f64,
}

/// The largest errors of a tensor or of a case.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Deviation {
    /// Largest `|got - want|`.
    pub absolute: f64,
    /// Largest `|got - want| / |want|` over elements that are not zero.
    pub relative: f64,
    /// Name and index of the element that comes closest to its tolerance, or exceeds it most.
    pub place: String,
    /// Error over tolerance of that element; above 1 the case fails.
    pub excess: f64,
}

impl Deviation {
    /// The worse of both in each number.
    pub fn merge(&mut self, other: Self) {
        self.absolute = self.absolute.max(other.absolute);
        self.relative = self.relative.max(other.relative);
        if other.excess > self.excess || self.place.is_empty() {
            self.excess = other.excess;
            self.place = other.place;
        }
    }
}

/// Compares `got` with the array stored as `name`.
///
/// Integers must be equal. NaN equals NaN, an infinity equals itself. Integer results are accepted where the
/// case stores floats (grey levels with a tolerance), not the other way round.
///
/// # Errors
/// A sentence that names the difference if type or shape is wrong.
pub(crate) fn compare(
    name: &str,
    got: &Tensor,
    want: &Array,
    tolerance: Tolerance,
) -> anyhow::Result<Deviation> {
    if got.dims() != want.shape.as_slice() {
        anyhow::bail!("{name} has shape {:?}, expected {:?}", got.dims(), want.shape);
    }
    let exact = !matches!(want.dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16);
    let same_type = match (got.dtype(), want.dtype) {
        (DType::F32, Dtype::F32) | (DType::F64, Dtype::F64) => true,
        (dtype, _) => dtype.is_int(),
    };
    if !same_type {
        anyhow::bail!("{name} is {:?}, expected {:?}", got.dtype(), want.dtype);
    }
    // Every integer that occurs (indices, labels, grey levels) is exact in f64.
    let got = got.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
    let want = want.to_f64()?;
    let tolerance = if exact { Tolerance::default() } else { tolerance };
    let mut worst = Deviation::default();
    for (i, (&got, &want)) in got.iter().zip(&want).enumerate() {
        let element = element(got, want, tolerance);
        if i == 0 || element.excess > worst.excess {
            worst.place = format!("{name}[{i}] got {got:.9e} want {want:.9e}");
            worst.excess = element.excess;
        }
        worst.absolute = worst.absolute.max(element.absolute);
        worst.relative = worst.relative.max(element.relative);
    }
    Ok(worst)
}

fn element(got: f64, want: f64, tolerance: Tolerance) -> Deviation {
    let same = got == want || (got.is_nan() && want.is_nan());
    if same {
        return Deviation::default();
    }
    let error = (got - want).abs();
    let error = if error.is_nan() { f64::INFINITY } else { error };
    let allowed = tolerance.absolute + tolerance.relative * want.abs();
    Deviation {
        absolute: error,
        relative: if want == 0.0 { 0.0 } else { error / want.abs() },
        place: String::new(),
        // NaN or an infinity allows nothing but itself.
        excess: if !want.is_finite() || allowed == 0.0 { f64::INFINITY } else { error / allowed },
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    fn check(got: &[f32], want: &[f32]) -> Deviation {
        let got = Tensor::new(got, &Device::Cpu).unwrap();
        let want = Array::from_f32([want.len()], want).unwrap();
        compare("out.x", &got, &want, Tolerance { relative: 0.1, absolute: 0.01 }).unwrap()
    }

    #[test]
    fn tolerance_special_values_and_place() {
        let nan = f32::NAN;
        let inf = f32::INFINITY;
        assert!(check(&[1.0, nan, inf], &[1.05, nan, inf]).excess < 1.0);
        assert!(check(&[inf], &[-inf]).excess > 1.0);
        assert!(check(&[1e30], &[inf]).excess > 1.0);
        assert!(check(&[nan], &[0.0]).excess > 1.0);
        assert!(check(&[0.0], &[nan]).excess > 1.0);
        let worst = check(&[1.0, 2.0, 3.0], &[1.0, 2.5, 3.0]);
        assert!(worst.excess > 1.0 && worst.place.starts_with("out.x[1]"), "{}", worst.place);
    }

    #[test]
    fn shapes_and_types_must_agree() {
        let want = Array::from_f32([2], &[1.0, 2.0]).unwrap();
        let tolerance = Tolerance { relative: 1.0, absolute: 1.0 };
        let got = Tensor::new(&[1f32, 2.0, 3.0], &Device::Cpu).unwrap();
        assert!(compare("x", &got, &want, tolerance).is_err());
        let got = Tensor::new(&[1f64, 2.0], &Device::Cpu).unwrap();
        assert!(compare("x", &got, &want, tolerance).is_err());
        let want = Array::from_i64([2], &[1, 2]).unwrap();
        let got = Tensor::new(&[1u32, 3], &Device::Cpu).unwrap();
        assert!(compare("x", &got, &want, tolerance).unwrap().excess > 1.0);
        let got = Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap();
        assert!(compare("x", &got, &want, tolerance).is_err());
    }
}
