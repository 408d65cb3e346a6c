//! Our operations and models beside PyTorch's, in turns on the same machine.
//!
//! Each measurement is a process of its own, so that peak memory means something; ours and theirs alternate, and the
//! ratio is the median over the turns, so that a machine whose speed drifts does not favour one side.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::process;
use crate::workspace::Workspace;

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Only cases whose name contains this text.
    filter: Option<String>,
    /// What to compare with.
    #[arg(long)]
    vs: Option<Peer>,
    /// Numbers of threads.
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    threads: Vec<usize>,
    /// Turns of each side.
    #[arg(long, default_value_t = 3)]
    turns: usize,
    /// Seconds of a turn.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Python with torch and torchvision.
    #[arg(long, default_value = "python3")]
    python: PathBuf,
    /// Widest instruction set to use: portable, avx2 or avx512.
    #[arg(long)]
    isa: Option<String>,
    /// Where the results go [default: benches/results/cpu.json if nothing is left out].
    #[arg(long)]
    out: Option<PathBuf>,
}

/// A library to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Peer {
    Torch,
}

/// What one process prints.
#[derive(Debug, Deserialize)]
struct Turn {
    ms: Vec<f64>,
    peak_mib: Option<f64>,
    version: Option<String>,
    isa: Option<String>,
}

/// All turns of one side.
#[derive(Debug, Serialize)]
struct Side {
    /// Median of each turn.
    ms: Vec<f64>,
    peak_mib: Option<f64>,
}

/// One case at one number of threads.
#[derive(Debug, Serialize)]
struct Row {
    case: String,
    threads: usize,
    ours: Side,
    peer: Option<Side>,
    /// Ours over theirs, the median over the turns; below 1 we are faster.
    ratio: Option<f64>,
    memory_ratio: Option<f64>,
}

/// The file of results.
#[derive(Debug, Serialize)]
struct Results {
    command: String,
    machine: BTreeMap<&'static str, String>,
    rows: Vec<Row>,
}

/// Measures; whether everything could be.
pub(crate) fn run(workspace: &Workspace, args: &BenchArgs) -> Result<bool> {
    let cases = cases(workspace, args.filter.as_deref())?;
    ensure!(
        !cases.is_empty(),
        "no case of benches/cases.json contains `{}`",
        args.filter.as_deref().unwrap_or("")
    );
    ensure!(args.turns > 0 && !args.threads.contains(&0), "turns and threads must be at least 1");
    let program = build(workspace)?;
    let script = workspace.root.join("benches/reference.py");
    let mut machine = machine();
    let mut rows = Vec::new();
    println!(
        "{:<42} {:>7} {:>9} {:>9} {:>6} {:>9} {:>6}",
        "case", "threads", "ours ms", "peer ms", "ratio", "ours MiB", "ratio"
    );
    for case in &cases {
        for &threads in &args.threads {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for _ in 0..args.turns {
                let mut command = Command::new(&program);
                command.env("CANDLE_NUM_THREADS", "1");
                if let Some(isa) = &args.isa {
                    command.args(["--isa", isa]);
                }
                ours.push(turn(command, case, threads, args.seconds)?);
                if args.vs.is_some() {
                    let mut command = Command::new(&args.python);
                    command.arg(&script);
                    theirs.push(turn(command, case, threads, args.seconds)?);
                }
            }
            note(&mut machine, "isa", ours.first().and_then(|turn| turn.isa.clone()));
            note(&mut machine, "torch", theirs.first().and_then(|turn| turn.version.clone()));
            let row = row(case, threads, &ours, &theirs);
            let number = |value: Option<f64>, digits: usize| {
                value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
            };
            println!(
                "{:<42} {:>7} {:>9.2} {:>9} {:>6} {:>9} {:>6}",
                row.case,
                row.threads,
                median(row.ours.ms.clone()),
                number(row.peer.as_ref().map(|peer| median(peer.ms.clone())), 2),
                number(row.ratio, 2),
                number(row.ours.peak_mib, 0),
                number(row.memory_ratio, 2),
            );
            rows.push(row);
        }
    }
    let whole = args.filter.is_none() && args.isa.is_none() && args.vs.is_some();
    if let Some(path) =
        args.out.clone().or_else(|| whole.then(|| workspace.root.join("benches/results/cpu.json")))
    {
        let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
        let results = Results { command: format!("cargo xtask {command}"), machine, rows };
        std::fs::write(&path, serde_json::to_string_pretty(&results)? + "\n")
            .with_context(|| path.display().to_string())?;
        println!("{}", path.display());
    }
    Ok(true)
}

fn cases(workspace: &Workspace, filter: Option<&str>) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Case {
        name: String,
    }
    let path = workspace.root.join("benches/cases.json");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let cases: Vec<Case> = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    let names = cases.into_iter().map(|case| case.name);
    Ok(names.filter(|name| filter.is_none_or(|filter| name.contains(filter))).collect())
}

/// Builds our side in the profile of the tests, so that nothing is compiled twice, and returns the program.
fn build(workspace: &Workspace) -> Result<PathBuf> {
    let mut command = process::cargo(&workspace.root);
    command.args(["bench", "--profile", "dev", "-p", "conformance", "--bench", "paired", "--no-run"]);
    command.args(["--message-format", "json-render-diagnostics"]).stderr(std::process::Stdio::inherit());
    let output = command.output().context("cannot start cargo")?;
    ensure!(output.status.success(), "{} failed", process::describe(&command));
    executable(&String::from_utf8_lossy(&output.stdout)).context("cargo named no executable")
}

/// The last executable cargo's messages name.
fn executable(messages: &str) -> Option<PathBuf> {
    let parsed = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    parsed.rev().find_map(|message| Some(PathBuf::from(message.get("executable")?.as_str()?)))
}

fn turn(mut command: Command, case: &str, threads: usize, seconds: f64) -> Result<Turn> {
    command.arg(case).args(["--threads", &threads.to_string(), "--seconds", &seconds.to_string()]);
    // The same threads on the same cores for both sides.
    for name in ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"] {
        command.env(name, threads.to_string());
    }
    let name = process::describe(&command);
    let output = command.output().with_context(|| format!("cannot start {name}"))?;
    if !output.status.success() {
        bail!("{name}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().unwrap_or_default();
    let turn: Turn = serde_json::from_str(line).with_context(|| format!("{name} printed `{line}`"))?;
    ensure!(!turn.ms.is_empty(), "{name} measured nothing");
    Ok(turn)
}

fn row(case: &str, threads: usize, ours: &[Turn], theirs: &[Turn]) -> Row {
    let side = |turns: &[Turn]| Side {
        ms: turns.iter().map(|turn| median(turn.ms.clone())).collect(),
        peak_mib: turns.iter().filter_map(|turn| turn.peak_mib).reduce(f64::max),
    };
    let (ours, peer) = (side(ours), (!theirs.is_empty()).then(|| side(theirs)));
    let ratio = peer.as_ref().map(|peer| median(ours.ms.iter().zip(&peer.ms).map(|(a, b)| a / b).collect()));
    let memory_ratio = peer.as_ref().and_then(|peer| Some(ours.peak_mib? / peer.peak_mib?));
    Row { case: case.to_owned(), threads, ours, peer, ratio, memory_ratio }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values.get(middle).copied().unwrap_or(f64::NAN)
    } else {
        values.get(middle.wrapping_sub(1)..=middle).map_or(f64::NAN, |pair| f64::midpoint(pair[0], pair[1]))
    }
}

fn note(machine: &mut BTreeMap<&'static str, String>, key: &'static str, value: Option<String>) {
    if let Some(value) = value {
        machine.insert(key, value);
    }
}

/// What can be said about the machine without asking another program.
fn machine() -> BTreeMap<&'static str, String> {
    let mut facts = BTreeMap::new();
    let text = std::fs::read_to_string(Path::new("/proc/cpuinfo")).unwrap_or_default();
    let field = |name: &str| {
        text.lines()
            .find(|line| line.starts_with(name))
            .and_then(|line| line.split_once(':'))
            .map(|(_, v)| v.trim())
    };
    if let Some(model) = field("model name") {
        let version = |name| field(name).unwrap_or("?");
        facts
            .insert("cpu", format!("{model}, family {} model {}", version("cpu family"), version("model\t")));
    }
    let cores = std::thread::available_parallelism().map_or_else(|_| "?".to_owned(), |n| n.to_string());
    facts.insert("cores", cores);
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn ratios_are_taken_turn_by_turn() {
        let turn = |ms: f64| Turn { ms: vec![ms], peak_mib: Some(ms), version: None, isa: None };
        let row = row("x", 2, &[turn(1.0), turn(4.0), turn(2.0)], &[turn(2.0), turn(4.0), turn(8.0)]);
        assert_eq!(row.ratio, Some(0.5));
        assert_eq!(row.memory_ratio, Some(0.5));
    }

    #[test]
    fn the_program_is_found_in_cargo_s_messages() {
        let messages =
            "{\"reason\":\"compiler-artifact\",\"executable\":null}\nnoise\n{\"executable\":\"/a/paired\"}\n";
        assert_eq!(executable(messages), Some(PathBuf::from("/a/paired")));
        assert_eq!(executable(""), None);
    }
}
