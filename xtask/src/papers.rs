//! Verbs that belong to the paper crates: `cargo xtask train PAPER …` is `PAPER train …` in release mode.

use std::ffi::OsString;

use anyhow::Result;

use crate::process;
use crate::workspace::Workspace;

/// A paper and what its binary is given.
#[derive(Debug, clap::Args)]
pub(crate) struct Forward {
    /// The paper crate, or another program of one.
    paper: String,
    /// Flags of the binary; `cargo xtask train PAPER --help` lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

impl Forward {
    pub(crate) fn run(&self, workspace: &Workspace, verb: &str) -> Result<bool> {
        let package = workspace.program(&self.paper)?;
        // Paths are meant from where the user stands.
        let mut command = process::cargo(&std::env::current_dir()?);
        command.args(["run", "--quiet", "--release", "--manifest-path"]);
        command.arg(workspace.root.join("Cargo.toml"));
        command.args(["-p", &package.name, "--bin", &self.paper, "--", verb]).args(&self.args);
        process::status(&mut command)
    }
}
