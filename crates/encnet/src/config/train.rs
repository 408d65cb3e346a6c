//! Settings of a training run.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vision_datasets::transforms::{
    CenterCrop, PadRightBottom, RandomCrop, RandomHorizontalFlip, RandomSide, ResizeShortSide,
    SegmentationOp, SegmentationPipeline, Side, ToPixels,
};
use vision_datasets::{IGNORE_LABEL, SegmentationSpec, Split};
use vision_eval::segmentation::AbsentClass;
use vision_image::Filter;
use vision_train::optim::SgdConfig;
use vision_train::schedule::{ScheduleConfig, Shape};
use vision_train::{Problem, RecipeConfig, RunConfig};

use super::{LossConfig, ModelConfig};
use crate::error::Error;
use crate::sliding::SlidingConfig;

/// The embedded configurations, by name.
pub const PRESETS: &[(&str, &str)] = &[
    ("paper", include_str!("../../configs/paper.toml")),
    ("pcontext-r101", include_str!("../../configs/pcontext-r101.toml")),
    ("pcontext-fcn", include_str!("../../configs/pcontext-fcn.toml")),
    ("reconstruction", include_str!("../../configs/reconstruction.toml")),
    ("release-042", include_str!("../../configs/release-042.toml")),
    ("ade20k", include_str!("../../configs/ade20k.toml")),
    ("ade20k-r101", include_str!("../../configs/ade20k-r101.toml")),
    ("ade20k-fcn", include_str!("../../configs/ade20k-fcn.toml")),
    ("voc-coco", include_str!("../../configs/voc-coco.toml")),
    ("voc-aug", include_str!("../../configs/voc-aug.toml")),
    ("voc", include_str!("../../configs/voc.toml")),
    ("cityscapes", include_str!("../../configs/cityscapes.toml")),
    ("camvid", include_str!("../../configs/camvid.toml")),
    ("camvid-fcn", include_str!("../../configs/camvid-fcn.toml")),
    ("sample", include_str!("../../configs/sample.toml")),
    ("sample-fcn", include_str!("../../configs/sample-fcn.toml")),
    ("sample-no-se", include_str!("../../configs/sample-no-se.toml")),
    ("sample-no-codes", include_str!("../../configs/sample-no-codes.toml")),
];

/// Everything a run is made of. `Default` is the preset `paper`: a ResNet-50 on PASCAL-Context.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Length, seed, evaluation and checkpoints.
    pub run: RunConfig,
    /// Which pictures.
    pub data: DataConfig,
    /// The network.
    pub model: ModelConfig,
    /// Weights to begin with.
    pub init: InitConfig,
    /// The objective.
    pub loss: LossConfig,
    /// The optimiser; its rate is for [`LrConfig::reference_batch`] pictures and the backbone.
    pub sgd: SgdConfig,
    /// What the rate is multiplied with.
    pub lr: LrConfig,
    /// How the learning rate falls.
    pub schedule: ScheduleConfig,
    /// What is measured, and how.
    pub eval: EvalConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            run: RunConfig { epochs: 80, log_every_steps: 50, eval_every_epochs: 10, ..RunConfig::default() },
            data: DataConfig::default(),
            model: ModelConfig::default(),
            init: InitConfig::default(),
            loss: LossConfig::default(),
            sgd: SgdConfig { lr: 0.001, momentum: 0.9, weight_decay: 1e-4, ..SgdConfig::default() },
            lr: LrConfig::default(),
            schedule: ScheduleConfig { shape: Shape::Poly { power: 0.9 }, ..ScheduleConfig::default() },
            eval: EvalConfig::default(),
        }
    }
}

/// `[data]`: pictures and what is done to them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// Name of the set, or `folder` for pictures and masks below `path`.
    pub name: String,
    /// Where the set lies; by default below `--data`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The part to train on.
    pub train: String,
    /// The part that is measured during training.
    pub val: String,
    /// The part that is measured by `eval --split test`.
    pub test: String,
    /// Pictures of the training part; for generated sets only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_count: Option<usize>,
    /// Seed of a generated set. Another one than that of the run, so that runs differ and data does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Pictures per step; 16 in every published training, 4 on each of 4 cards.
    pub batch_size: usize,
    /// Leave the last, smaller batch of an epoch out.
    pub drop_last: bool,
    /// Augmentation of picture and labels.
    pub augment: Vec<SegmentationOp>,
    /// What is done to both before they are measured whole ([`EvalMode::Whole`]).
    pub whole: Vec<SegmentationOp>,
    /// Mean and standard deviation per channel.
    pub normalise: ToPixels,
}

impl DataConfig {
    /// The training transform.
    pub fn train_pipeline(&self) -> SegmentationPipeline {
        SegmentationPipeline { ops: self.augment.clone(), normalise: self.normalise }
    }

    /// The transform of pictures that are measured whole.
    pub fn whole_pipeline(&self) -> SegmentationPipeline {
        SegmentationPipeline { ops: self.whole.clone(), normalise: self.normalise }
    }

    /// How to open the part that stands for `split`.
    pub fn spec(&self, split: Split) -> SegmentationSpec {
        let (part, count) = match split {
            Split::Train => (&self.train, self.train_count),
            Split::Val => (&self.val, None),
            Split::Test => (&self.test, None),
        };
        let mut spec = SegmentationSpec::new(self.name.clone(), part.clone());
        (spec.path, spec.count, spec.seed) = (self.path.clone(), count, self.seed);
        spec
    }
}

impl Default for DataConfig {
    fn default() -> Self {
        let [width, height] = [480, 480];
        Self {
            name: "pascal-context".to_owned(),
            path: None,
            train: "train".to_owned(),
            val: "val".to_owned(),
            test: "val".to_owned(),
            train_count: None,
            seed: None,
            batch_size: 16,
            drop_last: true,
            augment: vec![
                SegmentationOp::RandomHorizontalFlip(RandomHorizontalFlip { p: 0.5 }),
                SegmentationOp::RandomSide(RandomSide { side: Side::Long, range: [260, 1040] }),
                SegmentationOp::PadRightBottom(PadRightBottom {
                    width,
                    height,
                    color: [0; 3],
                    label: IGNORE_LABEL,
                }),
                SegmentationOp::RandomCrop(RandomCrop { width, height }),
            ],
            whole: vec![
                SegmentationOp::ResizeShortSide(ResizeShortSide { size: 480, filter: Filter::Bilinear }),
                SegmentationOp::CenterCrop(CenterCrop { width, height }),
            ],
            normalise: ToPixels::IMAGENET,
        }
    }
}

/// `[init]`: weights to begin with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InitConfig {
    /// A trained backbone: a file of the authors, of timm or of a whole model, or with feature `hub` the address of one,
    /// such as `hf:timm/resnet50s.gluon_in1k/model.safetensors`. Without it, the backbone begins at random, which no
    /// published training does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backbone: Option<String>,
}

/// `[lr]`: what the rate of the optimiser is multiplied with.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LrConfig {
    /// The rate of `sgd` is for steps of so many pictures and scaled in proportion to those of a step; 0 takes it as it
    /// is.
    pub reference_batch: usize,
    /// Factor for everything behind the backbone.
    pub head: f64,
}

impl Default for LrConfig {
    fn default() -> Self {
        Self { reference_batch: 16, head: 10.0 }
    }
}

/// How pictures are measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EvalMode {
    /// Once, after `data.whole`: what the authors watch training by.
    #[default]
    Whole,
    /// At full size, at several scales, by windows: what is reported.
    Sliding,
}

/// Which rule `miou` follows for classes that neither occur nor are predicted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Absent {
    /// They count 0: the authors' code.
    #[default]
    Zero,
    /// They are left out: mmsegmentation.
    Skip,
}

impl From<Absent> for AbsentClass {
    fn from(absent: Absent) -> Self {
        match absent {
            Absent::Zero => Self::Zero,
            Absent::Skip => Self::Skip,
        }
    }
}

/// `[eval]`: what is measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvalConfig {
    /// How pictures are measured.
    pub mode: EvalMode,
    /// Pictures per forward pass where they are measured whole; 1 if that leaves them in different sizes.
    pub batch_size: usize,
    /// Scales and windows where they are not.
    pub sliding: SlidingConfig,
    /// The rule of `miou`; `miou_zero` and `miou_skip` give both.
    pub absent: Absent,
    /// Pictures on the sheet of the worst; 0 draws none.
    pub worst: usize,
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self {
            mode: EvalMode::Whole,
            batch_size: 4,
            sliding: SlidingConfig::default(),
            absent: Absent::Zero,
            worst: 8,
        }
    }
}

impl RecipeConfig for Config {
    fn validate(&self) -> std::result::Result<(), Vec<Problem>> {
        let mut problems = self.run.problems();
        problems.extend(self.sgd.problems("sgd"));
        problems.extend(self.schedule.problems("schedule"));
        for (key, pipeline) in
            [("data.augment", self.data.train_pipeline()), ("data.whole", self.data.whole_pipeline())]
        {
            problems.extend(pipeline.problems().into_iter().map(|problem| Problem::new(key, problem)));
        }
        let parts = [
            self.model.validate(),
            self.loss.validate(self.model.classes),
            self.eval.sliding.validate("eval.sliding"),
        ];
        for problem in parts.into_iter().filter_map(Result::err) {
            problems.push(match problem {
                Error::Config { key, problem } => Problem::new(key, problem),
                other => Problem::new("model", other.to_string()),
            });
        }
        let mut check = |ok: bool, key: &str, problem: &str| {
            if !ok {
                problems.push(Problem::new(key, problem));
            }
        };
        check(self.data.batch_size > 0, "data.batch_size", "must be at least 1");
        check(self.eval.batch_size > 0, "eval.batch_size", "must be at least 1");
        let factor = self.lr.head;
        check(factor > 0.0 && factor.is_finite(), "lr.head", "must be a positive finite number");
        check(self.model.classes <= 255, "model.classes", "must be at most 255: labels are bytes");
        check(self.model.backbone.in_channels == 3, "model.backbone.in_channels", "must be 3 for pictures");
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
    use vision_datasets::transforms::{SegmentationPreset, TrainSizes};
    use vision_train::config::{ConfigSource, flatten, load};

    use super::*;
    use crate::config::{Arch, Method, Preset};

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
    fn every_preset_is_valid_and_says_what_its_source_says() {
        for (name, _) in PRESETS {
            preset(name);
        }
        let sizes = TrainSizes::default();
        assert_eq!(Config::default().data.train_pipeline(), SegmentationPreset::V1.train(&sizes).unwrap());
        assert_eq!(Config::default().data.whole_pipeline(), SegmentationPreset::val(480).unwrap());
        assert_eq!(preset("reconstruction").model, ModelConfig::preset(Preset::Paper, 59));
        assert_eq!(preset("release-042").model, ModelConfig::preset(Preset::V042, 59));
        let augment = preset("release-042").data.train_pipeline();
        assert_eq!(augment, SegmentationPreset::V042.train(&sizes).unwrap());
        assert_eq!(preset("pcontext-fcn").model, ModelConfig::preset(Preset::Fcn, 59));
        assert_eq!(preset("pcontext-r101").model.backbone.arch, Arch::ResNet101);
        let ade = preset("ade20k-r101");
        assert_eq!(
            (ade.model.classes, ade.eval.sliding.crop_size, ade.eval.sliding.base_size),
            (150, 576, 640)
        );
        assert!(!ade.model.head.lateral && ade.run.epochs == 180 && ade.sgd.lr == 0.004);
        assert_eq!(preset("voc").sgd.lr, 0.0001);
        assert_eq!((preset("voc-coco").run.epochs, preset("voc-aug").run.epochs), (30, 80));
        assert_eq!(preset("sample-fcn").model.method, Method::Fcn);
        assert_eq!(preset("sample-no-codes").model.context.codes, 0);
    }

    /// What `prepare` makes is what the configurations ask for.
    #[test]
    fn presets_name_parts_of_the_catalogue() {
        let catalog = vision_datasets::catalog().unwrap();
        for (name, _) in PRESETS {
            let data = preset(name).data;
            if data.name == "folder" {
                continue;
            }
            let entry =
                catalog.iter().find(|entry| entry.name == data.name).unwrap_or_else(|| panic!("{name}"));
            // Some sets are only counted when they are prepared.
            for part in [&data.train, &data.val].into_iter().filter(|_| !entry.counts.is_empty()) {
                assert!(entry.counts.contains_key(part), "{name}: {} has no part {part}", data.name);
            }
        }
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let mut config = Config::default();
        config.data.batch_size = 0;
        config.model.classes = 0;
        config.loss.se = -1.0;
        config.lr.head = 0.0;
        config.eval.sliding.scales.clear();
        let keys: Vec<String> = config.validate().unwrap_err().into_iter().map(|p| p.key).collect();
        assert_eq!(keys, ["model.classes", "loss.se", "eval.sliding.scales", "data.batch_size", "lr.head"]);
    }
}
