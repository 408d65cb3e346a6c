//! Arrays in plain memory.

use half::{bf16, f16};

use crate::{Dtype, Error, Result};

/// A dense array: row-major, contiguous, little-endian.
///
/// The fields are open so that other crates can move the bytes out; [`Array::validate`] says whether they
/// agree with each other, and everything that writes or converts an array checks it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Array {
    /// Element type.
    pub dtype: Dtype,
    /// Size of each dimension, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// The elements, `shape.product() * dtype.size()` bytes.
    pub data: Vec<u8>,
}

impl Array {
    /// Puts an array together.
    ///
    /// # Errors
    /// [`Error::Length`] when `data` does not have the size that `dtype` and `shape` ask for,
    /// [`Error::TooLarge`] when that size overflows.
    pub fn new(dtype: Dtype, shape: impl Into<Vec<usize>>, data: Vec<u8>) -> Result<Self> {
        let array = Self { dtype, shape: shape.into(), data };
        array.validate()?;
        Ok(array)
    }

    /// An array of 32-bit floats.
    ///
    /// # Errors
    /// [`Error::Length`] when `values` does not have as many elements as `shape`.
    pub fn from_f32(shape: impl Into<Vec<usize>>, values: &[f32]) -> Result<Self> {
        Self::from_values(Dtype::F32, shape.into(), values, f32::to_le_bytes)
    }

    /// An array of 64-bit floats.
    ///
    /// # Errors
    /// [`Error::Length`] when `values` does not have as many elements as `shape`.
    pub fn from_f64(shape: impl Into<Vec<usize>>, values: &[f64]) -> Result<Self> {
        Self::from_values(Dtype::F64, shape.into(), values, f64::to_le_bytes)
    }

    /// An array of unsigned 32-bit integers.
    ///
    /// # Errors
    /// [`Error::Length`] when `values` does not have as many elements as `shape`.
    pub fn from_u32(shape: impl Into<Vec<usize>>, values: &[u32]) -> Result<Self> {
        Self::from_values(Dtype::U32, shape.into(), values, u32::to_le_bytes)
    }

    /// An array of unsigned 64-bit integers.
    ///
    /// # Errors
    /// [`Error::Length`] when `values` does not have as many elements as `shape`.
    pub fn from_u64(shape: impl Into<Vec<usize>>, values: &[u64]) -> Result<Self> {
        Self::from_values(Dtype::U64, shape.into(), values, u64::to_le_bytes)
    }

    /// An array of signed 64-bit integers.
    ///
    /// # Errors
    /// [`Error::Length`] when `values` does not have as many elements as `shape`.
    pub fn from_i64(shape: impl Into<Vec<usize>>, values: &[i64]) -> Result<Self> {
        Self::from_values(Dtype::I64, shape.into(), values, i64::to_le_bytes)
    }

    /// An array of bytes.
    ///
    /// # Errors
    /// [`Error::Length`] when `values` does not have as many elements as `shape`.
    pub fn from_u8(shape: impl Into<Vec<usize>>, values: &[u8]) -> Result<Self> {
        Self::new(Dtype::U8, shape, values.to_vec())
    }

    fn from_values<T: Copy, const N: usize>(
        dtype: Dtype,
        shape: Vec<usize>,
        values: &[T],
        to_bytes: impl Fn(T) -> [u8; N],
    ) -> Result<Self> {
        let expected = elements(&shape)?;
        if expected != values.len() {
            let what = "array".to_owned();
            return Err(Error::Length { what, shape, expected, got: values.len(), unit: "elements" });
        }
        let mut data = Vec::with_capacity(values.len() * N);
        for &value in values {
            data.extend_from_slice(&to_bytes(value));
        }
        Ok(Self { dtype, shape, data })
    }

    /// Number of elements; 1 for a scalar, 0 when a dimension is 0.
    pub fn len(&self) -> usize {
        self.data.len() / self.dtype.size()
    }

    /// Whether the array has no elements.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Checks that `data` is as long as `dtype` and `shape` say.
    ///
    /// # Errors
    /// [`Error::Length`] when it is not, [`Error::TooLarge`] when that size overflows.
    pub fn validate(&self) -> Result<()> {
        let expected = byte_len(self.dtype, &self.shape)?;
        if expected == self.data.len() {
            return Ok(());
        }
        Err(Error::Length {
            what: "array".to_owned(),
            shape: self.shape.clone(),
            expected,
            got: self.data.len(),
            unit: "bytes",
        })
    }

    /// The elements as 32-bit floats. Any type converts; 64-bit floats and integers beyond 2^24 are rounded.
    ///
    /// # Errors
    /// Those of [`Array::validate`].
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        self.validate()?;
        Ok(match self.dtype {
            Dtype::F64 => self.read(|b| f64::from_le_bytes(b) as f32),
            Dtype::F32 => self.read(f32::from_le_bytes),
            Dtype::F16 => self.read(|b| f16::from_le_bytes(b).to_f32()),
            Dtype::BF16 => self.read(|b| bf16::from_le_bytes(b).to_f32()),
            Dtype::I64 => self.read(|b| i64::from_le_bytes(b) as f32),
            Dtype::I32 => self.read(|b| i32::from_le_bytes(b) as f32),
            Dtype::I16 => self.read(|b| f32::from(i16::from_le_bytes(b))),
            Dtype::I8 => self.read(|b| f32::from(i8::from_le_bytes(b))),
            Dtype::U64 => self.read(|b| u64::from_le_bytes(b) as f32),
            Dtype::U32 => self.read(|b| u32::from_le_bytes(b) as f32),
            Dtype::U16 => self.read(|b| f32::from(u16::from_le_bytes(b))),
            Dtype::U8 => self.read(|b: [u8; 1]| f32::from(b[0])),
            Dtype::Bool => self.read(|b: [u8; 1]| f32::from(u8::from(b[0] != 0))),
        })
    }

    /// The elements as 64-bit floats. Any type converts; integers beyond 2^53 are rounded.
    ///
    /// # Errors
    /// Those of [`Array::validate`].
    pub fn to_f64(&self) -> Result<Vec<f64>> {
        self.validate()?;
        Ok(match self.dtype {
            Dtype::F64 => self.read(f64::from_le_bytes),
            Dtype::I64 => self.read(|b| i64::from_le_bytes(b) as f64),
            Dtype::I32 => self.read(|b| f64::from(i32::from_le_bytes(b))),
            Dtype::U64 => self.read(|b| u64::from_le_bytes(b) as f64),
            Dtype::U32 => self.read(|b| f64::from(u32::from_le_bytes(b))),
            // The others are exact in 32 bits.
            _ => self.to_f32()?.into_iter().map(f64::from).collect(),
        })
    }

    /// The elements as signed 64-bit integers; booleans become 0 and 1.
    ///
    /// # Errors
    /// [`Error::Dtype`] for float arrays, [`Error::Value`] for an element above `i64::MAX`, and those of
    /// [`Array::validate`].
    pub fn to_i64(&self) -> Result<Vec<i64>> {
        self.validate()?;
        Ok(match self.dtype {
            Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16 => {
                return Err(Error::Dtype { wanted: Dtype::I64, got: self.dtype });
            }
            Dtype::I64 => self.read(i64::from_le_bytes),
            Dtype::I32 => self.read(|b| i64::from(i32::from_le_bytes(b))),
            Dtype::I16 => self.read(|b| i64::from(i16::from_le_bytes(b))),
            Dtype::I8 => self.read(|b| i64::from(i8::from_le_bytes(b))),
            Dtype::U64 => convert(self.read(u64::from_le_bytes), Dtype::I64)?,
            Dtype::U32 => self.read(|b| i64::from(u32::from_le_bytes(b))),
            Dtype::U16 => self.read(|b| i64::from(u16::from_le_bytes(b))),
            Dtype::U8 => self.read(|b: [u8; 1]| i64::from(b[0])),
            Dtype::Bool => self.read(|b: [u8; 1]| i64::from(b[0] != 0)),
        })
    }

    /// The elements as unsigned 32-bit integers; booleans become 0 and 1.
    ///
    /// # Errors
    /// [`Error::Dtype`] for float arrays, [`Error::Value`] for an element that is negative or above
    /// `u32::MAX`, and those of [`Array::validate`].
    pub fn to_u32(&self) -> Result<Vec<u32>> {
        self.validate()?;
        match self.dtype {
            Dtype::U32 => Ok(self.read(u32::from_le_bytes)),
            Dtype::U64 => convert(self.read(u64::from_le_bytes), Dtype::U32),
            dtype if dtype.is_float() => Err(Error::Dtype { wanted: Dtype::U32, got: dtype }),
            _ => convert(self.to_i64()?, Dtype::U32),
        }
    }

    /// The elements as unsigned 64-bit integers; booleans become 0 and 1.
    ///
    /// # Errors
    /// [`Error::Dtype`] for float arrays, [`Error::Value`] for a negative element, and those of
    /// [`Array::validate`].
    pub fn to_u64(&self) -> Result<Vec<u64>> {
        self.validate()?;
        match self.dtype {
            Dtype::U64 => Ok(self.read(u64::from_le_bytes)),
            dtype if dtype.is_float() => Err(Error::Dtype { wanted: Dtype::U64, got: dtype }),
            _ => convert(self.to_i64()?, Dtype::U64),
        }
    }

    fn read<T, const N: usize>(&self, f: impl Fn([u8; N]) -> T) -> Vec<T> {
        self.data.as_chunks::<N>().0.iter().map(|&bytes| f(bytes)).collect()
    }
}

fn convert<S, T>(values: Vec<S>, wanted: Dtype) -> Result<Vec<T>>
where
    S: Copy + std::fmt::Display,
    T: TryFrom<S>,
{
    let checked = |(index, value): (usize, S)| {
        T::try_from(value).ok().ok_or_else(|| Error::Value { index, value: value.to_string(), wanted })
    };
    values.into_iter().enumerate().map(checked).collect()
}

/// Number of elements of a shape.
pub(crate) fn elements(shape: &[usize]) -> Result<usize> {
    // A zero anywhere makes the array empty, however large the other sizes are.
    if shape.contains(&0) {
        return Ok(0);
    }
    shape
        .iter()
        .try_fold(1usize, |n, &size| n.checked_mul(size))
        .ok_or_else(|| Error::TooLarge { shape: shape.to_vec() })
}

/// Number of bytes of an array.
pub(crate) fn byte_len(dtype: Dtype, shape: &[usize]) -> Result<usize> {
    elements(shape)?.checked_mul(dtype.size()).ok_or_else(|| Error::TooLarge { shape: shape.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn float_values_survive_every_conversion() {
        let array = Array::from_f32([2, 2], &[1.0, -2.5, 0.0, 3.0]).unwrap();
        assert_eq!(array.len(), 4);
        assert_eq!(array.to_f64().unwrap(), [1.0, -2.5, 0.0, 3.0]);
        let half: Vec<u8> = [1.0f32, -2.5].iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();
        assert_eq!(Array::new(Dtype::F16, [2], half).unwrap().to_f32().unwrap(), [1.0, -2.5]);
        let brain: Vec<u8> = [1.0f32, -2.5].iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect();
        assert_eq!(Array::new(Dtype::BF16, [2], brain).unwrap().to_f64().unwrap(), [1.0, -2.5]);
    }

    #[test]
    fn integers_convert_only_where_they_fit() {
        let array = Array::from_i64([3], &[0, 7, -1]).unwrap();
        assert_eq!(array.to_f32().unwrap(), [0.0, 7.0, -1.0]);
        let error = array.to_u32().unwrap_err();
        assert!(matches!(error, Error::Value { index: 2, wanted: Dtype::U32, .. }), "{error}");
        let big = Array::from_u64([1], &[u64::MAX]).unwrap();
        assert!(matches!(big.to_i64(), Err(Error::Value { index: 0, .. })));
        assert_eq!(big.to_u64().unwrap(), [u64::MAX]);
        assert!(matches!(Array::from_f32([1], &[1.0]).unwrap().to_i64(), Err(Error::Dtype { .. })));
        assert_eq!(Array::new(Dtype::Bool, [2], vec![0, 1]).unwrap().to_u32().unwrap(), [0, 1]);
    }

    #[test]
    fn wrong_lengths_are_errors() {
        assert!(matches!(
            Array::from_f32([3], &[1.0]),
            Err(Error::Length { expected: 3, got: 1, unit: "elements", .. })
        ));
        assert!(matches!(Array::new(Dtype::F32, [1], vec![0; 5]), Err(Error::Length { unit: "bytes", .. })));
        assert!(matches!(Array::new(Dtype::F32, [usize::MAX, 2], Vec::new()), Err(Error::TooLarge { .. })));
        assert!(Array::from_f32([0, usize::MAX, 9], &[]).unwrap().is_empty());
        assert_eq!(Array::from_f32(Vec::new(), &[4.0]).unwrap().to_f32().unwrap(), [4.0]);
    }
}
