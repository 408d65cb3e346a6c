//! Settings of the model and its losses.
//!
//! `Default` is what the surviving weights and all other implementations use: release 1.0.1 of the authors' code
//! with a ResNet-50, for PASCAL-Context. [`ModelConfig::preset`] gives the other versions by the name of their source.

mod preset;
#[cfg(feature = "train")]
pub mod train;

use serde::{Deserialize, Serialize};
use vision_core::nn::BatchNormConfig;
use vision_core::ops::RunningVar;

pub use preset::Preset;

use crate::error::{Error, Result};

/// What stands behind the backbone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// The paper's head with the context encoding module.
    #[default]
    EncNet,
    /// Its baseline: two convolutions on the last stage, no context.
    Fcn,
}

/// The network in front of the head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// Basic blocks 2-2-2-2.
    ResNet18,
    /// Basic blocks 3-4-6-3.
    ResNet34,
    /// Bottleneck blocks 3-4-6-3.
    #[default]
    ResNet50,
    /// Bottleneck blocks 3-4-23-3.
    ResNet101,
    /// Bottleneck blocks 3-8-36-3.
    ResNet152,
    /// Four 3x3 convolutions at a quarter of the size, see [`crate::body::SmallBody`]: for small pictures and tests.
    Small,
}

/// The first layers of a ResNet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StemKind {
    /// Three 3x3 convolutions with `width`, `width` and twice that many channels: the authors' `resnet50s`.
    #[default]
    Deep,
    /// Three 3x3 convolutions with half of `width`, half and `width` channels: `resnet50c`, as mmsegmentation has it.
    DeepNarrow,
    /// One 7x7 convolution: torchvision, and the authors' code before release 0.5.
    Plain,
}

/// `[model.backbone]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackboneConfig {
    /// The network.
    pub arch: Arch,
    /// Its first layers; a `small` network has none.
    pub stem: StemKind,
    /// Channels of the first stage; 64 in every published network, 16 or so for a `small` one. At least 1.
    pub width: usize,
    /// Channels of a picture, 1 to 4.
    pub in_channels: usize,
    /// Dilations 4, 8 and 16 instead of 2, 4 and 4 in the last stage. Never used by the paper.
    pub multi_grid: bool,
}

impl Default for BackboneConfig {
    fn default() -> Self {
        Self {
            arch: Arch::default(),
            stem: StemKind::default(),
            width: 64,
            in_channels: 3,
            multi_grid: false,
        }
    }
}

/// What dropout before the last convolution zeroes at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DropoutKind {
    /// Whole channels of a picture.
    #[default]
    Channel,
    /// Single numbers.
    Element,
}

/// What supervises the third stage in training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Auxiliary {
    /// Nothing.
    None,
    /// A second, small FCN head with a loss over the pixels: every release of the authors' code.
    #[default]
    Fcn,
    /// A second context encoding module of which only the prediction of the classes is used: the paper's text, of which
    /// no code was ever published. A reconstruction.
    Context,
}

/// `[model.head]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeadConfig {
    /// Channels between the backbone and the classifier. At least 1.
    pub channels: usize,
    /// Whether maps of the second and third stage join those of the last before the context is encoded.
    pub lateral: bool,
    /// Probability of dropout before the classifier, and in the auxiliary head.
    pub dropout: f64,
    /// What that zeroes at once.
    pub dropout_kind: DropoutKind,
    /// Whether the centres of the corner pixels coincide when logits are enlarged.
    pub align_corners: bool,
    /// What supervises the third stage in training.
    pub auxiliary: Auxiliary,
}

impl Default for HeadConfig {
    fn default() -> Self {
        Self {
            channels: 512,
            lateral: true,
            dropout: 0.1,
            dropout_kind: DropoutKind::Channel,
            align_corners: true,
            auxiliary: Auxiliary::Fcn,
        }
    }
}

/// What maps features before they are encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Projection {
    /// Nothing: they are encoded as they are.
    None,
    /// A 1x1 convolution, batch normalisation by each rank for itself, and ReLU: release 0.4.3.
    LocalNorm,
    /// The same, with the normalisation of all ranks together.
    #[default]
    Norm,
}

/// How the `K` encoded vectors become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Aggregate {
    /// Their sum: the paper and release 0.4.2.
    Sum,
    /// Their mean: everything later.
    #[default]
    Mean,
}

/// What the factors `g` of the channels do to a map `x`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gate {
    /// `x g`: the paper.
    Plain,
    /// `x + x g`: release 0.4.2.
    Residual,
    /// `relu(x + x g)`: everything later.
    #[default]
    ResidualRelu,
}

/// `[model.context]`: the context encoding module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ContextConfig {
    /// `K`, the number of codewords. 0 takes the mean over all positions instead of an encoding.
    pub codes: usize,
    /// What maps features before they are encoded.
    pub projection: Projection,
    /// How the encoded vectors become one.
    pub aggregate: Aggregate,
    /// What happens to the map.
    pub gate: Gate,
    /// Divide squared distances by the number of channels. Off in all weights there are: without it, one codeword takes
    /// almost everything until the scales have learnt otherwise.
    pub normalize_distance: bool,
    /// Whether to predict which classes are in the picture, for the SE-loss.
    pub predict_classes: bool,
}

impl Default for ContextConfig {
    fn default() -> Self {
        Self {
            codes: 32,
            projection: Projection::default(),
            aggregate: Aggregate::default(),
            gate: Gate::default(),
            normalize_distance: false,
            predict_classes: true,
        }
    }
}

/// `[model]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    /// What stands behind the backbone.
    pub method: Method,
    /// Number of classes: 59 for PASCAL-Context, 150 for ADE20K, 21 for PASCAL VOC.
    pub classes: usize,
    /// Which variance batch normalisation keeps: `unbiased`, as PyTorch and the authors' code before release 1.0, or
    /// `biased`, as their synchronised normalisation from then on.
    pub running_var: RunningVar,
    /// The network in front.
    pub backbone: BackboneConfig,
    /// What stands behind it.
    pub head: HeadConfig,
    /// The context encoding module; not part of an FCN.
    pub context: ContextConfig,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            method: Method::default(),
            classes: 59,
            running_var: RunningVar::default(),
            backbone: BackboneConfig::default(),
            head: HeadConfig::default(),
            context: ContextConfig::default(),
        }
    }
}

impl ModelConfig {
    /// Constants of batch normalisation, each rank for itself.
    pub fn norm(&self) -> BatchNormConfig {
        BatchNormConfig { running_var: self.running_var, ..BatchNormConfig::default() }
    }

    /// Checks ranges and contradictions; models do it themselves.
    ///
    /// # Errors
    /// Names the first field that is wrong, from `model.` on.
    pub fn validate(&self) -> Result<()> {
        for (key, value) in [
            ("model.classes", self.classes),
            ("model.backbone.width", self.backbone.width),
            ("model.backbone.in_channels", self.backbone.in_channels),
            ("model.head.channels", self.head.channels),
        ] {
            if value == 0 {
                return Err(Error::config(key, "must be at least 1"));
            }
        }
        if !(0.0..1.0).contains(&self.head.dropout) {
            let problem = format!("{} is not in [0, 1)", self.head.dropout);
            return Err(Error::config("model.head.dropout", problem));
        }
        let backbone = &self.backbone;
        if backbone.stem == StemKind::DeepNarrow && backbone.arch != Arch::Small && backbone.width % 2 == 1 {
            let problem = format!("{} has no half, which this stem needs", backbone.width);
            return Err(Error::config("model.backbone.width", problem));
        }
        if backbone.arch == Arch::Small && backbone.multi_grid {
            return Err(Error::config("model.backbone.multi_grid", "a small network has no dilation"));
        }
        if self.method == Method::Fcn {
            if self.head.lateral {
                return Err(Error::config("model.head.lateral", "an FCN has no lateral connections"));
            }
            if self.head.auxiliary == Auxiliary::Context {
                return Err(Error::config("model.head.auxiliary", "an FCN encodes no context"));
            }
        }
        if self.head.auxiliary == Auxiliary::Context && !self.context.predict_classes {
            let problem = "is needed for the second module, which predicts nothing but classes";
            return Err(Error::config("model.context.predict_classes", problem));
        }
        Ok(())
    }
}

/// `[loss]`: the weights of the parts, and what is not counted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossConfig {
    /// Weight of each SE-loss, `α` of the paper: 0.2.
    pub se: f64,
    /// Weight of the auxiliary head: 0.2 in every published training.
    pub auxiliary: f64,
    /// Label of pixels without a class. No class has it.
    pub ignore: i64,
}

impl Default for LossConfig {
    fn default() -> Self {
        Self { se: 0.2, auxiliary: 0.2, ignore: -1 }
    }
}

impl LossConfig {
    /// Checks the ranges for so many classes.
    ///
    /// # Errors
    /// Names the first field that is wrong, from `loss.` on.
    pub fn validate(&self, classes: usize) -> Result<()> {
        for (key, weight) in [("loss.se", self.se), ("loss.auxiliary", self.auxiliary)] {
            if !(weight.is_finite() && weight >= 0.0) {
                return Err(Error::config(key, format!("{weight} is not a finite number of at least 0")));
            }
        }
        if usize::try_from(self.ignore).is_ok_and(|label| label < classes) {
            return Err(Error::config("loss.ignore", format!("{} is one of {classes} classes", self.ignore)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(change: impl FnOnce(&mut ModelConfig)) -> String {
        let mut config = ModelConfig::default();
        change(&mut config);
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn wrong_fields_are_named() {
        ModelConfig::default().validate().unwrap();
        assert!(problem(|c| c.classes = 0).starts_with("model.classes"));
        assert!(problem(|c| c.head.dropout = f64::NAN).starts_with("model.head.dropout"));
        assert!(problem(|c| c.method = Method::Fcn).starts_with("model.head.lateral"));
        let odd = |c: &mut ModelConfig| {
            c.backbone = BackboneConfig { stem: StemKind::DeepNarrow, width: 7, ..BackboneConfig::default() };
        };
        assert!(problem(odd).starts_with("model.backbone.width"));
        let second = |c: &mut ModelConfig| {
            c.head.auxiliary = Auxiliary::Context;
            c.context.predict_classes = false;
        };
        assert!(problem(second).starts_with("model.context.predict_classes"));
        assert!(LossConfig::default().validate(59).is_ok());
        let weight = LossConfig { se: -1.0, ..LossConfig::default() };
        assert!(weight.validate(59).unwrap_err().to_string().starts_with("loss.se"));
        let ignore = LossConfig { ignore: 58, ..LossConfig::default() };
        assert!(ignore.validate(59).unwrap_err().to_string().starts_with("loss.ignore"));
        assert!(ignore.validate(58).is_ok());
    }

    #[test]
    fn text_and_back() {
        for preset in Preset::ALL {
            let config = ModelConfig::preset(preset, 21);
            let text = toml::to_string(&config).unwrap();
            assert_eq!(toml::from_str::<ModelConfig>(&text).unwrap(), config);
        }
        assert!(toml::from_str::<ModelConfig>("clases = 3").unwrap_err().to_string().contains("clases"));
        assert_eq!(toml::from_str::<ModelConfig>("").unwrap(), ModelConfig::default());
    }
}
