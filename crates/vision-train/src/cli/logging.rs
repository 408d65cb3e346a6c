//! Where log events go.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::Mutex;

use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::args::Common;
use crate::error::{Error, Result};

/// Events go to stderr as asked by `-v` and `-q`, and of the `first` rank as JSON to `--log-json` and the run folder.
pub(super) fn start(common: &Common, run_log: Option<&Path>, first: bool) -> Result<()> {
    let level = match (common.quiet, common.verbose) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => LevelFilter::WARN,
        (false, 1) => LevelFilter::INFO,
        (false, 2) => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let terminal = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .compact()
        // The final error is printed by `run` itself.
        .with_filter(tracing_subscriber::filter::filter_fn(move |metadata| {
            *metadata.level() <= level && !metadata.target().starts_with("vision_train::cli")
        }));
    let asked = common.log_json.as_deref().filter(|_| first).map(open).transpose()?.map(|file| {
        tracing_subscriber::fmt::layer().json().with_writer(Mutex::new(file)).with_filter(LevelFilter::INFO)
    });
    let run = run_log.map(open).transpose()?.map(|file| {
        tracing_subscriber::fmt::layer().json().with_writer(Mutex::new(file)).with_filter(LevelFilter::INFO)
    });
    // Fails only if the caller has a subscriber already; then that one is meant to get the events.
    let _ = tracing_subscriber::registry().with(terminal).with(asked).with(run).try_init();
    Ok(())
}

fn open(path: &Path) -> Result<File> {
    if let Some(parent) = path.parent()
        && !parent.as_os_str().is_empty()
    {
        std::fs::create_dir_all(parent).map_err(|error| Error::io(parent, error))?;
    }
    OpenOptions::new().create(true).append(true).open(path).map_err(|error| Error::io(path, error))
}
