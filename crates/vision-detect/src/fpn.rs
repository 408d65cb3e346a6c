//! The feature pyramid (Lin et al., "Feature Pyramid Networks for Object Detection", 2017), as torchvision's
//! `FeaturePyramidNetwork` 0.29 with `LastLevelMaxPool`.
//!
//! Each map of the backbone goes through a 1x1 convolution, its inner block, and is added to what came out one level
//! above, enlarged to its size by repeating pixels; a 3x3 convolution, its layer block, follows. One more map takes
//! every second pixel of the coarsest one.

use candle_nn::VarBuilder;
use vision_core::nn::Conv2d;
use vision_core::ops::{
    Conv2dArgs, InterpolateArgs, Pool2dArgs, ResizeTo, interpolate_nhwc, max_pool2d_nhwc,
};
use vision_core::{FeatureMap, Pass};

use crate::conv::convolve;
use crate::error::{Error, Result};

/// Maps of one width at several sizes, made from the maps of a backbone.
///
/// Parameters are torchvision's: `inner_blocks.0.0.weight`, `layer_blocks.0.0.bias`, numbered from the finest map. New
/// ones start as in [`Conv2d::new`].
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use vision_core::{FeatureMap, Pass, params::ParamStore, rng::Key};
/// use vision_detect::FeaturePyramidNetwork;
/// # fn main() -> vision_detect::Result<()> {
/// let params = ParamStore::new(Key::new(1), DType::F32, &Device::Cpu);
/// let pyramid = FeaturePyramidNetwork::new(&[4, 8], 6, params.var_builder())?;
/// let map = |h, w, c| -> vision_detect::Result<FeatureMap> {
///     Ok(FeatureMap::from_nhwc(Tensor::ones((1, h, w, c), DType::F32, &Device::Cpu)?)?)
/// };
/// let maps = pyramid.forward(&[map(10, 14, 4)?, map(5, 7, 8)?], &Pass::inference())?;
/// assert_eq!(maps.len(), 3);
/// assert_eq!(maps[0].dims()?, (1, 10, 14, 6));
/// assert_eq!(maps[2].dims()?, (1, 3, 4, 6));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct FeaturePyramidNetwork {
    levels: Vec<Level>,
}

#[derive(Clone, Debug)]
struct Level {
    inner: Conv2d,
    layer: Conv2d,
}

impl FeaturePyramidNetwork {
    /// A pyramid over maps of `in_channels`, from fine to coarse, with `out_channels` in each of its own.
    ///
    /// # Errors
    /// If there are no maps or no channels, or `vb` cannot give a parameter of the right shape.
    #[allow(clippy::needless_pass_by_value, reason = "builders are passed by value throughout candle")]
    pub fn new(in_channels: &[usize], out_channels: usize, vb: VarBuilder<'_>) -> Result<Self> {
        if in_channels.is_empty() || in_channels.contains(&0) || out_channels == 0 {
            let problem = format!("{in_channels:?} to {out_channels}: each must be at least 1");
            return Err(Error::config("fpn: channels", problem));
        }
        let level = |(number, &channels): (usize, &usize)| {
            let conv = |block: &str, inputs: usize, kernel: usize| {
                let args = Conv2dArgs::square(1, kernel / 2);
                Conv2d::new(inputs, out_channels, [kernel; 2], args, true, vb.pp(block).pp(number).pp(0))
            };
            let inner = conv("inner_blocks", channels, 1)?;
            Ok(Level { inner, layer: conv("layer_blocks", out_channels, 3)? })
        };
        Ok(Self { levels: in_channels.iter().enumerate().map(level).collect::<Result<_>>()? })
    }

    /// The maps of the pyramid, from fine to coarse: one for each of `maps` `(N, H, W, C)`, and the one above.
    ///
    /// # Errors
    /// If there are not as many maps as the pyramid has levels, or one has other channels or no pixels.
    pub fn forward(&self, maps: &[FeatureMap], pass: &Pass) -> Result<Vec<FeatureMap>> {
        Error::check_count("fpn: maps", self.levels.len(), maps.len())?;
        let mut results = Vec::with_capacity(maps.len() + 1);
        let mut above: Option<FeatureMap> = None;
        for (level, map) in self.levels.iter().zip(maps).rev() {
            let (_, height, width, _) = map.dims()?;
            let to = ResizeTo::Size([height, width]);
            let enlarge = |above| interpolate_nhwc(above, to, &InterpolateArgs::default());
            let enlarged = above.as_ref().map(enlarge).transpose()?;
            let merged = convolve(&level.inner, map, enlarged.as_ref(), false, pass)?;
            results.push(convolve(&level.layer, &merged, None, false, pass)?);
            above = Some(merged);
        }
        results.reverse();
        if let Some(coarsest) = results.last() {
            results.push(max_pool2d_nhwc(coarsest, &Pool2dArgs::square(1, 2, 0))?);
        }
        Ok(results)
    }
}
