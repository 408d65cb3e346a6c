//! Which rank this process is, by the environment variables of those who start processes.

use crate::error::{Error, Result};

/// Set by [`start_local`](super::start_local) for its processes.
pub(super) const LAUNCHED: &str = "VISION_NPROC";

/// Who started this process as one of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Launcher {
    /// `--nproc`: [`start_local`](super::start_local).
    Local,
    /// torchrun, or somebody who sets the same variables.
    Torchrun,
    /// mpirun or mpiexec of Open MPI, MPICH and their relatives.
    Mpirun,
    /// srun.
    Slurm,
}

/// A process among others.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Place {
    /// Number of this process, from 0.
    pub rank: usize,
    /// How many processes there are.
    pub world: usize,
    /// Number of this process among those of its machine, if it is known: the device to use.
    pub local_rank: Option<usize>,
    /// How many of them there are on this machine, if it is known.
    pub local_world: Option<usize>,
    /// `host:port` at which rank 0 can be reached, if it was given.
    pub address: Option<String>,
    /// Who started it.
    pub launcher: Launcher,
}

/// Names of the variables of one launcher.
struct Names {
    launcher: Launcher,
    rank: &'static str,
    world: &'static [&'static str],
    local_rank: &'static [&'static str],
    local_world: &'static [&'static str],
}

/// The first whose `rank` is set counts. srun sets Slurm's even for a program that brings up MPI itself, so MPI's come
/// before.
const LAUNCHERS: &[Names] = &[
    Names {
        launcher: Launcher::Torchrun,
        rank: "RANK",
        world: &["WORLD_SIZE"],
        local_rank: &["LOCAL_RANK"],
        local_world: &["LOCAL_WORLD_SIZE"],
    },
    Names {
        launcher: Launcher::Mpirun,
        rank: "OMPI_COMM_WORLD_RANK",
        world: &["OMPI_COMM_WORLD_SIZE"],
        local_rank: &["OMPI_COMM_WORLD_LOCAL_RANK"],
        local_world: &["OMPI_COMM_WORLD_LOCAL_SIZE"],
    },
    Names {
        launcher: Launcher::Mpirun,
        rank: "PMI_RANK",
        world: &["PMI_SIZE"],
        local_rank: &["MPI_LOCALRANKID"],
        local_world: &["MPI_LOCALNRANKS"],
    },
    Names {
        launcher: Launcher::Slurm,
        rank: "SLURM_PROCID",
        world: &["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"],
        local_rank: &["SLURM_LOCALID"],
        local_world: &[],
    },
];

impl Place {
    /// The place that the environment of this process gives it; `None` if it was started alone.
    ///
    /// # Errors
    /// If variables are missing or contradict each other.
    #[allow(
        clippy::disallowed_methods,
        reason = "how ranks are told who they are; the same ranks give the same result"
    )]
    pub fn from_environment() -> Result<Option<Self>> {
        Self::from_variables(&|name| std::env::var(name).ok())
    }

    /// The same with given variables.
    ///
    /// # Errors
    /// If variables are missing or contradict each other.
    pub fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let Some(names) = LAUNCHERS.iter().find(|names| variable(names.rank).is_some()) else {
            return Ok(None);
        };
        let number = |name: &str| -> Result<Option<usize>> {
            let Some(text) = variable(name) else { return Ok(None) };
            match text.trim().parse() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(Error::Usage(format!("environment variable {name}: `{text}` is not a number"))),
            }
        };
        let first = |candidates: &[&str]| -> Result<Option<usize>> {
            candidates.iter().find_map(|name| number(name).transpose()).transpose()
        };
        let (Some(rank), Some(world)) = (number(names.rank)?, first(names.world)?) else {
            return Err(Error::Usage(format!(
                "environment variable {} is set, but {} is not",
                names.rank,
                names.world.join(" or ")
            )));
        };
        if rank >= world {
            return Err(Error::Usage(format!(
                "environment variable {}: {rank} is no rank of {world} processes",
                names.rank
            )));
        }
        let address = match (variable("MASTER_ADDR"), number("MASTER_PORT")?) {
            (Some(host), Some(port)) => {
                // There torchrun itself listens at that port.
                let agent = variable("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|used| used == "True");
                let port = port + usize::from(agent);
                let host = if host.contains(':') { format!("[{host}]") } else { host };
                Some(format!("{host}:{port}"))
            }
            _ => None,
        };
        let launcher = if variable(LAUNCHED).is_some() { Launcher::Local } else { names.launcher };
        let (local_rank, local_world) = (first(names.local_rank)?, first(names.local_world)?);
        Ok(Some(Self { rank, world, local_rank, local_world, address, launcher }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(variables: &[(&str, &str)]) -> Result<Option<Place>> {
        Place::from_variables(&|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn every_launcher_is_understood() {
        assert_eq!(place(&[("HOME", "/root")]).unwrap(), None);
        let torchrun = [
            ("RANK", "3"),
            ("WORLD_SIZE", "4"),
            ("LOCAL_RANK", "1"),
            ("LOCAL_WORLD_SIZE", "2"),
            ("MASTER_ADDR", "node0"),
            ("MASTER_PORT", "29500"),
        ];
        let want = Place {
            rank: 3,
            world: 4,
            local_rank: Some(1),
            local_world: Some(2),
            address: Some("node0:29500".to_owned()),
            launcher: Launcher::Torchrun,
        };
        assert_eq!(place(&torchrun).unwrap(), Some(want.clone()));
        let with =
            |more: (&'static str, &'static str)| place(&[&torchrun[..], &[more]].concat()).unwrap().unwrap();
        assert_eq!(with((LAUNCHED, "4")).launcher, Launcher::Local);
        let agent = with(("TORCHELASTIC_USE_AGENT_STORE", "True"));
        assert_eq!(agent.address.as_deref(), Some("node0:29501"));
        assert_eq!(with(("TORCHELASTIC_USE_AGENT_STORE", "False")), want);
        // torchrun within a job of Slurm.
        assert_eq!(with(("SLURM_PROCID", "0")), want);

        let mpi = place(&[("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2")]).unwrap().unwrap();
        assert_eq!((mpi.rank, mpi.world, mpi.launcher), (1, 2, Launcher::Mpirun));
        assert_eq!((mpi.address, mpi.local_rank), (None, None));
        let mpi = place(&[("PMI_RANK", "0"), ("PMI_SIZE", "2"), ("SLURM_PROCID", "0")]).unwrap().unwrap();
        assert_eq!((mpi.rank, mpi.world, mpi.launcher), (0, 2, Launcher::Mpirun));
        let slurm = [("SLURM_PROCID", "5"), ("SLURM_NTASKS", "8"), ("SLURM_LOCALID", "1")];
        let slurm = place(&slurm).unwrap().unwrap();
        assert_eq!((slurm.rank, slurm.world, slurm.local_rank), (5, 8, Some(1)));
        let v6 = [("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "::1"), ("MASTER_PORT", "7")];
        assert_eq!(place(&v6).unwrap().unwrap().address.as_deref(), Some("[::1]:7"));
    }

    #[test]
    fn contradictions_name_the_variable() {
        for (variables, problem) in [
            (&[("RANK", "0")][..], "RANK is set, but WORLD_SIZE is not"),
            (&[("RANK", "2"), ("WORLD_SIZE", "2")], "RANK: 2 is no rank of 2"),
            (&[("RANK", "x"), ("WORLD_SIZE", "2")], "RANK: `x` is not a number"),
            (&[("RANK", "0"), ("WORLD_SIZE", "-1")], "WORLD_SIZE: `-1` is not a number"),
            (&[("SLURM_PROCID", "0")], "SLURM_STEP_NUM_TASKS or SLURM_NTASKS is not"),
        ] {
            let error = place(variables).unwrap_err();
            assert!(error.to_string().contains(problem), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
    }
}
