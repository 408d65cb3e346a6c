//! Settings of the method: model, memory bank, loss; with `train` also data, optimiser and evaluation.
//!
//! `Default` is the paper, ImageNet with a ResNet-50. [`train::Config`] lists the other presets.

#[cfg(feature = "train")]
pub mod train;

use serde::{Deserialize, Serialize};

use crate::bank::BankInit;
use crate::loss::NceForm;

/// The network in front of the embedding (paper §4: ResNet-18 and ResNet-50).
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
}

/// The first layers of the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StemKind {
    /// 7x7 convolution with stride 2 and 3x3 max-pooling with stride 2, for pictures of about 224 pixels.
    #[default]
    ImageNet,
    /// One 3x3 convolution with stride 1, for pictures of about 32 pixels.
    Cifar,
}

/// `[model]`: what maps a picture to its feature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    /// The backbone.
    pub arch: Arch,
    /// Its first layers.
    pub stem: StemKind,
    /// Channels of the first stage; 64 in every published network. At least 1.
    pub width: usize,
    /// Channels of a picture, 1 to 4.
    pub in_channels: usize,
    /// Length of the feature, `D`. The paper: 128, where accuracy stops to rise.
    pub embedding: usize,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self { arch: Arch::default(), stem: StemKind::default(), width: 64, in_channels: 3, embedding: 128 }
    }
}

/// `[bank]`: the memory bank.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BankConfig {
    /// How rows start.
    pub init: BankInit,
    /// Share of the old row an update keeps, 0 to 1. The paper replaces rows (0) and holds them back by
    /// the proximal term; the released code keeps half (0.5) and has no such term.
    pub momentum: f64,
}

impl Default for BankConfig {
    fn default() -> Self {
        Self { init: BankInit::GaussianUnit, momentum: 0.0 }
    }
}

/// Which objective compares a feature with the bank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossKind {
    /// Full softmax up to 100,000 rows, InfoNCE above.
    Auto,
    /// Softmax over every row of the bank (paper Eq. 2).
    FullSoftmax,
    /// Noise-contrastive estimation against `m` drawn rows (paper Eq. 5-7).
    #[default]
    Nce,
    /// Softmax over the positive and `m` drawn rows, as the authors' later release.
    InfoNce,
}

/// Where the NCE normaliser `Z` comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ZPolicy {
    /// Estimated on the first training batch, then constant: paper and released code. Fails to train on
    /// small sets.
    #[default]
    FrozenFirstBatch,
    /// Moving average over batches; the number is the share of the old value kept, such as 0.99.
    Ema(f64),
    /// A known constant.
    Fixed(f64),
    /// Estimated anew on every batch.
    PerBatch,
}

/// `[loss]`: the objective.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossConfig {
    /// The objective.
    pub objective: LossKind,
    /// `τ` (paper §3.1): 0.07 for ImageNet, 0.1 for CIFAR-10.
    pub temperature: f64,
    /// `m`, rows drawn per sample; for NCE and InfoNCE.
    pub negatives: usize,
    /// The normaliser; for NCE.
    pub z: ZPolicy,
    /// How the NCE loss is computed.
    pub form: NceForm,
    /// Never draw a sample's own row.
    pub exclude_positive: bool,
    /// Draw one set of negatives per batch.
    pub shared_per_batch: bool,
    /// `λ` of the proximal term (paper Eq. 9-10); 0 leaves it out. The text gives no value; its Fig. 3
    /// compares 0, 10, 30 and 50, and 30 is our choice among them.
    pub proximal: f64,
}

impl Default for LossConfig {
    fn default() -> Self {
        Self {
            objective: LossKind::default(),
            temperature: 0.07,
            negatives: 4096,
            z: ZPolicy::default(),
            form: NceForm::default(),
            exclude_positive: false,
            shared_per_batch: false,
            proximal: 30.0,
        }
    }
}
