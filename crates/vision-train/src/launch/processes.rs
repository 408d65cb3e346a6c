//! Starting the ranks of one machine as processes, and waiting for them.

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::environment::LAUNCHED;
use crate::error::{Error, Result};

const LOOK: Duration = Duration::from_millis(10);

/// How the processes ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// All did their work.
    Well,
    /// This rank was the first that did not, as far as that could be seen.
    Badly {
        /// The rank.
        rank: usize,
        /// `ended with code 2`, or `was killed by signal 9`.
        how: String,
        /// Its exit code; 1 if a signal killed it.
        code: u8,
    },
}

/// Runs `program` as `processes` ranks of this machine, and waits for all of them.
///
/// They get their places as from torchrun, and an address of this machine that nobody else uses. Each holds a pipe as
/// its standard input that ends when this process does or `interrupt` is set: [`stop_with_launcher`] makes that a
/// request to stop. After one has failed, the others have `patience` to notice it before they are killed.
///
/// # Errors
/// If no address is free or a process cannot be started.
pub fn start_local(
    program: &Path,
    arguments: &[OsString],
    processes: usize,
    interrupt: &AtomicBool,
    patience: Duration,
) -> Result<Ended> {
    let address = free_address()?;
    let mut children = Children(Vec::with_capacity(processes));
    for rank in 0..processes {
        let child = Command::new(program)
            .args(arguments)
            .env("RANK", rank.to_string())
            .env("WORLD_SIZE", processes.to_string())
            .env("LOCAL_RANK", rank.to_string())
            .env("LOCAL_WORLD_SIZE", processes.to_string())
            .env("MASTER_ADDR", address.ip().to_string())
            .env("MASTER_PORT", address.port().to_string())
            .env(LAUNCHED, processes.to_string())
            .env_remove("TORCHELASTIC_USE_AGENT_STORE")
            .stdin(Stdio::piped())
            .spawn()
            .map_err(|error| Error::io(program, error))?;
        children.0.push((child, None));
    }
    let mut ended = Ended::Well;
    let mut failed: Option<Instant> = None;
    loop {
        let mut news = Vec::new();
        for (rank, (child, status)) in children.0.iter_mut().enumerate() {
            if status.is_none() {
                *status = child.try_wait().map_err(|error| Error::io(program, error))?;
                news.extend(status.filter(|status| !status.success()).map(|status| (rank, status)));
            }
        }
        // Of several that ended since the last look, one that was killed is the cause and not the consequence.
        let first = news.iter().find(|(_, status)| status.code().is_none()).or(news.first());
        if let Some(&(rank, status)) = first
            && failed.is_none()
        {
            failed = Some(Instant::now());
            ended = Ended::Badly { rank, how: how(status), code: code(status) };
        }
        if children.0.iter().all(|(_, status)| status.is_some()) {
            return Ok(ended);
        }
        if interrupt.load(Ordering::Relaxed) {
            for (child, _) in &mut children.0 {
                drop(child.stdin.take());
            }
        }
        if failed.is_some_and(|since| since.elapsed() > patience) {
            tracing::warn!("some ranks did not end by themselves");
            children.kill();
        }
        std::thread::sleep(LOOK);
    }
}

/// Sets `interrupt` when the process that started this one closes its end of standard input, or is gone.
pub fn stop_with_launcher(interrupt: &Arc<AtomicBool>) {
    let flag = Arc::clone(interrupt);
    let watch = move || {
        // Nobody writes anything; an error means that there is nobody either.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        flag.store(true, Ordering::Relaxed);
    };
    if let Err(error) = std::thread::Builder::new().name("launcher".to_owned()).spawn(watch) {
        tracing::warn!("this process will not notice when its launcher is gone: {error}");
    }
}

/// Processes that do not outlive an error here.
struct Children(Vec<(Child, Option<ExitStatus>)>);

impl Children {
    fn kill(&mut self) {
        for (child, _) in self.0.iter_mut().filter(|(_, status)| status.is_none()) {
            // It may have ended just now.
            let _ = child.kill();
        }
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        self.kill();
        for (child, _) in &mut self.0 {
            let _ = child.wait();
        }
    }
}

/// An address of this machine at which nobody listens.
fn free_address() -> Result<std::net::SocketAddr> {
    let found = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    found.map_err(|error| Error::Usage(format!("--nproc: no free address on this machine: {error}")))
}

fn code(status: ExitStatus) -> u8 {
    status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

fn how(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return format!("was killed by signal {signal}");
    }
    format!("ended with code {}", code(status))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn start(script: &str, processes: usize, interrupt: bool, patience: Duration) -> Ended {
        let arguments = ["-c".into(), script.into()];
        start_local(Path::new("/bin/sh"), &arguments, processes, &AtomicBool::new(interrupt), patience)
            .unwrap()
    }

    #[test]
    fn ranks_know_their_places_and_the_first_failure_counts() {
        let patient = Duration::from_secs(30);
        let script = "test $WORLD_SIZE = 3 && test $RANK = $LOCAL_RANK && test $MASTER_ADDR = 127.0.0.1 && \
                      test $VISION_NPROC = 3 && test $MASTER_PORT -gt 0";
        assert_eq!(start(script, 3, false, patient), Ended::Well);
        let script = "test $RANK = 1 && exit 2; sleep 1; exit 1";
        let how = "ended with code 2".to_owned();
        assert_eq!(start(script, 3, false, patient), Ended::Badly { rank: 1, how, code: 2 });
        let script = "test $RANK = 0 && kill -9 $$; sleep 1";
        let how = "was killed by signal 9".to_owned();
        assert_eq!(start(script, 2, false, patient), Ended::Badly { rank: 0, how, code: 1 });
    }

    #[test]
    fn a_rank_that_does_not_notice_is_killed_and_an_interrupt_ends_the_input() {
        let begun = Instant::now();
        let ended = start("test $RANK = 0 && exit 3; exec sleep 60", 2, false, Duration::from_millis(200));
        assert!(matches!(ended, Ended::Badly { rank: 0, code: 3, .. }), "{ended:?}");
        assert_eq!(start("cat", 2, true, Duration::from_secs(30)), Ended::Well);
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
}
