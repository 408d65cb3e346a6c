//! What cuDNN knows of tensors and convolutions.

use candle_core::cuda_backend::cudarc::cudnn::sys;
use candle_core::cuda_backend::cudarc::cudnn::{CudnnError, result};

use super::Convolution;
use crate::error::{Error, Result};

/// Passes an error of cuDNN on.
pub(super) fn check<T>(done: std::result::Result<T, CudnnError>) -> Result<T> {
    done.map_err(|error| Error::Candle(candle_core::Error::wrap(error).context("cuDNN")))
}

/// A kind of descriptor: its name, how to make one, and how to destroy it.
macro_rules! descriptor {
    ($(#[$doc:meta])* $name:ident, $raw:ty, $create:path, $destroy:path) => {
        $(#[$doc])*
        pub(super) struct $name(pub(super) $raw);

        impl $name {
            fn create() -> Result<Self> {
                Ok(Self(check($create())?))
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                #[allow(unsafe_code, reason = "calls cuDNN")]
                // SAFETY: nothing else has the descriptor. There is nobody to report a failure to.
                let _ = unsafe { $destroy(self.0) };
            }
        }
    };
}

descriptor!(
    /// A map.
    Map,
    sys::cudnnTensorDescriptor_t,
    result::create_tensor_descriptor,
    result::destroy_tensor_descriptor
);
descriptor!(
    /// Weights.
    Weight,
    sys::cudnnFilterDescriptor_t,
    result::create_filter_descriptor,
    result::destroy_filter_descriptor
);
descriptor!(
    /// How a window moves.
    Window,
    sys::cudnnConvolutionDescriptor_t,
    result::create_convolution_descriptor,
    result::destroy_convolution_descriptor
);

/// What the passes of a convolution take.
pub(super) struct Descriptors {
    pub(super) input: Map,
    pub(super) weight: Weight,
    pub(super) output: Map,
    pub(super) convolution: Window,
}

impl Descriptors {
    pub(super) fn new(sizes: &Convolution) -> Result<Self> {
        let all = Self {
            input: map(sizes.input)?,
            weight: Weight::create()?,
            output: map(sizes.output)?,
            convolution: Window::create()?,
        };
        let weight = numbers(sizes.weight)?;
        let (format, float) =
            (sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC, sys::cudnnDataType_t::CUDNN_DATA_FLOAT);
        let ([pad_h, pad_w], [stride_h, stride_w]) = (numbers(sizes.padding)?, numbers(sizes.stride)?);
        let ([dilation_h, dilation_w], [groups]) = (numbers(sizes.dilation)?, numbers([sizes.groups])?);
        let mode = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
        // The default may round factors to TF32.
        let exact = sys::cudnnMathType_t::CUDNN_FMA_MATH;
        let window = all.convolution.0;
        #[allow(unsafe_code, reason = "calls cuDNN")]
        // SAFETY: the descriptors are alive.
        unsafe {
            check(result::set_filter4d_descriptor(all.weight.0, float, format, weight))?;
            check(result::set_convolution2d_descriptor(
                window, pad_h, pad_w, stride_h, stride_w, dilation_h, dilation_w, mode, float,
            ))?;
            check(result::set_convolution_group_count(window, groups))?;
            check(result::set_convolution_math_type(window, exact))?;
        }
        Ok(all)
    }
}

fn map(dims: [usize; 4]) -> Result<Map> {
    let (map, dims) = (Map::create()?, numbers(dims)?);
    let (format, float) =
        (sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC, sys::cudnnDataType_t::CUDNN_DATA_FLOAT);
    #[allow(unsafe_code, reason = "calls cuDNN")]
    // SAFETY: the descriptor is alive.
    check(unsafe { result::set_tensor4d_descriptor(map.0, format, float, dims) })?;
    Ok(map)
}

fn numbers<const N: usize>(sizes: [usize; N]) -> Result<[i32; N]> {
    let mut out = [0; N];
    for (out, size) in out.iter_mut().zip(sizes) {
        let Ok(number) = i32::try_from(size) else {
            return Err(Error::argument("convolution by cuDNN", format!("{size} is too large")));
        };
        *out = number;
    }
    Ok(out)
}
