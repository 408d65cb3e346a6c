//! Training as [`vision_train`] runs it.

use std::collections::BTreeMap;

use candle_core::Device;
use vision_core::nn::BatchNormConfig;
use vision_core::ops::{CrossEntropyArgs, cross_entropy};
use vision_core::params::ParamStore;
use vision_datasets::{DataRoot, Dataset, LabelledSet, Split};
use vision_train::optim::OptimiserConfig;
use vision_train::{
    Context, Error as TrainError, LabelledBatch, Loaders, Losses, ParamGroup, Plot, Recipe, Report, Schedule,
    Step,
};
use vision_weights::{LoadReport, StateDict};

use super::config::Config;
use super::data;
use super::evaluate;
use super::predict::names_to_metadata;
use crate::cifar::CifarNet;
use crate::weights;

/// A network for CIFAR and cross entropy.
#[derive(Debug)]
pub struct ClassifyRecipe {
    model: CifarNet,
    device: Device,
    /// Names of the classes, in a run that trains.
    classes: Option<Vec<String>>,
}

impl ClassifyRecipe {
    /// The network.
    pub fn model(&self) -> &CifarNet {
        &self.model
    }

    /// The device of the parameters.
    pub fn device(&self) -> &Device {
        &self.device
    }
}

impl Recipe for ClassifyRecipe {
    const NAME: &'static str = "encnet-classify";
    const PLOTS: &'static [Plot] = &[
        Plot { title: "accuracy", names: &["top1", "top5"] },
        Plot { title: "cross entropy of the measured part", names: &["cross_entropy"] },
    ];
    type Config = Config;
    type Batch = LabelledBatch;

    fn build(cfg: &Config, params: &ParamStore, ctx: &Context) -> vision_train::Result<Self> {
        // Normalised over the pictures of all ranks, so that their number changes no result.
        let norm = BatchNormConfig { collective: ctx.several(), ..BatchNormConfig::default() };
        let model = CifarNet::with_norm(&cfg.model, &norm, params.var_builder()).map_err(TrainError::from)?;
        Ok(Self { model, device: ctx.device.clone(), classes: None })
    }

    fn load_weights(params: &ParamStore, state: StateDict) -> vision_train::Result<LoadReport> {
        Ok(weights::load_cifar(params, state)?)
    }

    fn loaders(cfg: &Config, data: &DataRoot, ctx: &Context) -> vision_train::Result<Loaders<LabelledBatch>> {
        let set = data::open(cfg, data, Split::Train)?;
        let fingerprint = set.fingerprint();
        Ok(Loaders { train: data::train_loader(cfg, set, ctx.skip_broken)?, fingerprint })
    }

    fn begin(&mut self, cfg: &Config, data: &DataRoot, _ctx: &Context) -> vision_train::Result<()> {
        self.classes = Some(data::open(cfg, data, Split::Train)?.class_names().to_vec());
        Ok(())
    }

    fn groups(
        &self,
        cfg: &Config,
        params: &ParamStore,
        _phase: usize,
    ) -> vision_train::Result<Vec<ParamGroup>> {
        let mut group = ParamGroup::all(params, cfg.sgd.weight_decay);
        if cfg.model.draw_scales {
            // They are noise: nothing learns them, and nothing should decay them either.
            group.params.retain(|(name, _)| name.rsplit('.').next() != Some("scale"));
        }
        Ok(vec![group])
    }

    fn schedule(cfg: &Config, steps_per_epoch: u64) -> vision_train::Result<Schedule> {
        Ok(cfg.schedule.schedule(cfg.run.epochs, steps_per_epoch))
    }

    fn optimiser(cfg: &Config) -> OptimiserConfig {
        cfg.sgd.into()
    }

    fn losses(&mut self, batch: &LabelledBatch, step: &Step) -> vision_train::Result<Losses> {
        let logits = self.model.forward(&batch.pictures(&self.device)?, &step.pass())?;
        let targets = batch.targets(&self.device)?;
        Ok(Losses::new(cross_entropy(&logits, &targets, &CrossEntropyArgs::default())?))
    }

    fn metadata(&self) -> vision_train::Result<BTreeMap<String, String>> {
        match &self.classes {
            Some(classes) => Ok(names_to_metadata(classes)?),
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
        evaluate::evaluate(self, cfg, data, split, ctx)
    }

    fn batch_len(batch: &LabelledBatch) -> usize {
        batch.len()
    }

    fn describe_batch(batch: &LabelledBatch) -> Vec<String> {
        batch.names.clone()
    }
}
