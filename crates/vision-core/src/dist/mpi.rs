//! A world of processes that mpirun started.

use std::fmt::{self, Debug};
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mpi::environment::Universe;
use mpi::point_to_point::{Destination, Source};
use mpi::request::{Request, StaticScope};
use mpi::topology::{Communicator, SimpleCommunicator};
use mpi::traits::Equivalence;
use mpi::{Tag, Threading};
use serde::{Deserialize, Serialize};

use super::meeting::{Call, Data, Meet, Outcome, collective_by_meeting, combine, sum};
use super::{CollectiveError, Operation, frame};
use crate::error::{Error, Result};

/// What may end in the failure of the world.
type Checked<T> = std::result::Result<T, CollectiveError>;

/// Sums of fewer bytes travel whole to every rank; larger ones in blocks.
const SMALL: usize = 1 << 15;
const TAG: Tag = 1;
/// How long a rank that leaves tries to say so.
const FAREWELL: Duration = Duration::from_secs(2);

/// One rank of a world of processes started by mpirun or srun, connected by MPI over memory of the host.
///
/// Every rank sends its part to every other with nonblocking calls and looks for theirs until its patience ends, so
/// it knows who has not come. `MPI_Allreduce` is not used: it may add in any order, in another one on another number
/// of machines, and waits for ever. Instead sums are split into as many blocks as there are ranks; each rank gets its
/// block from all, adds in the order of the ranks, and sends the sums to all. That moves as many bytes as the usual
/// algorithms do, in one message more per pair of ranks.
///
/// A process that is killed makes mpirun end all others. After a timeout the destructor leaves `MPI_Finalize` out, which
/// would wait for the rank that did not come; mpirun then ends what is left.
pub struct Mpi {
    rank: usize,
    world: usize,
    timeout: Duration,
    state: Mutex<State>,
}

struct State {
    communicator: SimpleCommunicator,
    /// Ends MPI when it is dropped.
    universe: Option<Universe>,
    /// The first failure, which is that of all later calls.
    failure: Option<CollectiveError>,
}

// SAFETY: MPI was asked for calls from any thread, one at a time (`Threading::Serialized`), and gave it; all calls
// are made with the mutex around `State` held.
#[allow(unsafe_code, reason = "handles of MPI are pointers")]
unsafe impl Send for State {}

/// The head of a message.
#[derive(Debug, Serialize, Deserialize)]
enum Part {
    Call(Call),
    /// Sums of a block, after a call.
    Sums,
    Failed(CollectiveError),
    Leaves {
        panicked: bool,
    },
}

impl Mpi {
    /// Starts MPI and joins all processes it knows. A call fails if it waits longer than `timeout` for another rank.
    ///
    /// Once in a process; the thread that calls it is the one that should drop the value.
    ///
    /// # Errors
    /// If MPI was started before or cannot be called from several threads.
    pub fn connect(timeout: Duration) -> Result<Self> {
        let (universe, threading) = mpi::initialize_with_threading(Threading::Serialized)
            .ok_or_else(|| Error::argument("Mpi", "MPI was started before in this process"))?;
        if threading < Threading::Serialized {
            return Err(Error::argument("Mpi", format!("MPI allows {threading:?} threads, not Serialized")));
        }
        let communicator = universe.world();
        let number = |value: i32| usize::try_from(value).unwrap_or_default();
        let (rank, world) = (number(communicator.rank()), number(communicator.size()));
        let state = Mutex::new(State { communicator, universe: Some(universe), failure: None });
        Ok(Self { rank, world, timeout, state })
    }

    fn my_rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    /// Sends `bodies` to the ranks, one each, and returns theirs, after checking that all make the same call.
    fn exchange(
        &self,
        state: &State,
        call: &Call,
        bodies: Vec<Vec<u8>>,
        first: bool,
    ) -> Checked<Vec<Vec<u8>>> {
        let head = if first { Part::Call(call.clone()) } else { Part::Sums };
        let mut own = Vec::new();
        let mut outgoing = Vec::with_capacity(self.world);
        for (rank, body) in bodies.into_iter().enumerate() {
            if rank == self.rank {
                own = body;
            } else {
                let mut message = Vec::new();
                let written = frame::write(&mut message, &head, &body);
                written.map_err(|error| self.broken(call, &error.to_string()))?;
                outgoing.push((rank, message));
            }
        }
        let mut parts: Vec<(Part, Vec<u8>)> = Vec::with_capacity(self.world);
        for message in self.swap(state, call, outgoing)? {
            parts.push(match message {
                None => (if first { Part::Call(call.clone()) } else { Part::Sums }, mem::take(&mut own)),
                Some(message) => frame::read(&mut message.as_slice())
                    .map_err(|error| self.broken(call, &error.to_string()))?,
            });
        }
        self.check(call, &parts, first)?;
        Ok(parts.into_iter().map(|(_, body)| body).collect())
    }

    /// Fails unless all parts are those of one call.
    fn check(&self, call: &Call, parts: &[(Part, Vec<u8>)], first: bool) -> Checked<()> {
        let (mut gone, mut in_panic) = (Vec::new(), false);
        for (rank, (part, _)) in parts.iter().enumerate() {
            match part {
                Part::Failed(failure) => return Err(failure.clone()),
                Part::Leaves { panicked } => {
                    gone.push(rank);
                    in_panic |= panicked;
                }
                Part::Call(_) | Part::Sums => {}
            }
        }
        if !gone.is_empty() {
            let (operation, tensor) = (call.operation, call.name.clone());
            return Err(CollectiveError::Gone {
                rank: self.rank,
                operation,
                tensor,
                gone,
                panicked: in_panic,
            });
        }
        let mut theirs = parts.iter().enumerate().map(|(rank, (part, _))| (rank, part));
        let Some((_, Part::Call(reference))) = theirs.next() else {
            let expected = !first && theirs.all(|(_, part)| matches!(part, Part::Sums));
            return if expected { Ok(()) } else { Err(self.broken(call, "sums out of turn")) };
        };
        for (rank, part) in theirs {
            match part {
                Part::Call(theirs) if first => theirs.check(rank, 0, reference)?,
                _ => return Err(self.broken(call, "a message out of turn")),
            }
        }
        Ok(())
    }

    /// Sends a message to every other rank and waits for one of each; `None` is this rank's own place.
    fn swap(
        &self,
        state: &State,
        call: &Call,
        outgoing: Vec<(usize, Vec<u8>)>,
    ) -> Checked<Vec<Option<Vec<u8>>>> {
        let begun = Instant::now();
        let mut sending = Vec::with_capacity(outgoing.len());
        for (rank, message) in outgoing {
            sending.push((rank, state.send(rank, message).map_err(|problem| self.broken(call, &problem))?));
        }
        let mut receiving: Vec<Option<Transfer>> = (0..self.world).map(|_| None).collect();
        let mut received: Vec<Option<Vec<u8>>> = (0..self.world).map(|_| None).collect();
        loop {
            for (rank, place) in received.iter_mut().enumerate() {
                if rank == self.rank || place.is_some() {
                    continue;
                }
                let Some(transfer) = receiving.get_mut(rank) else { continue };
                if transfer.is_none() {
                    *transfer = state.receive(rank);
                }
                if transfer.as_mut().is_some_and(Transfer::done) {
                    *place = transfer.take().map(Transfer::into_bytes);
                }
            }
            sending.retain_mut(|(_, transfer)| !transfer.done());
            let mut waited_for: Vec<usize> = received
                .iter()
                .enumerate()
                .filter(|(rank, place)| *rank != self.rank && place.is_none())
                .map(|(rank, _)| rank)
                .collect();
            if waited_for.is_empty() && sending.is_empty() {
                return Ok(received);
            }
            if begun.elapsed() >= self.timeout {
                if waited_for.is_empty() {
                    waited_for = sending.iter().map(|(rank, _)| *rank).collect();
                }
                let (rank, operation, tensor) = (self.rank, call.operation, call.name.clone());
                let timeout = self.timeout;
                return Err(CollectiveError::Timeout { rank, operation, tensor, waited_for, timeout });
            }
            // Soon at first, then seldom: the others need the processor too.
            match begun.elapsed().as_micros() {
                0..200 => thread::yield_now(),
                200..20_000 => thread::sleep(Duration::from_micros(50)),
                _ => thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    fn run(&self, state: &State, call: &Call, data: Data) -> Checked<Outcome> {
        let short = || self.broken(call, "another number of bytes than was announced");
        let (len, kind) = match call.size {
            Some((len, kind)) if call.operation == Operation::AllReduce => (len, kind),
            _ => {
                // Only the root has values to broadcast; what the others send is empty.
                let bodies = vec![data.to_bytes(); self.world];
                let parts = self.exchange(state, call, bodies, true)?;
                let root = if let Operation::Broadcast(root) = call.operation { Some(root) } else { None };
                let parts = parts.into_iter().enumerate().map(|(rank, part)| match (call.operation, root) {
                    (Operation::Barrier, _) => Some(Data::Nothing),
                    (_, Some(root)) if root != rank => Some(Data::Nothing),
                    _ => Data::from_bytes(call.size, part),
                });
                return Ok(combine(call.operation, parts.collect::<Option<_>>().ok_or_else(short)?));
            }
        };
        let bytes = data.to_bytes();
        if bytes.len() <= SMALL || self.world == 1 {
            let parts = self.exchange(state, call, vec![bytes; self.world], true)?;
            let parts = parts.into_iter().map(|part| Data::from_bytes(call.size, part));
            return Ok(Outcome::Values(sum(parts.collect::<Option<_>>().ok_or_else(short)?)));
        }
        let (share, rest) = (len / self.world, len % self.world);
        let size = |rank: usize| share + usize::from(rank < rest);
        let mut left = bytes.as_slice();
        let mut blocks = Vec::with_capacity(self.world);
        for rank in 0..self.world {
            let (block, others) = left.split_at_checked(size(rank) * kind.bytes()).ok_or_else(short)?;
            blocks.push(block.to_vec());
            left = others;
        }
        let mine = Some((size(self.rank), kind));
        let parts = self.exchange(state, call, blocks, true)?;
        let parts = parts.into_iter().map(|part| Data::from_bytes(mine, part));
        let sums = sum(parts.collect::<Option<_>>().ok_or_else(short)?).to_bytes();
        let all = self.exchange(state, call, vec![sums; self.world], false)?.concat();
        Ok(Outcome::Values(Data::from_bytes(call.size, all).ok_or_else(short)?))
    }

    fn broken(&self, call: &Call, problem: &str) -> CollectiveError {
        CollectiveError::Connection { rank: self.rank, problem: format!("{call}: {problem}") }
    }

    /// Tells the others, as far as they listen, that this rank makes no more calls.
    fn farewell(&self, state: &State, part: &Part) {
        let mut message = Vec::new();
        if frame::write(&mut message, part, &[]).is_err() {
            return;
        }
        let others = (0..self.world).filter(|&rank| rank != self.rank);
        let mut sending: Vec<Transfer> =
            others.filter_map(|rank| state.send(rank, message.clone()).ok()).collect();
        let begun = Instant::now();
        while begun.elapsed() < FAREWELL && !sending.is_empty() {
            sending.retain_mut(|transfer| !transfer.done());
            thread::sleep(Duration::from_micros(50));
        }
    }
}

impl Meet for Mpi {
    fn meet(&self, call: Call, data: Data) -> Result<Arc<Outcome>> {
        // Whoever panicked in here had no message half sent: transfers own their memory.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(failure) = &state.failure {
            return Err(failure.clone().into());
        }
        self.run(&state, &call, data).map(Arc::new).map_err(|failure| {
            self.farewell(&state, &Part::Failed(failure.clone()));
            state.failure = Some(failure.clone());
            failure.into()
        })
    }
}

collective_by_meeting!(Mpi);

impl Debug for Mpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rank, world, timeout, .. } = self;
        f.debug_struct("Mpi").field("rank", rank).field("world", world).field("timeout", timeout).finish()
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &state.failure {
            // MPI would wait for the rank that did not come.
            Some(CollectiveError::Timeout { .. }) => mem::forget(state.universe.take()),
            Some(_) => drop(state.universe.take()),
            None => {
                self.farewell(&state, &Part::Leaves { panicked: thread::panicking() });
                drop(state.universe.take());
            }
        }
    }
}

impl State {
    fn send(&self, rank: usize, message: Vec<u8>) -> std::result::Result<Transfer, String> {
        // Both the rank and the number of bytes are `int` in MPI.
        let Ok(place) = i32::try_from(rank) else { return Err(format!("rank {rank}")) };
        if i32::try_from(message.len()).is_err() {
            return Err(format!("a message of {} bytes; MPI counts to 2^31", message.len()));
        }
        Ok(Transfer::new(message, |memory| {
            self.communicator.process_at_rank(place).immediate_send_with_tag(StaticScope, &*memory, TAG)
        }))
    }

    /// Starts to receive a message of a rank, if there is one.
    fn receive(&self, rank: usize) -> Option<Transfer> {
        let source = self.communicator.process_at_rank(i32::try_from(rank).ok()?);
        let status = source.immediate_probe_with_tag(TAG)?;
        let bytes = usize::try_from(status.count(u8::equivalent_datatype())).ok()?;
        Some(Transfer::new(vec![0; bytes], |memory| {
            source.immediate_receive_into_with_tag(StaticScope, memory, TAG)
        }))
    }
}

/// A message on its way, with its memory. If it is dropped before it arrived, the memory is never freed: MPI may still
/// write into it.
struct Transfer {
    memory: *mut [u8],
    request: Option<Request<'static, [u8], StaticScope>>,
}

impl Transfer {
    #[allow(unsafe_code, reason = "memory that MPI uses until the request is complete")]
    fn new(
        memory: Vec<u8>,
        start: impl FnOnce(&'static mut [u8]) -> Request<'static, [u8], StaticScope>,
    ) -> Self {
        let memory = Box::into_raw(memory.into_boxed_slice());
        // SAFETY: the memory is freed in `into_bytes` and `drop` only, after the request is complete, and nobody else
        // looks at it before.
        let request = Some(start(unsafe { &mut *memory }));
        Self { memory, request }
    }

    /// Whether the message has arrived.
    fn done(&mut self) -> bool {
        let Some(request) = self.request.take() else { return true };
        match request.test() {
            Ok(_) => true,
            Err(request) => {
                self.request = Some(request);
                false
            }
        }
    }

    /// The memory of a message that has arrived.
    #[allow(unsafe_code, reason = "memory that MPI has used")]
    fn into_bytes(self) -> Vec<u8> {
        debug_assert!(self.request.is_none());
        let memory = self.memory;
        mem::forget(self);
        // SAFETY: it came from `Box::into_raw` in `new`; callers know that the request is complete.
        unsafe { Box::from_raw(memory) }.into_vec()
    }
}

impl Drop for Transfer {
    #[allow(unsafe_code, reason = "memory that MPI has used")]
    fn drop(&mut self) {
        match self.request.take() {
            // A request that is dropped panics.
            Some(request) => mem::forget(request),
            // SAFETY: it came from `Box::into_raw` in `new`, and the request is complete.
            None => drop(unsafe { Box::from_raw(self.memory) }),
        }
    }
}
