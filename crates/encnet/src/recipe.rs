//! Training as [`vision_train`] runs it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use candle_core::Device;
use vision_core::nn::BatchNormConfig;
use vision_core::params::ParamStore;
use vision_datasets::{DataRoot, Dataset, Split};
use vision_train::optim::{OptimiserConfig, SgdConfig};
use vision_train::{
    Context, Error as TrainError, Loaders, Losses, ParamGroup, Plot, Recipe, Report, Schedule, Step,
};
use vision_weights::{Array, LoadReport, StateDict};

use crate::classes::Classes;
use crate::config::train::Config;
use crate::data::{self, Batch};
use crate::error::Error;
use crate::evaluate;
use crate::loss::Criterion;
use crate::model::EncNet;
use crate::weights;

/// The system of the paper: network and objective.
#[derive(Debug)]
pub struct EncNetRecipe {
    model: EncNet,
    criterion: Criterion,
    config: Config,
    device: Device,
    /// The backbone's weights are put here when a run begins.
    params: ParamStore,
    /// Names and colours, in a run that trains.
    classes: Option<Classes>,
    /// Batches in which no pixel had a class.
    empty_batches: u64,
}

impl EncNetRecipe {
    /// The network.
    pub fn model(&self) -> &EncNet {
        &self.model
    }

    /// The device of the parameters.
    pub fn device(&self) -> &Device {
        &self.device
    }
}

impl From<Error> for TrainError {
    fn from(error: Error) -> Self {
        match error {
            Error::Data(inner) => Self::Data(inner),
            Error::Core(inner) => Self::Core(inner),
            Error::Weights(inner) => Self::Weights(inner),
            Error::Image(inner) => Self::Image(inner),
            Error::Eval(inner) => Self::Eval(inner),
            Error::Candle(inner) => Self::Candle(inner),
            Error::Config { key, problem } => Self::config("configuration", key, problem),
            other => Self::recipe(other),
        }
    }
}

/// The file at a path or address, fetched if it is on a hub.
#[cfg(feature = "hub")]
fn backbone_file(address: &str) -> vision_train::Result<PathBuf> {
    Ok(vision_weights::hub::resolve(address, &vision_weights::hub::HubOptions::default())?)
}

/// The file at a path.
#[cfg(not(feature = "hub"))]
fn backbone_file(address: &str) -> vision_train::Result<PathBuf> {
    match address.parse()? {
        vision_weights::Source::Path(path) => Ok(path),
        vision_weights::Source::Hub(_) => {
            let problem =
                format!("{address} is on a hub, for which this program was built without feature `hub`");
            Err(TrainError::config("configuration", "init.backbone", problem))
        }
    }
}

/// Number of batches without any class, in the state of a run.
const EMPTY_BATCHES: &str = "empty_batches";

impl Recipe for EncNetRecipe {
    const NAME: &'static str = "encnet";
    const PLOTS: &'static [Plot] = &[
        Plot { title: "mean intersection over union", names: &["miou", "miou_skip"] },
        Plot { title: "pixel accuracy", names: &["pix_acc"] },
    ];
    type Config = Config;
    type Batch = Batch;

    fn build(cfg: &Config, params: &ParamStore, ctx: &Context) -> vision_train::Result<Self> {
        // Normalised over the pictures of all ranks, as the paper trains.
        let norm = BatchNormConfig { collective: ctx.several(), ..cfg.model.norm() };
        let model = EncNet::with_norm(&cfg.model, &norm, params.var_builder()).map_err(TrainError::from)?;
        let criterion = Criterion::new(&cfg.loss, cfg.model.classes).map_err(TrainError::from)?;
        Ok(Self {
            model,
            criterion,
            config: cfg.clone(),
            device: ctx.device.clone(),
            params: params.clone(),
            classes: None,
            empty_batches: 0,
        })
    }

    fn load_weights(params: &ParamStore, state: StateDict) -> vision_train::Result<LoadReport> {
        Ok(weights::load(params, state)?)
    }

    fn loaders(cfg: &Config, data: &DataRoot, ctx: &Context) -> vision_train::Result<Loaders<Batch>> {
        let set = data::open(&cfg.data, cfg.model.classes, data, Split::Train)?;
        let fingerprint = set.fingerprint();
        Ok(Loaders { train: data::train_loader(cfg, set, ctx.skip_broken)?, fingerprint })
    }

    fn begin(&mut self, cfg: &Config, data: &DataRoot, _ctx: &Context) -> vision_train::Result<()> {
        let set = data::open(&cfg.data, cfg.model.classes, data, Split::Train)?;
        self.classes = Some(Classes {
            names: set.class_names().to_vec(),
            palette: set.palette().to_vec(),
            submission_offset: set.submission_offset(),
        });
        if let Some(address) = &cfg.init.backbone {
            let path = backbone_file(address)?;
            let state = vision_weights::open(&path)?.state_dict()?;
            let report = weights::load_backbone(&self.params, state).map_err(TrainError::from)?;
            tracing::info!(tensors = report.loaded.len(), path = %path.display(), "backbone loaded");
        }
        Ok(())
    }

    fn groups(
        &self,
        cfg: &Config,
        params: &ParamStore,
        _phase: usize,
    ) -> vision_train::Result<Vec<ParamGroup>> {
        let (backbone, head) =
            params.trainable().into_iter().partition(|(name, _)| name.starts_with("pretrained."));
        let group = |name: &str, params, lr_mult| ParamGroup {
            name: name.to_owned(),
            params,
            lr_mult,
            weight_decay: cfg.sgd.weight_decay,
        };
        Ok(vec![group("backbone", backbone, 1.0), group("head", head, cfg.lr.head)])
    }

    fn schedule(cfg: &Config, steps_per_epoch: u64) -> vision_train::Result<Schedule> {
        Ok(cfg.schedule.schedule(cfg.run.epochs, steps_per_epoch))
    }

    fn optimiser(cfg: &Config) -> OptimiserConfig {
        let pictures = (cfg.data.batch_size * cfg.run.accumulate) as f64;
        let factor = match cfg.lr.reference_batch {
            0 => 1.0,
            reference => pictures / reference as f64,
        };
        SgdConfig { lr: cfg.sgd.lr * factor, ..cfg.sgd }.into()
    }

    fn losses(&mut self, batch: &Batch, step: &Step) -> vision_train::Result<Losses> {
        let output = self.model.forward(&batch.pictures(&self.device)?, &step.pass())?;
        let labels = batch.labels(self.config.loss.ignore, &self.device)?;
        let parts = self.criterion.losses(&output, &labels).map_err(TrainError::from)?;
        if parts.pixels == 0 {
            self.empty_batches += 1;
            tracing::warn!(batches = self.empty_batches, "no pixel of the batch has a class");
        }
        let mut losses = Losses::new(parts.total).with("pixels", parts.main);
        for (name, part) in [("auxiliary", parts.aux), ("se", parts.se), ("auxiliary_se", parts.aux_se)] {
            if let Some(part) = part {
                losses = losses.with(name, part);
            }
        }
        Ok(losses)
    }

    fn state(&self) -> vision_train::Result<StateDict> {
        let mut state = StateDict::new();
        state.insert(EMPTY_BATCHES, Array::from_u64([1], &[self.empty_batches])?);
        Ok(state)
    }

    fn restore(&mut self, state: &StateDict) -> vision_train::Result<()> {
        let counted = state.require(EMPTY_BATCHES)?.to_u64()?;
        self.empty_batches = counted.first().copied().unwrap_or(0);
        Ok(())
    }

    fn metadata(&self) -> vision_train::Result<BTreeMap<String, String>> {
        match &self.classes {
            Some(classes) => Ok(classes.to_metadata()?),
            None => Ok(BTreeMap::new()),
        }
    }

    fn evaluate(
        &self,
        cfg: &Config,
        data: &DataRoot,
        split: Split,
        ctx: &Context,
    ) -> vision_train::Result<Report> {
        Ok(evaluate::evaluate(self, cfg, data, split, ctx)?)
    }

    fn batch_len(batch: &Batch) -> usize {
        batch.len()
    }

    fn describe_batch(batch: &Batch) -> Vec<String> {
        batch.names.clone()
    }

    fn eval_split(_cfg: &Config) -> Split {
        Split::Val
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use candle_core::DType;
    use vision_core::rng::Key;

    use super::*;
    use crate::config::{Arch, BackboneConfig, HeadConfig, ModelConfig};

    /// Check 25: 80 epochs of 312 batches of 16 are the 4,996 pictures of PASCAL-Context.
    #[test]
    fn rates_of_a_published_training() {
        let cfg = Config::default();
        let schedule = EncNetRecipe::schedule(&cfg, 312).unwrap();
        let OptimiserConfig::Sgd(sgd) = EncNetRecipe::optimiser(&cfg) else { panic!("another optimiser") };
        // 0.001 (1 - t / 24960)^0.9 in exact arithmetic.
        for (step, want) in
            [(0, 1e-3), (12_480, 5.358_867_312_681_466e-4), (24_959, 1.102_757_136_732_441e-7)]
        {
            let got = sgd.lr * schedule.factor(step);
            assert!((got - want).abs() <= 1e-12 * want.max(1e-4), "{step}: {got}");
        }
        // The rate is for 16 pictures in a step.
        let mut double = cfg;
        double.run.accumulate = 2;
        let OptimiserConfig::Sgd(sgd) = EncNetRecipe::optimiser(&double) else { panic!("another optimiser") };
        assert_eq!(sgd.lr, 2e-3);
    }

    #[test]
    fn heads_learn_ten_times_as_fast_and_everything_decays() {
        let model = ModelConfig {
            classes: 5,
            backbone: BackboneConfig { arch: Arch::Small, width: 4, ..BackboneConfig::default() },
            head: HeadConfig { channels: 8, ..HeadConfig::default() },
            ..ModelConfig::default()
        };
        let cfg = Config { model, ..Config::default() };
        let params = ParamStore::new(Key::new(0), DType::F32, &Device::Cpu);
        let recipe = EncNetRecipe::build(&cfg, &params, &Context::new(Device::Cpu, "unused")).unwrap();
        let groups = recipe.groups(&cfg, &params, 0).unwrap();
        let mut all = BTreeSet::new();
        for group in &groups {
            assert_eq!(group.weight_decay, 1e-4, "{}", group.name);
            for (name, _) in &group.params {
                let factor = if name.starts_with("pretrained.") { 1.0 } else { 10.0 };
                assert_eq!(group.lr_mult, factor, "{name}");
                assert!(all.insert(name.clone()), "{name} is in two groups");
            }
        }
        assert_eq!(all, params.trainable().into_iter().map(|(name, _)| name).collect());
        for name in [
            "pretrained.bn1.weight",
            "head.conv5.1.bias",
            "head.conv6.1.bias",
            "head.encmodule.encoding.3.codewords",
            "head.encmodule.encoding.3.scale",
            "auxlayer.conv5.4.bias",
        ] {
            assert!(all.contains(name), "{name}");
        }
    }
}
