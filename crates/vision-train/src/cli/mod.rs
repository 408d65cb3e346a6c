//! The command line every paper shares. A paper's binary is one line:
//!
//! ```ignore
//! fn main() -> std::process::ExitCode {
//!     vision_train::cli::main::<my_paper::MyRecipe>()
//! }
//! ```

mod args;
mod context;
mod demo;
mod lines;
mod logging;
mod pictures;
mod progress;
mod ranks;
mod tell;
mod verbs;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{CommandFactory, FromArgMatches};

pub use args::Common;
pub use context::CliContext;
pub use demo::demo;
pub use lines::JsonLines;
pub use pictures::{for_pictures, pictures};
/// [`PaperCli::Own`] of a paper without verbs of its own.
pub use std::convert::Infallible as NoVerbs;

use crate::error::{Error, Result};
use crate::recipe::Recipe;
use args::{Cli, Verb};
use progress::terminal_progress;
use ranks::Plan;
use tell::aside;

/// A value as JSON without line breaks.
///
/// # Errors
/// If it has no such form.
pub fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|error| Error::Format { what: "JSON".to_owned(), problem: error.to_string() })
}

/// A recipe with a binary.
pub trait PaperCli: Recipe {
    /// One line for `--help`.
    const ABOUT: &'static str;
    /// Version for `--version`; usually `env!("CARGO_PKG_VERSION")`.
    const VERSION: &'static str;
    /// Verbs besides the common ones; [`NoVerbs`] if there are none.
    type Own: clap::Subcommand;

    /// Runs a verb of the paper's own.
    ///
    /// # Errors
    /// Whatever the verb reports; the exit code follows from [`Error::exit_code`](crate::Error::exit_code).
    fn own(verb: Self::Own, cli: &CliContext) -> Result<()>;
}

/// Runs the program with the arguments of this process. Exit codes: 0 done, 1 the work failed, 2 bad usage,
/// configuration or data.
pub fn main<R: PaperCli>() -> ExitCode {
    ExitCode::from(run::<R>(std::env::args_os().collect()))
}

/// The same with given arguments, the program's name first; returns the exit code. What `--nproc` starts are processes
/// with the arguments of this one.
pub fn run<R: PaperCli>(arguments: Vec<OsString>) -> u8 {
    let command = Cli::<R::Own>::command().name(R::NAME).about(R::ABOUT).version(R::VERSION);
    let command_line: Vec<String> =
        arguments.iter().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let parsed =
        command.try_get_matches_from(arguments).and_then(|matches| Cli::<R::Own>::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to stdout with code 0, usage errors to stderr with code 2.
            let code = u8::try_from(error.exit_code()).unwrap_or(2);
            return if error.print().is_ok() { code } else { 2 };
        }
    };
    let plan = match &cli.verb {
        Verb::Train(args) => ranks::plan(args),
        _ => Ok(Plan::Alone),
    };
    let who = match &plan {
        Ok(Plan::Rank(place)) => format!("rank {}: ", place.rank),
        _ => String::new(),
    };
    match plan.and_then(|plan| dispatch::<R>(cli, command_line, plan)) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{who}{error}");
            aside(format_args!("error: {who}{error}"));
            error.exit_code()
        }
    }
}

fn dispatch<R: PaperCli>(cli: Cli<R::Own>, command_line: Vec<String>, plan: Plan) -> Result<u8> {
    if let (Plan::Start(processes), Verb::Train(args)) = (&plan, &cli.verb) {
        return ranks::start(*processes, args);
    }
    let place = if let Plan::Rank(place) = plan { Some(place) } else { None };
    let context = CliContext::new(R::NAME, cli.common, command_line, place.as_ref())?;
    stop_on_interrupt(&context.ctx.interrupt, context.speaks());
    match cli.verb {
        Verb::Train(args) => verbs::train::<R>(context, args, place.as_ref()),
        Verb::Eval(args) => verbs::eval::<R>(&context, &args),
        Verb::Export => verbs::export::<R>(&context),
        Verb::Info(args) => verbs::info::<R>(&context, &args),
        Verb::Own(verb) => {
            context.start_logging(None)?;
            R::own(verb, &context)
        }
    }?;
    Ok(0)
}

/// The first interrupt asks to stop after the current step, the second stops at once.
fn stop_on_interrupt(flag: &Arc<AtomicBool>, speaks: bool) {
    let flag = Arc::clone(flag);
    // Not the flag itself: others may have set it.
    let before = AtomicBool::new(false);
    let installed = ctrlc::set_handler(move || {
        if before.swap(true, Ordering::Relaxed) {
            std::process::exit(1);
        }
        flag.store(true, Ordering::Relaxed);
        if speaks {
            aside("stopping after this step; interrupt again to stop at once");
        }
    });
    if let Err(error) = installed {
        tracing::warn!("interrupts stop at once, without a checkpoint: {error}");
    }
}
