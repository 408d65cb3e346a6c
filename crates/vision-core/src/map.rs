//! The layout of feature maps between layers.

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::ops::support::contiguous;

/// A feature map in the layout of this crate's kernels: `(N, H, W, C)`, contiguous.
///
/// Pictures enter a model as `(N, C, H, W)` and are converted once; the type keeps the two layouts from
/// being mixed up. Both conversions are differentiable.
#[derive(Clone, Debug)]
pub struct FeatureMap(Tensor);

impl FeatureMap {
    /// Converts a `(N, C, H, W)` tensor.
    ///
    /// # Errors
    /// If the tensor is not of rank 4.
    pub fn from_nchw(tensor: &Tensor) -> Result<Self> {
        if tensor.rank() != 4 {
            return Err(Error::shape("FeatureMap::from_nchw", "(N, C, H, W)", tensor.dims()));
        }
        Ok(Self(contiguous(&tensor.permute((0, 2, 3, 1))?)?))
    }

    /// Wraps a `(N, H, W, C)` tensor, copying it only if it is not contiguous.
    ///
    /// # Errors
    /// If the tensor is not of rank 4.
    pub fn from_nhwc(tensor: Tensor) -> Result<Self> {
        if tensor.rank() != 4 {
            return Err(Error::shape("FeatureMap::from_nhwc", "(N, H, W, C)", tensor.dims()));
        }
        if tensor.is_contiguous() {
            return Ok(Self(tensor));
        }
        Ok(Self(contiguous(&tensor)?))
    }

    /// The map as a contiguous `(N, C, H, W)` tensor.
    ///
    /// # Errors
    /// If the copy fails.
    pub fn to_nchw(&self) -> Result<Tensor> {
        contiguous(&self.0.permute((0, 3, 1, 2))?)
    }

    /// The underlying `(N, H, W, C)` tensor.
    pub fn nhwc(&self) -> &Tensor {
        &self.0
    }

    /// `(N, H, W, C)`.
    ///
    /// # Errors
    /// Never for a map made by this type's constructors; the tensor library's own check is passed on.
    pub fn dims(&self) -> Result<(usize, usize, usize, usize)> {
        Ok(self.0.dims4()?)
    }
}
