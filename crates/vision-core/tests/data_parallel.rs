//! Training on several ranks equals training on one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod nets;

use std::sync::Arc;
use std::time::Duration;

use candle_core::DType;
use nets::{Build, Store, check_whole, resnet, small, train};
use vision_core::dist::{Collective, Threads};

const PATIENT: Duration = Duration::from_secs(120);

fn on_ranks(build: Build, sizes: &[usize], dtype: DType, steps: u64) -> Vec<Store> {
    Threads::run(sizes.len(), PATIENT, |ranks| {
        let collective: Arc<dyn Collective> = Arc::new(ranks);
        train(build, &collective, sizes, dtype, steps)
    })
    .into_iter()
    .map(|result| result.expect("no rank panics").unwrap())
    .collect()
}

fn check(build: Build, sizes: &[usize], dtype: DType, steps: u64, tolerance: f64) {
    let got = on_ranks(build, sizes, dtype, steps);
    for store in &got {
        assert!(store == &got[0], "{sizes:?}: ranks differ");
    }
    check_whole(&got[0], build, sizes, dtype, steps, tolerance);
}

#[test]
fn a_small_net_trains_as_on_one_rank() {
    for sizes in [&[4, 4][..], &[7, 1], &[3, 3, 2], &[0, 5, 3], &[2, 2, 2, 2], &[0, 1, 0, 7]] {
        check(small, sizes, DType::F64, 3, 1e-10);
        check(small, sizes, DType::F32, 1, 1e-5);
    }
}

#[test]
fn a_resnet_trains_as_on_one_rank() {
    check(resnet, &[5, 3], DType::F64, 2, 1e-9);
    check(resnet, &[4, 0, 4], DType::F64, 2, 1e-9);
}

#[test]
fn two_runs_are_equal_bit_for_bit() {
    for sizes in [&[3, 5][..], &[2, 4, 0, 2]] {
        assert!(on_ranks(small, sizes, DType::F32, 3) == on_ranks(small, sizes, DType::F32, 3));
    }
}
