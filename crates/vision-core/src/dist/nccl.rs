//! A world of processes that have a GPU each.

use std::fmt::{self, Debug};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use candle_core::Device;
use candle_core::cuda_backend::cudarc;
use cudarc::driver::{CudaStream, DeviceRepr, DriverError};
use cudarc::nccl::result::{NcclError, group_end, group_start};
use cudarc::nccl::safe::NcclType;
use cudarc::nccl::{Comm, Id};

use super::meeting::{Call, Data, Kind, Meet, Outcome, collective_by_meeting, sum};
use super::{Collective, CollectiveError, Operation, Tcp};
use crate::error::{Error, Result};

/// Fewer bytes are not worth the way to the GPU.
const SMALL: usize = 1 << 16;

/// One rank of a world of processes whose data travels between GPUs by NCCL.
///
/// Ranks meet over [`Tcp`] first: there they agree on what the call is, and there a late rank is named. Only then the
/// values of large sums and broadcasts go through NCCL; everything else stays on TCP. As NCCL adds in an order of its
/// own, ranks exchange blocks and each adds those of its block on the host, in the order of the ranks. If NCCL itself
/// does not come to an end in time, the error names all other ranks, because NCCL does not say which one it waits for,
/// and the communicator is aborted.
///
/// This compiles and follows NCCL's documentation, but **has never run on a GPU**.
pub struct Nccl {
    control: Tcp,
    timeout: Duration,
    state: Mutex<State>,
}

struct State {
    /// Aborted and empty after a failure.
    comm: Option<Comm>,
    stream: Arc<CudaStream>,
    /// The first failure, which is that of all later calls.
    failure: Option<CollectiveError>,
}

// SAFETY: a communicator may be used from any thread, one at a time; all calls are made with the mutex around `State`
// held.
#[allow(unsafe_code, reason = "handles of NCCL are pointers")]
unsafe impl Send for State {}

/// What went wrong on the way to a result.
enum Failed {
    Late,
    Problem(String),
}

impl From<DriverError> for Failed {
    fn from(error: DriverError) -> Self {
        Self::Problem(error.to_string())
    }
}

impl From<NcclError> for Failed {
    fn from(error: NcclError) -> Self {
        Self::Problem(format!("NCCL: {error:?}"))
    }
}

impl Nccl {
    /// Connects rank `rank` of `world` ranks, each with a CUDA `device` of its own, at `address` (`host:port`), where
    /// rank 0 listens as in [`Tcp::connect`]. A call fails if it waits longer than `timeout` for another rank.
    ///
    /// # Errors
    /// As [`Tcp::connect`], and if the device is none of CUDA or NCCL cannot be started on it.
    pub fn connect(
        rank: usize,
        world: usize,
        address: &str,
        device: &Device,
        timeout: Duration,
    ) -> Result<Self> {
        let stream = device.as_cuda_device()?.cuda_stream();
        let control = Tcp::connect(rank, world, address, timeout)?;
        let broken = |error: Failed| {
            let problem = if let Failed::Problem(problem) = error { problem } else { String::new() };
            Error::from(CollectiveError::Connection { rank, problem })
        };
        let mut id = Vec::new();
        if rank == 0 {
            let made = Id::new().map_err(|error| broken(error.into()))?;
            // `char` is signed or not, as the platform has it.
            id = made.internal().iter().map(|&byte| byte as u8).collect();
        }
        let ids = control.all_gather_bytes("NCCL id", &id)?;
        let sent = ids.first().and_then(|id| <[u8; 128]>::try_from(id.as_slice()).ok());
        let sent = sent.ok_or_else(|| broken(Failed::Problem("rank 0 sent no NCCL id".to_owned())))?;
        let id = Id::uninit(sent.map(|byte| byte as std::ffi::c_char));
        let comm = Comm::from_rank(stream.clone(), rank, world, id).map_err(|error| broken(error.into()))?;
        let state = Mutex::new(State { comm: Some(comm), stream, failure: None });
        Ok(Self { control, timeout, state })
    }

    fn my_rank(&self) -> usize {
        self.control.rank()
    }

    fn world(&self) -> usize {
        self.control.world_size()
    }

    fn run<T>(&self, state: &State, operation: Operation, values: &[T]) -> std::result::Result<Vec<T>, Failed>
    where
        T: NcclType + DeviceRepr + Copy + Default,
        Vec<T>: IntoData,
    {
        let comm = state.comm.as_ref().ok_or(Failed::Late)?;
        let (stream, rank, world) = (&state.stream, self.my_rank(), self.world());
        let mut result = vec![T::default(); values.len()];
        if let Operation::Broadcast(root) = operation {
            let mut memory = stream.clone_htod(values)?;
            comm.broadcast_in_place(&mut memory, peer(root)?)?;
            self.wait(stream)?;
            stream.memcpy_dtoh(&memory, &mut result)?;
            stream.synchronize()?;
            return Ok(result);
        }
        let blocks = blocks(values.len(), world);
        let own = blocks.get(rank).cloned().unwrap_or_default();
        let mine = stream.clone_htod(values)?;
        // What every rank has for the block of this one, one after the other.
        let mut theirs = stream.clone_htod(&vec![T::default(); own.len() * world])?;
        group_start()?;
        for (other, block) in blocks.iter().enumerate() {
            if !block.is_empty() {
                comm.send(&mine.slice(block.clone()), peer(other)?)?;
            }
            if !own.is_empty() {
                comm.recv(&mut theirs.slice_mut(other * own.len()..(other + 1) * own.len()), peer(other)?)?;
            }
        }
        group_end()?;
        self.wait(stream)?;
        let mut parts = vec![T::default(); own.len() * world];
        stream.memcpy_dtoh(&theirs, &mut parts)?;
        stream.synchronize()?;
        let sums = sum(parts.chunks(own.len().max(1)).map(|part| part.to_vec().into_data()).collect());
        let sums =
            Vec::<T>::from_data(sums).ok_or_else(|| Failed::Problem("sums of another type".to_owned()))?;
        let sums = stream.clone_htod(&sums)?;
        let mut all = mine;
        group_start()?;
        for (other, block) in blocks.iter().enumerate() {
            if !own.is_empty() {
                comm.send(&sums, peer(other)?)?;
            }
            if !block.is_empty() {
                comm.recv(&mut all.slice_mut(block.clone()), peer(other)?)?;
            }
        }
        group_end()?;
        self.wait(stream)?;
        stream.memcpy_dtoh(&all, &mut result)?;
        stream.synchronize()?;
        Ok(result)
    }

    /// Waits for the work of the stream, but not for ever.
    fn wait(&self, stream: &Arc<CudaStream>) -> std::result::Result<(), Failed> {
        let event = stream.record_event(None)?;
        let begun = Instant::now();
        while !event.is_complete() {
            if begun.elapsed() >= self.timeout {
                return Err(Failed::Late);
            }
            thread::sleep(Duration::from_micros(50));
        }
        Ok(())
    }
}

impl Meet for Nccl {
    fn meet(&self, call: Call, data: Data) -> Result<Arc<Outcome>> {
        let large = call.size.is_some_and(|(len, kind)| len.saturating_mul(kind.bytes()) > SMALL);
        let moved = matches!(call.operation, Operation::AllReduce | Operation::Broadcast(_));
        if !large || !moved {
            return self.control.meet(call, data);
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(failure) = &state.failure {
            return Err(failure.clone().into());
        }
        let name = format!("{} of {}", call.operation, call.name);
        self.control.meet(Call::new(Operation::Barrier, &name, call.size), Data::Nothing)?;
        let len = call.size.map_or(0, |(len, _)| len);
        let result = match (data, call.size) {
            (Data::F32(values), _) => self.run(&state, call.operation, &values).map(Data::F32),
            (Data::F64(values), _) => self.run(&state, call.operation, &values).map(Data::F64),
            // What is to be overwritten by the root's values.
            (_, Some((_, Kind::F32))) => self.run(&state, call.operation, &vec![0f32; len]).map(Data::F32),
            _ => self.run(&state, call.operation, &vec![0f64; len]).map(Data::F64),
        };
        result.map(|values| Arc::new(Outcome::Values(values))).map_err(|error| {
            let rank = self.my_rank();
            let failure = match error {
                Failed::Late => CollectiveError::Timeout {
                    rank,
                    operation: call.operation,
                    tensor: call.name,
                    waited_for: (0..self.world()).filter(|&other| other != rank).collect(),
                    timeout: self.timeout,
                },
                Failed::Problem(problem) => CollectiveError::Connection { rank, problem },
            };
            // Dropping it aborts what hangs.
            state.comm = None;
            state.failure = Some(failure.clone());
            failure.into()
        })
    }
}

collective_by_meeting!(Nccl);

impl Debug for Nccl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nccl").field("control", &self.control).finish_non_exhaustive()
    }
}

fn peer(rank: usize) -> std::result::Result<i32, Failed> {
    i32::try_from(rank).map_err(|_| Failed::Problem(format!("rank {rank} is too large for NCCL")))
}

/// Consecutive ranges of `len` values, one per rank, of lengths that differ by at most one.
fn blocks(len: usize, world: usize) -> Vec<std::ops::Range<usize>> {
    let (share, rest) = (len / world.max(1), len % world.max(1));
    let start = |rank: usize| rank * share + rank.min(rest);
    (0..world).map(|rank| start(rank)..start(rank + 1)).collect()
}

/// Between typed values and [`Data`].
trait IntoData: Sized {
    fn into_data(self) -> Data;
    fn from_data(data: Data) -> Option<Self>;
}

impl IntoData for Vec<f32> {
    fn into_data(self) -> Data {
        Data::F32(self)
    }

    fn from_data(data: Data) -> Option<Self> {
        if let Data::F32(values) = data { Some(values) } else { None }
    }
}

impl IntoData for Vec<f64> {
    fn into_data(self) -> Data {
        Data::F64(self)
    }

    fn from_data(data: Data) -> Option<Self> {
        if let Data::F64(values) = data { Some(values) } else { None }
    }
}
