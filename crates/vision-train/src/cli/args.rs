//! The flags every paper has.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Flags of every verb.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// Configuration: a file, or the name of one built in (`info` lists them)
    #[arg(long, global = true, value_name = "NAME|FILE")]
    pub config: Option<String>,
    /// Change one value of the configuration, such as `sgd.lr=0.01`; may be given many times
    #[arg(long = "set", global = true, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Folder of prepared data sets
    #[arg(long, global = true, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where results go
    #[arg(long, global = true, value_name = "PATH")]
    pub out: Option<PathBuf>,
    /// Weights: a file, a checkpoint, or a run folder
    #[arg(long, global = true, value_name = "PATH")]
    pub weights: Option<PathBuf>,
    /// Device to compute on: cpu, cuda or cuda:N (which needs a build with --features cuda)
    #[arg(long, global = true, default_value = "cpu", value_name = "DEVICE")]
    pub device: String,
    /// Seed of every random choice; the same as --set run.seed=N
    #[arg(long, global = true, value_name = "N")]
    pub seed: Option<u64>,
    /// Threads to compute with [default: one per core]
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<usize>,
    /// Threads that prepare batches; the same as --set run.workers=N
    #[arg(long, global = true, value_name = "N")]
    pub workers: Option<usize>,
    /// Leave out up to N broken samples instead of stopping at the first
    #[arg(long, global = true, default_value_t = 0, value_name = "N")]
    pub skip_broken: usize,
    /// Say more; twice for even more
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
    /// Say only what went wrong
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Write log events to this file, one JSON object per line
    #[arg(long, global = true, value_name = "FILE")]
    pub log_json: Option<PathBuf>,
}

#[derive(Debug, Parser)]
#[command(propagate_version = true)]
pub(super) struct Cli<O: Subcommand> {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(subcommand)]
    pub(super) verb: Verb<O>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb<O: Subcommand> {
    /// Train, evaluate, and check the results the configuration expects
    Train(TrainArgs),
    /// Measure weights on a split of the data
    Eval(EvalArgs),
    /// Write the weights of a run or checkpoint to one file
    Export,
    /// Show configuration, size of the model, versions and device
    Info(InfoArgs),
    #[command(flatten)]
    Own(O),
}

#[derive(Debug, Args)]
pub(super) struct TrainArgs {
    /// Go on from the last checkpoint of --out
    #[arg(long)]
    pub(super) resume: bool,
    /// Let this key of the configuration differ from the checkpoint's (`data` for the data); repeatable
    #[arg(long, value_name = "KEY", requires = "resume")]
    pub(super) allow_change: Vec<String>,
    /// Do not check the results the configuration expects
    #[arg(long)]
    pub(super) no_expect: bool,
    /// Train with N processes on this machine, each with a batch of its own [default: as torchrun, mpirun or srun say]
    #[arg(long, value_name = "N")]
    pub(super) nproc: Option<usize>,
    /// How long a process waits for another before it gives up
    #[arg(long, default_value_t = 600, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) rank_timeout: u64,
    /// What carries the data between processes [default: nccl, mpi or tcp, as devices and launcher allow]
    #[arg(long, value_name = "NAME", value_parser = ["tcp", "mpi", "nccl"])]
    pub(super) transport: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct EvalArgs {
    /// Split to measure on [default: the recipe's]
    #[arg(long, value_parser = ["train", "val", "test"])]
    pub(super) split: Option<String>,
    /// Do not check the results the configuration expects
    #[arg(long)]
    pub(super) no_expect: bool,
}

#[derive(Debug, Args)]
pub(super) struct InfoArgs {
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}
