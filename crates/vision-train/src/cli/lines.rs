//! Results as lines of JSON.

use std::io::Write;
use std::path::PathBuf;

use serde::Serialize;

use super::{CliContext, json};
use crate::error::{Error, Result};

/// Results of a verb, one JSON object per line: printed as they come, with `--quiet` too, or with `--out` written to that
/// file at the end.
pub struct JsonLines<'a> {
    cli: &'a CliContext,
    out: Option<PathBuf>,
    text: String,
    count: usize,
}

impl<'a> JsonLines<'a> {
    /// Lines for the file of `--out`, or to be printed.
    pub fn new(cli: &'a CliContext) -> Self {
        Self { cli, out: cli.common.out.clone(), text: String::new(), count: 0 }
    }

    /// Lines for the file at `path`.
    pub fn to_file(cli: &'a CliContext, path: PathBuf) -> Self {
        Self { cli, out: Some(path), text: String::new(), count: 0 }
    }

    /// Adds a line.
    ///
    /// # Errors
    /// If the value has no form in JSON, or nobody reads what is printed.
    pub fn push(&mut self, value: &impl Serialize) -> Result<()> {
        let line = json(value)?;
        self.count += 1;
        if self.out.is_none() {
            writeln!(std::io::stdout(), "{line}").map_err(|error| Error::io("standard output", error))?;
        } else {
            self.text.push_str(&line);
            self.text.push('\n');
        }
        Ok(())
    }

    /// Writes the file, if there is one. To be called even if the work did not come to its end, so that what was found is
    /// kept.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn finish(self) -> Result<()> {
        if let Some(out) = &self.out {
            vision_weights::atomic_write(out, &mut |to| to.write_all(self.text.as_bytes()))?;
            self.cli.say(format_args!("{} lines in {}", self.count, out.display()));
        }
        Ok(())
    }
}
