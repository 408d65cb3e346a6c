use std::io::Write;

use super::*;
use crate::dist::{Collective, Values};

const PATIENT: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(300);

/// An address nobody listens at.
fn address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// Connects threads as processes would be.
fn run<R: Send>(world: usize, timeout: Duration, work: impl Fn(Tcp) -> Result<R> + Sync) -> Vec<Result<R>> {
    let (address, work) = (address(), &work);
    thread::scope(|scope| {
        let ranks: Vec<_> = (0..world)
            .map(|rank| {
                let address = &address;
                scope.spawn(move || work(Tcp::connect(rank, world, address, timeout)?))
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

fn failure<R: std::fmt::Debug>(result: Result<R>) -> CollectiveError {
    match result.unwrap_err() {
        Error::Collective(failure) => failure,
        other => panic!("{other}"),
    }
}

#[test]
fn every_call_of_every_world() {
    for world in [1, 2, 4] {
        let results = run(world, PATIENT, |ranks| {
            let rank = ranks.rank();
            // 1e16 + 1 is 1e16, so the order shows.
            let mut sums = [[1e16, 1.0, -1e16, 1.0][rank], rank as f64];
            ranks.all_reduce("sums", Values::F64(&mut sums))?;
            let mut singles = vec![rank as f32; 40_000];
            ranks.all_reduce("singles", Values::F32(&mut singles))?;
            ranks.all_reduce("nothing", Values::F32(&mut []))?;
            let mut sent = [rank as f32; 3];
            ranks.broadcast("sent", Values::F32(&mut sent), world - 1)?;
            ranks.barrier("middle")?;
            let gathered = ranks.all_gather("gathered", &vec![0.5; rank])?;
            Ok((sums, singles, sent, gathered, ranks.world_size()))
        });
        let sum = (world * (world - 1) / 2) as f64;
        let ordered = [1e16, 1.0, -1e16, 1.0][..world].iter().sum::<f64>();
        for result in results {
            let (sums, singles, sent, gathered, found) = result.unwrap();
            assert_eq!((sums, found), ([ordered, sum], world));
            assert!(singles.iter().all(|&x| x == sum as f32));
            assert_eq!(sent, [(world - 1) as f32; 3]);
            assert_eq!(gathered, (0..world).map(|rank| vec![0.5; rank]).collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_rank_that_never_comes_is_named_by_all() {
    let address = address();
    let connect = |rank| failure(Tcp::connect(rank, 3, &address, SHORT));
    let (zero, one) = thread::scope(|scope| {
        let (zero, one) = (scope.spawn(|| connect(0)), scope.spawn(|| connect(1)));
        (zero.join().unwrap(), one.join().unwrap())
    });
    for error in [&zero, &one] {
        let text = error.to_string();
        assert!(text.contains("in connect of") && text.contains("for rank 2"), "{text}");
    }
    // Nobody listens.
    let CollectiveError::Timeout { rank: 1, waited_for, .. } = connect(1) else { panic!("another error") };
    assert_eq!(waited_for, [0]);
}

#[test]
fn a_late_rank_is_named_with_the_tensor() {
    for late in [0, 1] {
        let results = run(3, SHORT, |ranks| {
            ranks.barrier("start")?;
            if ranks.rank() == late {
                thread::sleep(SHORT * 3);
            }
            ranks.all_reduce("layer1.weight", Values::F64(&mut [0.0]))
        });
        let texts: Vec<String> = results.into_iter().map(|result| failure(result).to_string()).collect();
        for text in &texts {
            assert!(text.contains("all_reduce of `layer1.weight`"), "{text}");
            assert!(text.ends_with(&format!("for rank {late}")), "{text}");
            assert_eq!(text, &texts[0]);
        }
    }
}

#[test]
fn different_calls_fail_on_all_ranks_and_for_ever() {
    let results = run(3, PATIENT, |ranks| {
        let mut values = vec![0.0; if ranks.rank() == 1 { 3 } else { 2 }];
        let first = ranks.all_reduce("x", Values::F32(&mut values)).and_then(|()| ranks.barrier("end"));
        Ok((first, ranks.barrier("again")))
    });
    for result in results {
        let (first, again) = result.unwrap();
        let text = first.unwrap_err().to_string();
        assert!(text.contains("all_reduce of `x` (3 x f32)") && text.contains("(2 x f32)"), "{text}");
        assert_eq!(again.unwrap_err().to_string(), text);
    }
}

#[test]
fn who_is_gone_is_named() {
    for leaving in [0, 2] {
        let results = run(3, PATIENT, |ranks| {
            ranks.barrier("start")?;
            if ranks.rank() == leaving {
                return Ok(());
            }
            ranks.all_reduce("loss", Values::F64(&mut [1.0]))
        });
        for (rank, result) in results.into_iter().enumerate() {
            if rank == leaving {
                result.unwrap();
                continue;
            }
            let error = failure(result);
            let CollectiveError::Gone { tensor, gone, .. } = &error else { panic!("{error}") };
            assert_eq!((tensor.as_str(), gone.as_slice()), ("loss", &[leaving][..]), "{error}");
        }
    }
}

#[test]
fn ranks_that_do_not_belong_together() {
    let address = address();
    let connect = |rank, world| failure(Tcp::connect(rank, world, &address, PATIENT)).to_string();
    for (other, size, problem) in [(1, 3, "of a world of 3, not of 2"), (2, 4, "of a world of 4")] {
        let (zero, one) = thread::scope(|scope| {
            let (zero, one) = (scope.spawn(|| connect(0, 2)), scope.spawn(move || connect(other, size)));
            (zero.join().unwrap(), one.join().unwrap())
        });
        assert!(zero.contains(problem), "{zero}");
        assert_eq!(zero, one);
    }
    let error = Tcp::connect(2, 2, &address, SHORT).unwrap_err().to_string();
    assert!(error.contains("Tcp: rank"), "{error}");
    let nowhere = failure(Tcp::connect(1, 2, "no address", SHORT)).to_string();
    assert!(nowhere.contains("rank 1: no address is no address"), "{nowhere}");
    // An address of documentation, which no machine has.
    let error = failure(Tcp::connect(0, 2, "192.0.2.1:9", SHORT)).to_string();
    assert!(error.contains("cannot listen at 192.0.2.1:9"), "{error}");
}

#[test]
fn strangers_are_left_alone() {
    let address = address();
    let results = thread::scope(|scope| {
        let zero = scope.spawn(|| Tcp::connect(0, 2, &address, PATIENT)?.barrier("x"));
        let mut stranger = Tcp::reach(1, &address, PATIENT).unwrap();
        stranger.write_all(b"GET / HTTP/1.1\r\nHost: somebody\r\n\r\n").unwrap();
        let one = scope.spawn(|| Tcp::connect(1, 2, &address, PATIENT)?.barrier("x"));
        [zero.join().unwrap(), one.join().unwrap()]
    });
    for result in results {
        result.unwrap();
    }
}
