//! Our side of `cargo xtask bench`: measures one case of `benches/cases.json`.
//!
//! `paired CASE --threads N --seconds S` prints `{"ms": […], "peak_mib": …}`, one time per repetition. Inputs are
//! feature maps in this library's layout; gradients are taken of everything that has one, except in cases of mode
//! `forward`. With `--naive` it measures the operation as its formula stands there, in the tensor library's operations.
#![allow(clippy::print_stdout, reason = "a program that reports on stdout")]

mod boxes;
mod encnet;
mod models;
mod naive;
mod ops;
mod regions;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde_json::{Value, json};

/// Something to repeat.
type Step = Box<dyn FnMut() -> Result<()>>;

#[derive(Parser)]
struct Args {
    /// Name of the case.
    case: String,
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Repeat for so long, three times at least.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Widest instruction set to use.
    #[arg(long)]
    isa: Option<String>,
    /// The operation as its formula stands there instead of ours.
    #[arg(long)]
    naive: bool,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A case of `benches/cases.json`.
struct Case(Value);

impl Case {
    fn text(&self, key: &str) -> Result<&str> {
        self.0[key].as_str().with_context(|| format!("the case has no text `{key}`"))
    }

    fn sizes(&self, key: &str) -> Result<Vec<usize>> {
        let list = self.0[key].as_array().with_context(|| format!("the case has no list `{key}`"))?;
        list.iter().map(|n| n.as_u64().map(|n| n as usize).context("not a size")).collect()
    }

    fn size(&self, key: &str) -> Result<usize> {
        self.0[key].as_u64().map(|n| n as usize).with_context(|| format!("the case has no number `{key}`"))
    }

    fn number(&self, key: &str) -> Result<f64> {
        self.0[key].as_f64().with_context(|| format!("the case has no number `{key}`"))
    }

    fn size_or(&self, key: &str, default: usize) -> usize {
        self.0[key].as_u64().map_or(default, |n| n as usize)
    }
}

fn find(name: &str) -> Result<Case> {
    let cases: Vec<Value> = serde_json::from_str(include_str!("../../../benches/cases.json"))?;
    let found = cases.into_iter().find(|case| case["name"] == name);
    Ok(Case(found.with_context(|| format!("no case is called `{name}`"))?))
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(isa) = &args.isa {
        let Some(isa) = vision_core::cpu::Isa::from_name(isa) else {
            bail!("no instruction set is called {isa}")
        };
        vision_core::cpu::limit(isa);
    }
    vision_core::cpu::keep_memory();
    vision_train::system::set_threads(args.threads)?;
    let case = find(&args.case)?;
    let run = || -> Result<Vec<f64>> {
        let mut step = match case.text("op")? {
            _ if args.naive => naive::step(&case)?,
            "model.encnet" => encnet::step(&case)?,
            op if op.starts_with("model.") => models::step(&case)?,
            _ => ops::step(&case)?,
        };
        // Once, where it takes minutes.
        let slow = case.0["slow"] == true;
        if !slow {
            step()?;
        }
        let mut times = Vec::new();
        let start = Instant::now();
        let done =
            |times: &Vec<f64>| times.len() >= 3 && start.elapsed() >= Duration::from_secs_f64(args.seconds);
        while times.is_empty() || !(slow || done(&times)) {
            let before = Instant::now();
            step()?;
            times.push(before.elapsed().as_secs_f64() * 1e3);
        }
        Ok(times)
    };
    // Backward passes of deep networks need more stack than the main thread has.
    let times = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(64 << 20).spawn_scoped(scope, run)?;
        thread.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload))
    })?;
    let peak = vision_train::system::peak_memory().map(|bytes| bytes as f64 / (1 << 20) as f64);
    println!("{}", json!({"ms": times, "peak_mib": peak, "isa": vision_core::cpu::active().name()}));
    Ok(())
}
