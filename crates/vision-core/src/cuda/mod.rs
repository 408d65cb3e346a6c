//! The one way to a CUDA kernel: which buffers it reads and writes, how many threads it gets.
//!
//! Kernels lie beside their operations (`ops/NAME.cu`, compiled to PTX by `build.rs`), what they share in
//! `kernel.cuh`. A launch checks that sizes fit the 32-bit indices of the kernels and that there is something to
//! do. Nothing here adds with atomics: the same call gives the same bits.

mod column_sums;
#[cfg(feature = "cudnn")]
pub(crate) mod cudnn;
mod gemm;
mod samples;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{CudaView, CudaViewMut, LaunchConfig, PushKernelArg};
use candle_core::cuda_backend::{CudaStorageSlice, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Layout, Shape, Storage, Tensor};

pub(crate) use self::column_sums::{WIDE, column_sums, parts};
pub(crate) use self::gemm::Gemm;
pub(crate) use self::samples::Samples;
use crate::error::{Error, Result};

/// The compiled kernels, one constant per file.
#[allow(missing_docs, unreachable_pub, reason = "made by the build script")]
pub(crate) mod ptx {
    include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
}

/// Threads of a block, `THREADS` of `kernel.cuh`.
const THREADS: u32 = 256;
/// Kernels count with 32 bits and step by the size of the grid.
const MOST_ELEMENTS: usize = i32::MAX as usize;

/// A file of kernels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernels {
    /// The file's name, unique in this crate.
    pub(crate) name: &'static str,
    /// One of [`ptx`].
    pub(crate) ptx: &'static str,
}

/// How many threads a kernel gets.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    /// One for each of so many elements (`FOR_EACH`).
    Elements(usize),
    /// A block for each of so many items.
    Blocks(usize),
    /// As `Blocks`, in two dimensions of the grid: `(x, y)`.
    Grid(usize, usize),
}

/// One argument of a kernel.
#[derive(Debug)]
pub(crate) enum Arg<'a> {
    F32(CudaView<'a, f32>),
    F64(CudaView<'a, f64>),
    U32(CudaView<'a, u32>),
    I64(CudaView<'a, i64>),
    U8(CudaView<'a, u8>),
    OutF32(CudaViewMut<'a, f32>),
    OutF64(CudaViewMut<'a, f64>),
    OutU32(CudaViewMut<'a, u32>),
    OutU8(CudaViewMut<'a, u8>),
    /// `int`.
    Int(i32),
    /// `Index`, and any `unsigned int`.
    Count(u32),
    /// `float`.
    Real32(f32),
    /// `double`.
    Real64(f64),
    /// A null pointer: a buffer that the kernel does without. Made by [`nothing`].
    Null(u64),
}

impl Arg<'_> {
    fn elements(&self) -> usize {
        match self {
            Self::F32(view) => view.len(),
            Self::F64(view) => view.len(),
            Self::U32(view) => view.len(),
            Self::I64(view) => view.len(),
            Self::U8(view) => view.len(),
            Self::OutF32(view) => view.len(),
            Self::OutF64(view) => view.len(),
            Self::OutU32(view) => view.len(),
            Self::OutU8(view) => view.len(),
            Self::Int(_) | Self::Count(_) | Self::Real32(_) | Self::Real64(_) | Self::Null(_) => 0,
        }
    }
}

impl Kernels {
    /// Runs `function`, exported for the element type `dtype` (`EXPORT_FLOATS`). Nothing happens without work.
    ///
    /// `args` must be what the kernel declares, in its order.
    pub(crate) fn launch<const N: usize>(
        &self,
        device: &CudaDevice,
        function: &str,
        dtype: DType,
        work: Work,
        mut args: [Arg<'_>; N],
    ) -> Result<()> {
        let what = || format!("{function} on a CUDA device");
        let name = match dtype {
            DType::F32 => format!("{function}_f32"),
            DType::F64 => format!("{function}_f64"),
            got => return Err(Error::Dtype { what: what(), expected: "f32 or f64".to_string(), got }),
        };
        let fits = |count: usize| match u32::try_from(count) {
            Ok(count) if count as usize <= MOST_ELEMENTS => Ok(count),
            _ => Err(Error::argument(what(), format!("{count} elements are more than 2^31 - 1"))),
        };
        for arg in &args {
            fits(arg.elements())?;
        }
        let grid_dim = match work {
            Work::Elements(count) => (fits(count)?.div_ceil(THREADS), 1, 1),
            Work::Blocks(count) => (fits(count)?, 1, 1),
            Work::Grid(x, y) if y <= 65_535 => (fits(x)?, y as u32, 1),
            Work::Grid(_, y) => {
                return Err(Error::argument(what(), format!("{y} rows of blocks are more than 65535")));
            }
        };
        if grid_dim.0 == 0 || grid_dim.1 == 0 {
            return Ok(());
        }
        let function = device.get_or_load_custom_func(&name, self.name, self.ptx)?;
        let mut builder = function.builder();
        for arg in &mut args {
            match arg {
                Arg::F32(view) => builder.arg(&*view),
                Arg::F64(view) => builder.arg(&*view),
                Arg::U32(view) => builder.arg(&*view),
                Arg::I64(view) => builder.arg(&*view),
                Arg::U8(view) => builder.arg(&*view),
                Arg::OutF32(view) => builder.arg(view),
                Arg::OutF64(view) => builder.arg(view),
                Arg::OutU32(view) => builder.arg(view),
                Arg::OutU8(view) => builder.arg(view),
                Arg::Int(x) => builder.arg(&*x),
                Arg::Count(x) => builder.arg(&*x),
                Arg::Real32(x) => builder.arg(&*x),
                Arg::Real64(x) => builder.arg(&*x),
                Arg::Null(x) => builder.arg(&*x),
            };
        }
        let config = LaunchConfig { grid_dim, block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 };
        #[allow(unsafe_code, reason = "starts a kernel")]
        // SAFETY: `args` are views into live buffers, of the number and types that the kernel declares; every
        // kernel is given the sizes of its buffers and stays within them.
        unsafe { builder.launch(config) }.w()?;
        Ok(())
    }
}

/// The elements of a contiguous tensor, to read.
pub(crate) fn read<'a>(what: &str, storage: &'a CudaStorage, layout: &Layout) -> Result<Arg<'a>> {
    let (start, end) =
        layout.contiguous_offsets().ok_or_else(|| Error::argument(what, "the tensor must be contiguous"))?;
    part(what, storage, start, end)
}

/// A whole buffer, to read.
pub(crate) fn read_all<'a>(what: &str, storage: &'a CudaStorage) -> Result<Arg<'a>> {
    part(what, storage, 0, len(&storage.slice))
}

/// The elements of a contiguous tensor from [`Tensor::storage_and_layout`], to read.
pub(crate) fn read_storage<'a>(what: &str, storage: &'a Storage, layout: &Layout) -> Result<Arg<'a>> {
    read(what, on_cuda(what, storage)?, layout)
}

/// The buffer of a tensor on a CUDA device.
pub(crate) fn on_cuda<'a>(what: &str, storage: &'a Storage) -> Result<&'a CudaStorage> {
    match storage {
        Storage::Cuda(storage) => Ok(storage),
        _ => Err(Error::Device {
            what: what.to_string(),
            expected: "a CUDA device".to_string(),
            got: format!("{:?}", storage.device().location()),
        }),
    }
}

fn len(slice: &CudaStorageSlice) -> usize {
    match slice {
        CudaStorageSlice::F32(slice) => slice.len(),
        CudaStorageSlice::F64(slice) => slice.len(),
        CudaStorageSlice::U32(slice) => slice.len(),
        CudaStorageSlice::I64(slice) => slice.len(),
        CudaStorageSlice::U8(slice) => slice.len(),
        _ => 0,
    }
}

fn part<'a>(what: &str, storage: &'a CudaStorage, start: usize, end: usize) -> Result<Arg<'a>> {
    let arg = match &storage.slice {
        CudaStorageSlice::F32(slice) => slice.try_slice(start..end).map(Arg::F32),
        CudaStorageSlice::F64(slice) => slice.try_slice(start..end).map(Arg::F64),
        CudaStorageSlice::U32(slice) => slice.try_slice(start..end).map(Arg::U32),
        CudaStorageSlice::I64(slice) => slice.try_slice(start..end).map(Arg::I64),
        CudaStorageSlice::U8(slice) => slice.try_slice(start..end).map(Arg::U8),
        _ => return Err(unknown_type(what, storage.dtype())),
    };
    arg.ok_or_else(|| Error::argument(what, "the layout does not fit the storage"))
}

/// Elements `start..end` of a buffer, to read.
pub(crate) fn read_range<'a>(
    what: &str,
    storage: &'a CudaStorage,
    range: std::ops::Range<usize>,
) -> Result<Arg<'a>> {
    part(what, storage, range.start, range.end)
}

/// A whole buffer, to write.
pub(crate) fn write<'a>(what: &str, storage: &'a mut CudaStorage) -> Result<Arg<'a>> {
    match &mut storage.slice {
        CudaStorageSlice::F32(slice) => Ok(Arg::OutF32(slice.as_view_mut())),
        CudaStorageSlice::F64(slice) => Ok(Arg::OutF64(slice.as_view_mut())),
        CudaStorageSlice::U32(slice) => Ok(Arg::OutU32(slice.as_view_mut())),
        CudaStorageSlice::U8(slice) => Ok(Arg::OutU8(slice.as_view_mut())),
        other => Err(unknown_type(what, dtype_of(other))),
    }
}

/// The elements of a contiguous tensor, to write.
pub(crate) fn write_part<'a>(what: &str, storage: &'a mut CudaStorage, layout: &Layout) -> Result<Arg<'a>> {
    let (start, end) =
        layout.contiguous_offsets().ok_or_else(|| Error::argument(what, "the tensor must be contiguous"))?;
    write_range(what, storage, start..end)
}

/// Elements `start..end` of a buffer, to write.
pub(crate) fn write_range<'a>(
    what: &str,
    storage: &'a mut CudaStorage,
    range: std::ops::Range<usize>,
) -> Result<Arg<'a>> {
    let arg = match &mut storage.slice {
        CudaStorageSlice::F32(slice) => slice.try_slice_mut(range).map(Arg::OutF32),
        CudaStorageSlice::F64(slice) => slice.try_slice_mut(range).map(Arg::OutF64),
        other => return Err(unknown_type(what, dtype_of(other))),
    };
    arg.ok_or_else(|| Error::argument(what, "the layout does not fit the storage"))
}

fn dtype_of(slice: &CudaStorageSlice) -> DType {
    match slice {
        CudaStorageSlice::U8(_) => DType::U8,
        CudaStorageSlice::U32(_) => DType::U32,
        CudaStorageSlice::I64(_) => DType::I64,
        CudaStorageSlice::F32(_) => DType::F32,
        CudaStorageSlice::F64(_) => DType::F64,
        CudaStorageSlice::BF16(_) => DType::BF16,
        _ => DType::F16,
    }
}

fn unknown_type(what: &str, got: DType) -> Error {
    Error::Dtype { what: what.to_string(), expected: "f32, f64, u32, i64 or u8".to_string(), got }
}

/// The absence of a buffer.
pub(crate) fn nothing() -> Arg<'static> {
    Arg::Null(0)
}

/// `x` as a number of the element type of the kernel.
pub(crate) fn real(dtype: DType, x: f64) -> Arg<'static> {
    if dtype == DType::F64 { Arg::Real64(x) } else { Arg::Real32(x as f32) }
}

/// A size as an `Index`; what is larger is cut, since no buffer of that size passes [`Kernels::launch`].
pub(crate) fn count(x: usize) -> Arg<'static> {
    Arg::Count(u32::try_from(x).unwrap_or(u32::MAX))
}

/// A size as an `int`; what is larger is cut, as by [`count`].
pub(crate) fn int(x: usize) -> Arg<'static> {
    Arg::Int(i32::try_from(x).unwrap_or(i32::MAX))
}

/// A buffer of `len` zeros.
pub(crate) fn zeros(device: &CudaDevice, dtype: DType, len: usize) -> Result<CudaStorage> {
    // The driver gives no memory of length zero.
    let len = len.max(1);
    let slice = match dtype {
        DType::F32 => CudaStorageSlice::F32(device.alloc_zeros(len)?),
        DType::F64 => CudaStorageSlice::F64(device.alloc_zeros(len)?),
        DType::U32 => CudaStorageSlice::U32(device.alloc_zeros(len)?),
        DType::U8 => CudaStorageSlice::U8(device.alloc_zeros(len)?),
        got => return Err(unknown_type("a buffer on a CUDA device", got)),
    };
    Ok(CudaStorage { slice, device: device.clone() })
}

/// A buffer of `len` elements that a kernel writes, every one of them.
pub(crate) fn empty(device: &CudaDevice, dtype: DType, len: usize) -> Result<CudaStorage> {
    let len = len.max(1);
    #[allow(unsafe_code, reason = "asks for memory without clearing it")]
    // SAFETY: numbers of these types may have any bits, and the caller's kernel writes all before they are read.
    let slice = unsafe {
        match dtype {
            DType::F32 => CudaStorageSlice::F32(device.alloc(len)?),
            DType::F64 => CudaStorageSlice::F64(device.alloc(len)?),
            DType::U32 => CudaStorageSlice::U32(device.alloc(len)?),
            DType::U8 => CudaStorageSlice::U8(device.alloc(len)?),
            got => return Err(unknown_type("a buffer on a CUDA device", got)),
        }
    };
    Ok(CudaStorage { slice, device: device.clone() })
}

/// A table of numbers of a host, on the device.
pub(crate) fn upload(device: &CudaDevice, numbers: &[u32]) -> Result<CudaStorage> {
    let slice = if numbers.is_empty() { device.alloc_zeros(1)? } else { device.clone_htod(numbers)? };
    Ok(CudaStorage { slice: CudaStorageSlice::U32(slice), device: device.clone() })
}

/// A table of factors of a host, on the device in the element type `dtype`.
pub(crate) fn upload_reals(device: &CudaDevice, dtype: DType, numbers: &[f64]) -> Result<CudaStorage> {
    if numbers.is_empty() {
        return zeros(device, dtype, 1);
    }
    let slice = if dtype == DType::F64 {
        CudaStorageSlice::F64(device.clone_htod(numbers)?)
    } else {
        let narrow: Vec<f32> = numbers.iter().map(|&x| x as f32).collect();
        CudaStorageSlice::F32(device.clone_htod(&narrow)?)
    };
    Ok(CudaStorage { slice, device: device.clone() })
}

/// A buffer as a tensor that has no history.
pub(crate) fn tensor(storage: CudaStorage, shape: impl Into<Shape>) -> Tensor {
    Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false)
}
