//! The encoding layer (§3.1): how a map differs from a set of learnt codewords.

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};
use vision_core::FeatureMap;
use vision_core::ops::{CodewordUsage, EncodingArgs, codeword_assignments, codeword_usage, encoding_nhwc};

use crate::error::{Error, Result};

/// `E[k] = sum over positions i of a[i, k] (x[i] - c[k])`, with `a[i, ·] = softmax over k of s[k] |x[i] - c[k]|²`.
///
/// Parameters are `codewords`, `(K, D)`, and `scale`, `(K)`. The scale is the negative of the paper's smoothing factor,
/// as in the authors' files. The sum runs over all positions, so a larger map gives a larger result.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use encnet::Encoding;
/// use vision_core::ops::EncodingArgs;
/// use vision_core::{FeatureMap, params::ParamStore, rng::Key};
/// # fn main() -> encnet::Result<()> {
/// let params = ParamStore::new(Key::new(1), DType::F32, &Device::Cpu);
/// let layer = Encoding::new(16, 4, EncodingArgs::default(), params.var_builder())?;
/// let map = FeatureMap::from_nchw(&Tensor::ones((2, 16, 5, 7), DType::F32, &Device::Cpu)?)?;
/// assert_eq!(layer.forward(&map)?.dims(), [2, 4, 16]);
/// let usage = layer.usage(&map)?;
/// assert!((usage.mean.iter().sum::<f64>() - 1.0).abs() < 1e-6);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Encoding {
    codewords: Tensor,
    scale: Tensor,
    args: EncodingArgs,
}

impl Encoding {
    /// A layer with `codes` codewords of `channels` numbers. New codewords are uniform in `±1 / sqrt(K D)`, new scales
    /// in `(-1, 0)`.
    ///
    /// # Errors
    /// If one of the two is 0, or `vb` cannot give a parameter of the right shape.
    #[allow(clippy::needless_pass_by_value, reason = "builders are passed by value throughout candle")]
    pub fn new(channels: usize, codes: usize, args: EncodingArgs, vb: VarBuilder<'_>) -> Result<Self> {
        let codewords = codewords(channels, codes, &vb)?;
        let scale = vb.get_with_hints(codes, "scale", Init::Uniform { lo: -1.0, up: 0.0 })?;
        Ok(Self { codewords, scale, args })
    }

    /// Encodes a map `(N, H, W, D)` as `(N, K, D)`.
    ///
    /// # Errors
    /// If the map has another number of channels, or no pixels.
    pub fn forward(&self, map: &FeatureMap) -> Result<Tensor> {
        Ok(encoding_nhwc(map, &self.codewords, &self.scale, &self.args)?)
    }

    /// How much each position of a map belongs to each codeword, `(N, H W, K)`: a constant, every row of which adds up
    /// to 1.
    ///
    /// # Errors
    /// As [`Encoding::forward`].
    pub fn assignments(&self, map: &FeatureMap) -> Result<Tensor> {
        let (n, h, w, d) = map.dims()?;
        let x = map.nhwc().reshape((n, h * w, d))?;
        Ok(codeword_assignments(&x, &self.codewords, &self.scale, &self.args)?)
    }

    /// How much each codeword is used on a map.
    ///
    /// # Errors
    /// As [`Encoding::forward`].
    pub fn usage(&self, map: &FeatureMap) -> Result<CodewordUsage> {
        let (n, h, w, d) = map.dims()?;
        let x = map.nhwc().reshape((n, h * w, d))?;
        Ok(codeword_usage(&x, &self.codewords, &self.scale, &self.args)?)
    }

    /// The codewords, `(K, D)`.
    pub fn codewords(&self) -> &Tensor {
        &self.codewords
    }

    /// The scales, `(K)`.
    pub fn scale(&self) -> &Tensor {
        &self.scale
    }
}

/// The parameter `codewords` of a layer.
pub(crate) fn codewords(channels: usize, codes: usize, vb: &VarBuilder<'_>) -> Result<Tensor> {
    for (name, size) in [("codes", codes), ("channels", channels)] {
        if size == 0 {
            return Err(Error::config(format!("encoding `{}`: {name}", vb.prefix()), "must be at least 1"));
        }
    }
    let bound = 1.0 / ((codes * channels) as f64).sqrt();
    Ok(vb.get_with_hints((codes, channels), "codewords", Init::Uniform { lo: -bound, up: bound })?)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use vision_core::params::ParamStore;
    use vision_core::rng::Key;

    use super::*;

    #[test]
    fn initial_values() {
        let params = ParamStore::new(Key::new(1), DType::F64, &Device::Cpu);
        let layer = Encoding::new(32, 32, EncodingArgs::default(), params.var_builder()).unwrap();
        let bound = 1.0 / 32.0;
        let values = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        let codewords = values(layer.codewords());
        assert!(codewords.iter().all(|c| c.abs() <= bound));
        assert!(codewords.iter().any(|c| *c < -0.9 * bound) && codewords.iter().any(|c| *c > 0.9 * bound));
        assert!(values(layer.scale()).iter().all(|s| (-1.0..=0.0).contains(s)));
        assert!(Encoding::new(32, 0, EncodingArgs::default(), params.var_builder().pp("a")).is_err());
    }

    #[test]
    fn assignments_add_up_to_usage() {
        let params = ParamStore::new(Key::new(1), DType::F32, &Device::Cpu);
        let layer = Encoding::new(8, 4, EncodingArgs::default(), params.var_builder()).unwrap();
        let map = Key::new(2).normal((2, 5, 3, 8), 0.0, 1.0, DType::F32, &Device::Cpu).unwrap();
        let map = FeatureMap::from_nhwc(map).unwrap();
        let shares = layer.assignments(&map).unwrap();
        assert_eq!(shares.dims(), [2, 15, 4]);
        let shares = shares.to_dtype(DType::F64).unwrap();
        let mean: Vec<f64> = shares.reshape((30, 4)).unwrap().mean(0).unwrap().to_vec1().unwrap();
        for (got, want) in mean.iter().zip(&layer.usage(&map).unwrap().mean) {
            assert!((got - want).abs() < 1e-5, "{got} {want}");
        }
    }
}
