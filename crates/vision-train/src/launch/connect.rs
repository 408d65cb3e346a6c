//! How a process reaches the others.

use std::sync::Arc;
use std::time::Duration;

use candle_core::Device;
use vision_core::dist::{Collective, Single, Tcp};

use super::environment::{Launcher, Place};
use crate::error::{Error, Result};

/// What carries the data between ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transport {
    /// TCP through rank 0; always there.
    Tcp,
    /// MPI, with feature `mpi`.
    Mpi,
    /// NCCL, with feature `nccl`, for ranks that have a GPU each.
    Nccl,
}

impl Transport {
    /// The best one that this build has for a process started like this: NCCL for CUDA devices, MPI where mpirun or
    /// srun start processes without an address, else TCP.
    ///
    /// # Errors
    /// If it would need what this build or the environment does not have.
    pub fn choose(place: &Place, device: &Device) -> Result<Self> {
        let (mpi, nccl) = (cfg!(feature = "mpi"), cfg!(feature = "nccl"));
        match &place.address {
            Some(_) if device.is_cuda() && nccl => Ok(Self::Nccl),
            Some(_) => Ok(Self::Tcp),
            None if mpi && matches!(place.launcher, Launcher::Mpirun | Launcher::Slurm) => Ok(Self::Mpi),
            None => Err(Error::Usage(format!(
                "this process is rank {} of {}, but how to reach the others is not known: set MASTER_ADDR and \
                 MASTER_PORT to where rank 0 is to listen{}",
                place.rank,
                place.world,
                if mpi { "" } else { ", or build with --features mpi" }
            ))),
        }
    }
}

/// Connects this process with the others of its world. No call waits longer than `timeout` for another rank.
///
/// # Errors
/// If the build lacks the transport, or the ranks do not come together.
pub fn connect(
    place: &Place,
    transport: Transport,
    device: &Device,
    timeout: Duration,
) -> Result<Arc<dyn Collective>> {
    if place.world == 1 {
        return Ok(Arc::new(Single));
    }
    let address = || {
        place.address.as_deref().ok_or_else(|| {
            Error::Usage("MASTER_ADDR and MASTER_PORT must say where rank 0 is to listen".to_owned())
        })
    };
    match transport {
        Transport::Tcp => Ok(Arc::new(Tcp::connect(place.rank, place.world, address()?, timeout)?)),
        Transport::Mpi => mpi(place, timeout),
        Transport::Nccl => nccl(place, address()?, device, timeout),
    }
}

#[cfg(feature = "mpi")]
fn mpi(place: &Place, timeout: Duration) -> Result<Arc<dyn Collective>> {
    let ranks = vision_core::dist::Mpi::connect(timeout)?;
    // A program that mpirun of another MPI has started is a world of its own.
    if (ranks.rank(), ranks.world_size()) != (place.rank, place.world) {
        return Err(Error::Usage(format!(
            "this process was started as rank {} of {}, but its MPI says {} of {}: it was built with another MPI than \
             the one of the launcher",
            place.rank,
            place.world,
            ranks.rank(),
            ranks.world_size()
        )));
    }
    Ok(Arc::new(ranks))
}

#[cfg(not(feature = "mpi"))]
fn mpi(_: &Place, _: Duration) -> Result<Arc<dyn Collective>> {
    Err(Error::Usage("this build has no MPI; build with --features mpi".to_owned()))
}

#[cfg(feature = "nccl")]
fn nccl(place: &Place, address: &str, device: &Device, timeout: Duration) -> Result<Arc<dyn Collective>> {
    Ok(Arc::new(vision_core::dist::Nccl::connect(place.rank, place.world, address, device, timeout)?))
}

#[cfg(not(feature = "nccl"))]
fn nccl(_: &Place, _: &str, _: &Device, _: Duration) -> Result<Arc<dyn Collective>> {
    Err(Error::Usage("this build has no NCCL; build with --features nccl".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transport_follows_from_launcher_and_build() {
        let place = |launcher, address: Option<&str>| Place {
            rank: 0,
            world: 2,
            local_rank: None,
            local_world: None,
            address: address.map(str::to_owned),
            launcher,
        };
        let choose = |place: &Place| Transport::choose(place, &Device::Cpu);
        assert_eq!(choose(&place(Launcher::Local, Some("localhost:1"))).unwrap(), Transport::Tcp);
        assert_eq!(choose(&place(Launcher::Slurm, Some("node0:1"))).unwrap(), Transport::Tcp);
        let found = choose(&place(Launcher::Mpirun, None));
        if cfg!(feature = "mpi") {
            assert_eq!(found.unwrap(), Transport::Mpi);
        } else {
            let text = found.unwrap_err().to_string();
            assert!(text.contains("MASTER_ADDR") && text.contains("--features mpi"), "{text}");
        }
        assert!(choose(&place(Launcher::Torchrun, None)).is_err());
        let alone = Place { world: 1, ..place(Launcher::Torchrun, None) };
        let ranks = connect(&alone, Transport::Tcp, &Device::Cpu, Duration::from_secs(1)).unwrap();
        assert_eq!(ranks.world_size(), 1);
    }
}
