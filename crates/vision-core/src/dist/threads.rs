//! A world inside one process: each rank is a thread.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::{Collective, CollectiveError, Operation, Values, check_root};
use crate::error::{Error, Result};

/// One rank of a world whose ranks are threads of this process.
///
/// Made for all ranks at once, then each is moved to its own thread, or handed to it by [`Threads::run`]. A rank is
/// gone when its value is dropped, which a panic does too; the others then fail with its number instead of
/// waiting for it. Whoever keeps a copy elsewhere (as an `Arc`) leaves them to the timeout.
///
/// ```
/// use std::time::Duration;
/// use vision_core::dist::{Collective, Threads, Values};
/// let sums = Threads::run(3, Duration::from_secs(5), |ranks| {
///     let mut values = [1.0, ranks.rank() as f64];
///     ranks.all_reduce("values", Values::F64(&mut values)).map(|()| values)
/// });
/// for sum in sums {
///     assert_eq!(sum.map_err(|_| "a rank panicked")??, [3.0, 3.0]);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Threads {
    rank: usize,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    world: usize,
    timeout: Duration,
    state: Mutex<State>,
    /// Signalled when a round is complete, a rank is gone, or a call failed.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// How many calls each rank has made; the n-th calls of all ranks make a round.
    calls: Vec<u64>,
    /// Rounds that somebody waits for or has yet to read. They are two at most.
    rounds: BTreeMap<u64, Round>,
    /// Which ranks are gone, and whether in a panic.
    gone: Vec<Option<bool>>,
    /// The first failure, which is that of all later calls.
    failure: Option<CollectiveError>,
}

/// One call of all ranks.
#[derive(Debug)]
struct Round {
    /// What came from each rank.
    parts: Vec<Option<(Call, Data)>>,
    /// Set by the last rank to come.
    result: Option<Arc<Outcome>>,
    /// How many ranks have read the result.
    read: usize,
}

/// What the ranks of a round must agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Call {
    operation: Operation,
    name: String,
    /// Number of elements, and their type. `None` where ranks need not agree.
    size: Option<(usize, &'static str)>,
}

impl Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of `{}`", self.operation, self.name)?;
        self.size.map_or(Ok(()), |(len, kind)| write!(f, " ({len} x {kind})"))
    }
}

#[derive(Debug)]
enum Data {
    Nothing,
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bytes(Vec<u8>),
}

#[derive(Debug)]
enum Outcome {
    /// Replaces the values of every rank.
    Values(Data),
    Gathered(Vec<Vec<u8>>),
}

impl Threads {
    /// The ranks of a world, in their order. A call fails if it waits longer than `timeout` for another rank.
    pub fn new(ranks: usize, timeout: Duration) -> Vec<Self> {
        let state =
            State { calls: vec![0; ranks], rounds: BTreeMap::new(), gone: vec![None; ranks], failure: None };
        let state = Mutex::new(state);
        let shared = Arc::new(Shared { world: ranks, timeout, state, changed: Condvar::new() });
        (0..ranks).map(|rank| Self { rank, shared: shared.clone() }).collect()
    }

    /// Runs `work` as every rank of a new world, each on a thread of its own, and returns what they return, in the
    /// order of the ranks; an `Err` holds the message of a rank that panicked.
    pub fn run<R: Send>(
        ranks: usize,
        timeout: Duration,
        work: impl Fn(Self) -> R + Sync,
    ) -> Vec<thread::Result<R>> {
        let work = &work;
        thread::scope(|scope| {
            let threads: Vec<_> = Self::new(ranks, timeout)
                .into_iter()
                .map(|collective| scope.spawn(move || work(collective)))
                .collect();
            threads.into_iter().map(thread::ScopedJoinHandle::join).collect()
        })
    }

    /// Meets all other ranks in their next call.
    fn meet(&self, call: Call, data: Data) -> Result<Arc<Outcome>> {
        let Shared { world, timeout, ref changed, .. } = *self.shared;
        let mut state = self.shared.state();
        if let Some(failure) = &state.failure {
            return Err(failure.clone().into());
        }
        let number = state.calls[self.rank];
        state.calls[self.rank] += 1;
        let (operation, tensor) = (call.operation, call.name.clone());
        if let Err(failure) = state.round(number, world).join(self.rank, call, data) {
            return Err(self.fail(&mut state, failure).into());
        }
        changed.notify_all();
        let rank = self.rank;
        let (mut state, time) = changed
            .wait_timeout_while(state, timeout, |state| {
                state.failure.is_none()
                    && state.rounds.get(&number).is_some_and(|round| round.result.is_none())
                    && state.missing(number).iter().all(|&missing| state.gone[missing].is_none())
            })
            .unwrap_or_else(PoisonError::into_inner);
        let round = state.rounds.get_mut(&number);
        if let Some((round, result)) =
            round.and_then(|round| round.result.clone().map(|result| (round, result)))
        {
            round.read += 1;
            if round.read == world {
                state.rounds.remove(&number);
            }
            return Ok(result);
        }
        if let Some(failure) = &state.failure {
            return Err(failure.clone().into());
        }
        let waited_for = state.missing(number);
        let gone: Vec<usize> =
            waited_for.iter().copied().filter(|&missing| state.gone[missing].is_some()).collect();
        let failure = if gone.is_empty() && time.timed_out() {
            CollectiveError::Timeout { rank, operation, tensor, waited_for, timeout }
        } else {
            let panicked = gone.iter().any(|&rank| state.gone[rank] == Some(true));
            CollectiveError::Gone { rank, operation, tensor, gone, panicked }
        };
        Err(self.fail(&mut state, failure).into())
    }

    /// Makes `failure` that of all ranks.
    fn fail(&self, state: &mut State, failure: CollectiveError) -> CollectiveError {
        state.failure = Some(failure.clone());
        // Slow ranks still read what was complete before.
        state.rounds.retain(|_, round| round.result.is_some());
        self.shared.changed.notify_all();
        failure
    }
}

impl Shared {
    /// The state is consistent between any two statements, so a panic elsewhere does not spoil it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn round(&mut self, number: u64, world: usize) -> &mut Round {
        self.rounds.entry(number).or_insert_with(|| Round {
            parts: (0..world).map(|_| None).collect(),
            result: None,
            read: 0,
        })
    }

    /// The ranks that have not come to a round.
    fn missing(&self, number: u64) -> Vec<usize> {
        let parts = self.rounds.get(&number).map(|round| round.parts.iter().enumerate());
        parts.into_iter().flatten().filter(|(_, part)| part.is_none()).map(|(rank, _)| rank).collect()
    }
}

impl Round {
    /// Adds the part of a rank, and makes the result if it is the last one.
    fn join(&mut self, rank: usize, call: Call, data: Data) -> std::result::Result<(), CollectiveError> {
        let met = self.parts.iter().enumerate().find_map(|(other, part)| Some((other, &part.as_ref()?.0)));
        if let Some((other, other_call)) = met.filter(|(_, met)| **met != call) {
            let (call, other_call) = (call.to_string(), other_call.to_string());
            return Err(CollectiveError::Mismatch { rank, call, other, other_call });
        }
        let operation = call.operation;
        self.parts[rank] = Some((call, data));
        if self.parts.iter().all(Option::is_some) {
            let parts =
                self.parts.iter_mut().flatten().map(|(_, data)| std::mem::replace(data, Data::Nothing));
            self.result = Some(Arc::new(combine(operation, parts.collect())));
        }
        Ok(())
    }
}

/// What the ranks of a round get; the parts agree in size.
fn combine(operation: Operation, parts: Vec<Data>) -> Outcome {
    match operation {
        Operation::AllReduce => Outcome::Values(sum(parts)),
        Operation::Broadcast(root) => Outcome::Values(parts.into_iter().nth(root).unwrap_or(Data::Nothing)),
        Operation::AllGather => {
            let bytes = |data| if let Data::Bytes(bytes) = data { bytes } else { Vec::new() };
            Outcome::Gathered(parts.into_iter().map(bytes).collect())
        }
        Operation::Barrier => Outcome::Values(Data::Nothing),
    }
}

/// The sum over the ranks in their order, made in `f64` and rounded once.
fn sum(parts: Vec<Data>) -> Data {
    let mut total: Vec<f64> = Vec::new();
    let mut single = false;
    for (rank, part) in parts.into_iter().enumerate() {
        let mut add = |values: &mut dyn Iterator<Item = f64>| {
            if rank == 0 {
                total = values.collect();
            } else {
                for (total, value) in total.iter_mut().zip(values) {
                    *total += value;
                }
            }
        };
        match part {
            Data::F32(values) => {
                single = true;
                add(&mut values.into_iter().map(f64::from));
            }
            Data::F64(values) => add(&mut values.into_iter()),
            Data::Nothing | Data::Bytes(_) => {}
        }
    }
    if single { Data::F32(total.into_iter().map(|x| x as f32).collect()) } else { Data::F64(total) }
}

impl Values<'_> {
    fn size(&self) -> (usize, &'static str) {
        (self.len(), if matches!(self, Self::F32(_)) { "f32" } else { "f64" })
    }

    fn data(&self) -> Data {
        match self {
            Self::F32(values) => Data::F32(values.to_vec()),
            Self::F64(values) => Data::F64(values.to_vec()),
        }
    }

    fn replace(self, outcome: &Outcome) -> Result<()> {
        match (self, outcome) {
            (Self::F32(values), Outcome::Values(Data::F32(new))) if values.len() == new.len() => {
                values.copy_from_slice(new);
            }
            (Self::F64(values), Outcome::Values(Data::F64(new))) if values.len() == new.len() => {
                values.copy_from_slice(new);
            }
            // The check of sizes came before.
            _ => return Err(Error::argument("Threads: values", "differ from the result in size")),
        }
        Ok(())
    }
}

impl Collective for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.shared.world
    }

    fn all_reduce(&self, name: &str, values: Values<'_>) -> Result<()> {
        let operation = Operation::AllReduce;
        let call = Call { operation, name: name.to_owned(), size: Some(values.size()) };
        let sums = self.meet(call, values.data())?;
        values.replace(&sums)
    }

    fn broadcast(&self, name: &str, values: Values<'_>, root: usize) -> Result<()> {
        check_root(root, self.shared.world)?;
        let operation = Operation::Broadcast(root);
        let call = Call { operation, name: name.to_owned(), size: Some(values.size()) };
        let sent = self.meet(call, if self.rank == root { values.data() } else { Data::Nothing })?;
        values.replace(&sent)
    }

    fn all_gather_bytes(&self, name: &str, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let call = Call { operation: Operation::AllGather, name: name.to_owned(), size: None };
        match &*self.meet(call, Data::Bytes(bytes.to_vec()))? {
            Outcome::Gathered(parts) => Ok(parts.clone()),
            Outcome::Values(_) => Err(Error::argument("Threads: all_gather", "got values")),
        }
    }

    fn barrier(&self, name: &str) -> Result<()> {
        let call = Call { operation: Operation::Barrier, name: name.to_owned(), size: None };
        self.meet(call, Data::Nothing).map(drop)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.state().gone[self.rank] = Some(thread::panicking());
        self.shared.changed.notify_all();
    }
}
