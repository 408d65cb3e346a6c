//! The versions of the model that were published, by the name of their source.

use serde::{Deserialize, Serialize};

use super::{
    Aggregate, Auxiliary, BackboneConfig, ContextConfig, DropoutKind, Gate, HeadConfig, Method, ModelConfig,
    Projection, StemKind,
};

/// Where a version of the model comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// The text of the paper: sum over the codes, plain gate, a second module on the third stage. Parts that the text
    /// leaves open are ours, and no code or weights were ever published: a reconstruction.
    Paper,
    /// Release 0.4.2 of the authors' code (June 2018).
    V042,
    /// Release 0.4.3 (June 2018).
    V043,
    /// Releases 0.5.0 to 1.0.1 (2018 to 2020): all weights that can still be had.
    #[default]
    V1,
    /// The last state of the authors' code: as [`Preset::V1`], but dropout zeroes single numbers.
    Head,
    /// The FCN of releases 0.5.0 to 1.0.1: what the paper compares with.
    Fcn,
}

impl Preset {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Paper, Self::V042, Self::V043, Self::V1, Self::Head, Self::Fcn];
}

impl ModelConfig {
    /// The model of `preset` with a ResNet-50 for so many classes.
    ///
    /// Lateral connections are on as for PASCAL-Context where the source had them there; its code took them for all of
    /// PASCAL's sets and for no other. Turn [`HeadConfig::lateral`] off for ADE20K and COCO.
    pub fn preset(preset: Preset, classes: usize) -> Self {
        let base = Self { classes, ..Self::default() };
        let plain = || BackboneConfig { stem: StemKind::Plain, ..BackboneConfig::default() };
        match preset {
            Preset::V1 => base,
            Preset::Head => {
                let head = HeadConfig { dropout_kind: DropoutKind::Element, ..base.head };
                Self { head, ..base }
            }
            Preset::V043 => {
                let context = ContextConfig { projection: Projection::LocalNorm, ..base.context };
                Self { backbone: plain(), context, ..base }
            }
            Preset::V042 => Self {
                backbone: plain(),
                head: HeadConfig { lateral: false, ..base.head },
                context: ContextConfig {
                    projection: Projection::None,
                    aggregate: Aggregate::Sum,
                    gate: Gate::Residual,
                    ..base.context
                },
                ..base
            },
            Preset::Paper => Self {
                backbone: plain(),
                head: HeadConfig { lateral: false, dropout: 0.0, auxiliary: Auxiliary::Context, ..base.head },
                context: ContextConfig {
                    projection: Projection::None,
                    aggregate: Aggregate::Sum,
                    gate: Gate::Plain,
                    ..base.context
                },
                ..base
            },
            Preset::Fcn => {
                let head = HeadConfig { lateral: false, ..base.head };
                Self { method: Method::Fcn, head, ..base }
            }
        }
    }
}
