//! Training as [`vision_train`] runs it.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};
use vision_core::dist::Collective;
use vision_core::params::ParamStore;
use vision_core::rng::Key;
use vision_datasets::{DataRoot, Dataset, Split};
use vision_eval::Value;
use vision_train::optim::OptimiserConfig;
use vision_train::{
    Context, Error as TrainError, LabelledBatch, Loaders, Losses, ParamGroup, Plot, Recipe, Report, Schedule,
    Step,
};
use vision_weights::{Array, LoadReport, StateDict};

use crate::bank::MemoryBank;
use crate::config::train::Config;
use crate::data;
use crate::error::{Error, Result};
use crate::evaluate;
use crate::loss::Criterion;
use crate::model::InstDisc;
use crate::weights;

/// The system of the paper: network, memory bank and objective.
///
/// One step: features of the batch, their loss against the bank, its gradient, the optimiser's update, and
/// the bank rows of the batch replaced by features from before that update. Several ranks each take the loss of their
/// part of the batch and update the same bank with the features of all.
#[derive(Debug)]
pub struct InstDiscRecipe {
    model: InstDisc,
    config: Config,
    training: Option<Training>,
    /// Rows and features of the batch whose gradient is being taken, for the bank.
    pending: Option<(Vec<u32>, Tensor)>,
    /// What the baselines reach on a split: it does not change while the network learns.
    baselines: Mutex<Option<(Split, Vec<Value>)>>,
    device: Device,
    /// Other ranks, if there are any.
    ranks: Option<Arc<dyn Collective>>,
}

/// What exists only once the number of pictures is known.
#[derive(Debug)]
struct Training {
    bank: MemoryBank,
    criterion: Criterion,
}

impl Training {
    /// Puts the features of all ranks into the bank, in the order of the ranks, and makes their normalisers one: the
    /// mean of what each estimated from its batch.
    fn update_together(&mut self, ranks: &dyn Collective, index: &[u32], features: &Tensor) -> Result<()> {
        let width = self.bank.dim();
        let values = features.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        let mut mine = vec![self.criterion.z().unwrap_or(f64::NAN)];
        for (&row, values) in index.iter().zip(values.chunks(width)) {
            mine.push(f64::from(row));
            mine.extend_from_slice(values);
        }
        let (mut z, mut rows, mut all) = (Vec::new(), Vec::new(), Vec::new());
        for theirs in ranks.all_gather("bank.update", &mine)? {
            let Some((first, entries)) = theirs.split_first() else { continue };
            z.push(*first);
            for entry in entries.chunks_exact(1 + width) {
                rows.extend(entry.first().map(|&row| row as u32));
                all.extend(entry.iter().skip(1).map(|&value| value as f32));
            }
        }
        // A mean of equal numbers need not be that number.
        if z.iter().any(|other| z.first().is_some_and(|first| first.to_bits() != other.to_bits())) {
            self.criterion.set_z(Some(z.iter().sum::<f64>() / z.len() as f64));
        }
        let features = Tensor::from_vec(all, (rows.len(), width), features.device())?;
        self.bank.update(&rows, &features)
    }
}

impl InstDiscRecipe {
    /// The network.
    pub fn model(&self) -> &InstDisc {
        &self.model
    }

    /// The memory bank, in a run that trains or was restored from a checkpoint.
    pub fn bank(&self) -> Option<&MemoryBank> {
        self.training.as_ref().map(|training| &training.bank)
    }

    /// The device of the parameters.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The baselines' numbers on `split`, measured once.
    pub(crate) fn baselines(
        &self,
        split: Split,
        measure: impl FnOnce() -> Result<Vec<Value>>,
    ) -> Result<Vec<Value>> {
        // A thread that panicked inside left the old numbers behind, which are whole.
        let mut kept = self.baselines.lock().unwrap_or_else(PoisonError::into_inner);
        match kept.as_ref() {
            Some((of, values)) if *of == split => Ok(values.clone()),
            _ => {
                let values = measure()?;
                *kept = Some((split, values.clone()));
                Ok(values)
            }
        }
    }

    fn start(&mut self, rows: usize) -> Result<()> {
        let config = &self.config;
        let bank = MemoryBank::new(
            rows,
            config.model.embedding,
            config.bank.init,
            config.bank.momentum,
            Key::new(config.run.seed).fold("bank"),
            &self.device,
        )?;
        self.training = Some(Training { bank, criterion: Criterion::new(&config.loss, rows)? });
        Ok(())
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

impl Recipe for InstDiscRecipe {
    const NAME: &'static str = "instdisc";
    const PLOTS: &'static [Plot] = &[
        Plot { title: "weighted kNN, top-1", names: &["knn", "bank_knn", "raw_knn", "random_knn"] },
        Plot { title: "nearest neighbour, top-1", names: &["nn", "bank_nn", "raw_nn", "random_nn"] },
        Plot {
            title: "retrieval across views, top-1",
            names: &["cross_view_top1", "raw_cross_view_top1", "random_cross_view_top1"],
        },
    ];
    type Config = Config;
    type Batch = LabelledBatch;

    fn build(cfg: &Config, params: &ParamStore, ctx: &Context) -> vision_train::Result<Self> {
        let model = InstDisc::new(&cfg.model, params.var_builder()).map_err(TrainError::from)?;
        Ok(Self {
            model,
            config: cfg.clone(),
            training: None,
            pending: None,
            baselines: Mutex::new(None),
            device: ctx.device.clone(),
            ranks: ctx.several(),
        })
    }

    fn load_weights(params: &ParamStore, state: StateDict) -> vision_train::Result<LoadReport> {
        Ok(weights::load(params, state)?)
    }

    fn loaders(cfg: &Config, data: &DataRoot, ctx: &Context) -> vision_train::Result<Loaders<LabelledBatch>> {
        let set = data::open(&cfg.data, data, cfg.data.train_split)?;
        let fingerprint = set.fingerprint();
        Ok(Loaders { train: data::train_loader(cfg, set, ctx.skip_broken)?, fingerprint })
    }

    fn begin(&mut self, cfg: &Config, data: &DataRoot, _ctx: &Context) -> vision_train::Result<()> {
        let rows = data::open(&cfg.data, data, cfg.data.train_split)?.len();
        Ok(self.start(rows)?)
    }

    fn groups(
        &self,
        cfg: &Config,
        params: &ParamStore,
        _phase: usize,
    ) -> vision_train::Result<Vec<ParamGroup>> {
        if cfg.decay.norm_and_bias {
            return Ok(vec![ParamGroup::all(params, cfg.sgd.weight_decay)]);
        }
        // Batch norm parameters and biases are the ones with a single axis.
        let (weights, others) = params.trainable().into_iter().partition(|(_, var)| var.rank() > 1);
        Ok(vec![
            ParamGroup {
                name: "weights".to_owned(),
                params: weights,
                lr_mult: 1.0,
                weight_decay: cfg.sgd.weight_decay,
            },
            ParamGroup { name: "norm and bias".to_owned(), params: others, lr_mult: 1.0, weight_decay: 0.0 },
        ])
    }

    fn schedule(cfg: &Config, steps_per_epoch: u64) -> vision_train::Result<Schedule> {
        Ok(cfg.schedule.schedule(cfg.run.epochs, steps_per_epoch))
    }

    fn optimiser(cfg: &Config) -> OptimiserConfig {
        cfg.sgd.into()
    }

    fn losses(&mut self, batch: &LabelledBatch, step: &Step) -> vision_train::Result<Losses> {
        let output = self.model.forward(&batch.pictures(&self.device)?, &step.pass())?;
        let training = self.training.as_mut().ok_or_else(not_started)?;
        let rows = bank_rows(batch)?;
        let loss =
            training.criterion.loss(&output.embedding, &training.bank, &rows, step.key.fold("negatives"))?;
        self.pending = Some((rows, output.embedding.detach()));
        let mut losses = Losses::new(loss.total);
        if let Some(proximal) = loss.proximal {
            losses = losses.with("instance", loss.instance).with("proximal", proximal);
        }
        if let Some(z) = training.criterion.z() {
            losses = losses.with("z_over_n", z / training.bank.rows() as f64);
        }
        Ok(losses)
    }

    fn after_step(&mut self, _batch: &LabelledBatch, _step: &Step) -> vision_train::Result<()> {
        let training = self.training.as_mut().ok_or_else(not_started)?;
        if let Some((rows, features)) = self.pending.take() {
            match &self.ranks {
                None => training.bank.update(&rows, &features),
                Some(ranks) => training.update_together(&**ranks, &rows, &features),
            }
            .map_err(TrainError::from)?;
        }
        Ok(())
    }

    fn state(&self) -> vision_train::Result<StateDict> {
        let Some(training) = &self.training else { return Ok(StateDict::new()) };
        let mut state = StateDict::new();
        state.extend_with_prefix("bank.", training.bank.state()?)?;
        if let Some(z) = training.criterion.z() {
            state.insert("criterion.z", Array::from_f64([1], &[z])?);
        }
        Ok(state)
    }

    fn restore(&mut self, state: &StateDict) -> vision_train::Result<()> {
        let bank = state.with_prefix("bank.");
        if self.training.is_none() {
            // Only looked at, not trained: the checkpoint says how many rows there are.
            let rows = bank.require("features")?.shape.first().copied().unwrap_or(0);
            self.start(rows)?;
        }
        let training = self.training.as_mut().ok_or_else(not_started)?;
        training.bank.restore(&bank)?;
        let z = match state.get("criterion.z") {
            Some(z) => z.to_f64()?.first().copied(),
            None => None,
        };
        training.criterion.set_z(z);
        Ok(())
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

    fn batch_len(batch: &LabelledBatch) -> usize {
        batch.len()
    }

    fn describe_batch(batch: &LabelledBatch) -> Vec<String> {
        batch.names.clone()
    }

    fn eval_split(cfg: &Config) -> Split {
        cfg.data.test_split
    }
}

/// The rows of the bank that stand for the pictures of `batch`.
fn bank_rows(batch: &LabelledBatch) -> Result<Vec<u32>> {
    let row = |&index: &usize| {
        u32::try_from(index).map_err(|_too_large| Error::size("number of a picture", "below 2^32", index))
    };
    batch.index.iter().map(row).collect()
}

fn not_started() -> TrainError {
    TrainError::Usage("training was not begun: there is no memory bank yet".to_owned())
}
