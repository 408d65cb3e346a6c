use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use candle_core::{DType, Device, Tensor, Var};

use super::*;
use crate::ops::{Conv2dArgs, conv2d};

const CPU: Device = Device::Cpu;
/// Longer than any rank needs, so that only tests of timeouts meet it.
const PATIENT: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(50);

/// What the ranks returned; none panicked.
fn all<R>(results: Vec<thread::Result<R>>) -> Vec<R> {
    results.into_iter().map(|result| result.expect("no rank panics")).collect()
}

fn failures<R: Debug>(results: Vec<thread::Result<Result<R>>>) -> Vec<CollectiveError> {
    all(results)
        .into_iter()
        .map(|result| match result.unwrap_err() {
            Error::Collective(error) => error,
            other => panic!("{other}"),
        })
        .collect()
}

#[test]
fn every_call_of_every_world() {
    for world in 1..=5 {
        let results = all(Threads::run(world, PATIENT, |ranks| -> Result<_> {
            let rank = ranks.rank();
            assert_eq!(ranks.world_size(), world);
            let mut sums = [rank as f64, 1.0];
            ranks.all_reduce("sums", Values::F64(&mut sums))?;
            let mut singles = [rank as f32];
            ranks.all_reduce("singles", Values::F32(&mut singles))?;
            ranks.all_reduce("nothing", Values::F32(&mut []))?;
            let mut sent = [rank as f32; 3];
            ranks.broadcast("sent", Values::F32(&mut sent), world - 1)?;
            ranks.barrier("middle")?;
            let gathered = ranks.all_gather("gathered", &vec![0.5; rank])?;
            let bytes = ranks.all_gather_bytes("bytes", &[rank as u8])?;
            Ok((sums, singles, sent, gathered, bytes))
        }));
        let sum = (world * (world - 1) / 2) as f64;
        for result in results {
            let (sums, singles, sent, gathered, bytes) = result.unwrap();
            assert_eq!(sums, [sum, world as f64]);
            assert_eq!(singles, [sum as f32]);
            assert_eq!(sent, [(world - 1) as f32; 3]);
            assert_eq!(gathered, (0..world).map(|rank| vec![0.5; rank]).collect::<Vec<_>>());
            assert_eq!(bytes, (0..world).map(|rank| vec![rank as u8]).collect::<Vec<_>>());
        }
    }
    assert!(Threads::new(0, PATIENT).is_empty());
}

#[test]
fn sums_follow_the_ranks_and_not_the_clock() {
    // 1e16 + 1 is 1e16, so the order shows.
    let parts = [1e16, 1.0, -1e16, 1.0];
    for slow in 0..4 {
        let sums = all(Threads::run(4, PATIENT, |ranks| {
            let mut value = [parts[ranks.rank()]];
            for step in 0..20 {
                if ranks.rank() == (slow + step) % 4 {
                    thread::yield_now();
                    thread::sleep(Duration::from_micros(200));
                }
                value = [parts[ranks.rank()]];
                ranks.all_reduce("x", Values::F64(&mut value)).unwrap();
            }
            value[0]
        }));
        assert_eq!(sums, [1.0; 4]);
    }
}

#[test]
fn a_late_rank_is_named_with_the_tensor() {
    let errors = failures(Threads::run(3, SHORT, |ranks| {
        if ranks.rank() == 1 {
            thread::sleep(SHORT * 4);
        }
        ranks.all_reduce("layer1.weight", Values::F64(&mut [0.0]))
    }));
    for error in errors {
        let text = error.to_string();
        assert!(text.contains("all_reduce of `layer1.weight`") && text.ends_with("for rank 1"), "{text}");
        let CollectiveError::Timeout { rank, tensor, waited_for, timeout, .. } = error else {
            panic!("{text}")
        };
        assert!(rank != 1 && tensor == "layer1.weight" && timeout == SHORT, "{text}");
        assert_eq!(waited_for, [1]);
    }
}

#[test]
fn different_calls_fail_on_all_ranks() {
    type Step = fn(&Threads, bool) -> Result<()>;
    let steps: [(Step, &str, &str); 5] = [
        (
            |ranks, odd| ranks.all_reduce(if odd { "a" } else { "b" }, Values::F64(&mut [0.0])),
            "all_reduce of `a` (1 x f64)",
            "all_reduce of `b` (1 x f64)",
        ),
        (
            |ranks, odd| ranks.all_reduce("x", Values::F32(&mut vec![0.0; if odd { 3 } else { 2 }])),
            "all_reduce of `x` (3 x f32)",
            "all_reduce of `x` (2 x f32)",
        ),
        (
            |ranks, odd| {
                if odd {
                    ranks.all_reduce("x", Values::F32(&mut [0.0]))
                } else {
                    ranks.all_reduce("x", Values::F64(&mut [0.0]))
                }
            },
            "all_reduce of `x` (1 x f32)",
            "all_reduce of `x` (1 x f64)",
        ),
        (
            |ranks, odd| if odd { ranks.barrier("x") } else { ranks.all_gather("x", &[]).map(drop) },
            "barrier of `x`",
            "all_gather of `x`",
        ),
        (
            |ranks, odd| ranks.broadcast("x", Values::F64(&mut []), usize::from(odd)),
            "broadcast from rank 1 of `x` (0 x f64)",
            "broadcast from rank 0 of `x` (0 x f64)",
        ),
    ];
    for (step, odd, even) in steps {
        let errors = failures(Threads::run(3, PATIENT, |ranks| {
            ranks.barrier("start").unwrap();
            step(&ranks, ranks.rank() == 1)?;
            // The odd one may have come last.
            ranks.barrier("end")
        }));
        for error in errors {
            let CollectiveError::Mismatch { rank, call, other, other_call } = &error else {
                panic!("{error}")
            };
            let [mine, theirs] = [rank, other].map(|&rank| if rank == 1 { odd } else { even });
            assert_eq!((call.as_str(), other_call.as_str()), (mine, theirs), "{error}");
            assert!(rank != other);
        }
    }
}

#[test]
fn who_leaves_or_panics_fails_the_others() {
    for panics in [false, true] {
        let results = Threads::run(4, PATIENT, |ranks| {
            ranks.barrier("start")?;
            if ranks.rank() == 2 {
                assert!(!panics, "a test of panics");
                return Ok(());
            }
            ranks.all_reduce("loss", Values::F64(&mut [1.0]))
        });
        for (rank, result) in results.into_iter().enumerate() {
            if rank == 2 {
                assert_eq!(result.is_err(), panics);
                continue;
            }
            let Error::Collective(error) = result.unwrap().unwrap_err() else { panic!("another error") };
            let CollectiveError::Gone { tensor, gone, panicked, .. } = &error else { panic!("{error}") };
            assert_eq!((tensor.as_str(), gone.as_slice(), *panicked), ("loss", &[2][..], panics), "{error}");
            assert!(error.to_string().contains("for rank 2, gone"));
        }
    }
}

#[test]
fn who_leaves_after_the_last_call_harms_nobody() {
    for _ in 0..50 {
        for result in all(Threads::run(4, PATIENT, |ranks| ranks.barrier("end"))) {
            result.unwrap();
        }
    }
}

#[test]
fn a_failed_world_stays_failed() {
    let results = all(Threads::run(2, SHORT, |ranks| {
        let first = if ranks.rank() == 0 { ranks.barrier("a") } else { Ok(()) };
        if ranks.rank() == 1 {
            thread::sleep(SHORT * 4);
        }
        (first, ranks.barrier("b"), ranks.barrier("c"))
    }));
    let text = results[0].0.as_ref().unwrap_err().to_string();
    for (_, b, c) in &results {
        for result in [b, c] {
            assert_eq!(result.as_ref().unwrap_err().to_string(), text);
        }
    }
}

#[test]
fn arguments() {
    for collective in [&Single as &dyn Collective, &Threads::new(1, PATIENT)[0]] {
        let error = collective.broadcast("x", Values::F64(&mut [1.0]), 1).unwrap_err().to_string();
        assert!(error.contains("broadcast: root"), "{error}");
        collective.barrier("x").unwrap();
        assert_eq!(collective.all_gather("x", &[1.0, 2.0]).unwrap(), [[1.0, 2.0]]);
    }
}

#[test]
fn the_error_keeps_its_type_through_the_tensor_library() {
    let gone = CollectiveError::Gone {
        rank: 0,
        operation: Operation::Barrier,
        tensor: "x".to_owned(),
        gone: vec![1, 3],
        panicked: true,
    };
    let inner = candle_core::Error::from(Error::from(gone.clone())).context("backward").bt();
    assert!(inner.to_string().contains("waits in barrier of `x` for ranks 1, 3, gone in a panic"), "{inner}");
    assert!(matches!(Error::from(inner), Error::Collective(found) if found == gone));
}

fn vector(values: &[f64]) -> Tensor {
    Tensor::new(values, &CPU).unwrap()
}

/// Two parameters, of which rank `r` has gradients `[r, 1]` and, if odd, `[1]`.
fn averaged(
    world: usize,
    weight: impl Fn(usize) -> Option<f64> + Sync,
) -> Vec<Result<BTreeMap<String, Tensor>>> {
    all(Threads::run(world, PATIENT, |ranks| {
        let zeros = |len: usize| Var::zeros(len, DType::F64, &CPU).unwrap();
        let params =
            [("a".to_owned(), zeros(2)), ("b".to_owned(), zeros(1)), ("unused".to_owned(), zeros(1))];
        let rank = ranks.rank();
        let mut grads = BTreeMap::from([
            ("a".to_owned(), vector(&[rank as f64, 1.0])),
            ("stranger".to_owned(), vector(&[7.0])),
        ]);
        if rank % 2 == 1 {
            grads.insert("b".to_owned(), vector(&[1.0]));
        }
        average_gradients(&ranks, &params, &mut grads, weight(rank))?;
        Ok(grads)
    }))
}

#[test]
fn means_over_ranks() {
    for grads in averaged(4, |_| None) {
        let grads = grads.unwrap();
        assert_eq!(grads.keys().map(String::as_str).collect::<Vec<_>>(), ["a", "b", "stranger"]);
        assert_eq!(grads["a"].to_vec1::<f64>().unwrap(), [1.5, 1.0]);
        assert_eq!(grads["b"].to_vec1::<f64>().unwrap(), [0.5]);
    }
    for grads in averaged(3, |rank| Some([1.0, 0.0, 3.0][rank])) {
        let grads = grads.unwrap();
        assert_eq!(grads["a"].to_vec1::<f64>().unwrap(), [1.5, 1.0]);
        assert_eq!(grads["b"].to_vec1::<f64>().unwrap(), [0.0]);
    }
}

#[test]
fn weights_out_of_range_fail_on_all_ranks() {
    for bad in [-1.0, f64::NAN, f64::INFINITY] {
        for result in averaged(3, |rank| Some(if rank == 1 { bad } else { 1.0 })) {
            let error = result.unwrap_err().to_string();
            assert!(error.contains("weight") && error.contains("rank 1"), "{error}");
        }
    }
    for result in averaged(2, |_| Some(0.0)) {
        assert!(result.unwrap_err().to_string().contains("0 on all ranks"));
    }
    for result in averaged(2, |rank| (rank == 0).then_some(1.0)) {
        assert!(matches!(result, Err(Error::Collective(CollectiveError::Mismatch { .. }))));
    }
}

#[test]
fn wrong_gradients_are_named() {
    let params = [("a".to_owned(), Var::zeros(2, DType::F64, &CPU).unwrap())];
    let problem = |grad: Tensor| {
        let mut grads = BTreeMap::from([("a".to_owned(), grad)]);
        average_gradients(&Single, &params, &mut grads, None).unwrap_err().to_string()
    };
    assert!(problem(vector(&[1.0])).contains("gradient of a"));
    assert!(problem(vector(&[1.0, 2.0]).to_dtype(DType::F32).unwrap()).contains("gradient of a"));
    let differing = all(Threads::run(2, PATIENT, |ranks| {
        average_gradients(&ranks, &params[ranks.rank()..], &mut BTreeMap::new(), None)
    }));
    for result in differing {
        assert!(result.unwrap_err().to_string().contains("params"));
    }
    let zero = Tensor::new(0.0, &CPU).unwrap();
    assert!(weigh_loss(&Single, &zero, 0).unwrap_err().to_string().contains("items"));
    assert!(weigh_loss(&Single, &vector(&[0.0]), 1).unwrap_err().to_string().contains("loss"));
}

/// Mean of squares over a shard and the gradient of the weight under it.
fn shard_gradient(pictures: &Tensor, weight: &Var, scale: impl Fn(&Tensor) -> Tensor) -> Option<Tensor> {
    let maps = conv2d(pictures, weight, None, &Conv2dArgs::default()).unwrap();
    let loss = scale(&maps.sqr().unwrap().mean_all().unwrap());
    loss.backward().unwrap().get(weight).cloned()
}

#[test]
fn unequal_shards_equal_the_whole_batch() {
    let key = crate::rng::Key::new(3);
    let pictures = key.normal((7, 2, 5, 5), 0.0, 1.0, DType::F64, &CPU).unwrap();
    let weight = key.fold("w").normal((3, 2, 3, 3), 0.0, 1.0, DType::F64, &CPU).unwrap();
    let want = shard_gradient(&pictures, &Var::from_tensor(&weight).unwrap(), Tensor::clone).unwrap();
    for sizes in [[2, 4, 1], [0, 6, 1], [7, 0, 0]] {
        for before in [true, false] {
            let results = all(Threads::run(3, PATIENT, |ranks| {
                let (rank, size) = (ranks.rank(), sizes[ranks.rank()]);
                let shard = pictures.narrow(0, sizes[..rank].iter().sum(), size).unwrap();
                let weight = Var::from_tensor(&weight.copy().unwrap()).unwrap();
                let scale = |loss: &Tensor| {
                    if before { weigh_loss(&ranks, loss, size).unwrap() } else { loss.clone() }
                };
                let grad = shard_gradient(&shard, &weight, scale);
                let mut grads = grad.into_iter().map(|grad| ("w".to_owned(), grad)).collect();
                let given = (!before).then_some(size as f64);
                average_gradients(&ranks, &[("w".to_owned(), weight)], &mut grads, given).unwrap();
                grads.remove("w").unwrap()
            }));
            for grad in results {
                crate::testing::assert_close(&grad, &want, 1e-12, 1e-12).unwrap();
            }
        }
    }
}

#[test]
fn handles_are_shared_as_objects() {
    let objects: Vec<Arc<dyn Collective>> =
        Threads::new(2, PATIENT).into_iter().map(|rank| Arc::new(rank) as Arc<dyn Collective>).collect();
    thread::scope(|scope| {
        for object in &objects {
            scope.spawn(|| object.barrier("x").unwrap());
        }
    });
}
