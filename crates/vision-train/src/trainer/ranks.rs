//! How ranks that train together stay together: they tell each other what they found, and fail together.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use vision_core::dist::Collective;
use vision_weights::StateDict;

use crate::error::{Error, Result};

/// How often rank 0 says that it is still at work. Shorter than any sensible timeout.
const BEAT: Duration = Duration::from_millis(250);

/// The ranks of a run. With a single one nothing is exchanged.
#[derive(Clone, Debug)]
pub(super) struct Ranks(pub(super) Arc<dyn Collective>);

/// What a rank tells the others.
#[derive(Serialize, Deserialize)]
enum News<N> {
    Note(N),
    Failed(String),
    Working,
}

impl Ranks {
    pub(super) fn rank(&self) -> usize {
        self.0.rank()
    }

    pub(super) fn world(&self) -> usize {
        self.0.world_size()
    }

    pub(super) fn several(&self) -> bool {
        self.world() > 1
    }

    /// Whether this is the rank that writes files.
    pub(super) fn first(&self) -> bool {
        self.rank() == 0
    }

    /// Tells all ranks what `note` says about a result, and returns it with the notes of all, in their order. If it
    /// failed anywhere, it fails everywhere: with its own error there, with [`Error::Rank`] elsewhere.
    pub(super) fn share<T, N: Serialize + DeserializeOwned>(
        &self,
        name: &str,
        result: Result<T>,
        note: impl FnOnce(&T) -> N,
    ) -> Result<(T, Vec<N>)> {
        let value = match result {
            Ok(value) => value,
            Err(error) => {
                if self.several() {
                    // The error counts, not whether the others could be told.
                    let _ = self.tell(name, &News::<N>::Failed(error.to_string()));
                }
                return Err(error);
            }
        };
        let note = note(&value);
        if !self.several() {
            return Ok((value, vec![note]));
        }
        let mut notes = Vec::with_capacity(self.world());
        for (rank, part) in self.tell(name, &News::Note(note))?.iter().enumerate() {
            match read(name, rank, part)? {
                News::Note(note) => notes.push(note),
                News::Failed(problem) => return Err(Error::Rank { rank, problem }),
                News::Working => return Err(garbled(name, rank, "still at work")),
            }
        }
        Ok((value, notes))
    }

    /// [`Ranks::share`] where there is nothing to tell but whether it failed.
    pub(super) fn agree<T>(&self, name: &str, result: Result<T>) -> Result<T> {
        self.share(name, result, |_| ()).map(|(value, _)| value)
    }

    /// Rank 0 does the work, however long it takes; the others wait and get what it returns.
    pub(super) fn first_does<T: Serialize + DeserializeOwned>(
        &self,
        name: &str,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        if !self.several() {
            return work();
        }
        if self.first() {
            let result = self.while_telling(name, work);
            return match result {
                Ok(value) => {
                    self.tell(name, &News::Note(&value))?;
                    Ok(value)
                }
                Err(error) => {
                    let _ = self.tell(name, &News::<T>::Failed(error.to_string()));
                    Err(error)
                }
            };
        }
        loop {
            let parts = self.tell(name, &News::<T>::Working)?;
            match read(name, 0, parts.first().map_or(&[], Vec::as_slice))? {
                News::Working => {}
                News::Note(value) => return Ok(value),
                News::Failed(problem) => return Err(Error::Rank { rank: 0, problem }),
            }
        }
    }

    /// Does the work while another thread keeps the others from losing patience.
    fn while_telling<T>(&self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        std::thread::scope(|scope| {
            let (done, stop) = channel::<()>();
            let beat = std::thread::Builder::new()
                .name("still at work".to_owned())
                .spawn_scoped(scope, move || -> Result<()> {
                    while stop.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout) {
                        self.tell(name, &News::<()>::Working)?;
                    }
                    Ok(())
                })
                .map_err(|error| Error::Usage(format!("cannot start a thread: {error}")))?;
            let result = work();
            drop(done);
            // Calls follow one another: the last beat is over before the result is told.
            let told = beat.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let value = result?;
            told?;
            Ok(value)
        })
    }

    fn tell<N: Serialize>(&self, name: &str, news: &News<N>) -> Result<Vec<Vec<u8>>> {
        let bytes = serde_json::to_vec(news)
            .map_err(|error| Error::Format { what: name.to_owned(), problem: error.to_string() })?;
        Ok(self.0.all_gather_bytes(name, &bytes)?)
    }

    /// Fails on all ranks, with the name of the first tensor, if one differs between two of them.
    pub(super) fn check_equal(&self, what: &str, parts: &[(&str, &StateDict)]) -> Result<()> {
        let mut digests: Vec<(String, u32)> = Vec::new();
        for (part, dict) in parts {
            for (name, array) in &dict.tensors {
                digests.push((format!("{part} {name}"), crc32c::crc32c(&array.data)));
            }
        }
        let ((), all) = self.share(what, Ok(()), |()| digests)?;
        let Some(first) = all.first() else { return Ok(()) };
        for (rank, theirs) in all.iter().enumerate() {
            let differs = first.iter().zip(theirs).find(|(one, other)| one != other);
            let problem = match differs {
                Some(((name, _), (other, _))) if name == other => {
                    format!("its {name} is not that of rank 0: the ranks no longer train the same model")
                }
                Some(((name, _), (other, _))) => format!("it has {other} where rank 0 has {name}"),
                None if first.len() != theirs.len() => {
                    format!("it has {} tensors, rank 0 has {}", theirs.len(), first.len())
                }
                None => continue,
            };
            return Err(Error::Rank { rank, problem });
        }
        Ok(())
    }
}

fn read<N: DeserializeOwned>(name: &str, rank: usize, part: &[u8]) -> Result<News<N>> {
    serde_json::from_slice(part).map_err(|error| garbled(name, rank, &error.to_string()))
}

fn garbled(name: &str, rank: usize, problem: &str) -> Error {
    Error::Rank { rank, problem: format!("what it says of {name} makes no sense: {problem}") }
}

#[cfg(test)]
mod tests {
    use vision_core::dist::{Single, Threads};
    use vision_weights::Array;

    use super::*;

    fn run<R: Send>(world: usize, work: impl Fn(Ranks) -> R + Sync) -> Vec<R> {
        let results = Threads::run(world, Duration::from_secs(5), |ranks| work(Ranks(Arc::new(ranks))));
        results.into_iter().map(|result| result.unwrap()).collect()
    }

    #[test]
    fn who_fails_fails_all() {
        for world in 1..4 {
            let failing = world - 1;
            let results = run(world, |ranks| {
                let rank = ranks.rank();
                let (value, notes) = ranks.share("a", Ok(7), |_| rank).unwrap();
                assert_eq!((value, notes), (7, (0..world).collect()));
                let result =
                    if rank == failing { Err(Error::Usage("it broke".to_owned())) } else { Ok(rank) };
                (ranks.agree("b", result), ranks.agree("c", Ok(())))
            });
            for (rank, (failed, later)) in results.into_iter().enumerate() {
                let text = failed.unwrap_err().to_string();
                let want = if rank == failing {
                    "it broke".to_owned()
                } else {
                    format!("rank {failing} failed: it broke")
                };
                assert_eq!(text, want);
                // The connection itself is whole.
                later.unwrap();
            }
        }
    }

    #[test]
    fn the_first_works_longer_than_the_others_would_wait() {
        let patience = Duration::from_millis(1500);
        let results = Threads::run(3, patience, |ranks| {
            let ranks = Ranks(Arc::new(ranks));
            let done = ranks.first_does("work", || {
                std::thread::sleep(patience * 2);
                Ok(ranks.rank() + 40)
            });
            (done, ranks.first_does("more work", || Err::<(), _>(Error::Usage("it broke".to_owned()))))
        });
        for (rank, result) in results.into_iter().enumerate() {
            let (done, failed) = result.unwrap();
            assert_eq!(done.unwrap(), 40);
            let text = failed.unwrap_err().to_string();
            assert_eq!(text, if rank == 0 { "it broke" } else { "rank 0 failed: it broke" });
        }
        assert_eq!(Ranks(Arc::new(Single)).first_does("work", || Ok(1)).unwrap(), 1);
    }

    #[test]
    fn a_difference_is_named() {
        let results = run(3, |ranks| {
            let mut state = StateDict::new();
            let last = if ranks.rank() == 2 { 1.5 } else { 1.0 };
            state.insert("a", Array::from_f32(vec![1], &[2.0]).unwrap());
            state.insert("bank", Array::from_f32(vec![2], &[0.0, last]).unwrap());
            ranks.check_equal("x", &[("state", &state)])
        });
        for result in results {
            let text = result.unwrap_err().to_string();
            assert!(text.starts_with("rank 2 failed: its state bank is not that of rank 0"), "{text}");
        }
    }
}
