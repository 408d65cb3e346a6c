//! Differentiable operations, one file each.
//!
//! Functions ending in `_nhwc` take and return [`crate::FeatureMap`]s and are what layers use; the ones
//! named like PyTorch's take `(N, C, H, W)` tensors and convert around them.

mod adaptive_avg_pool2d;
mod avg_pool2d;
mod bank_cross_entropy;
mod batch_norm;
mod conv2d;
mod conv_transpose2d;
mod corners;
mod crop_and_resize;
mod cross_entropy;
mod deform_conv2d;
mod deform_ps_roi_pool;
mod gather_scores;
mod grid_sample;
mod inner_product_topk;
mod interpolate;
mod l2_normalize;
mod linear;
mod max_pool2d;
mod momentum_update;
mod ps_roi_align;
mod ps_roi_pool;
mod regions;
mod relu;
mod roi_align;
mod roi_pool;
mod sgd_step;
mod softplus;
pub(crate) mod support;
mod topk;

pub use adaptive_avg_pool2d::*;
pub use avg_pool2d::*;
pub use bank_cross_entropy::*;
pub use batch_norm::*;
pub use conv_transpose2d::*;
pub use conv2d::*;
pub use crop_and_resize::*;
pub use cross_entropy::*;
pub use deform_conv2d::*;
pub use deform_ps_roi_pool::*;
pub use gather_scores::*;
pub use grid_sample::*;
pub use inner_product_topk::*;
pub use interpolate::*;
pub use l2_normalize::*;
pub use linear::*;
pub use max_pool2d::*;
pub use momentum_update::*;
pub use ps_roi_align::*;
pub use ps_roi_pool::*;
pub use relu::*;
pub use roi_align::*;
pub use roi_pool::*;
pub use sgd_step::*;
pub use softplus::*;
pub use topk::*;
