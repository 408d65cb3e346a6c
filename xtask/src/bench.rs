//! Our operations and models beside PyTorch's, in turns on the same machine.
//!
//! Each measurement is a process of its own, so that peak memory means something; ours and theirs alternate, and the
//! ratio is the median over the turns, so that a machine whose speed drifts does not favour one side.

use std::collections::BTreeMap;
use std::fmt::Write as _;
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
    /// What to compare with; several take turns. What a library has no counterpart of is measured without it.
    #[arg(long, value_delimiter = ',')]
    vs: Vec<Peer>,
    /// Numbers of threads.
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    threads: Vec<usize>,
    /// Turns of each side.
    #[arg(long, default_value_t = 3)]
    turns: usize,
    /// Seconds of a turn.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Python with torch and torchvision, and with onnxruntime, onnx and onnxscript if that is a peer.
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
    /// PyTorch, eager.
    Torch,
    /// ONNX Runtime: forward passes of whole networks.
    Onnxruntime,
    /// The formula in operations of the tensor library, where writing it so is what one would do at first.
    Naive,
}

impl Peer {
    fn name(self) -> &'static str {
        match self {
            Self::Torch => "torch",
            Self::Onnxruntime => "onnxruntime",
            Self::Naive => "naive",
        }
    }

    /// What measures it: a script under `benches`, or `ours`, which has the naive forms too.
    fn command(self, benches: &Path, python: &Path, ours: &Path, threads: usize) -> Command {
        let script = match self {
            Self::Torch => "torch_peer.py",
            Self::Onnxruntime => "onnxruntime_peer.py",
            Self::Naive => {
                let mut command = Command::new(ours);
                command.env("CANDLE_NUM_THREADS", threads.to_string()).arg("--naive");
                return command;
            }
        };
        let mut command = Command::new(python);
        command.arg(benches.join(script));
        command
    }

    /// Whether it has something like the case.
    fn has(self, case: &Case) -> bool {
        match self {
            Self::Torch => true,
            Self::Onnxruntime => case.op.starts_with("model.") && case.mode.as_deref() == Some("forward"),
            Self::Naive => case.naive,
        }
    }
}

/// What is read here of a case of `benches/cases.json`.
#[derive(Debug, Deserialize)]
struct Case {
    name: String,
    op: String,
    mode: Option<String>,
    /// Takes minutes: measured only when asked for by name, and once per turn.
    #[serde(default)]
    slow: bool,
    /// There is a naive form, and it fits into memory.
    #[serde(default)]
    naive: bool,
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

/// One case at one number of threads, beside at most one peer.
#[derive(Debug, Serialize)]
struct Row {
    case: String,
    threads: usize,
    ours: Side,
    /// Name of the peer.
    peer: Option<&'static str>,
    theirs: Option<Side>,
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
    let whole = args.filter.is_none() && args.isa.is_none() && !args.vs.is_empty();
    let path = args.out.clone().or_else(|| whole.then(|| workspace.root.join("benches/results/cpu.json")));
    // A place that cannot be written to shows before the measurements, not after them.
    if let Some(folder) = path.as_deref().and_then(Path::parent).filter(|folder| *folder != Path::new("")) {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    // In the profile of the tests, so that nothing is compiled twice.
    let build = ["bench", "--profile", "dev", "--workspace", "--bench", "paired", "--no-run"];
    let program = process::built(&workspace.root, &build, "paired")?;
    let mut machine = machine();
    let mut rows = Vec::new();
    println!(
        "{:<42} {:>7} {:<11} {:>9} {:>9} {:>6} {:>9} {:>6}",
        "case", "threads", "peer", "ours ms", "peer ms", "ratio", "ours MiB", "ratio"
    );
    for case in &cases {
        let peers: Vec<Peer> = args.vs.iter().copied().filter(|peer| peer.has(case)).collect();
        for &threads in &args.threads {
            let mut ours = Vec::new();
            let mut theirs: Vec<Vec<Turn>> = peers.iter().map(|_| Vec::new()).collect();
            for _ in 0..args.turns {
                let mut command = Command::new(&program);
                // All threads are left to our own kernels.
                command.env("CANDLE_NUM_THREADS", "1");
                if let Some(isa) = &args.isa {
                    command.args(["--isa", isa]);
                }
                ours.push(turn(command, &case.name, threads, args.seconds)?);
                for (peer, theirs) in peers.iter().zip(&mut theirs) {
                    let benches = workspace.root.join("benches");
                    let command = peer.command(&benches, &args.python, &program, threads);
                    theirs.push(turn(command, &case.name, threads, args.seconds)?);
                }
            }
            note(&mut machine, "isa", ours.first().and_then(|turn| turn.isa.clone()));
            let beside = if peers.is_empty() { vec![None] } else { peers.iter().map(Some).collect() };
            for (number, peer) in beside.into_iter().enumerate() {
                let theirs = theirs.get(number).map_or(&[][..], Vec::as_slice);
                let name = peer.map(|peer| peer.name());
                if let Some(name) = name {
                    note(&mut machine, name, theirs.first().and_then(|turn| turn.version.clone()));
                }
                let row = row(&case.name, threads, &ours, name, theirs);
                println!("{}", line(&row));
                rows.push(row);
            }
        }
    }
    if let Some(path) = path {
        let results = Results { command: command_line(), machine, rows };
        std::fs::write(&path, serde_json::to_string_pretty(&results)? + "\n")
            .with_context(|| path.display().to_string())?;
        let table = path.with_extension("md");
        std::fs::write(&table, markdown(&results)).with_context(|| table.display().to_string())?;
        println!("{} and {}", path.display(), table.display());
    }
    Ok(true)
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

fn line(row: &Row) -> String {
    format!(
        "{:<42} {:>7} {:<11} {:>9.2} {:>9} {:>6} {:>9} {:>6}",
        row.case,
        row.threads,
        row.peer.unwrap_or("-"),
        median(row.ours.ms.clone()),
        number(row.theirs.as_ref().map(|side| median(side.ms.clone())), 2),
        number(row.ratio, 2),
        number(row.ours.peak_mib, 0),
        number(row.memory_ratio, 2),
    )
}

/// The results as a table, with what they were measured on.
fn markdown(results: &Results) -> String {
    let mut text = format!("Measured with `{}` on:", results.command);
    for (key, value) in &results.machine {
        let _ = write!(text, " {key} {value};");
    }
    text.truncate(text.len() - 1);
    text += ".\nMedians over the turns; a ratio is ours divided by the peer's, so below 1 this library is faster or \
             smaller.\n\n";
    text += "| case | threads | peer | ours ms | peer ms | ratio | ours MiB | ratio |\n|---|---|---|---|---|---|---|---|\n";
    for row in &results.rows {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {:.2} | {} | {} | {} | {} |",
            row.case,
            row.threads,
            row.peer.unwrap_or("-"),
            median(row.ours.ms.clone()),
            number(row.theirs.as_ref().map(|side| median(side.ms.clone())), 2),
            number(row.ratio, 2),
            number(row.ours.peak_mib, 0),
            number(row.memory_ratio, 2),
        );
    }
    text
}

fn cases(workspace: &Workspace, filter: Option<&str>) -> Result<Vec<Case>> {
    let path = workspace.root.join("benches/cases.json");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let cases: Vec<Case> = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    let chosen = |case: &Case| filter.map_or(!case.slow, |filter| case.name.contains(filter));
    Ok(cases.into_iter().filter(chosen).collect())
}

/// The command as somebody else would repeat it: where Python lies is a matter of the machine.
fn command_line() -> String {
    let mut words = vec!["cargo".to_owned(), "xtask".to_owned()];
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--python" {
            arguments.next();
        } else if !argument.starts_with("--python=") {
            words.push(argument);
        }
    }
    words.join(" ")
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

fn row(case: &str, threads: usize, ours: &[Turn], peer: Option<&'static str>, theirs: &[Turn]) -> Row {
    let side = |turns: &[Turn]| Side {
        ms: turns.iter().map(|turn| median(turn.ms.clone())).collect(),
        peak_mib: turns.iter().filter_map(|turn| turn.peak_mib).reduce(f64::max),
    };
    let (ours, theirs) = (side(ours), (!theirs.is_empty()).then(|| side(theirs)));
    let ratio =
        theirs.as_ref().map(|peer| median(ours.ms.iter().zip(&peer.ms).map(|(a, b)| a / b).collect()));
    let memory_ratio = theirs.as_ref().and_then(|peer| Some(ours.peak_mib? / peer.peak_mib?));
    Row { case: case.to_owned(), threads, ours, peer, theirs, ratio, memory_ratio }
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
        let ours = [turn(1.0), turn(4.0), turn(2.0)];
        let row = row("x", 2, &ours, Some("torch"), &[turn(2.0), turn(4.0), turn(8.0)]);
        assert_eq!(row.ratio, Some(0.5));
        assert_eq!(row.memory_ratio, Some(0.5));
    }

    #[test]
    fn onnxruntime_runs_forward_passes_only() {
        let case = |op: &str, mode: Option<&str>| Case {
            slow: false,
            naive: false,
            name: String::new(),
            op: op.to_owned(),
            mode: mode.map(str::to_owned),
        };
        assert!(Peer::Onnxruntime.has(&case("model.resnet18", Some("forward"))));
        assert!(!Peer::Onnxruntime.has(&case("model.unet", Some("train"))));
        assert!(!Peer::Onnxruntime.has(&case("conv2d", None)));
        assert!(Peer::Torch.has(&case("conv2d", None)) && !Peer::Naive.has(&case("conv2d", None)));
        assert!(Peer::Naive.has(&Case { naive: true, ..case("encoding", None) }));
    }

    #[test]
    fn tables_have_a_line_per_row() {
        let turn = |ms: f64| Turn { ms: vec![ms], peak_mib: None, version: None, isa: None };
        let rows = vec![row("x", 1, &[turn(1.0)], Some("torch"), &[turn(4.0)])];
        let results =
            Results { command: "c".to_owned(), machine: BTreeMap::from([("cpu", "z".to_owned())]), rows };
        let table = markdown(&results);
        assert!(table.starts_with("Measured with `c` on: cpu z.\n"), "{table}");
        assert!(table.ends_with("| x | 1 | torch | 1.00 | 4.00 | 0.25 | - | - |\n"), "{table}");
    }
}
