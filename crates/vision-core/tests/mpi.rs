//! One rank of the tests of MPI. `tools/mpi-test.sh` starts them with mpirun; the argument says which test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

mod nets;

use std::sync::Arc;
use std::time::Duration;

use candle_core::DType;
use nets::{check_whole, resnet, small, train};
use vision_core::Error;
use vision_core::dist::{Collective, CollectiveError, Mpi, Values};

const PATIENT: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(500);

fn main() {
    let test = std::env::args().nth(1).unwrap_or_default();
    match test.as_str() {
        "calls" => calls(),
        "training" => training(),
        "late" => late(),
        "mismatch" => mismatch(),
        "leaves" => leaves(),
        // cargo starts it without mpirun.
        "" => println!("nothing to do without mpirun; see tools/mpi-test.sh"),
        other => panic!("no test is called {other}"),
    }
}

fn failure<R: std::fmt::Debug>(result: Result<R, Error>) -> CollectiveError {
    match result.unwrap_err() {
        Error::Collective(failure) => failure,
        other => panic!("{other}"),
    }
}

/// Everything that works, small and in blocks.
fn calls() {
    let ranks = Mpi::connect(PATIENT).unwrap();
    let (rank, world) = (ranks.rank(), ranks.world_size());
    assert!(world > 1, "start me with mpirun");
    // 1e16 + 1 is 1e16, so the order shows.
    let parts = [1e16, 1.0, -1e16, 1.0];
    let ordered: f64 = parts[..world].iter().sum();
    for len in [0, 1, 3, 5000, 1_000_003] {
        let mut sums = vec![parts[rank]; len];
        ranks.all_reduce("sums", Values::F64(&mut sums)).unwrap();
        assert!(sums.iter().all(|&sum| sum == ordered), "{len}");
        let mut singles: Vec<f32> = (0..len).map(|i| (i % 97 + rank) as f32).collect();
        ranks.all_reduce("singles", Values::F32(&mut singles)).unwrap();
        let more = world * (world - 1) / 2;
        assert!(singles.iter().enumerate().all(|(i, &sum)| sum == ((i % 97) * world + more) as f32), "{len}");
        for root in 0..world {
            let mut sent = vec![rank as f32; len];
            ranks.broadcast("sent", Values::F32(&mut sent), root).unwrap();
            assert!(sent.iter().all(|&value| value == root as f32));
        }
        let gathered = ranks.all_gather_bytes("bytes", &vec![rank as u8; len * rank]).unwrap();
        assert_eq!(gathered, (0..world).map(|rank| vec![rank as u8; len * rank]).collect::<Vec<_>>());
        ranks.barrier("done").unwrap();
    }
    assert!(ranks.broadcast("x", Values::F64(&mut []), world).is_err());
    let again = Mpi::connect(PATIENT).unwrap_err().to_string();
    assert!(again.contains("started before"), "{again}");
}

/// Synchronised batch normalisation and mean gradients: as one rank with the whole batch.
fn training() {
    let ranks: Arc<dyn Collective> = Arc::new(Mpi::connect(PATIENT).unwrap());
    let all = [[4, 4].as_slice(), &[7, 1], &[2, 2, 2, 2], &[0, 1, 0, 7], &[3, 5, 0, 0]];
    for sizes in all.into_iter().filter(|sizes| sizes.len() == ranks.world_size()) {
        let store = train(small, &ranks, sizes, DType::F64, 3).unwrap();
        check_whole(&store, small, sizes, DType::F64, 3, 1e-10);
        let store = train(small, &ranks, sizes, DType::F32, 1).unwrap();
        check_whole(&store, small, sizes, DType::F32, 1, 1e-5);
        let store = train(resnet, &ranks, sizes, DType::F64, 2).unwrap();
        check_whole(&store, resnet, sizes, DType::F64, 2, 1e-9);
    }
}

/// Rank 1 comes too late, and is told so as well.
fn late() {
    let ranks = Mpi::connect(SHORT).unwrap();
    ranks.barrier("start").unwrap();
    if ranks.rank() == 1 {
        std::thread::sleep(SHORT * 4);
    }
    // What comes late may find the parts of the others, but not their next.
    let first = ranks.all_reduce("layer1.weight", Values::F64(&mut [0.0]));
    let error = failure(first.and_then(|()| ranks.barrier("next")));
    let CollectiveError::Timeout { rank, tensor, waited_for, .. } = &error else { panic!("{error}") };
    assert!(*rank != 1 && tensor == "layer1.weight" && waited_for == &[1], "{error}");
    assert_eq!(failure(ranks.barrier("later")), error);
}

/// Every kind of disagreement that one world can have.
fn mismatch() {
    let ranks = Mpi::connect(PATIENT).unwrap();
    ranks.barrier("start").unwrap();
    let mut values = vec![0.0; if ranks.rank() == 1 { 30_000 } else { 20_000 }];
    let error = failure(ranks.all_reduce("layer1.weight", Values::F32(&mut values)));
    let text = error.to_string();
    assert_eq!(
        text,
        "rank 1 is in all_reduce of `layer1.weight` (30000 x f32), but rank 0 in all_reduce of `layer1.weight` \
         (20000 x f32)"
    );
    assert_eq!(failure(ranks.barrier("later")), error);
}

/// The last rank returns early.
fn leaves() {
    let ranks = Mpi::connect(PATIENT).unwrap();
    ranks.barrier("start").unwrap();
    let last = ranks.world_size() - 1;
    if ranks.rank() == last {
        return;
    }
    let error = failure(ranks.all_reduce("loss", Values::F64(&mut [1.0])));
    let CollectiveError::Gone { tensor, gone, panicked, .. } = &error else { panic!("{error}") };
    assert_eq!((tensor.as_str(), gone.as_slice(), *panicked), ("loss", &[last][..], false), "{error}");
}
