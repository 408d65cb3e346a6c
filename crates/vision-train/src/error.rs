//! The one error type of this crate.

use std::path::PathBuf;

/// One thing wrong with a configuration, as found by [`RecipeConfig::validate`](crate::RecipeConfig::validate).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Dotted key, such as `sgd.lr`.
    pub key: String,
    /// What is wrong with its value and what is allowed.
    pub problem: String,
}

impl Problem {
    /// A problem with the value of `key`.
    pub fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { key: key.into(), problem: problem.into() }
    }
}

/// What can go wrong while configuring, training, evaluating or reporting.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration cannot be read: syntax, an unknown key, a value of the wrong type.
    #[error("{path}: {}{problem}", if key.is_empty() { String::new() } else { format!("key `{key}`: ") })]
    Config {
        /// File, preset or command line option the key came from.
        path: String,
        /// Dotted key, or empty if the problem has none.
        key: String,
        /// What is wrong and what is allowed.
        problem: String,
    },
    /// A configuration was read, but its values do not make sense. Lists every problem.
    #[error("{path}: {} in the configuration:{}", count(problems.len()), listed(problems))]
    Invalid {
        /// File or preset the configuration came from.
        path: String,
        /// All problems found.
        problems: Vec<Problem>,
    },
    /// The program was called with arguments that do not fit together.
    #[error("{0}")]
    Usage(String),
    /// Training cannot continue from a checkpoint because something differs.
    #[error("{}: cannot resume: {problem}", path.display())]
    Resume {
        /// The checkpoint.
        path: PathBuf,
        /// What differs, and how to allow it.
        problem: String,
    },
    /// A checkpoint could not be written or read.
    #[error("{}: checkpoint: {problem}", path.display())]
    Checkpoint {
        /// The file or folder.
        path: PathBuf,
        /// What went wrong.
        problem: String,
    },
    /// A loss or gradient became infinite or NaN.
    #[error(
        "step {step} (epoch {epoch}): {what}; batch: {}; the state before this step is in {}",
        samples_text(samples),
        checkpoint.display()
    )]
    Diverged {
        /// Optimiser step, counted from 0.
        step: u64,
        /// Epoch, counted from 0.
        epoch: u64,
        /// Which number was not finite.
        what: String,
        /// Names of the samples in the batch, if the recipe gives them.
        samples: Vec<String>,
        /// Checkpoint written for inspection.
        checkpoint: PathBuf,
    },
    /// Another rank could not go on, so this one does not either.
    #[error("rank {rank} failed: {problem}")]
    Rank {
        /// The rank that failed.
        rank: usize,
        /// Its error.
        problem: String,
    },
    /// Training was asked to stop and did so after writing a checkpoint.
    #[error(
        "interrupted after step {step}; everything is saved in {}; run the same command with --resume to continue",
        checkpoint.display()
    )]
    Interrupted {
        /// Optimiser steps done.
        step: u64,
        /// The checkpoint written.
        checkpoint: PathBuf,
    },
    /// Other work than training was asked to stop; says how far it had come.
    #[error("{0}")]
    Stopped(String),
    /// One or more entries of `[expect]` were not met.
    #[error("{missed} of {total} expected results missed")]
    ExpectationMissed {
        /// Entries missed.
        missed: usize,
        /// Entries checked.
        total: usize,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Something could not be turned into or out of its file format.
    #[error("{what}: {problem}")]
    Format {
        /// What was written or read.
        what: String,
        /// What went wrong.
        problem: String,
    },
    /// A recipe reported an error of its own.
    #[error("{source}")]
    Recipe {
        /// The recipe's error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A data set, transform or loader reported an error.
    #[error(transparent)]
    Data(#[from] vision_datasets::Error),
    /// A tensor operation, layer or parameter store reported an error.
    #[error(transparent)]
    Core(#[from] vision_core::Error),
    /// A weight file reported an error.
    #[error(transparent)]
    Weights(#[from] vision_weights::Error),
    /// A picture reported an error.
    #[error(transparent)]
    Image(#[from] vision_image::Error),
    /// A metric reported an error.
    #[error(transparent)]
    Eval(#[from] vision_eval::Error),
    /// The tensor library reported an error.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Wraps an error of a paper's crate.
    pub fn recipe(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Recipe { source: source.into() }
    }

    /// An [`Error::Config`] for `key` of `path`.
    pub fn config(path: impl Into<String>, key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Config { path: path.into(), key: key.into(), problem: problem.into() }
    }

    /// An [`Error::Io`] for the file `path`.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    /// The process exit code: 2 for bad usage, configuration or data, 1 for work that failed.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config { .. }
            | Self::Invalid { .. }
            | Self::Usage(_)
            | Self::Resume { .. }
            | Self::Data(_)
            | Self::Weights(_)
            | Self::Image(_) => 2,
            _ => 1,
        }
    }
}

fn count(n: usize) -> String {
    if n == 1 { "1 problem".to_owned() } else { format!("{n} problems") }
}

fn listed(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(|p| format!("\n  {}: {}", p.key, p.problem)).collect();
    lines.concat()
}

/// At most eight names: enough to find the culprit, short enough to read.
fn samples_text(samples: &[String]) -> String {
    const SHOWN: usize = 8;
    if samples.is_empty() {
        return "the recipe names no samples".to_owned();
    }
    let mut text = samples.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if samples.len() > SHOWN {
        text = format!("{text} and {} more", samples.len() - SHOWN);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_what_is_wrong() {
        let error = Error::config("a.toml", "sgd.lr", "expected a number");
        assert_eq!(error.to_string(), "a.toml: key `sgd.lr`: expected a number");
        let error = Error::Invalid {
            path: "paper".into(),
            problems: vec![Problem::new("a", "must be positive"), Problem::new("b.c", "must be below 1")],
        };
        assert_eq!(
            error.to_string(),
            "paper: 2 problems in the configuration:\n  a: must be positive\n  b.c: must be below 1"
        );
    }

    #[test]
    fn exit_codes_tell_bad_input_from_failed_work() {
        assert_eq!(Error::Usage("x".into()).exit_code(), 2);
        assert_eq!(Error::ExpectationMissed { missed: 1, total: 2 }.exit_code(), 1);
        assert_eq!(Error::recipe("x").exit_code(), 1);
    }
}
