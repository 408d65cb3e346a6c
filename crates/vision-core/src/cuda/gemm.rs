//! Matrix products by cuBLAS.

use candle_core::CudaDevice;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::cublas::sys::cublasOperation_t::{CUBLAS_OP_N, CUBLAS_OP_T};
use candle_core::cuda_backend::cudarc::cublas::{Gemm as _, GemmConfig};

use super::Arg;
use crate::error::{Error, Result};

/// `C = A B`, or `C += A B`, with matrices by rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gemm {
    /// Rows of `C`, columns of `C`, and the length of the sums.
    pub(crate) sizes: [usize; 3],
    /// Whether `A` is stored transposed, `(k, m)`.
    pub(crate) a_transposed: bool,
    /// Whether `B` is stored transposed, `(n, k)`.
    pub(crate) b_transposed: bool,
    /// Whether to add to what `C` holds.
    pub(crate) accumulate: bool,
}

impl Gemm {
    /// Computes the product. Nothing happens if `C` is empty.
    pub(crate) fn run(&self, device: &CudaDevice, a: &Arg<'_>, b: &Arg<'_>, c: &mut Arg<'_>) -> Result<()> {
        let [m, n, k] = self.sizes;
        let enough = a.elements() >= m * k && b.elements() >= k * n && c.elements() >= m * n;
        let [Ok(rows), Ok(columns), Ok(depth)] = [m, n, k].map(i32::try_from) else {
            return Err(Error::argument("matrix product", format!("{m} x {k} x {n} is too large")));
        };
        if !enough {
            return Err(Error::argument(
                "matrix product",
                format!("a buffer is too short for {m} x {k} x {n}"),
            ));
        }
        if rows == 0 || columns == 0 || depth == 0 {
            return Ok(());
        }
        // The library counts by columns, so it sees every matrix transposed: C' = B' A'.
        let operation = |transposed: bool| if transposed { CUBLAS_OP_T } else { CUBLAS_OP_N };
        macro_rules! config {
            ($real:ty) => {
                GemmConfig::<$real> {
                    transa: operation(self.b_transposed),
                    transb: operation(self.a_transposed),
                    m: columns,
                    n: rows,
                    k: depth,
                    alpha: 1.0,
                    lda: if self.b_transposed { depth } else { columns },
                    ldb: if self.a_transposed { rows } else { depth },
                    beta: if self.accumulate { 1.0 } else { 0.0 },
                    ldc: columns,
                }
            };
        }
        let blas = device.cublas_handle();
        #[allow(unsafe_code, reason = "calls cuBLAS")]
        // SAFETY: the buffers hold at least as many elements as the sizes ask for, checked above.
        let done = unsafe {
            match (a, b, c) {
                (Arg::F32(a), Arg::F32(b), Arg::OutF32(c)) => blas.gemm(config!(f32), b, a, c),
                (Arg::F64(a), Arg::F64(b), Arg::OutF64(c)) => blas.gemm(config!(f64), b, a, c),
                _ => return Err(Error::argument("matrix product", "the matrices differ in element type")),
            }
        };
        done.w()?;
        Ok(())
    }
}
