//! Backbone networks: pictures to feature maps of falling resolution.

pub mod resnet;

use crate::error::Result;
use crate::{FeatureMap, Pass};

/// One of the maps a [`Backbone`] returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureInfo {
    /// Name of the stage, such as `layer3`.
    pub name: String,
    /// Number of channels.
    pub channels: usize,
    /// Pixels of the input per pixel of the map, along each axis.
    pub stride: usize,
}

/// A network that turns a picture into feature maps.
pub trait Backbone: Send + Sync {
    /// The maps of all stages for a batch of pictures, in the order of [`Backbone::info`].
    ///
    /// # Errors
    /// If the picture has another number of channels than the network or is too small for it.
    fn features(&self, input: &FeatureMap, pass: &Pass) -> Result<Vec<FeatureMap>>;

    /// Name, channels and stride of each map, from fine to coarse.
    fn info(&self) -> &[FeatureInfo];
}
