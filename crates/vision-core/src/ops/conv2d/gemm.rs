//! Matrix products over slices, on the calling thread.

use crate::ops::support::Float;

/// A matrix inside a slice: element `(i, j)` is `data[i * rows_apart + j * columns_apart]`.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Matrix<'a, T> {
    /// The elements, starting at `(0, 0)`.
    pub(in crate::ops) data: &'a [T],
    /// Distance between consecutive rows.
    pub(in crate::ops) rows_apart: usize,
    /// Distance between consecutive columns.
    pub(in crate::ops) columns_apart: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// Rows of consecutive elements, `rows_apart` apart.
    pub(in crate::ops) fn rows(data: &'a [T], rows_apart: usize) -> Self {
        Self { data, rows_apart, columns_apart: 1 }
    }

    /// The same elements with rows and columns exchanged.
    pub(in crate::ops) fn transposed(self) -> Self {
        Self { data: self.data, rows_apart: self.columns_apart, columns_apart: self.rows_apart }
    }
}

/// Whether an `rows x columns` matrix of these strides stays within `len` elements.
fn fits(len: usize, rows: usize, columns: usize, rows_apart: usize, columns_apart: usize) -> bool {
    rows == 0 || columns == 0 || (rows - 1) * rows_apart + (columns - 1) * columns_apart < len
}

/// `out = a b`, or `out += a b` if `accumulate`, with `a` of `m x k`, `b` of `k x n` and `out` of `m x n`
/// whose rows are `out_rows_apart` apart and contiguous.
///
/// # Panics
/// If a matrix does not fit its slice: a bug of the calling kernel, never of its user.
pub(in crate::ops) fn multiply<T: Float>(
    [m, k, n]: [usize; 3],
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    out: &mut [T],
    out_rows_apart: usize,
    accumulate: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(fits(out.len(), m, n, out_rows_apart, 1), "out: {m}x{n} does not fit {}", out.len());
    if k == 0 {
        if !accumulate {
            for row in out.chunks_mut(out_rows_apart).take(m) {
                row[..n].fill(T::ZERO);
            }
        }
        return;
    }
    assert!(fits(a.data.len(), m, k, a.rows_apart, a.columns_apart), "a: {m}x{k}, {}", a.data.len());
    assert!(fits(b.data.len(), k, n, b.rows_apart, b.columns_apart), "b: {k}x{n}, {}", b.data.len());
    #[allow(unsafe_code, reason = "the matrix product is called through pointers")]
    // SAFETY: the three assertions above bound every element that is read or written, `out` is borrowed
    // exclusively, and `T` is `f32` or `f64`, the only implementations of `Float`.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            out_rows_apart as isize,
            accumulate,
            a.data.as_ptr(),
            a.columns_apart as isize,
            a.rows_apart as isize,
            b.data.as_ptr(),
            b.columns_apart as isize,
            b.rows_apart as isize,
            T::ONE,
            T::ONE,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_views() {
        // a = [[1, 2], [3, 4]] stored transposed; b = [[1, 0, 2], [0, 1, 1]].
        let a = [1.0f64, 3.0, 2.0, 4.0];
        let b = [1.0, 0.0, 2.0, 0.0, 1.0, 1.0];
        let mut out = [9.0; 8];
        let a = Matrix::rows(&a, 2).transposed();
        multiply([2, 2, 3], a, Matrix::rows(&b, 3), &mut out, 4, false);
        assert_eq!(out, [1.0, 2.0, 4.0, 9.0, 3.0, 4.0, 10.0, 9.0]);
        multiply([2, 2, 3], a, Matrix::rows(&b, 3), &mut out, 4, true);
        assert_eq!(out, [2.0, 4.0, 8.0, 9.0, 6.0, 8.0, 20.0, 9.0]);
        multiply([2, 0, 3], a, Matrix::rows(&b, 3), &mut out, 4, true);
        assert_eq!(out[0], 2.0);
        multiply([2, 0, 3], a, Matrix::rows(&b, 3), &mut out, 4, false);
        assert_eq!(out, [0.0, 0.0, 0.0, 9.0, 0.0, 0.0, 0.0, 9.0]);
    }
}
