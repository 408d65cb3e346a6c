//! `cargo xtask`: everything around the library. It compiles without the tensor library and starts the rest as
//! processes, so the first command on a fresh machine answers quickly.
#![allow(clippy::print_stdout, reason = "a command line program reports on stdout")]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests"))]

mod bench;
mod data;
mod demo;
mod html;
mod matrix;
mod papers;
mod process;
mod tidy;
mod workspace;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// Data, training, golden cases, the test matrix, the demo and the house rules.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The catalogue of data sets: list, prepare, verify, show.
    Data {
        #[command(subcommand)]
        command: data::Command,
    },
    /// Makes the data sets of a paper ready: forwarded to its binary.
    Prepare(papers::Forward),
    /// Trains a paper's model: forwarded to its binary.
    Train(papers::Forward),
    /// Evaluates a trained model: forwarded to its binary.
    Eval(papers::Forward),
    /// Runs a trained model on pictures: forwarded to its binary.
    Predict(papers::Forward),
    /// Writes a trained model for other programs: forwarded to its binary.
    Export(papers::Forward),
    /// Describes a trained model or run: forwarded to its binary.
    Info(papers::Forward),
    /// Compares with the golden cases; arguments go to the `conformance` binary.
    Conformance {
        /// Paths and flags of the runner.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Measures operations and models, beside others with `--vs torch,onnxruntime`.
    Bench(bench::BenchArgs),
    /// Checks every crate, tier and kind listed in `xtask/matrix.toml`.
    Matrix(matrix::MatrixArgs),
    /// Trains every paper in miniature, checks its claims, and writes `runs/demo/index.html`.
    Demo {
        /// One paper only.
        paper: Option<String>,
        /// Where the pages go [default: runs/demo].
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Checks the house rules.
    Tidy,
    /// Runs what continuous integration runs (`.ci/run`).
    Ci,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether the command found everything in order.
fn run(cli: Cli) -> Result<bool> {
    let workspace = Workspace::load()?;
    match cli.command {
        Command::Data { command } => data::run(&workspace, command),
        Command::Prepare(forward) => forward.run(&workspace, "prepare"),
        Command::Train(forward) => forward.run(&workspace, "train"),
        Command::Eval(forward) => forward.run(&workspace, "eval"),
        Command::Predict(forward) => forward.run(&workspace, "predict"),
        Command::Export(forward) => forward.run(&workspace, "export"),
        Command::Info(forward) => forward.run(&workspace, "info"),
        Command::Conformance { args } => {
            // The test beside it brings the program along, with what `cargo test` has compiled.
            let mut build = vec!["test", "--quiet", "--no-run", "--workspace", "--test", "golden"];
            let cuda = |pair: &[OsString]| pair[0] == "--device" && pair[1] == "cuda";
            if args.windows(2).any(cuda) || args.iter().any(|arg| arg == "--device=cuda") {
                build.extend(["--features", "conformance/cuda"]);
            }
            // Started where the user stands: paths are meant from there.
            let mut command =
                std::process::Command::new(process::built(&workspace.root, &build, "conformance")?);
            command.args(args);
            process::status(&mut command)
        }
        Command::Bench(args) => bench::run(&workspace, &args),
        Command::Matrix(args) => matrix::run(&workspace, &args),
        Command::Demo { paper, out } => demo::run(&workspace, paper.as_deref(), out),
        Command::Tidy => tidy::run(&workspace),
        Command::Ci => {
            let script = workspace.root.join(".ci/run");
            println!("{}", std::fs::read_to_string(&script)?);
            process::status(std::process::Command::new("bash").arg(script).current_dir(&workspace.root))
        }
    }
}

/// The names of all subcommands, for the check of documented commands.
pub(crate) fn subcommands() -> Vec<String> {
    use clap::CommandFactory;
    Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        assert!(subcommands().contains(&"tidy".to_owned()));
    }
}
