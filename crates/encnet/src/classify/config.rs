//! Settings of a training run.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vision_datasets::transforms::{
    CenterCrop, Compose, ImageOp, PadTo, Pipeline, RandomCrop, RandomHorizontalFlip, ResizeShortSide,
    ToPixels,
};
use vision_datasets::{SetSpec, Split};
use vision_image::Filter;
use vision_train::optim::SgdConfig;
use vision_train::schedule::{ScheduleConfig, Shape};
use vision_train::{Problem, RecipeConfig, RunConfig};

use crate::cifar::CifarConfig;

/// The embedded configurations, by name.
pub const PRESETS: &[(&str, &str)] = &[
    ("cifar10", include_str!("../../configs/cifar10.toml")),
    ("cifar10-wide", include_str!("../../configs/cifar10-wide.toml")),
    ("cifar10-baseline", include_str!("../../configs/cifar10-baseline.toml")),
    ("digits", include_str!("../../configs/digits.toml")),
    ("digits-baseline", include_str!("../../configs/digits-baseline.toml")),
];

/// Everything a run is made of. `Default` is the preset `cifar10`: 16k64d by the recipe of the authors' code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Length, seed, evaluation and checkpoints.
    pub run: RunConfig,
    /// Which pictures.
    pub data: DataConfig,
    /// The network.
    pub model: CifarConfig,
    /// The optimiser; its weight decay is for all that learns, normalisation and biases too.
    pub sgd: SgdConfig,
    /// How the learning rate falls.
    pub schedule: ScheduleConfig,
    /// What is measured.
    pub eval: EvalConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            run: RunConfig { epochs: 600, log_every_steps: 50, ..RunConfig::default() },
            data: DataConfig::default(),
            model: CifarConfig::small(),
            sgd: SgdConfig { lr: 0.1, momentum: 0.9, weight_decay: 5e-4, ..SgdConfig::default() },
            schedule: ScheduleConfig { shape: Shape::Cosine { last: 0.0 }, ..ScheduleConfig::default() },
            eval: EvalConfig::default(),
        }
    }
}

/// `[data]`: pictures and what is done to them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// Name of the set, or `folder` for folders of classes below `path`.
    pub name: String,
    /// Where the set lies; by default below `--data`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Pictures per step.
    pub batch_size: usize,
    /// Leave the last, smaller batch of an epoch out. The authors' code keeps it.
    pub drop_last: bool,
    /// Pictures enter with this width and height: the shorter side is resized to it, and the middle cut out.
    pub size: u32,
    /// Augmentation, after that.
    pub augment: Compose,
    /// Mean and standard deviation per channel.
    pub normalise: ToPixels,
}

impl DataConfig {
    /// The training transform.
    pub fn train_pipeline(&self) -> Pipeline {
        let mut pipeline = self.test_pipeline();
        pipeline.ops.ops.extend(self.augment.ops.iter().cloned());
        pipeline
    }

    /// The transform of pictures that are measured.
    pub fn test_pipeline(&self) -> Pipeline {
        let size = self.size;
        let ops = vec![
            ImageOp::ResizeShortSide(ResizeShortSide { size, filter: Filter::Bilinear }),
            ImageOp::CenterCrop(CenterCrop { width: size, height: size }),
        ];
        Pipeline { ops: Compose { ops }, normalise: self.normalise }
    }

    /// How to open one split.
    pub fn spec(&self, split: Split) -> SetSpec {
        SetSpec { name: self.name.clone(), path: self.path.clone(), split }
    }
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            name: "cifar10".to_owned(),
            path: None,
            batch_size: 128,
            drop_last: false,
            size: 32,
            augment: Compose {
                ops: vec![
                    ImageOp::PadTo(PadTo { width: 40, height: 40, color: [0; 3] }),
                    ImageOp::RandomCrop(RandomCrop { width: 32, height: 32 }),
                    ImageOp::RandomHorizontalFlip(RandomHorizontalFlip { p: 0.5 }),
                ],
            },
            normalise: ToPixels::CIFAR10,
        }
    }
}

/// `[eval]`: what is measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvalConfig {
    /// Pictures per forward pass.
    pub batch_size: usize,
    /// Errors on the sheet of the most certain ones; 0 draws none.
    pub worst: usize,
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self { batch_size: 256, worst: 24 }
    }
}

impl RecipeConfig for Config {
    fn validate(&self) -> std::result::Result<(), Vec<Problem>> {
        let mut problems = self.run.problems();
        problems.extend(self.sgd.problems("sgd"));
        problems.extend(self.schedule.problems("schedule"));
        problems.extend(
            self.data.augment.problems().into_iter().map(|problem| Problem::new("data.augment", problem)),
        );
        problems.extend(
            self.data.normalise.problems().into_iter().map(|problem| Problem::new("data.normalise", problem)),
        );
        for (key, value) in [
            ("data.batch_size", self.data.batch_size),
            ("data.size", self.data.size as usize),
            ("model.widen", self.model.widen),
            ("model.classes", self.model.classes),
            ("eval.batch_size", self.eval.batch_size),
        ] {
            if value == 0 {
                problems.push(Problem::new(key, "must be at least 1"));
            }
        }
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

    fn preset(name: &str) -> Config {
        load::<Config>(&ConfigSource::Preset(name.to_owned()), &[]).unwrap().config
    }

    #[test]
    fn cifar10_is_the_default_and_spells_everything_out() {
        assert_eq!(preset("cifar10"), Config::default());
        let keys = |table: toml::Table| flatten(&table).into_keys().collect::<Vec<String>>();
        let file: toml::Table = toml::from_str(PRESETS[0].1).unwrap();
        assert_eq!(keys(file), keys(toml::Table::try_from(Config::default()).unwrap()));
    }

    #[test]
    fn presets_say_what_their_source_says() {
        for (name, _) in PRESETS {
            preset(name);
        }
        let cifar = preset("cifar10");
        assert_eq!((cifar.run.epochs, cifar.data.batch_size), (600, 128));
        assert_eq!((cifar.sgd.lr, cifar.sgd.momentum, cifar.sgd.weight_decay), (0.1, 0.9, 5e-4));
        assert_eq!(cifar.schedule.shape, Shape::Cosine { last: 0.0 });
        assert_eq!(preset("cifar10-wide"), Config { model: CifarConfig::default(), ..cifar.clone() });
        assert_eq!(preset("cifar10-baseline"), Config { model: CifarConfig::plain(4), ..cifar });
        let digits = preset("digits");
        assert_eq!((digits.model.widen, digits.model.codes), (1, 8));
        assert_eq!(preset("digits-baseline"), Config { model: CifarConfig::plain(1), ..digits });
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let mut config = Config::default();
        config.sgd.lr = -1.0;
        config.data.size = 0;
        config.data.augment.ops.push(ImageOp::RandomCrop(RandomCrop { width: 0, height: 4 }));
        config.model.widen = 0;
        let keys: Vec<String> = config.validate().unwrap_err().into_iter().map(|p| p.key).collect();
        assert_eq!(keys, ["sgd.lr", "data.augment", "data.size", "model.widen"]);
    }
}
