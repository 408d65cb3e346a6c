//! Convolution and batch normalisation as one layer.

use crate::error::Result;
use crate::nn::{BatchNorm2d, Conv2d};
use crate::ops::AfterConv;
use crate::{FeatureMap, Pass};

/// A convolution followed by batch normalisation, and what usually comes next.
///
/// In a pass without gradients the normalisation becomes a factor and a shift of the results, which with residual
/// and ReLU are applied while they are still in registers, so one map is written instead of two.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use vision_core::nn::{BatchNorm2d, BatchNormConfig, Conv2d, ConvNorm};
/// use vision_core::ops::Conv2dArgs;
/// use vision_core::{FeatureMap, Pass, params::ParamStore, rng::Key};
/// # fn main() -> vision_core::Result<()> {
/// let params = ParamStore::new(Key::new(1), DType::F32, &Device::Cpu);
/// let vb = params.var_builder();
/// let layer = ConvNorm::new(
///     Conv2d::new(3, 8, [3, 3], Conv2dArgs::square(2, 1), false, vb.pp("conv"))?,
///     BatchNorm2d::new(8, &BatchNormConfig::default(), vb.pp("bn"))?,
/// );
/// let picture = FeatureMap::from_nchw(&Tensor::ones((1, 3, 9, 9), DType::F32, &Device::Cpu)?)?;
/// let y = layer.forward_relu(&picture, &Pass::inference())?;
/// assert_eq!(y.dims()?, (1, 5, 5, 8));
/// assert!(!y.nhwc().track_op());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ConvNorm {
    conv: Conv2d,
    norm: BatchNorm2d,
}

impl ConvNorm {
    /// The two layers as one.
    pub fn new(conv: Conv2d, norm: BatchNorm2d) -> Self {
        Self { conv, norm }
    }

    /// Convolution and normalisation.
    ///
    /// # Errors
    /// As [`Conv2d::forward`] and [`BatchNorm2d::forward`].
    pub fn forward(&self, input: &FeatureMap, pass: &Pass) -> Result<FeatureMap> {
        self.run(input, None, false, pass)
    }

    /// [`ConvNorm::forward`] followed by ReLU.
    ///
    /// # Errors
    /// As [`ConvNorm::forward`].
    pub fn forward_relu(&self, input: &FeatureMap, pass: &Pass) -> Result<FeatureMap> {
        self.run(input, None, true, pass)
    }

    /// [`ConvNorm::forward`], plus `residual`, followed by ReLU.
    ///
    /// # Errors
    /// As [`ConvNorm::forward`], and if the residual has another shape.
    pub fn forward_add_relu(
        &self,
        input: &FeatureMap,
        residual: &FeatureMap,
        pass: &Pass,
    ) -> Result<FeatureMap> {
        self.run(input, Some(residual), true, pass)
    }

    /// The convolution.
    pub fn conv(&self) -> &Conv2d {
        &self.conv
    }

    /// The normalisation.
    pub fn norm(&self) -> &BatchNorm2d {
        &self.norm
    }

    fn run(
        &self,
        input: &FeatureMap,
        residual: Option<&FeatureMap>,
        relu: bool,
        pass: &Pass,
    ) -> Result<FeatureMap> {
        if !pass.graph && !pass.train {
            let (scale, shift) = self.norm.scale_and_shift()?;
            // The convolution's own bias is scaled with its result.
            let shift = match self.conv.bias() {
                None => shift,
                Some(bias) => ((bias * &scale)? + shift)?,
            };
            let after = AfterConv { scale: Some(&scale), shift: Some(&shift), residual, relu };
            return self.conv.forward_inference(input, &after);
        }
        let x = self.conv.forward(input)?;
        match (residual, relu) {
            (Some(residual), _) => self.norm.forward_add_relu(&x, residual, pass.train),
            (None, true) => self.norm.forward_relu(&x, pass.train),
            (None, false) => self.norm.forward(&x, pass.train),
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor, Var};
    use candle_nn::VarBuilder;

    use super::*;
    use crate::nn::BatchNormConfig;
    use crate::ops::Conv2dArgs;
    use crate::params::ParamStore;
    use crate::rng::Key;
    use crate::testing::assert_close;

    fn normal(name: &str, shape: &[usize]) -> Tensor {
        Key::new(3).fold(name).normal(shape, 0.0, 1.0, DType::F32, &Device::Cpu).unwrap()
    }

    /// A layer whose statistics and parameters are not those of a new one.
    fn layer(channels: [usize; 2], args: Conv2dArgs, bias: bool, vb: &VarBuilder<'_>) -> ConvNorm {
        let conv = Conv2d::new(channels[0], channels[1], [3, 3], args, bias, vb.pp("conv")).unwrap();
        let norm = BatchNorm2d::new(channels[1], &BatchNormConfig::default(), vb.pp("bn")).unwrap();
        ConvNorm::new(conv, norm)
    }

    #[test]
    fn folded_and_plain_agree() {
        for (channels, groups, bias) in [([6, 10], 1, false), ([6, 10], 2, true), ([8, 8], 8, true)] {
            let params = ParamStore::new(Key::new(1), DType::F32, &Device::Cpu);
            let args = Conv2dArgs { groups, ..Conv2dArgs::square(2, 1) };
            let layer = layer(channels, args, bias, &params.var_builder());
            let vars: Vec<(String, Var)> = params.trainable().into_iter().chain(params.buffers()).collect();
            for (name, var) in vars {
                let noise = normal(&name, var.dims());
                let value = if name.ends_with("var") { (noise.sqr().unwrap() + 0.1).unwrap() } else { noise };
                var.set(&value).unwrap();
            }
            let x = FeatureMap::from_nhwc(normal("x", &[2, 7, 9, channels[0]])).unwrap();
            let residual = FeatureMap::from_nhwc(normal("r", &[2, 4, 5, channels[1]])).unwrap();
            let all = |pass: &Pass| {
                [
                    layer.forward(&x, pass).unwrap(),
                    layer.forward_relu(&x, pass).unwrap(),
                    layer.forward_add_relu(&x, &residual, pass).unwrap(),
                ]
            };
            for (folded, plain) in all(&Pass::inference()).iter().zip(all(&Pass::eval())) {
                assert_close(folded.nhwc(), plain.nhwc(), 1e-5, 1e-5).unwrap();
                assert!(!folded.nhwc().track_op() && plain.nhwc().track_op());
            }
        }
    }

    #[test]
    fn nan_stays_through_relu() {
        let params = ParamStore::new(Key::new(1), DType::F32, &Device::Cpu);
        let layer = layer([1, 1], Conv2dArgs::square(1, 1), false, &params.var_builder());
        let x = Tensor::full(f32::NAN, (1, 2, 2, 1), &Device::Cpu).unwrap();
        let y = layer.forward_relu(&FeatureMap::from_nhwc(x).unwrap(), &Pass::inference()).unwrap();
        assert!(y.nhwc().flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().all(|y| y.is_nan()));
    }

    #[test]
    fn residuals_of_another_shape_are_refused() {
        let params = ParamStore::new(Key::new(1), DType::F32, &Device::Cpu);
        let layer = layer([1, 2], Conv2dArgs::square(1, 1), false, &params.var_builder());
        let x = FeatureMap::from_nhwc(normal("x", &[1, 4, 4, 1])).unwrap();
        for pass in [Pass::inference(), Pass::eval()] {
            assert!(layer.forward_add_relu(&x, &x, &pass).is_err());
        }
    }
}
