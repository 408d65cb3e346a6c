//! A world inside one process: each rank is a thread.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::meeting::{Call, Data, Meet, Outcome, collective_by_meeting, combine};
use super::{CollectiveError, Operation};
use crate::error::Result;

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

    pub(super) fn my_rank(&self) -> usize {
        self.rank
    }

    pub(super) fn world(&self) -> usize {
        self.shared.world
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

impl Meet for Threads {
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
        if let Some((other, other_call)) = met {
            call.check(rank, other, other_call)?;
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

collective_by_meeting!(Threads);

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.state().gone[self.rank] = Some(thread::panicking());
        self.shared.changed.notify_all();
    }
}
