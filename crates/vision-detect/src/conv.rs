//! Convolutions with a bias and what follows them.

use vision_core::nn::Conv2d;
use vision_core::ops::{AfterConv, relu_nhwc};
use vision_core::{FeatureMap, Pass};

use crate::error::Result;

/// The layer's result, plus `residual`, followed by ReLU if asked for: in one pass over memory where no gradient is
/// asked for.
pub(crate) fn convolve(
    layer: &Conv2d,
    input: &FeatureMap,
    residual: Option<&FeatureMap>,
    relu: bool,
    pass: &Pass,
) -> Result<FeatureMap> {
    if !pass.graph && !pass.train {
        let after = AfterConv { scale: None, shift: layer.bias(), residual, relu };
        return Ok(layer.forward_inference(input, &after)?);
    }
    let mut map = layer.forward(input)?;
    if let Some(residual) = residual {
        map = FeatureMap::from_nhwc(map.nhwc().add(residual.nhwc())?)?;
    }
    Ok(if relu { relu_nhwc(&map)? } else { map })
}
