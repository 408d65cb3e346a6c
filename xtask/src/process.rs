//! Starting other programs.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// A cargo command in `folder`.
pub(crate) fn cargo(folder: &Path) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(folder);
    command
}

/// Runs with our input and output; whether it succeeded.
pub(crate) fn status(command: &mut Command) -> Result<bool> {
    let name = describe(command);
    let status = command.status().with_context(|| format!("cannot start {name}"))?;
    if !status.success() {
        eprintln!("{name}: {status}");
    }
    Ok(status.success())
}

/// Runs quietly; success and everything it wrote.
pub(crate) fn capture(command: &mut Command) -> Result<(bool, String)> {
    let name = describe(command);
    let output = command.output().with_context(|| format!("cannot start {name}"))?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text += &String::from_utf8_lossy(&output.stderr);
    Ok((output.status.success(), text))
}

/// The command as one would type it.
pub(crate) fn describe(command: &Command) -> String {
    let parts = std::iter::once(command.get_program()).chain(command.get_args());
    parts.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
