//! Finds case files, runs them, and says what came out.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::Device;

use crate::case::{Case, Outputs, to_tensor};
use crate::compare::{Deviation, compare};
use crate::registry;

/// Which cases to run, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// The device of all tensors.
    pub device: Device,
    /// Only cases whose op or path contains this.
    pub filter: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { device: Device::Cpu, filter: None }
    }
}

/// How a case went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Every output and gradient is within tolerance, or the expected error came.
    Ok,
    /// It is not.
    Fail,
    /// No row of the registry has this op.
    Unknown,
}

/// The result of one case.
#[derive(Debug, Clone)]
pub struct CaseResult {
    /// How it went.
    pub status: Status,
    /// The op named by the case; `?` if the file cannot be read.
    pub op: String,
    /// The file.
    pub path: PathBuf,
    /// Largest errors over outputs and gradients.
    pub deviation: Deviation,
    /// What went wrong, empty if nothing did.
    pub problem: String,
}

/// Case files under `paths`, sorted; a path may be a file or a folder.
///
/// # Errors
/// If a path does not exist or a folder cannot be read.
pub fn find_cases(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    fn walk(path: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
        let read = || format!("{}", path.display());
        if std::fs::metadata(path).with_context(read)?.is_dir() {
            for entry in std::fs::read_dir(path).with_context(read)? {
                let entry = entry.with_context(read)?.path();
                if entry.is_dir() || entry.extension().is_some_and(|ext| ext == "safetensors") {
                    walk(&entry, found)?;
                }
            }
        } else {
            found.push(path.to_path_buf());
        }
        Ok(())
    }
    let mut found = Vec::new();
    for path in paths {
        walk(path, &mut found)?;
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// Runs every case under `paths` that passes the filter, calling `each` as results come.
///
/// # Errors
/// If a path cannot be read or no case is left to run. A failing case is a result, not an error.
pub fn run_paths(
    paths: &[PathBuf],
    options: &Options,
    mut each: impl FnMut(&CaseResult),
) -> Result<Vec<CaseResult>> {
    let mut results = Vec::new();
    for path in find_cases(paths)? {
        if let Some(result) = run_filtered(&path, options) {
            each(&result);
            results.push(result);
        }
    }
    if results.is_empty() {
        bail!(
            "no case found under {}",
            paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
        );
    }
    Ok(results)
}

/// Runs the case in the file at `path`.
pub fn run_case(path: &Path, device: &Device) -> CaseResult {
    let options = Options { device: device.clone(), filter: None };
    run_filtered(path, &options).unwrap_or_else(|| failure(path, "?", "filtered out".to_owned()))
}

fn failure(path: &Path, op: &str, problem: String) -> CaseResult {
    CaseResult {
        status: Status::Fail,
        op: op.to_owned(),
        path: path.to_path_buf(),
        deviation: Deviation::default(),
        problem,
    }
}

fn run_filtered(path: &Path, options: &Options) -> Option<CaseResult> {
    let case = match Case::open(path, &options.device) {
        Ok(case) => case,
        // A file that cannot be read is run whatever the filter says: its op is not known.
        Err(error) => return Some(failure(path, "?", format!("{error:#}"))),
    };
    if let Some(filter) = &options.filter
        && !case.op.contains(filter.as_str())
        && !path.to_string_lossy().contains(filter.as_str())
    {
        return None;
    }
    let Some(op) = registry::find(&case.op) else {
        let mut result = failure(path, &case.op, "no row of the registry has this op".to_owned());
        result.status = Status::Unknown;
        return Some(result);
    };
    // A panic is a failure of that case, not of the run.
    let outcome = catch_unwind(AssertUnwindSafe(|| judge(&case, op.run)));
    Some(match outcome {
        Ok(Ok(deviation)) if deviation.excess <= 1.0 => CaseResult {
            status: Status::Ok,
            op: case.op,
            path: path.to_path_buf(),
            deviation,
            problem: String::new(),
        },
        Ok(Ok(deviation)) => {
            let problem = format!("{:.3} times the tolerance", deviation.excess);
            CaseResult { deviation, ..failure(path, &case.op, problem) }
        }
        Ok(Err(error)) => failure(path, &case.op, format!("{error:#}")),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("");
            failure(path, &case.op, format!("panicked: {text}"))
        }
    })
}

fn judge(case: &Case, run: fn(&Case) -> Result<Outputs>) -> Result<Deviation> {
    let outputs = match (run(case), &case.expect_error) {
        (Ok(outputs), None) => outputs,
        (Ok(_), Some(wanted)) => bail!("returned a result, expected an error with {wanted:?}"),
        (Err(error), None) => return Err(error),
        (Err(error), Some(wanted)) => {
            let message = format!("{error:#}");
            if message.contains(wanted.as_str()) {
                return Ok(Deviation { place: format!("error: {message}"), ..Deviation::default() });
            }
            bail!("the error {message:?} does not contain {wanted:?}");
        }
    };
    let unread = case.unread();
    if !unread.is_empty() {
        bail!("not read by the op's row: {}", unread.join(", "));
    }
    let mut worst = Deviation::default();
    for (name, want) in case.expected("out.") {
        let Some(got) = outputs.tensors.get(name) else { bail!("the op returned no {name}") };
        worst.merge(compare(&format!("out.{name}"), got, want, case.tolerance)?);
    }
    if let Some(grads) = case.backward(&outputs)? {
        for (name, want) in case.expected("grad.") {
            let got = match case.gradient(name, &outputs, &grads)? {
                Some(got) => got,
                // The graph does not reach it: the gradient is zero.
                None => to_tensor(want, &case.device)?.zeros_like()?,
            };
            worst.merge(compare(&format!("grad.{name}"), &got, want, case.tolerance)?);
        }
    } else if let Some((name, _)) = case.expected("grad.").next() {
        bail!("the case has grad.{name} but no upstream gradient");
    }
    Ok(worst)
}
