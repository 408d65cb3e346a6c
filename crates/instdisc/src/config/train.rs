//! Settings of a training run.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vision_datasets::transforms::{
    CenterCrop, ColorJitter, Compose, ImageOp, Pipeline, RandomGrayscale, RandomHorizontalFlip,
    RandomResizedCrop, ResizeShortSide, ToPixels,
};
use vision_datasets::{SetSpec, Split};
use vision_image::Filter;
use vision_train::optim::SgdConfig;
use vision_train::schedule::{ScheduleConfig, Shape};
use vision_train::{Problem, RecipeConfig, RunConfig};

use super::{BankConfig, LossConfig, ModelConfig, ZPolicy};

/// The embedded configurations, by name.
pub const PRESETS: &[(&str, &str)] = &[
    ("paper", include_str!("../../configs/paper.toml")),
    ("released", include_str!("../../configs/released.toml")),
    ("imagenet-2020", include_str!("../../configs/imagenet-2020.toml")),
    ("npid-pp", include_str!("../../configs/npid-pp.toml")),
    ("cifar10", include_str!("../../configs/cifar10.toml")),
    ("cifar10-nce", include_str!("../../configs/cifar10-nce.toml")),
    ("sample", include_str!("../../configs/sample.toml")),
    ("sample-emoji", include_str!("../../configs/sample-emoji.toml")),
];

/// Everything a run is made of. `Default` is the preset `paper`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Length, seed, evaluation and checkpoints.
    pub run: RunConfig,
    /// Which pictures.
    pub data: DataConfig,
    /// The network.
    pub model: ModelConfig,
    /// The memory bank.
    pub bank: BankConfig,
    /// The objective.
    pub loss: LossConfig,
    /// The optimiser.
    pub sgd: SgdConfig,
    /// Which parameters decay.
    pub decay: DecayConfig,
    /// How the learning rate falls.
    pub schedule: ScheduleConfig,
    /// What is measured.
    pub eval: EvalConfig,
}

/// `[data]`: pictures and what is done to them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// Name of the set, or `folder` for class folders below `path`.
    pub name: String,
    /// Where the set lies; by default below `--data`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The split whose pictures are the instances.
    pub train_split: Split,
    /// The split whose pictures are the queries of the evaluation.
    pub test_split: Split,
    /// Pictures per step.
    pub batch_size: usize,
    /// Leave the last, smaller batch of an epoch out. The released code keeps it.
    pub drop_last: bool,
    /// Augmentation: one random view per picture and epoch.
    pub augment: Compose,
    /// What is done to a picture that is only embedded.
    pub test: Compose,
    /// Mean and standard deviation per channel.
    pub normalise: ToPixels,
}

impl DataConfig {
    /// The training transform.
    pub fn train_pipeline(&self) -> Pipeline {
        Pipeline { ops: self.augment.clone(), normalise: self.normalise }
    }

    /// The transform of pictures that are only embedded.
    pub fn test_pipeline(&self) -> Pipeline {
        Pipeline { ops: self.test.clone(), normalise: self.normalise }
    }

    /// How to open one split.
    pub fn spec(&self, split: Split) -> SetSpec {
        SetSpec { name: self.name.clone(), path: self.path.clone(), split }
    }
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            name: "folder".to_owned(),
            path: None,
            train_split: Split::Train,
            test_split: Split::Val,
            batch_size: 256,
            drop_last: false,
            augment: Compose {
                ops: vec![
                    ImageOp::RandomResizedCrop(RandomResizedCrop {
                        size: [224, 224],
                        scale: [0.2, 1.0],
                        ..RandomResizedCrop::default()
                    }),
                    ImageOp::RandomGrayscale(RandomGrayscale { p: 0.2 }),
                    ImageOp::ColorJitter(ColorJitter {
                        brightness: 0.4,
                        contrast: 0.4,
                        saturation: 0.4,
                        hue: 0.4,
                    }),
                    ImageOp::RandomHorizontalFlip(RandomHorizontalFlip { p: 0.5 }),
                ],
            },
            test: Compose {
                ops: vec![
                    ImageOp::ResizeShortSide(ResizeShortSide { size: 256, filter: Filter::Bilinear }),
                    ImageOp::CenterCrop(CenterCrop { width: 224, height: 224 }),
                ],
            },
            normalise: ToPixels::IMAGENET,
        }
    }
}

/// `[decay]`: what weight decay applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DecayConfig {
    /// Also to batch norm parameters and biases, as the released code does.
    pub norm_and_bias: bool,
}

impl Default for DecayConfig {
    fn default() -> Self {
        Self { norm_and_bias: true }
    }
}

/// Which vector stands for a picture in the evaluation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FeatureKind {
    /// The unit vector that is trained, of length `D`.
    #[default]
    Embedding,
    /// The average-pooled map of the last stage, normalised.
    Pooled,
    /// The map after the first convolution, pooled to at most 8 x 8, normalised. The paper compares the maps
    /// of all stages (§4.2, conv1 to conv5).
    Conv1,
    /// The same after the first stage of blocks.
    Layer1,
    /// The same after the second stage.
    Layer2,
    /// The same after the third stage.
    Layer3,
    /// The same after the last stage.
    Layer4,
}

/// `[eval]`: what is measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(clippy::struct_excessive_bools, reason = "independent switches of a configuration file")]
pub struct EvalConfig {
    /// Pictures per forward pass.
    pub batch_size: usize,
    /// Classify test pictures by their neighbours among the training pictures (paper §4.1).
    pub knn: bool,
    /// Neighbours that vote; at most the number of training pictures are used.
    pub knn_k: usize,
    /// Weight of a vote: `exp(s / σ)`. By default the temperature of the loss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub knn_sigma: Option<f64>,
    /// Retrieve, for each picture of either group, the picture of the same name in the other. The training
    /// and the test part together must hold two groups of pictures with the same names, `GROUP/NAME`.
    pub cross_view: bool,
    /// Which vector is compared.
    pub features: FeatureKind,
    /// Across views, subtract the mean of its group from every vector first, then normalise again.
    pub centre: bool,
    /// Measure raw pixels and the untrained network as well.
    pub baselines: bool,
    /// Queries on the picture sheet; 0 draws none.
    pub sheet_queries: usize,
    /// Neighbours shown per query.
    pub sheet_neighbours: usize,
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self {
            batch_size: 256,
            knn: true,
            knn_k: 200,
            knn_sigma: None,
            cross_view: false,
            features: FeatureKind::Embedding,
            centre: false,
            baselines: true,
            sheet_queries: 12,
            sheet_neighbours: 10,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            run: RunConfig { epochs: 200, log_every_steps: 50, ..RunConfig::default() },
            data: DataConfig::default(),
            model: ModelConfig::default(),
            bank: BankConfig::default(),
            loss: LossConfig::default(),
            sgd: SgdConfig { lr: 0.03, momentum: 0.9, weight_decay: 1e-4, ..SgdConfig::default() },
            decay: DecayConfig::default(),
            schedule: ScheduleConfig {
                shape: Shape::Step { milestones: vec![120, 160], gamma: 0.1 },
                ..ScheduleConfig::default()
            },
            eval: EvalConfig::default(),
        }
    }
}

impl RecipeConfig for Config {
    fn validate(&self) -> std::result::Result<(), Vec<Problem>> {
        let mut problems = self.run.problems();
        problems.extend(self.sgd.problems("sgd"));
        problems.extend(self.schedule.problems("schedule"));
        for (key, ops) in [("data.augment", &self.data.augment), ("data.test", &self.data.test)] {
            problems.extend(ops.problems().into_iter().map(|problem| Problem::new(key, problem)));
        }
        problems.extend(
            self.data.normalise.problems().into_iter().map(|problem| Problem::new("data.normalise", problem)),
        );
        let mut check = |ok: bool, key: &str, problem: &str| {
            if !ok {
                problems.push(Problem::new(key, problem));
            }
        };
        let positive = |x: f64| x > 0.0 && x.is_finite();
        check(self.data.batch_size > 0, "data.batch_size", "must be at least 1");
        check(self.eval.batch_size > 0, "eval.batch_size", "must be at least 1");
        check(self.model.width > 0, "model.width", "must be at least 1");
        check(self.model.embedding > 0, "model.embedding", "must be at least 1");
        check(self.model.in_channels == 3, "model.in_channels", "must be 3: pictures are read as RGB");
        check((0.0..=1.0).contains(&self.bank.momentum), "bank.momentum", "must be within 0 and 1");
        check(positive(self.loss.temperature), "loss.temperature", "must be a positive number");
        check(self.loss.negatives > 0, "loss.negatives", "must be at least 1");
        check(
            self.loss.proximal >= 0.0 && self.loss.proximal.is_finite(),
            "loss.proximal",
            "must be 0 or a positive number",
        );
        match self.loss.z {
            ZPolicy::Ema(keep) => check((0.0..1.0).contains(&keep), "loss.z.ema", "must be within 0 and 1"),
            ZPolicy::Fixed(z) => check(positive(z), "loss.z.fixed", "must be a positive number"),
            ZPolicy::FrozenFirstBatch | ZPolicy::PerBatch => {}
        }
        check(self.eval.knn_k > 0, "eval.knn_k", "must be at least 1");
        check(self.eval.knn_sigma.is_none_or(positive), "eval.knn_sigma", "must be a positive number");
        check(self.eval.knn || self.eval.cross_view, "eval", "one of knn and cross_view must be on");
        check(self.eval.sheet_neighbours > 0, "eval.sheet_neighbours", "must be at least 1");
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn presets() -> &'static [(&'static str, &'static str)] {
        PRESETS
    }

    fn run(&self) -> &RunConfig {
        &self.run
    }

    fn run_mut(&mut self) -> &mut RunConfig {
        &mut self.run
    }
}

#[cfg(test)]
mod tests {
    use vision_train::config::{ConfigSource, flatten, load};

    use super::*;
    use crate::bank::BankInit;
    use crate::config::LossKind;

    fn preset(name: &str) -> Config {
        load::<Config>(&ConfigSource::Preset(name.to_owned()), &[]).unwrap().config
    }

    #[test]
    fn the_paper_preset_is_the_default_and_spells_everything_out() {
        assert_eq!(preset("paper"), Config::default());
        let file: toml::Table = toml::from_str(PRESETS[0].1).unwrap();
        let default = toml::Table::try_from(Config::default()).unwrap();
        let keys = |table: &toml::Table| flatten(table).into_keys().collect::<Vec<_>>();
        assert_eq!(keys(&file), keys(&default));
    }

    #[test]
    fn every_preset_is_valid() {
        for (name, _) in PRESETS {
            preset(name);
        }
    }

    #[test]
    fn presets_say_what_their_source_says() {
        let released = preset("released");
        assert_eq!((released.bank.momentum, released.loss.proximal), (0.5, 0.0));
        assert_eq!(released.bank.init, BankInit::Uniform);
        let cifar = preset("cifar10");
        assert_eq!(cifar.loss.objective, LossKind::FullSoftmax);
        assert_eq!((cifar.loss.temperature, cifar.sgd.weight_decay, cifar.data.batch_size), (0.1, 5e-4, 128));
        assert_eq!(preset("cifar10-nce").loss.objective, LossKind::Nce);
        assert_eq!(preset("cifar10-nce").model, cifar.model);
        assert_eq!(preset("imagenet-2020").loss.negatives, 65_536);
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let mut config = Config::default();
        config.loss.temperature = 0.0;
        config.bank.momentum = 2.0;
        config.data.batch_size = 0;
        let keys: Vec<String> = config.validate().unwrap_err().into_iter().map(|p| p.key).collect();
        assert_eq!(keys, ["data.batch_size", "bank.momentum", "loss.temperature"]);
    }
}
