//! Where a tensor lies in its storage.

use super::value::View;
use crate::array::{byte_len, elements};
use crate::{Array, Dtype};

/// How many bytes views of `stored` bytes may have together. An expanded tensor (stride 0) repeats its storage
/// without taking room in the file; some do so honestly, none by this much.
pub(super) fn repetition_limit(stored: u64) -> u64 {
    stored.saturating_mul(16).saturating_add(64 << 20)
}

/// An array of an archive: checked against the size of its record, so cutting it out cannot fail on a sound
/// record.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    /// In elements, like `offset`.
    strides: Vec<usize>,
    offset: usize,
    /// Number of the record.
    pub(super) record: usize,
    pub(super) record_len: u64,
}

impl Entry {
    pub(super) fn new(view: &View<'_>, record: usize, record_len: u64) -> Result<Self, String> {
        let View { dtype, shape, strides, offset, .. } = view;
        if (view.storage_bytes as u64) > record_len {
            return Err(format!("its storage of {} bytes is a record of {record_len}", view.storage_bytes));
        }
        let bytes = byte_len(*dtype, shape).map_err(|error| error.to_string())?;
        if bytes as u64 > repetition_limit(record_len) {
            return Err(format!("shape {shape:?} repeats a record of {record_len} bytes too often"));
        }
        let end = end(shape, strides, *offset).and_then(|end| end.checked_mul(dtype.size()));
        if end.is_none_or(|end| end > view.storage_bytes) {
            return Err(format!(
                "shape {shape:?}, strides {strides:?}, offset {offset} leave its storage of {} bytes",
                view.storage_bytes
            ));
        }
        Ok(Self {
            dtype: *dtype,
            shape: shape.clone(),
            // Nobody steps along a dimension of size 1; PyTorch leaves any number there.
            strides: shape.iter().zip(strides).map(|(&n, &stride)| if n == 1 { 0 } else { stride }).collect(),
            offset: *offset,
            record,
            record_len,
        })
    }

    /// Bytes of the array, laid out contiguously.
    pub(super) fn byte_len(&self) -> usize {
        // Checked when the entry was made.
        self.shape.iter().fold(self.dtype.size(), |n, &size| n.saturating_mul(size))
    }

    /// The array, taking over the storage where it is just that.
    pub(super) fn cut_out_of(&self, storage: Vec<u8>) -> Result<Array, String> {
        if self.offset == 0 && self.is_contiguous() && self.byte_len() == storage.len() {
            return Array::new(self.dtype, self.shape.clone(), storage).map_err(|error| error.to_string());
        }
        self.copy_from(&storage)
    }

    /// The array, laid out contiguously.
    pub(super) fn copy_from(&self, storage: &[u8]) -> Result<Array, String> {
        let size = self.dtype.size();
        let out_of_range = || "its record is shorter than announced".to_owned();
        let count = elements(&self.shape).map_err(|error| error.to_string())?;
        let data = if count == 0 {
            Vec::new()
        } else if self.is_contiguous() {
            let start = self.offset * size;
            storage.get(start..start + count * size).ok_or_else(out_of_range)?.to_vec()
        } else {
            let mut data = Vec::with_capacity(count * size);
            let mut index = vec![0; self.shape.len()];
            let mut at = self.offset;
            for _ in 0..count {
                data.extend_from_slice(storage.get(at * size..(at + 1) * size).ok_or_else(out_of_range)?);
                // Count the index up like an odometer, moving `at` along.
                for (dimension, position) in index.iter_mut().enumerate().rev() {
                    *position += 1;
                    at += self.strides[dimension];
                    if *position < self.shape[dimension] {
                        break;
                    }
                    at -= self.strides[dimension] * *position;
                    *position = 0;
                }
            }
            data
        };
        Array::new(self.dtype, self.shape.clone(), data).map_err(|error| error.to_string())
    }

    fn is_contiguous(&self) -> bool {
        if self.shape.contains(&0) {
            return true;
        }
        let mut expected = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(&size, &stride)| {
            let fits = size == 1 || stride == expected;
            expected *= size;
            fits
        })
    }
}

/// One past the last element that is touched; `None` when that overflows.
fn end(shape: &[usize], strides: &[usize], offset: usize) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    let last = shape
        .iter()
        .zip(strides)
        .try_fold(offset, |at, (&size, &stride)| at.checked_add((size - 1).checked_mul(stride)?))?;
    last.checked_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torch::value::Key;

    fn view(shape: &[usize], strides: &[usize], offset: usize, storage_bytes: usize) -> View<'static> {
        View {
            key: Key::Number(0),
            dtype: Dtype::U8,
            storage_bytes,
            offset,
            shape: shape.into(),
            strides: strides.into(),
        }
    }

    fn cut(shape: &[usize], strides: &[usize], offset: usize) -> Vec<u8> {
        let storage: Vec<u8> = (0..24).collect();
        let entry = Entry::new(&view(shape, strides, offset, 24), 0, 24).unwrap();
        let copied = entry.copy_from(&storage).unwrap();
        assert_eq!(copied, entry.cut_out_of(storage).unwrap());
        assert_eq!(copied.shape, shape);
        copied.data
    }

    #[test]
    fn strides_are_laid_out() {
        assert_eq!(cut(&[2, 3], &[3, 1], 1), [1, 2, 3, 4, 5, 6]);
        assert_eq!(cut(&[3, 2], &[1, 3], 0), [0, 3, 1, 4, 2, 5]);
        assert_eq!(cut(&[2, 2, 2], &[12, 0, 5], 2), [2, 7, 2, 7, 14, 19, 14, 19]);
        assert_eq!(cut(&[4, 1, 6], &[6, 99, 1], 0), (0..24).collect::<Vec<u8>>());
        assert_eq!(cut(&[1, 2], &[usize::MAX, 3], 5), [5, 8]);
        assert_eq!(cut(&[], &[], 23), [23]);
        assert_eq!(cut(&[0, usize::MAX, usize::MAX], &[9, usize::MAX, 1], 0), Vec::<u8>::new());
        assert_eq!(cut(&[3, 0], &[usize::MAX, usize::MAX], usize::MAX), Vec::<u8>::new());
    }

    #[test]
    fn views_stay_inside_their_storage() {
        for bad in [
            view(&[25], &[1], 0, 24),
            view(&[2], &[24], 0, 24),
            view(&[1], &[1], 24, 24),
            view(&[3], &[usize::MAX], 0, 24),
            view(&[2], &[1], usize::MAX, 24),
            view(&[1], &[1], 0, 25),
            view(&[usize::MAX, 2], &[0, 0], 0, 24),
            view(&[1 << 40], &[0], 0, 24),
        ] {
            assert!(Entry::new(&bad, 0, 24).is_err(), "{bad:?}");
        }
    }
}
