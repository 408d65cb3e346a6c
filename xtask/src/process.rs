//! Starting other programs.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// A cargo command in `folder`.
pub(crate) fn cargo(folder: &Path) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(folder);
    command
}

/// Runs cargo in `folder` and returns the program of the target `name` that it made.
///
/// `args` should be those of `cargo test --workspace` with one target: anything else resolves features anew, and the tensor
/// library would be compiled a second time.
pub(crate) fn built(folder: &Path, args: &[&str], name: &str) -> Result<PathBuf> {
    let mut command = cargo(folder);
    command.args(args).args(["--message-format", "json-render-diagnostics"]).stderr(Stdio::inherit());
    let output = command.output().context("cannot start cargo")?;
    ensure!(output.status.success(), "{} failed", describe(&command));
    executable(&String::from_utf8_lossy(&output.stdout), name)
        .with_context(|| format!("{} made no program called {name}", describe(&command)))
}

/// The executable of the target `name` in cargo's messages, built to be run and not as its own test.
fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    let parsed = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let wanted = |message: &serde_json::Value| {
        let target = &message["target"];
        let own = target["kind"][0] == "bin" && message["profile"]["test"] == true;
        target["name"] == name && !own && message["executable"].is_string()
    };
    let found = parsed.rev().find(wanted)?;
    Some(PathBuf::from(found["executable"].as_str()?))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_in_cargo_s_messages() {
        let message = |kind: &str, name: &str, test: bool, executable: &str| {
            serde_json::json!({
                "target": {"kind": [kind], "name": name}, "profile": {"test": test}, "executable": executable
            })
            .to_string()
        };
        let messages = [
            message("bin", "conformance", false, "/a/conformance"),
            message("bin", "conformance", true, "/a/conformance-1"),
            "noise".to_owned(),
            message("bench", "paired", true, "/a/paired-2"),
            r#"{"reason":"build-finished"}"#.to_owned(),
        ]
        .join("\n");
        assert_eq!(executable(&messages, "conformance"), Some(PathBuf::from("/a/conformance")));
        assert_eq!(executable(&messages, "paired"), Some(PathBuf::from("/a/paired-2")));
        assert_eq!(executable(&messages, "other"), None);
    }
}
