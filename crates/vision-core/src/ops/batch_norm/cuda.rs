//! Batch normalisation on a CUDA device. Statistics stay there; only ranks that exchange them bring them to the host.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaDevice, CudaStorage, CustomOp2, CustomOp3, DType, Device, Layout, Shape, Tensor, Var,
};

use super::kernels::Moments;
use super::op::{Gradients, Source};
use super::{BatchNormArgs, BatchStats, sync};
use crate::cuda::{
    Arg, Kernels, WIDE, Work, count, empty, nothing, on_cuda, parts, ptx, read, read_all, read_range,
    read_storage, tensor, upload_reals, write,
};
use crate::error::{Error, Result};

const KERNELS: Kernels = Kernels { name: "batch_norm", ptx: ptx::BATCH_NORM };

/// Statistics of each channel on the device.
struct Statistics {
    /// Number of values per channel; 0 for running statistics.
    count: f64,
    /// `f64`, `(3, C)`: mean, variance, `1 / sqrt(variance + eps)`.
    values: CudaStorage,
}

/// Normalisation as an operation of the graph.
struct Norm {
    channels: usize,
    relu: bool,
    source: Source,
    /// `None` if the batch is empty.
    statistics: Option<Statistics>,
}

/// [`super::run`] behind its checks: `input` lies on the device, shapes and types fit, `update` are the variables of the
/// running statistics in training.
pub(super) fn run(
    input: &Tensor,
    weight_bias: &Tensor,
    stats: BatchStats<'_>,
    args: &BatchNormArgs,
    residual: Option<&Tensor>,
    source: Source,
    update: Option<[Var; 2]>,
) -> Result<Tensor> {
    let channels = weight_bias.dims()[1];
    let Device::Cuda(device) = input.device() else {
        return Err(Error::argument("batch_norm: input", "the tensor must lie on a CUDA device"));
    };
    let statistics = match &source {
        Source::Running => Some(running(device, stats, args.eps, channels)?),
        Source::Batch => batch(device, input, args.eps, channels)?,
        Source::Ranks { collective, name } => {
            let mine = batch(device, input, args.eps, channels)?;
            let mine = mine.as_ref().map(|mine| to_host(mine, channels, args.eps)).transpose()?;
            let all = sync::moments(collective.as_ref(), name, mine.as_ref(), channels, args.eps)?;
            all.map(|all| to_device(device, &all)).transpose()?
        }
    };
    if update.is_some() && statistics.as_ref().is_some_and(|statistics| statistics.count == 1.0) {
        return Err(Error::argument(
            "batch_norm: input",
            "batch statistics need more than one value per channel",
        ));
    }
    if let (Some([mean, var]), Some(statistics)) = (update, &statistics) {
        let var_factor = args.running_var.factor(statistics.count);
        for (running, row, factor) in [(mean, 0, 1.0), (var, 1, var_factor)] {
            let new = moved(device, &running, statistics, row, [args.momentum, factor])?;
            running.set(&new)?;
        }
    }
    let op = Norm { channels, relu: args.relu, source, statistics };
    Ok(match residual {
        None => input.apply_op2(weight_bias, op)?,
        Some(residual) => input.apply_op3(weight_bias, residual, op)?,
    })
}

/// `(1 - momentum) running + momentum * factor * statistics[row]`.
fn moved(
    device: &CudaDevice,
    running: &Tensor,
    statistics: &Statistics,
    row: usize,
    [momentum, factor]: [f64; 2],
) -> Result<Tensor> {
    let channels = running.elem_count();
    let mut out = empty(device, running.dtype(), channels)?;
    let running_values = running.contiguous()?;
    let (s, l) = running_values.storage_and_layout();
    let from = row * channels..(row + 1) * channels;
    let args = [
        read_storage("batch_norm: running statistics", &s, l)?,
        read_range("batch_norm: statistics", &statistics.values, from)?,
        write("batch_norm: running statistics", &mut out)?,
        Arg::Real64(momentum),
        Arg::Real64(factor),
        count(channels),
    ];
    KERNELS.launch(device, "batch_norm_move", running.dtype(), Work::Elements(channels), args)?;
    Ok(tensor(out, running.dims()))
}

fn running(device: &CudaDevice, stats: BatchStats<'_>, eps: f64, channels: usize) -> Result<Statistics> {
    let (mean, var) = (stats.running_mean.contiguous()?, stats.running_var.contiguous()?);
    let ((sm, lm), (sv, lv)) = (mean.storage_and_layout(), var.storage_and_layout());
    let mut values = empty(device, DType::F64, 3 * channels)?;
    let args = [
        read_storage("batch_norm: running_mean", &sm, lm)?,
        read_storage("batch_norm: running_var", &sv, lv)?,
        write("batch_norm: statistics", &mut values)?,
        Arg::Real64(eps),
        count(channels),
    ];
    KERNELS.launch(device, "batch_norm_moments_running", mean.dtype(), Work::Elements(channels), args)?;
    Ok(Statistics { count: 0.0, values })
}

/// Statistics of a map, `None` if it is empty.
fn batch(device: &CudaDevice, input: &Tensor, eps: f64, channels: usize) -> Result<Option<Statistics>> {
    let (len, dtype) = (input.elem_count(), input.dtype());
    if len == 0 {
        return Ok(None);
    }
    let pixels = len / channels;
    let parts = parts(pixels, channels);
    let mut partial = empty(device, DType::F64, parts * 2 * channels)?;
    let mut values = empty(device, DType::F64, 3 * channels)?;
    let (s, l) = input.storage_and_layout();
    let x = || read_storage("batch_norm: input", &s, l);
    let args = [x()?, write("batch_norm: sums", &mut partial)?, count(pixels), count(channels)];
    KERNELS.launch(device, "batch_norm_moments", dtype, Work::Grid(channels.div_ceil(WIDE), parts), args)?;
    let args = [
        x()?,
        read_all("batch_norm: sums", &partial)?,
        write("batch_norm: statistics", &mut values)?,
        Arg::Real64(eps),
        count(parts),
        count(pixels),
        count(channels),
    ];
    KERNELS.launch(device, "batch_norm_moments_finish", dtype, Work::Elements(channels), args)?;
    Ok(Some(Statistics { count: pixels as f64, values }))
}

fn to_host(statistics: &Statistics, channels: usize, eps: f64) -> Result<Moments> {
    let values = host_numbers(&statistics.values)?;
    let (mean, rest) = values.split_at(channels);
    Ok(Moments::new(statistics.count, mean.to_vec(), rest[..channels].to_vec(), eps))
}

fn to_device(device: &CudaDevice, moments: &Moments) -> Result<Statistics> {
    let values: Vec<f64> = moments.mean.iter().chain(&moments.var).chain(&moments.inv_std).copied().collect();
    Ok(Statistics { count: moments.count, values: upload_reals(device, DType::F64, &values)? })
}

fn host_numbers(storage: &CudaStorage) -> Result<Vec<f64>> {
    match storage.to_cpu_storage()? {
        CpuStorage::F64(values) => Ok(values),
        other => {
            Err(Error::argument("batch_norm: statistics", format!("{:?} instead of f64", other.dtype())))
        }
    }
}

impl Norm {
    fn forward(
        &self,
        (s1, l1): (&CudaStorage, &Layout),
        (s2, l2): (&CudaStorage, &Layout),
        residual: Option<(&CudaStorage, &Layout)>,
    ) -> Result<(CudaStorage, Shape)> {
        let (device, dtype, len) = (s1.device(), s1.dtype(), l1.shape().elem_count());
        let mut out = empty(device, dtype, len)?;
        if let Some(statistics) = &self.statistics {
            let args = [
                read("batch_norm: input", s1, l1)?,
                read_all("batch_norm: statistics", &statistics.values)?,
                read("batch_norm: weight", s2, l2)?,
                residual.map_or(Ok(nothing()), |(s, l)| read("batch_norm: residual", s, l))?,
                write("batch_norm: output", &mut out)?,
                count(usize::from(self.relu)),
                count(self.channels),
                count(len),
            ];
            KERNELS.launch(device, "batch_norm", dtype, Work::Elements(len), args)?;
        }
        Ok((out, l1.shape().clone()))
    }

    fn backward(
        &self,
        input: &Tensor,
        weight_bias: &Tensor,
        residual: Option<&Tensor>,
        res: &Tensor,
        grad: &Tensor,
    ) -> Result<Gradients> {
        let Some(statistics) = &self.statistics else {
            // Nothing went through: the batch was empty.
            let zeros = |t: &Tensor| Tensor::zeros(t.shape(), t.dtype(), t.device());
            return Ok((Some(zeros(input)?), Some(zeros(weight_bias)?), residual.map(zeros).transpose()?));
        };
        let (len, dtype, channels) = (input.elem_count(), input.dtype(), self.channels);
        let pixels = len / channels.max(1);
        let ((sx, lx), (sw, lw)) = (input.storage_and_layout(), weight_bias.storage_and_layout());
        let ((sy, ly), (sg, lg)) = (res.storage_and_layout(), grad.storage_and_layout());
        let device = on_cuda("batch_norm: input", &sx)?.device();
        let x = || read_storage("batch_norm: input", &sx, lx);
        let dy = || read_storage("batch_norm: gradient", &sg, lg);
        let moments = || read_all("batch_norm: statistics", &statistics.values);
        let y = || {
            if self.relu { read_storage("batch_norm: output", &sy, ly) } else { Ok(nothing()) }
        };

        let need_input = input.track_op();
        let through_moments = need_input && !matches!(self.source, Source::Running);
        let mut dw = None;
        let mut sums = None;
        if weight_bias.track_op() || through_moments {
            let parts = parts(pixels, channels);
            let mut partial = empty(device, DType::F64, parts * 2 * channels)?;
            let mut both = empty(device, DType::F64, 2 * channels)?;
            let mut narrow = empty(device, dtype, 2 * channels)?;
            let args = [
                x()?,
                y()?,
                dy()?,
                moments()?,
                write("batch_norm: sums", &mut partial)?,
                count(pixels),
                count(channels),
            ];
            let work = Work::Grid(channels.div_ceil(WIDE), parts);
            KERNELS.launch(device, "batch_norm_sums", dtype, work, args)?;
            let args = [
                read_all("batch_norm: sums", &partial)?,
                moments()?,
                write("batch_norm: sums", &mut both)?,
                write("batch_norm: weight gradient", &mut narrow)?,
                count(parts),
                count(channels),
            ];
            KERNELS.launch(device, "batch_norm_sums_finish", dtype, Work::Elements(channels), args)?;
            dw = weight_bias.track_op().then(|| tensor(narrow, weight_bias.dims()));
            sums = match &self.source {
                Source::Ranks { collective, name } if through_moments => {
                    let all = sync::sums(collective.as_ref(), name, &host_numbers(&both)?)?;
                    Some(upload_reals(device, DType::F64, &all)?)
                }
                _ => through_moments.then_some(both),
            };
        }
        let dx = if need_input {
            let mut dx = empty(device, dtype, len)?;
            let args = [
                x()?,
                y()?,
                dy()?,
                moments()?,
                read_storage("batch_norm: weight", &sw, lw)?,
                sums.as_ref().map_or(Ok(nothing()), |sums| read_all("batch_norm: sums", sums))?,
                write("batch_norm: input gradient", &mut dx)?,
                Arg::Real64(statistics.count),
                count(channels),
                count(len),
            ];
            KERNELS.launch(device, "batch_norm_gradient", dtype, Work::Elements(len), args)?;
            Some(tensor(dx, input.dims()))
        } else {
            None
        };
        let dr = match residual {
            Some(residual) if residual.track_op() && self.relu => {
                let mut dr = empty(device, dtype, len)?;
                let args = [y()?, dy()?, write("batch_norm: residual gradient", &mut dr)?, count(len)];
                KERNELS.launch(device, "batch_norm_residual", dtype, Work::Elements(len), args)?;
                Some(tensor(dr, residual.dims()))
            }
            // Without ReLU the residual's gradient is the output's own.
            Some(residual) if residual.track_op() => Some(grad.clone()),
            _ => None,
        };
        Ok((dx, dw, dr))
    }
}

/// Only tensors of a CUDA device come here.
fn elsewhere() -> candle_core::Error {
    Error::argument("batch_norm: input", "the tensor must lie on a CUDA device").into()
}

impl CustomOp2 for Norm {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        Err(elsewhere())
    }

    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        Ok(self.forward((s1, l1), (s2, l2), None)?)
    }

    fn bwd(
        &self,
        input: &Tensor,
        weight_bias: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, dw, _) = self.backward(input, weight_bias, None, res, &grad.contiguous()?)?;
        Ok((dx, dw))
    }
}

impl CustomOp3 for Norm {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        Err(elsewhere())
    }

    fn cuda_fwd(
        &self,
        s1: &CudaStorage,
        l1: &Layout,
        s2: &CudaStorage,
        l2: &Layout,
        s3: &CudaStorage,
        l3: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        Ok(self.forward((s1, l1), (s2, l2), Some((s3, l3)))?)
    }

    fn bwd(
        &self,
        input: &Tensor,
        weight_bias: &Tensor,
        residual: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<Gradients> {
        Ok(self.backward(input, weight_bias, Some(residual), res, &grad.contiguous()?)?)
    }
}
