//! A small classifier with everything a real recipe has: augmentation, batch statistics, random numbers in
//! the forward pass, and a memory of its own that changes after each step.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use vision_core::FeatureMap;
use vision_core::dist::{Collective, Values};
use vision_core::nn::{BatchNorm2d, BatchNormConfig, Linear};
use vision_core::ops::{CrossEntropyArgs, cross_entropy, relu};
use vision_core::params::ParamStore;
use vision_datasets::{
    DataRoot, Dataset, Fingerprint, Loader, LoaderConfig, RandomSampler, SampleRng, Split, Transform,
};
use vision_eval::{Unit, Value};
use vision_train::optim::{OptimiserConfig, SgdConfig};
use vision_train::schedule::{Schedule, ScheduleConfig};
use vision_train::*;
use vision_weights::{Array, StateDict};

pub(crate) const CLASSES: usize = 3;
pub(crate) const WIDTH: usize = 6;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ToyConfig {
    pub run: RunConfig,
    pub sgd: SgdConfig,
    /// Instead of SGD.
    pub optimiser: Option<OptimiserConfig>,
    pub schedule: ScheduleConfig,
    pub hidden: usize,
    pub noise: f64,
    pub data: ToyData,
    /// Steps whose loss is NaN.
    pub poison: Vec<u64>,
    /// The rank on which it is; all without.
    pub poison_rank: Option<usize>,
    /// Whether features are dropped at random in training.
    pub drop: bool,
    /// What several ranks share.
    pub share: Share,
}

/// What several ranks share besides gradients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Share {
    /// Batch statistics.
    pub norm: bool,
    /// Features for the memory.
    pub memory: bool,
    /// The samples of an evaluation.
    pub evaluation: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ToyData {
    pub samples: usize,
    pub batch_size: usize,
}

impl Default for ToyData {
    fn default() -> Self {
        Self { samples: 50, batch_size: 8 }
    }
}

impl Default for ToyConfig {
    fn default() -> Self {
        Self {
            run: RunConfig { seed: 3, epochs: 3, log_every_steps: 2, workers: 0, ..RunConfig::default() },
            sgd: SgdConfig { lr: 0.05, momentum: 0.9, weight_decay: 1e-3, ..SgdConfig::default() },
            optimiser: None,
            schedule: ScheduleConfig::default(),
            hidden: 16,
            noise: 0.1,
            data: ToyData::default(),
            poison: Vec::new(),
            poison_rank: None,
            drop: true,
            share: Share::default(),
        }
    }
}

impl RecipeConfig for ToyConfig {
    fn validate(&self) -> std::result::Result<(), Vec<Problem>> {
        let mut problems = self.sgd.problems("sgd");
        problems.extend(self.optimiser.iter().flat_map(|optimiser| optimiser.problems("optimiser")));
        problems.extend(self.schedule.problems("schedule"));
        if self.hidden == 0 {
            problems.push(Problem::new("hidden", "must be at least 1"));
        }
        if self.data.batch_size == 0 {
            problems.push(Problem::new("data.batch_size", "must be at least 1"));
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn presets() -> &'static [(&'static str, &'static str)] {
        &[
            ("paper", "hidden = 16\n"),
            ("sample", "base = \"paper\"\n[run]\nepochs = 8\n[expect]\ntop1 = { min = 0.8 }\n"),
            ("hopeless", "base = \"sample\"\n[run]\nepochs = 1\n[expect]\ntop1 = { min = 1.1 }\n"),
            ("loop-a", "base = \"loop-b\"\n"),
            ("loop-b", "base = \"loop-a\"\n"),
        ]
    }

    fn run(&self) -> &RunConfig {
        &self.run
    }

    fn run_mut(&mut self) -> &mut RunConfig {
        &mut self.run
    }
}

/// Points around one corner per class.
pub(crate) struct Points {
    samples: usize,
    offset: u64,
}

#[derive(Clone)]
pub(crate) struct Point {
    x: Vec<f32>,
    y: u32,
    index: usize,
}

impl Dataset for Points {
    type Sample = Point;

    fn len(&self) -> usize {
        self.samples
    }

    fn get(&self, index: usize) -> vision_datasets::Result<Point> {
        let mut rng = SampleRng::new(1, self.offset, index as u64);
        let y = index % CLASSES;
        let x = (0..WIDTH).map(|d| rng.uniform() - 0.5 + if d % CLASSES == y { 0.8 } else { 0.0 }).collect();
        Ok(Point { x, y: y as u32, index })
    }

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::builder("points").number(self.offset).finish(self.samples)
    }
}

struct Noise(f64);

impl Transform<Point> for Noise {
    type Out = Point;

    fn apply(&self, mut sample: Point, rng: &mut SampleRng) -> vision_datasets::Result<Point> {
        for x in &mut sample.x {
            *x += (self.0 * (f64::from(rng.uniform()) - 0.5)) as f32;
        }
        Ok(sample)
    }
}

pub(crate) type Batch = Vec<Point>;

pub(crate) struct Toy {
    first: Linear,
    norm: BatchNorm2d,
    second: Linear,
    /// Moving average of each class's features: (classes, hidden).
    memory: Vec<f32>,
    hidden: usize,
    poison: Vec<u64>,
    drop: bool,
    share: Share,
    ranks: Arc<dyn Collective>,
    features: Option<Tensor>,
}

impl Toy {
    fn features(&self, x: &Tensor, pass: &vision_core::Pass) -> Result<Tensor> {
        let x = self.first.forward(x)?;
        let (n, c) = x.dims2()?;
        let map = FeatureMap::from_nhwc(x.reshape((n, 1, 1, c))?)?;
        let map = self.norm.forward(&map, pass.train)?;
        let mut x = relu(&map.nhwc().reshape((n, c))?)?;
        if pass.train && self.drop {
            let keep = pass.key.fold("keep").uniform((n, c), 0.0, 1.0, DType::F32, x.device())?;
            x = (x * keep)?;
        }
        Ok(x)
    }

    fn input(points: &[Point]) -> Result<Tensor> {
        let data: Vec<f32> = points.iter().flat_map(|point| point.x.iter().copied()).collect();
        Ok(Tensor::from_vec(data, (points.len(), WIDTH), &Device::Cpu)?)
    }
}

impl Recipe for Toy {
    const NAME: &'static str = "toy";
    type Config = ToyConfig;
    type Batch = Batch;

    fn build(cfg: &ToyConfig, params: &ParamStore, ctx: &Context) -> Result<Self> {
        let vb = params.var_builder();
        let collective = if cfg.share.norm { ctx.several() } else { None };
        let norm = BatchNormConfig { collective, ..BatchNormConfig::default() };
        let rank = ctx.collective.rank();
        let poisoned = cfg.poison_rank.is_none_or(|poisoned| poisoned == rank);
        Ok(Self {
            first: Linear::new(WIDTH, cfg.hidden, true, vb.pp("first"))?,
            norm: BatchNorm2d::new(cfg.hidden, &norm, vb.pp("norm"))?,
            second: Linear::new(cfg.hidden, CLASSES, true, vb.pp("second"))?,
            memory: vec![0.0; CLASSES * cfg.hidden],
            hidden: cfg.hidden,
            poison: if poisoned { cfg.poison.clone() } else { Vec::new() },
            drop: cfg.drop,
            share: cfg.share,
            ranks: Arc::clone(&ctx.collective),
            features: None,
        })
    }

    fn loaders(cfg: &ToyConfig, _: &DataRoot, ctx: &Context) -> Result<Loaders<Batch>> {
        let points = Points { samples: cfg.data.samples, offset: 0 };
        let fingerprint = points.fingerprint();
        let sampler = RandomSampler::new(cfg.data.samples, cfg.data.batch_size, cfg.run.seed, false)?;
        let config = LoaderConfig {
            workers: cfg.run.workers,
            prefetch: cfg.run.prefetch,
            seed: cfg.run.seed,
            skip_broken: ctx.skip_broken,
        };
        let train = Loader::new(
            Arc::new(points),
            Arc::new(Noise(cfg.noise)),
            Arc::new(|points: Vec<Point>| Ok(points)),
            Arc::new(sampler),
            config,
        );
        Ok(Loaders { train, fingerprint })
    }

    fn groups(&self, cfg: &ToyConfig, params: &ParamStore, _: usize) -> Result<Vec<ParamGroup>> {
        let (decayed, plain) = params.trainable().into_iter().partition(|(name, _)| name.ends_with("weight"));
        Ok(vec![
            ParamGroup {
                name: "weights".into(),
                params: decayed,
                lr_mult: 1.0,
                weight_decay: cfg.sgd.weight_decay,
            },
            ParamGroup { name: "biases".into(), params: plain, lr_mult: 2.0, weight_decay: 0.0 },
        ])
    }

    fn schedule(cfg: &ToyConfig, steps_per_epoch: u64) -> Result<Schedule> {
        Ok(cfg.schedule.schedule(cfg.run.epochs, steps_per_epoch))
    }

    fn optimiser(cfg: &ToyConfig) -> OptimiserConfig {
        cfg.optimiser.unwrap_or(cfg.sgd.into())
    }

    fn losses(&mut self, batch: &Batch, step: &Step) -> Result<Losses> {
        let features = self.features(&Self::input(batch)?, &step.pass())?;
        let logits = self.second.forward(&features)?;
        let labels: Vec<u32> = batch.iter().map(|point| point.y).collect();
        let target = Tensor::from_vec(labels, batch.len(), &Device::Cpu)?;
        let mut total = cross_entropy(&logits, &target, &CrossEntropyArgs::default())?;
        if self.poison.contains(&step.step) {
            total = (total * f64::NAN)?;
        }
        let norm = features.sqr()?.mean_all()?;
        self.features = Some(features.detach());
        Ok(Losses::new(total).with("feature_norm", norm).with("batch", batch.len() as f64))
    }

    fn after_step(&mut self, batch: &Batch, _: &Step) -> Result<()> {
        if let Some(features) = self.features.take() {
            let mut rows = Vec::new();
            for (row, point) in features.to_vec2::<f32>()?.iter().zip(batch) {
                rows.push(f64::from(point.y));
                rows.extend(row.iter().map(|&x| f64::from(x)));
            }
            // In the order of the ranks, which is that of the whole batch.
            let all =
                if self.share.memory { self.ranks.all_gather("features", &rows)?.concat() } else { rows };
            for row in all.chunks(1 + self.hidden) {
                let start = row[0] as usize * self.hidden;
                for (memory, value) in self.memory[start..start + self.hidden].iter_mut().zip(&row[1..]) {
                    *memory = 0.9 * *memory + 0.1 * *value as f32;
                }
            }
        }
        Ok(())
    }

    fn state(&self) -> Result<StateDict> {
        let mut state = StateDict::new();
        state.insert("memory", Array::from_f32(vec![CLASSES, self.hidden], &self.memory)?);
        Ok(state)
    }

    fn restore(&mut self, state: &StateDict) -> Result<()> {
        self.memory = state.require("memory")?.to_f32()?;
        Ok(())
    }

    fn evaluate(&self, cfg: &ToyConfig, _: &DataRoot, _: Split, ctx: &Context) -> Result<Report> {
        let set = Points { samples: 90, offset: 1 };
        let (rank, world) = match (cfg.share.evaluation, &ctx.collective) {
            (true, ranks) => (ranks.rank(), ranks.world_size()),
            _ => (0, 1),
        };
        let points: Vec<Point> = (rank..set.len())
            .step_by(world)
            .map(|index| set.get(index))
            .collect::<vision_datasets::Result<_>>()?;
        let features = self.features(&Self::input(&points)?, &vision_core::Pass::eval())?;
        let guesses = self.second.forward(&features)?.argmax(1)?.to_vec1::<u32>()?;
        let right = guesses.iter().zip(&points).filter(|(guess, point)| **guess == point.y).count();
        let mut counts = [right as f64, points.len() as f64];
        if world > 1 {
            ctx.collective.all_reduce("evaluation", Values::F64(&mut counts))?;
        }
        let [right, count] = counts;
        let table = Table {
            title: "settings".into(),
            header: vec!["hidden".into()],
            rows: vec![vec![cfg.hidden.to_string()]],
        };
        let top1 = Value {
            name: "top1".into(),
            value: right / count,
            unit: Unit::Fraction,
            higher_is_better: Some(true),
            count: count as u64,
        };
        Ok(Report { values: vec![top1], tables: vec![table], ..Report::default() })
    }

    fn evaluates_on_every_rank(cfg: &ToyConfig) -> bool {
        cfg.share.evaluation
    }

    fn batch_len(batch: &Batch) -> usize {
        batch.len()
    }

    fn describe_batch(batch: &Batch) -> Vec<String> {
        batch.iter().map(|point| format!("points#{}", point.index)).collect()
    }
}

pub(crate) fn resolved(change: impl FnOnce(&mut ToyConfig)) -> config::Resolved<ToyConfig> {
    let mut config = ToyConfig::default();
    change(&mut config);
    config::Resolved::new(config).unwrap()
}

pub(crate) fn no_data() -> DataRoot {
    DataRoot { dir: None }
}
