//! [`super::adam_step`] on a CUDA device.

use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, Layout};

use super::Factors;
use crate::cuda::{Kernels, Work, count, ptx, read, real, write_part};
use crate::error::Result;

const KERNELS: Kernels = Kernels { name: "adam_step", ptx: ptx::ADAM_STEP };

pub(super) fn update(
    factors: &Factors,
    (s1, l1): (&mut CudaStorage, &Layout),
    (s2, l2): (&CudaStorage, &Layout),
    (s3, l3): (&mut CudaStorage, &Layout),
) -> Result<()> {
    let (dtype, len) = (s2.dtype(), l2.shape().elem_count());
    let [b1, b2] = factors.betas;
    let args = [
        write_part("adam_step: param", s1, l1)?,
        read("adam_step: grad", s2, l2)?,
        write_part("adam_step: state", s3, l3)?,
        real(dtype, factors.keep),
        real(dtype, factors.decay),
        real(dtype, 1.0 - b1),
        real(dtype, 1.0 - b2),
        real(dtype, b2),
        real(dtype, factors.root),
        real(dtype, factors.eps),
        real(dtype, factors.rate),
        count(usize::from(factors.amsgrad)),
        count(len),
    ];
    KERNELS.launch(s2.device(), "adam_step", dtype, Work::Elements(len), args)
}
