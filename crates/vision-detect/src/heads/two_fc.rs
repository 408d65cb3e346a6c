//! Two fully connected layers and the two predictors behind them: torchvision's `TwoMLPHead` and `FastRCNNPredictor`.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use vision_core::FeatureMap;
use vision_core::nn::Linear;
use vision_core::ops::relu;

use crate::error::{Error, Result};

/// A vector for each region: `relu(fc7(relu(fc6(map))))`, with parameters `fc6` and `fc7`.
///
/// The weights of `fc6` read a map channel by channel, `(C, PH, PW)`, as PyTorch lays it out.
#[derive(Clone, Debug)]
pub struct TwoFcHead {
    fc6: Linear,
    fc7: Linear,
}

impl TwoFcHead {
    /// A head over `inputs` numbers per region, the product of channels, rows and columns.
    ///
    /// # Errors
    /// If `vb` cannot give a parameter of the right shape.
    #[allow(clippy::needless_pass_by_value, reason = "builders are passed by value throughout candle")]
    pub fn new(inputs: usize, representation_size: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let fc6 = Linear::new(inputs, representation_size, true, vb.pp("fc6"))?;
        let fc7 = Linear::new(representation_size, representation_size, true, vb.pp("fc7"))?;
        Ok(Self { fc6, fc7 })
    }

    /// Vectors `(K, representation_size)` of maps `(K, PH, PW, C)`.
    ///
    /// # Errors
    /// If a map does not have as many numbers as the head reads.
    pub fn forward(&self, pooled: &FeatureMap) -> Result<Tensor> {
        let (count, height, width, channels) = pooled.dims()?;
        let flat = pooled.to_nchw()?.reshape((count, height * width * channels))?;
        let hidden = relu(&self.fc6.forward(&flat)?)?;
        Ok(relu(&self.fc7.forward(&hidden)?)?)
    }
}

/// Logits of the classes and offsets of a box for each of them, with parameters `cls_score` and `bbox_pred`.
#[derive(Clone, Debug)]
pub struct FastRcnnPredictor {
    cls_score: Linear,
    bbox_pred: Linear,
}

impl FastRcnnPredictor {
    /// Predictors over vectors of `inputs` numbers for `num_classes` classes, background included.
    ///
    /// # Errors
    /// If there are fewer than two classes, or `vb` cannot give a parameter of the right shape.
    #[allow(clippy::needless_pass_by_value, reason = "builders are passed by value throughout candle")]
    pub fn new(inputs: usize, num_classes: usize, vb: VarBuilder<'_>) -> Result<Self> {
        if num_classes < 2 {
            let problem = format!("{num_classes}, but the background is one and something must be found");
            return Err(Error::config("num_classes", problem));
        }
        let cls_score = Linear::new(inputs, num_classes, true, vb.pp("cls_score"))?;
        let bbox_pred = Linear::new(inputs, 4 * num_classes, true, vb.pp("bbox_pred"))?;
        Ok(Self { cls_score, bbox_pred })
    }

    /// Logits `(K, classes)` and offsets `(K, 4 classes)` of vectors `(K, inputs)`.
    ///
    /// # Errors
    /// If the vectors have another length.
    pub fn forward(&self, vectors: &Tensor) -> Result<(Tensor, Tensor)> {
        Ok((self.cls_score.forward(vectors)?, self.bbox_pred.forward(vectors)?))
    }
}
