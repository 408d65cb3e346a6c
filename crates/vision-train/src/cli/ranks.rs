//! `--nproc`, and being one of several processes that somebody else started.

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::args::TrainArgs;
use super::stop_on_interrupt;
use super::tell::aside;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::launch::{Ended, Launcher, Place, Transport, connect, start_local, stop_with_launcher};

/// How long the others may take to end after they could have noticed that a rank is gone: they save nothing then.
const NOTICED: Duration = Duration::from_secs(30);

/// What this process is.
pub(super) enum Plan {
    Alone,
    /// Starts so many others and waits for them.
    Start(usize),
    Rank(Place),
}

pub(super) fn plan(args: &TrainArgs) -> Result<Plan> {
    match (args.nproc, Place::from_environment()?) {
        (Some(0), _) => Err(Error::Usage("--nproc: must be at least 1".to_owned())),
        // Asked for by name, whatever was started around it.
        (Some(1), _) | (None, None) => Ok(Plan::Alone),
        (Some(processes), None) => Ok(Plan::Start(processes)),
        (Some(processes), Some(place)) if place.world != processes => Err(Error::Usage(format!(
            "--nproc {processes}: this process is rank {} of {} already; leave --nproc out",
            place.rank, place.world
        ))),
        (_, Some(place)) => Ok(Plan::Rank(place)),
    }
}

/// Starts this program again as every rank.
pub(super) fn start(processes: usize, args: &TrainArgs) -> Result<u8> {
    let program = std::env::current_exe().map_err(|error| Error::io("the program itself", error))?;
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let interrupt = Arc::new(AtomicBool::new(false));
    // Rank 0 says what there is to say.
    stop_on_interrupt(&interrupt, false);
    let patience = Duration::from_secs(args.rank_timeout) + NOTICED;
    match start_local(&program, &arguments, processes, &interrupt, patience)? {
        Ended::Well => Ok(0),
        Ended::Badly { rank, how, code } => {
            aside(format_args!("error: rank {rank} {how}"));
            Ok(code)
        }
    }
}

/// Makes this process the rank it was started as.
pub(super) fn join(ctx: &mut Context, place: &Place, args: &TrainArgs) -> Result<()> {
    if place.launcher == Launcher::Local {
        stop_with_launcher(&ctx.interrupt);
    }
    let transport = match args.transport.as_deref() {
        Some("mpi") => Transport::Mpi,
        Some("nccl") => Transport::Nccl,
        Some(_) => Transport::Tcp,
        None => Transport::choose(place, &ctx.device)?,
    };
    ctx.collective = connect(place, transport, &ctx.device, Duration::from_secs(args.rank_timeout))?;
    Ok(())
}
