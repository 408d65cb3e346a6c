//! What the flags mean.

use std::path::{Path, PathBuf};

use candle_core::Device;
use vision_datasets::DataRoot;
use vision_weights::StateDict;

use super::args::Common;
use super::logging;
use super::progress::terminal_watch;
use super::tell::tell;
use crate::checkpoint::{find, read_trainer, weight_file};
use crate::config::{ConfigSource, Resolved, load};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::launch::Place;
use crate::recipe::RecipeConfig;
use crate::system;

/// Everything a verb needs: the flags, and what was made of them.
pub struct CliContext {
    /// The flags as given.
    pub common: Common,
    /// Device, threads, run folder (`--out`, or `runs/NAME`).
    pub ctx: Context,
    /// Prepared data sets.
    pub data: DataRoot,
    /// The arguments of the process.
    pub command_line: Vec<String>,
    name: &'static str,
    /// Whether this is rank 0, or the only process.
    first: bool,
}

impl CliContext {
    pub(super) fn new(
        name: &'static str,
        common: Common,
        command_line: Vec<String>,
        place: Option<&Place>,
    ) -> Result<Self> {
        vision_core::cpu::keep_memory();
        let device = device(&common.device, place.and_then(|place| place.local_rank))?;
        let threads = match common.threads {
            // Processes of one machine share its cores.
            None => match place.and_then(|place| place.local_world) {
                Some(processes) if processes > 1 => system::set_threads(share_of_cores(processes))?,
                _ => rayon::current_num_threads(),
            },
            Some(0) => return Err(Error::Usage("--threads: must be at least 1".to_owned())),
            Some(threads) => system::set_threads(threads)?,
        };
        let out = common.out.clone().unwrap_or_else(|| PathBuf::from("runs").join(name));
        let mut ctx = Context::new(device, out)
            .with_workers(common.workers.unwrap_or(0))
            .with_skip_broken(common.skip_broken);
        ctx.threads = threads;
        let data = DataRoot { dir: common.data.clone() };
        let first = place.is_none_or(|place| place.rank == 0);
        ctx.watch = terminal_watch(common.quiet || !first);
        Ok(Self { common, ctx, data, command_line, name, first })
    }

    /// The configuration: `--config`, else that of `--weights`, else the defaults; with `--set`, `--seed`
    /// and `--workers` on top.
    ///
    /// # Errors
    /// As [`load`], or if the weights belong to another system.
    pub fn config<C: RecipeConfig>(&self) -> Result<Resolved<C>> {
        let source = match (&self.common.config, &self.common.weights) {
            (Some(argument), _) => ConfigSource::from_argument(argument),
            (None, Some(weights)) => self.stored_config(weights)?.unwrap_or(ConfigSource::Default),
            (None, None) => ConfigSource::Default,
        };
        self.config_from(&source)
    }

    pub(super) fn config_from<C: RecipeConfig>(&self, source: &ConfigSource) -> Result<Resolved<C>> {
        let mut overrides = self.common.set.clone();
        overrides.extend(self.common.seed.map(|seed| format!("run.seed={seed}")));
        overrides.extend(self.common.workers.map(|workers| format!("run.workers={workers}")));
        load(source, &overrides)
    }

    /// The configuration kept with weights, if there is one.
    fn stored_config(&self, weights: &Path) -> Result<Option<ConfigSource>> {
        let name = weights.display().to_string();
        let (recipe, toml) = if weights.is_file() && weights.extension().is_some() {
            let file = vision_weights::open(weights)?;
            let metadata = file.metadata();
            (metadata.get("recipe").cloned(), metadata.get("config").cloned())
        } else {
            let trainer = read_trainer(&find(weights)?)?;
            (Some(trainer.recipe), Some(trainer.config))
        };
        if let Some(recipe) = recipe
            && recipe != self.name
        {
            return Err(Error::Usage(format!("{name}: weights of `{recipe}`, not of `{}`", self.name)));
        }
        Ok(toml.map(|toml| ConfigSource::Text { name, toml }))
    }

    /// The weights of `--weights`, if it was given.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn weights(&self) -> Result<Option<StateDict>> {
        match &self.common.weights {
            None => Ok(None),
            Some(path) => Ok(Some(vision_weights::open(weight_file(path)?)?.state_dict()?)),
        }
    }

    /// The file of `--weights`, or an error that asks for it.
    ///
    /// # Errors
    /// If the flag was not given or nothing is there.
    pub fn weight_file(&self) -> Result<PathBuf> {
        match &self.common.weights {
            None => Err(Error::Usage("--weights is needed: a file, a checkpoint or a run folder".to_owned())),
            Some(path) => weight_file(path),
        }
    }

    /// Whether this process tells its user how it goes: not with `--quiet`, and of several ranks only the first.
    pub(super) fn speaks(&self) -> bool {
        self.first && !self.common.quiet
    }

    /// Prints a line to stdout unless `--quiet`; of several ranks only the first does.
    pub fn say(&self, text: impl std::fmt::Display) {
        if self.speaks() {
            tell(text);
        }
    }

    pub(super) fn start_logging(&self, run_log: Option<&Path>) -> Result<()> {
        // Ranks must not write into the file of another.
        logging::start(&self.common, run_log.filter(|_| self.first), self.first)
    }
}

/// What [`system::set_threads`] gets where so many processes share the cores that this one may use.
fn share_of_cores(processes: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (cores / processes).max(1)
}

/// The device called `cpu`, `cuda` or `cuda:N`. Of several processes on a machine each has its own GPU unless the name says
/// which.
fn device(name: &str, local_rank: Option<usize>) -> Result<Device> {
    let gpu = match name.split_once(':') {
        None if name == "cpu" => return Ok(Device::Cpu),
        None if name == "cuda" => local_rank.unwrap_or(0),
        Some(("cuda", number)) => number
            .parse()
            .map_err(|error| Error::Usage(format!("--device {name}: the number of a GPU: {error}")))?,
        _ => return Err(Error::Usage(format!("--device {name}: unknown device; known: cpu, cuda, cuda:N"))),
    };
    if !cfg!(feature = "cuda") {
        return Err(Error::Usage(format!(
            "--device {name}: this build has no CUDA support; build with --features cuda, or use --device cpu"
        )));
    }
    Device::new_cuda(gpu).map_err(|error| Error::Usage(format!("--device {name}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_by_name() {
        assert!(device("cpu", Some(3)).unwrap().is_cpu());
        let error = |name: &str| device(name, None).unwrap_err().to_string();
        assert!(error("cuda:one").contains("the number of a GPU"), "{}", error("cuda:one"));
        for name in ["gpu", "cpu:0", "metal:0", ""] {
            assert!(error(name).contains("unknown device"), "{}", error(name));
        }
        // GPUs of a number that no machine has.
        assert!(error("cuda:4000").starts_with("--device cuda:4000: "), "{}", error("cuda:4000"));
    }
}
