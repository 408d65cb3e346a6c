//! `conformance [PATH…]`: runs golden cases and prints a line for each.
#![allow(clippy::print_stdout, reason = "a command line program reports on stdout")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use candle_core::Device;
use clap::{Parser, ValueEnum};
use conformance::{CaseResult, Options, Status};
use serde_json::{Value, json};
use vision_core::cpu::Isa;

/// Runs golden cases: what a reference computed against what this workspace computes.
#[derive(Debug, Parser)]
struct Cli {
    /// Case files, or folders of them [default: the committed cases].
    paths: Vec<PathBuf>,
    /// Where to compute.
    #[arg(long, value_enum, default_value = "cpu")]
    device: DeviceKind,
    /// Widest instruction set to use, as on a processor that has no wider one: portable, avx2 or avx512.
    #[arg(long, value_name = "NAME", value_parser = isa)]
    isa: Option<Isa>,
    /// Only cases whose op or path contains this text.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Write the results to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DeviceKind {
    Cpu,
    Cuda,
}

fn isa(name: &str) -> Result<Isa, String> {
    Isa::from_name(name).ok_or_else(|| format!("no instruction set is called {name}"))
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: &Cli) -> Result<bool> {
    let device = match cli.device {
        DeviceKind::Cpu => Device::Cpu,
        DeviceKind::Cuda => Device::new_cuda(0).context("--device cuda")?,
    };
    if let Some(isa) = cli.isa {
        vision_core::cpu::limit(isa);
    }
    let paths =
        if cli.paths.is_empty() { vec![PathBuf::from(conformance::GOLDEN)] } else { cli.paths.clone() };
    let options = Options { device, filter: cli.filter.clone() };
    let results = conformance::run_paths(&paths, &options, |result| println!("{}", line(result)))?;
    let passed = results.iter().filter(|result| result.status == Status::Ok).count();
    let failed = results.len() - passed;
    if let Some(path) = &cli.json {
        let cases: Vec<Value> = results.iter().map(to_json).collect();
        let all = json!({"passed": passed, "failed": failed, "cases": cases});
        let text = serde_json::to_string_pretty(&all)?;
        std::fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0)
}

fn line(result: &CaseResult) -> String {
    let word = word(result.status);
    let file = shown(&result.path);
    let deviation = &result.deviation;
    let numbers = if deviation.place.is_empty() {
        String::new()
    } else {
        format!(" {:.2e} {:.2e} {}", deviation.absolute, deviation.relative, deviation.place)
    };
    let problem = if result.problem.is_empty() { String::new() } else { format!(" ({})", result.problem) };
    format!("{word:<7} {} {file}{numbers}{problem}", result.op)
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Ok => "ok",
        Status::Fail => "FAIL",
        Status::Unknown => "unknown",
    }
}

/// The path from here if it lies below here.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}

fn to_json(result: &CaseResult) -> Value {
    json!({
        "status": word(result.status),
        "op": result.op,
        "file": shown(&result.path),
        "max_abs": result.deviation.absolute,
        "max_rel": result.deviation.relative,
        "where": result.deviation.place,
        "problem": result.problem,
    })
}
