//! A world of processes, connected by TCP through the process of rank 0.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::meeting::{Call, Data, Meet, Outcome, collective_by_meeting};
use super::{CollectiveError, Operation, Threads, frame};
use crate::error::{Error, Result};

/// How much later than the ranks' own timeout a silent rank 0 counts as lost.
const GRACE: Duration = Duration::from_secs(5);
/// How long rank 0 listens to a connection that does not say what it wants.
const HELLO: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);
/// Other programs do not begin like this.
const PROTOCOL: &str = "vision ranks 1";

/// One rank of a world of processes, on one machine or on several.
///
/// Rank 0 listens at an address, the others connect to it. Its process does what [`Threads`] does: for every other
/// rank a thread takes part in the calls in its place, so agreement, order of sums, timeouts and failures are
/// the same, and only ranks that are gone in a panic are not told from others that are gone. All data passes
/// through rank 0: this is for a few processes on one machine or in one room. Whoever reaches the address can take
/// part, so it must be one of a network that is trusted.
///
/// ```no_run
/// use std::time::Duration;
/// use vision_core::dist::{Collective, Tcp};
/// # fn main() -> vision_core::Result<()> {
/// # let rank = 0;
/// let ranks = Tcp::connect(rank, 2, "127.0.0.1:29500", Duration::from_secs(60))?;
/// ranks.barrier("start")?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Tcp {
    rank: usize,
    world: usize,
    timeout: Duration,
    side: Side,
}

#[derive(Debug)]
enum Side {
    /// Rank 0. Empty while it is dropped.
    Hub { own: Option<Threads>, pending: Arc<Pending> },
    /// Every other rank.
    Spoke(Mutex<Spoke>),
}

#[derive(Debug)]
struct Spoke {
    stream: TcpStream,
    /// The first failure, which is that of all later calls.
    failure: Option<CollectiveError>,
}

/// What rank 0 has to stay for.
#[derive(Debug, Default)]
struct Pending {
    state: Mutex<Owed>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Owed {
    /// How many ranks wait for an answer that is on its way.
    answers: usize,
    /// How many ranks are connected.
    connected: usize,
    /// Whether a call has failed: then the others are to hear why at their next call.
    failed: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    protocol: String,
    rank: usize,
    world: usize,
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Welcome,
    /// Values follow, or nothing.
    Values,
    /// So many bytes follow of each rank.
    Gathered(Vec<usize>),
    Failed(CollectiveError),
}

impl Tcp {
    /// Connects rank `rank` of `world` ranks at `address` (`host:port`), where rank 0 listens. Ranks may come in any
    /// order; this and every call fail if it takes longer than `timeout`.
    ///
    /// # Errors
    /// [`Error::Collective`] if ranks do not come, two come with the same number, they disagree on `world`, or the
    /// address cannot be used; [`Error::Argument`] if `rank` is not below `world`.
    pub fn connect(rank: usize, world: usize, address: &str, timeout: Duration) -> Result<Self> {
        if rank >= world {
            return Err(Error::argument("Tcp: rank", format!("{rank} is no rank of a world of {world}")));
        }
        let side = if rank == 0 {
            Self::listen(world, address, timeout)?
        } else {
            let mut stream = Self::reach(rank, address, timeout)?;
            let spoke =
                |error: io::Error| lost(rank, &Call::new(Operation::Connect, address, None), timeout, &error);
            let greet = |stream: &mut TcpStream| -> io::Result<Answer> {
                stream.set_nodelay(true)?;
                stream.set_write_timeout(Some(timeout + GRACE))?;
                stream.set_read_timeout(Some(timeout + GRACE))?;
                frame::write(stream, &Hello { protocol: PROTOCOL.to_owned(), rank, world }, &[])?;
                frame::read(stream).map(|(answer, _)| answer)
            };
            match greet(&mut stream).map_err(spoke)? {
                Answer::Welcome => Side::Spoke(Mutex::new(Spoke { stream, failure: None })),
                Answer::Failed(failure) => return Err(failure.into()),
                Answer::Values | Answer::Gathered(_) => {
                    return Err(connection(rank, format!("{address} answers out of turn")).into());
                }
            }
        };
        Ok(Self { rank, world, timeout, side })
    }

    /// Rank 0: waits for all others and gives each a thread.
    fn listen(world: usize, address: &str, timeout: Duration) -> Result<Side> {
        let failed = |error: io::Error| connection(0, format!("cannot listen at {address}: {error}"));
        let deadline = Instant::now() + timeout;
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let mut streams: Vec<Option<TcpStream>> = (1..world).map(|_| None).collect();
        let failure = loop {
            let waited_for: Vec<usize> = (1..world)
                .zip(&streams)
                .filter(|(_, stream)| stream.is_none())
                .map(|(rank, _)| rank)
                .collect();
            if waited_for.is_empty() {
                break None;
            }
            if Instant::now() >= deadline {
                let (operation, tensor) = (Operation::Connect, address.to_owned());
                break Some(CollectiveError::Timeout { rank: 0, operation, tensor, waited_for, timeout });
            }
            match listener.accept() {
                Ok((stream, from)) => match welcome(stream, from, world, &mut streams) {
                    Ok(()) => {}
                    Err(failure) => break Some(failure),
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(PAUSE),
                Err(error) => break Some(failed(error)),
            }
        };
        if let Some(failure) = failure {
            for stream in streams.iter_mut().flatten() {
                // Whoever is gone by now need not be told.
                let _ = frame::write(stream, &Answer::Failed(failure.clone()), &[]);
            }
            return Err(failure.into());
        }
        let mut ranks = Threads::new(world, timeout).into_iter();
        let own = ranks.next();
        let pending = Arc::new(Pending::default());
        for ((place, stream), rank) in ranks.zip(streams.into_iter().flatten()).zip(1..) {
            let pending = Arc::clone(&pending);
            let name = format!("rank-{rank}");
            pending.change(|owed| owed.connected += 1);
            let serve = move || {
                serve(&place, stream, timeout, &pending);
                drop(place);
                pending.change(|owed| owed.connected = owed.connected.saturating_sub(1));
            };
            thread::Builder::new().name(name).spawn(serve).map_err(failed)?;
        }
        Ok(Side::Hub { own, pending })
    }

    /// Another rank: rank 0 may not listen yet.
    fn reach(rank: usize, address: &str, timeout: Duration) -> Result<TcpStream> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let (operation, tensor) = (Operation::Connect, address.to_owned());
                let waited_for = vec![0];
                return Err(CollectiveError::Timeout { rank, operation, tensor, waited_for, timeout }.into());
            }
            let places: Vec<SocketAddr> = address
                .to_socket_addrs()
                .map_err(|error| connection(rank, format!("{address} is no address: {error}")))?
                .collect();
            for place in places {
                if let Ok(stream) = TcpStream::connect_timeout(&place, left) {
                    return Ok(stream);
                }
            }
            thread::sleep(PAUSE);
        }
    }

    fn my_rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }
}

impl Meet for Tcp {
    fn meet(&self, call: Call, data: Data) -> Result<Arc<Outcome>> {
        let spoke = match &self.side {
            Side::Hub { own: Some(own), pending } => {
                return own.meet(call, data).inspect_err(|_| pending.change(|owed| owed.failed = true));
            }
            Side::Hub { own: None, .. } => return Err(Error::argument("Tcp", "is being dropped")),
            Side::Spoke(spoke) => spoke,
        };
        // The stream is between two messages, or there is a failure.
        let mut spoke = spoke.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(failure) = &spoke.failure {
            return Err(failure.clone().into());
        }
        let outcome =
            spoke.ask(&call, &data).unwrap_or_else(|error| Err(lost(self.rank, &call, self.timeout, &error)));
        outcome.map(Arc::new).map_err(|failure| {
            spoke.failure = Some(failure.clone());
            failure.into()
        })
    }
}

collective_by_meeting!(Tcp);

impl Spoke {
    fn ask(&mut self, call: &Call, data: &Data) -> io::Result<std::result::Result<Outcome, CollectiveError>> {
        frame::write(&mut self.stream, call, &data.to_bytes())?;
        let (answer, body): (Answer, _) = frame::read(&mut self.stream)?;
        let rubbish = || io::Error::new(io::ErrorKind::InvalidData, "an answer to another call");
        Ok(Ok(match answer {
            Answer::Failed(failure) => return Ok(Err(failure)),
            Answer::Values if call.operation == Operation::Barrier => Outcome::Values(Data::Nothing),
            Answer::Values => Outcome::Values(Data::from_bytes(call.size, body).ok_or_else(rubbish)?),
            Answer::Gathered(sizes) => {
                let mut rest = body.as_slice();
                let parts: Option<Vec<Vec<u8>>> = sizes
                    .iter()
                    .map(|&size| {
                        let (part, others) = rest.split_at_checked(size)?;
                        rest = others;
                        Some(part.to_vec())
                    })
                    .collect();
                Outcome::Gathered(parts.ok_or_else(rubbish)?)
            }
            Answer::Welcome => return Err(rubbish()),
        }))
    }
}

/// Takes in a rank that connected. What is no rank at all is left alone.
fn welcome(
    mut stream: TcpStream,
    from: SocketAddr,
    world: usize,
    streams: &mut [Option<TcpStream>],
) -> std::result::Result<(), CollectiveError> {
    let greet = |stream: &mut TcpStream| -> io::Result<Hello> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(HELLO))?;
        let (hello, _) = frame::read(stream)?;
        stream.set_read_timeout(None)?;
        Ok(hello)
    };
    let Ok(Hello { protocol, rank, world: theirs }) = greet(&mut stream) else {
        tracing::warn!(%from, "a connection that is no rank");
        return Ok(());
    };
    let problem = if protocol != PROTOCOL {
        Some(format!("{from} speaks `{protocol}`, not `{PROTOCOL}`: all ranks must run the same version"))
    } else if theirs != world {
        Some(format!("{from} is rank {rank} of a world of {theirs}, not of {world}"))
    } else {
        match rank.checked_sub(1).and_then(|place| streams.get_mut(place)) {
            Some(place @ None) => {
                *place = Some(stream);
                return Ok(());
            }
            Some(Some(_)) => Some(format!("two processes are rank {rank}")),
            None => Some(format!("{from} says it is rank {rank} of a world of {world}")),
        }
    };
    let failure = connection(0, problem.unwrap_or_default());
    let _ = frame::write(&mut stream, &Answer::Failed(failure.clone()), &[]);
    Err(failure)
}

/// Makes the calls of another process, until it is gone.
fn serve(place: &Threads, mut stream: TcpStream, timeout: Duration, pending: &Pending) {
    let work = || -> io::Result<()> {
        // Reading has no limit: between two calls a rank may compute as long as nobody waits for it.
        stream.set_write_timeout(Some(timeout + GRACE))?;
        frame::write(&mut stream, &Answer::Welcome, &[])?;
        loop {
            let (call, body): (Call, Vec<u8>) = frame::read(&mut stream)?;
            let empty = matches!(call.operation, Operation::Barrier)
                || matches!(call.operation, Operation::Broadcast(root) if root != place.my_rank());
            let data = if empty { Some(Data::Nothing) } else { Data::from_bytes(call.size, body) };
            let data = data.ok_or(io::ErrorKind::InvalidData)?;
            pending.change(|owed| owed.answers += 1);
            let answered = match place.meet(call, data) {
                Ok(outcome) => match &*outcome {
                    Outcome::Values(values) => frame::write(&mut stream, &Answer::Values, &values.to_bytes()),
                    Outcome::Gathered(parts) => {
                        let sizes = parts.iter().map(Vec::len).collect();
                        frame::write(&mut stream, &Answer::Gathered(sizes), &parts.concat())
                    }
                },
                Err(Error::Collective(failure)) => frame::write(&mut stream, &Answer::Failed(failure), &[]),
                Err(other) => Err(io::Error::other(other)),
            };
            pending.change(|owed| owed.answers = owed.answers.saturating_sub(1));
            answered?;
        }
    };
    if let Err(error) = { work }() {
        tracing::debug!(rank = place.my_rank(), %error, "the connection ended");
    }
}

impl Pending {
    fn change(&self, change: impl FnOnce(&mut Owed)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    fn wait(&self, timeout: Duration) {
        let owed: MutexGuard<'_, Owed> = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever has not read its answer by then has a connection that is lost.
        let staying = |owed: &mut Owed| owed.answers > 0 || (owed.failed && owed.connected > 0);
        let _ = self.changed.wait_timeout_while(owed, timeout, staying);
    }
}

impl Drop for Tcp {
    /// Rank 0 stays until everybody has read the last answer, and after a failure until everybody has heard of it or is
    /// gone, because the process may end after this.
    fn drop(&mut self) {
        if let Side::Hub { own, pending } = &mut self.side {
            drop(own.take());
            pending.wait(GRACE);
        }
    }
}

fn connection(rank: usize, problem: String) -> CollectiveError {
    CollectiveError::Connection { rank, problem }
}

/// What it means that rank 0 does not answer.
fn lost(rank: usize, call: &Call, timeout: Duration, error: &io::Error) -> CollectiveError {
    let (operation, tensor) = (call.operation, call.name.clone());
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => CollectiveError::Timeout {
            rank,
            operation,
            tensor,
            waited_for: vec![0],
            timeout: timeout + GRACE,
        },
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Other => {
            connection(rank, format!("{call}: {error}"))
        }
        _ => CollectiveError::Gone { rank, operation, tensor, gone: vec![0], panicked: false },
    }
}

#[cfg(test)]
mod tests;
