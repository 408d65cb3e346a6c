//! [`super::sgd_step`] on a CUDA device.

use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, Layout};

use super::SgdStepArgs;
use crate::cuda::{Kernels, Work, count, nothing, ptx, read, real, write_part};
use crate::error::Result;

const KERNELS: Kernels = Kernels { name: "sgd_step", ptx: ptx::SGD_STEP };

pub(super) fn momentum(
    args: &SgdStepArgs,
    (s1, l1): (&mut CudaStorage, &Layout),
    (s2, l2): (&CudaStorage, &Layout),
    (s3, l3): (&CudaStorage, &Layout),
) -> Result<()> {
    let (dtype, len) = (s2.dtype(), l2.shape().elem_count());
    let args = [
        write_part("sgd_step: buffer", s1, l1)?,
        read("sgd_step: grad", s2, l2)?,
        read("sgd_step: param", s3, l3)?,
        real(dtype, args.weight_decay),
        real(dtype, args.momentum),
        real(dtype, 1.0 - args.dampening),
        count(usize::from(args.first)),
        count(len),
    ];
    KERNELS.launch(s2.device(), "sgd_momentum", dtype, Work::Elements(len), args)
}

pub(super) fn update(
    args: &SgdStepArgs,
    (s1, l1): (&mut CudaStorage, &Layout),
    (s2, l2): (&CudaStorage, &Layout),
    buffer: Option<(&CudaStorage, &Layout)>,
) -> Result<()> {
    let (dtype, len) = (s2.dtype(), l2.shape().elem_count());
    let args = [
        write_part("sgd_step: param", s1, l1)?,
        read("sgd_step: grad", s2, l2)?,
        buffer.map_or(Ok(nothing()), |(s, l)| read("sgd_step: buffer", s, l))?,
        real(dtype, args.weight_decay),
        real(dtype, args.momentum),
        real(dtype, args.lr),
        count(usize::from(args.nesterov)),
        count(len),
    ];
    KERNELS.launch(s2.device(), "sgd_update", dtype, Work::Elements(len), args)
}
