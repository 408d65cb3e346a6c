//! What every world does in a call, however its ranks are connected: agree on what the call is, and turn the parts
//! of all ranks into what each of them gets.

use std::fmt::{self, Display};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{CollectiveError, Operation, Values};
use crate::error::{Error, Result};

/// What the ranks of a round must agree on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Call {
    pub(super) operation: Operation,
    pub(super) name: String,
    /// Number of elements, and their type. `None` where ranks need not agree.
    pub(super) size: Option<(usize, Kind)>,
}

/// Element type of [`Values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    F32,
    F64,
}

impl Kind {
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }
}

impl Call {
    pub(super) fn new(operation: Operation, name: &str, size: Option<(usize, Kind)>) -> Self {
        Self { operation, name: name.to_owned(), size }
    }

    /// Fails if `rank` came with another call than `other`, who was there before.
    pub(super) fn check(
        &self,
        rank: usize,
        other: usize,
        other_call: &Self,
    ) -> std::result::Result<(), CollectiveError> {
        if self == other_call {
            return Ok(());
        }
        let (call, other_call) = (self.to_string(), other_call.to_string());
        Err(CollectiveError::Mismatch { rank, call, other, other_call })
    }
}

impl Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of `{}`", self.operation, self.name)?;
        let kind = |kind| if kind == Kind::F32 { "f32" } else { "f64" };
        self.size.map_or(Ok(()), |(len, of)| write!(f, " ({len} x {})", kind(of)))
    }
}

/// What a rank brings to a call.
#[derive(Clone, Debug)]
pub(super) enum Data {
    Nothing,
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bytes(Vec<u8>),
}

impl Data {
    /// The same as bytes, least significant first.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Nothing => Vec::new(),
            Self::F32(values) => {
                let mut bytes = vec![0; 4 * values.len()];
                for (place, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(values) {
                    *place = value.to_le_bytes();
                }
                bytes
            }
            Self::F64(values) => {
                let mut bytes = vec![0; 8 * values.len()];
                for (place, value) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(values) {
                    *place = value.to_le_bytes();
                }
                bytes
            }
            Self::Bytes(bytes) => bytes.clone(),
        }
    }

    /// What [`Data::to_bytes`] made of `size` values, or of bytes; `None` if the number of bytes is another.
    pub(super) fn from_bytes(size: Option<(usize, Kind)>, bytes: Vec<u8>) -> Option<Self> {
        let Some((len, kind)) = size else { return Some(Self::Bytes(bytes)) };
        if len.checked_mul(kind.bytes()) != Some(bytes.len()) {
            return None;
        }
        Some(match kind {
            Kind::F32 => Self::F32(bytes.as_chunks::<4>().0.iter().map(|&x| f32::from_le_bytes(x)).collect()),
            Kind::F64 => Self::F64(bytes.as_chunks::<8>().0.iter().map(|&x| f64::from_le_bytes(x)).collect()),
        })
    }
}

/// What a call gives to every rank.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Replaces the values of every rank.
    Values(Data),
    Gathered(Vec<Vec<u8>>),
}

/// What the ranks of a round get; the parts agree in size.
pub(super) fn combine(operation: Operation, parts: Vec<Data>) -> Outcome {
    match operation {
        Operation::AllReduce => Outcome::Values(sum(parts)),
        Operation::Broadcast(root) => Outcome::Values(parts.into_iter().nth(root).unwrap_or(Data::Nothing)),
        Operation::AllGather => {
            let bytes = |data| if let Data::Bytes(bytes) = data { bytes } else { Vec::new() };
            Outcome::Gathered(parts.into_iter().map(bytes).collect())
        }
        Operation::Barrier | Operation::Connect => Outcome::Values(Data::Nothing),
    }
}

/// The sum over the ranks in their order, made in `f64` and rounded once.
pub(super) fn sum(parts: Vec<Data>) -> Data {
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
    pub(super) fn size(&self) -> (usize, Kind) {
        (self.len(), if matches!(self, Self::F32(_)) { Kind::F32 } else { Kind::F64 })
    }

    pub(super) fn data(&self) -> Data {
        match self {
            Self::F32(values) => Data::F32(values.to_vec()),
            Self::F64(values) => Data::F64(values.to_vec()),
        }
    }

    pub(super) fn replace(self, outcome: &Outcome) -> Result<()> {
        match (self, outcome) {
            (Self::F32(values), Outcome::Values(Data::F32(new))) if values.len() == new.len() => {
                values.copy_from_slice(new);
            }
            (Self::F64(values), Outcome::Values(Data::F64(new))) if values.len() == new.len() => {
                values.copy_from_slice(new);
            }
            // The check of sizes came before.
            _ => return Err(Error::argument("collective: values", "differ from the result in size")),
        }
        Ok(())
    }
}

/// A connection in which a call is one meeting of all ranks.
pub(super) trait Meet {
    /// Meets all other ranks in their next call.
    fn meet(&self, call: Call, data: Data) -> Result<Arc<Outcome>>;
}

/// [`super::Collective`] for a type that can [`Meet`] and has methods `my_rank` and `world`.
macro_rules! collective_by_meeting {
    ($connection:ty) => {
        impl $crate::dist::Collective for $connection {
            fn rank(&self) -> usize {
                self.my_rank()
            }

            fn world_size(&self) -> usize {
                self.world()
            }

            fn all_reduce(&self, name: &str, values: $crate::dist::Values<'_>) -> $crate::error::Result<()> {
                let call = Call::new(Operation::AllReduce, name, Some(values.size()));
                let sums = self.meet(call, values.data())?;
                values.replace(&sums)
            }

            fn broadcast(
                &self,
                name: &str,
                values: $crate::dist::Values<'_>,
                root: usize,
            ) -> $crate::error::Result<()> {
                $crate::dist::check_root(root, self.world())?;
                let call = Call::new(Operation::Broadcast(root), name, Some(values.size()));
                let sent =
                    self.meet(call, if self.my_rank() == root { values.data() } else { Data::Nothing })?;
                values.replace(&sent)
            }

            fn all_gather_bytes(&self, name: &str, bytes: &[u8]) -> $crate::error::Result<Vec<Vec<u8>>> {
                let call = Call::new(Operation::AllGather, name, None);
                match &*self.meet(call, Data::Bytes(bytes.to_vec()))? {
                    Outcome::Gathered(parts) => Ok(parts.clone()),
                    Outcome::Values(_) => {
                        Err($crate::error::Error::argument("collective: all_gather", "got values"))
                    }
                }
            }

            fn barrier(&self, name: &str) -> $crate::error::Result<()> {
                self.meet(Call::new(Operation::Barrier, name, None), Data::Nothing).map(drop)
            }
        }
    };
}
pub(super) use collective_by_meeting;
