//! The test matrix: crate x tier x device x kind, as listed in `matrix.toml`, each in its own cargo command so that
//! features do not leak between crates.

use std::fmt::Write as _;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::html::escape;
use crate::process;
use crate::workspace::Workspace;

/// Which rows to run.
#[derive(Debug, clap::Args)]
pub(crate) struct MatrixArgs {
    /// Only the rows marked quick (the default).
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Every row.
    #[arg(long)]
    full: bool,
    /// Only rows whose line contains this text, such as `instdisc`, `train` or `test`.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Matrix {
    row: Vec<Row>,
}

/// A cell of the matrix.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    #[serde(rename = "crate")]
    package: String,
    kind: Kind,
    #[serde(default)]
    tier: Tier,
    #[serde(default)]
    device: Device,
    #[serde(default)]
    quick: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Check,
    Test,
    Doc,
    Golden,
    Sample,
}

/// The features a crate is built with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Tier {
    /// What the crate turns on by itself.
    #[default]
    Default,
    /// No features: the model alone.
    Model,
    Images,
    Train,
    Cli,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Device {
    #[default]
    Cpu,
    Cuda,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Fail,
    /// The machine lacks what the row needs.
    Absent,
}

/// A row that was run.
#[derive(Debug, Serialize)]
struct Cell {
    #[serde(rename = "crate")]
    package: String,
    tier: Tier,
    device: Device,
    kind: Kind,
    status: Status,
    seconds: f64,
    command: String,
    log: String,
}

impl Row {
    /// The words that identify the row in the table and that `--only` looks at.
    fn line(&self) -> String {
        let word = |value: &dyn std::fmt::Debug| format!("{value:?}").to_lowercase();
        format!("{} {} {} {}", self.package, word(&self.tier), word(&self.device), word(&self.kind))
    }

    fn arguments(&self) -> Vec<String> {
        let mut words: Vec<&str> = match self.kind {
            Kind::Check => vec!["check", "--quiet", "-p", &self.package],
            Kind::Test => vec!["test", "--quiet", "-p", &self.package],
            Kind::Doc => vec!["doc", "--quiet", "--no-deps", "-p", &self.package],
            Kind::Golden => vec!["run", "--quiet", "-p", "conformance"],
            Kind::Sample => vec!["run", "--quiet", "-p", "xtask"],
        };
        match self.tier {
            Tier::Default => {}
            Tier::Model => words.push("--no-default-features"),
            Tier::Images => words.extend(["--no-default-features", "--features", "images"]),
            Tier::Train => words.extend(["--no-default-features", "--features", "train"]),
            Tier::Cli => words.extend(["--no-default-features", "--features", "cli"]),
        }
        if self.device == Device::Cuda {
            words.extend(["--features", "cuda"]);
        }
        match self.kind {
            Kind::Sample => words.extend(["--", "demo", &self.package]),
            Kind::Golden if self.device == Device::Cuda => words.extend(["--", "--device", "cuda"]),
            _ => {}
        }
        words.into_iter().map(str::to_owned).collect()
    }
}

/// Runs the chosen rows, prints a table, writes `runs/matrix/`. Returns whether no row failed.
pub(crate) fn run(workspace: &Workspace, args: &MatrixArgs) -> Result<bool> {
    let path = workspace.root.join("xtask/matrix.toml");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let matrix: Matrix = toml::from_str(&text).with_context(|| path.display().to_string())?;
    for row in &matrix.row {
        if !workspace.members.contains_key(&row.package) {
            bail!("{}: no crate is called {}", path.display(), row.package);
        }
    }
    let chosen = |row: &&Row| {
        (args.full || row.quick) && args.only.as_ref().is_none_or(|only| row.line().contains(only.as_str()))
    };
    let rows: Vec<&Row> = matrix.row.iter().filter(chosen).collect();
    if rows.is_empty() {
        bail!("no row of {} is chosen", path.display());
    }
    let out = workspace.root.join("runs/matrix");
    std::fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
    let card = has_card();
    println!("{:<16} {:<8} {:<5} {:<7} {:<7} {:>7}", "crate", "tier", "on", "kind", "status", "seconds");
    let mut cells = Vec::new();
    for row in rows {
        let cell = run_row(workspace, row, card)?;
        println!(
            "{} {:<7} {:>7.1}",
            table_line(row),
            format!("{:?}", cell.status).to_lowercase(),
            cell.seconds
        );
        if cell.status == Status::Fail {
            println!("  {}\n{}", cell.command, tail(&cell.log, 30));
        }
        cells.push(cell);
    }
    std::fs::write(out.join("matrix.json"), serde_json::to_string_pretty(&cells)?)?;
    std::fs::write(out.join("index.html"), page(&cells)?)?;
    let count = |status| cells.iter().filter(|cell| cell.status == status).count();
    let (ok, failed, absent) = (count(Status::Ok), count(Status::Fail), count(Status::Absent));
    println!("{ok} ok, {failed} failed, {absent} absent; {}", out.join("index.html").display());
    Ok(failed == 0)
}

fn table_line(row: &Row) -> String {
    let word = |value: &dyn std::fmt::Debug| format!("{value:?}").to_lowercase();
    format!("{:<16} {:<8} {:<5} {:<7}", row.package, word(&row.tier), word(&row.device), word(&row.kind))
}

fn run_row(workspace: &Workspace, row: &Row, card: bool) -> Result<Cell> {
    let mut command = process::cargo(&workspace.root);
    command.args(row.arguments());
    let start = Instant::now();
    let (status, log) = if row.device == Device::Cuda && !card {
        (Status::Absent, "this machine has no CUDA device".to_owned())
    } else {
        let (ok, log) = process::capture(&mut command)?;
        (if ok { Status::Ok } else { Status::Fail }, log)
    };
    Ok(Cell {
        package: row.package.clone(),
        tier: row.tier,
        device: row.device,
        kind: row.kind,
        status,
        seconds: start.elapsed().as_secs_f64(),
        command: process::describe(&command),
        log,
    })
}

fn has_card() -> bool {
    let mut command = std::process::Command::new("nvidia-smi");
    process::capture(command.arg("-L")).is_ok_and(|(ok, text)| ok && text.contains("GPU"))
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn page(cells: &[Cell]) -> Result<String> {
    let mut rows = String::new();
    for cell in cells {
        let word = |value: &dyn std::fmt::Debug| format!("{value:?}").to_lowercase();
        writeln!(
            rows,
            "<tr class=\"{0}\"><td>{1}</td><td>{2}</td><td>{3}</td><td>{4}</td><td>{0}</td><td>{5:.1}</td>\
             <td><details><summary><code>{6}</code></summary><pre>{7}</pre></details></td></tr>",
            word(&cell.status),
            escape(&cell.package),
            word(&cell.tier),
            word(&cell.device),
            word(&cell.kind),
            cell.seconds,
            escape(&cell.command),
            escape(&tail(&cell.log, 200)),
        )?;
    }
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>Test matrix</title>\n<style>\n\
         body {{ font: 14px sans-serif; }} td, th {{ text-align: left; padding: 2px 12px; vertical-align: top; }}\n\
         .fail {{ background: #fdd; }} .absent {{ color: #888; }}\n</style>\n</head>\n<body>\n<h1>Test matrix</h1>\n\
         <table>\n<tr><th>crate</th><th>tier</th><th>device</th><th>kind</th><th>status</th><th>seconds</th>\
         <th>command</th></tr>\n{rows}</table>\n</body>\n</html>\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_matrix_is_read_and_names_members() {
        let matrix: Matrix = toml::from_str(include_str!("../matrix.toml")).unwrap();
        assert!(matrix.row.iter().any(|row| row.quick));
        let row = matrix.row.iter().find(|row| row.tier == Tier::Images).unwrap();
        let words = row.arguments().join(" ");
        assert!(words.ends_with("--no-default-features --features images"), "{words}");
        assert!(row.line().contains("images cpu check"), "{}", row.line());
    }

    #[test]
    fn the_page_escapes_logs() {
        let cell = Cell {
            package: "x".to_owned(),
            tier: Tier::Default,
            device: Device::Cpu,
            kind: Kind::Check,
            status: Status::Fail,
            seconds: 1.0,
            command: "cargo check".to_owned(),
            log: "expected `<T>`".to_owned(),
        };
        assert!(page(&[cell]).unwrap().contains("&lt;T&gt;"));
    }
}
