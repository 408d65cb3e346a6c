//! Dropout layer.

use candle_core::Tensor;

use crate::error::Result;
use crate::ops::{self, check_probability};
use crate::{FeatureMap, Pass};

/// Dropout in training, nothing in inference.
///
/// The layer's name makes its random numbers its own: two layers of different names drop different elements
/// in the same pass, and a layer drops the same ones again when a pass with the same key is repeated.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use vision_core::{Pass, nn::Dropout, rng::Key};
/// let layer = Dropout::new("head.dropout", 0.5)?;
/// let x = Tensor::ones((2, 8), DType::F32, &Device::Cpu)?;
/// assert_eq!(layer.forward(&x, &Pass::eval())?.to_vec2::<f32>()?, x.to_vec2::<f32>()?);
/// let y = layer.forward(&x, &Pass::train(Key::new(1)))?.flatten_all()?.to_vec1::<f32>()?;
/// assert!(y.iter().all(|v| *v == 0.0 || *v == 2.0));
/// # Ok::<(), vision_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Dropout {
    name: String,
    p: f64,
}

impl Dropout {
    /// A layer that drops with probability `p`. `name` is to be unique in the model, such as the prefix that
    /// the layer's parameters would have.
    ///
    /// # Errors
    /// If `p` is not in `[0, 1]`.
    pub fn new(name: impl Into<String>, p: f64) -> Result<Self> {
        check_probability("Dropout", p)?;
        Ok(Self { name: name.into(), p })
    }

    /// Drops elements of a tensor of any shape.
    ///
    /// # Errors
    /// If the input is not a float tensor on the CPU.
    pub fn forward(&self, input: &Tensor, pass: &Pass) -> Result<Tensor> {
        if pass.train { ops::dropout(input, self.p, pass.key.fold(&self.name)) } else { Ok(input.clone()) }
    }

    /// Drops elements of a feature map, each by itself.
    ///
    /// # Errors
    /// As [`Dropout::forward`].
    pub fn forward_map(&self, input: &FeatureMap, pass: &Pass) -> Result<FeatureMap> {
        FeatureMap::from_nhwc(self.forward(input.nhwc(), pass)?)
    }

    /// The probability of an element to be dropped.
    pub fn p(&self) -> f64 {
        self.p
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::rng::Key;

    #[test]
    fn names_and_keys_choose_the_mask() {
        let x = Tensor::ones((2, 3, 4, 50), DType::F32, &Device::Cpu).unwrap();
        let run = |name: &str, pass: &Pass| {
            let y = Dropout::new(name, 0.5).unwrap().forward(&x, pass).unwrap();
            y.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let step = Pass::train(Key::new(1).fold_u64(5));
        assert_eq!(run("a", &step), run("a", &step));
        assert_ne!(run("a", &step), run("b", &step));
        assert_ne!(run("a", &step), run("a", &Pass::train(Key::new(1).fold_u64(6))));
        assert!(run("a", &Pass::eval()).iter().all(|v| *v == 1.));
        let map = FeatureMap::from_nhwc(x.clone()).unwrap();
        let layer = Dropout::new("a", 0.5).unwrap();
        let y = layer.forward_map(&map, &step).unwrap();
        assert_eq!(y.nhwc().flatten_all().unwrap().to_vec1::<f32>().unwrap(), run("a", &step));
        assert!(Dropout::new("a", 1.5).unwrap_err().to_string().starts_with("Dropout: p"));
    }
}
