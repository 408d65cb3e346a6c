//! The random streams are part of the interface: a changed value changes every trained model.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use vision_datasets::SampleRng;

#[test]
fn values_are_fixed() {
    let mut rng = SampleRng::new(0, 0, 0);
    let words: Vec<u32> = (0..4).map(|_| rng.next_u32()).collect();
    assert_eq!(words, FIRST_WORDS);
    let mut rng = SampleRng::new(1, 2, 3);
    assert_eq!(rng.next_u64(), FIRST_U64);
    let mut rng = SampleRng::new(7, 0, 0);
    let draws: Vec<u32> = (0..8).map(|_| rng.below(10)).collect();
    assert_eq!(draws, BELOW_10);
    let mut order: Vec<u8> = (0..8).collect();
    SampleRng::new(7, 1, 0).shuffle(&mut order);
    assert_eq!(order, SHUFFLED);
    assert_eq!(SampleRng::new(5, 6, 7).uniform(), UNIFORM);
    assert_eq!(SampleRng::new(5, 6, 7).range(-1.0, 3.0), RANGE);
}

// Computed apart, with Python's hashlib and a ChaCha8 written from its definition.
const FIRST_WORDS: [u32; 4] = [2423659971, 23904780, 2777180747, 968078789];
const FIRST_U64: u64 = 13259738984037540277;
const BELOW_10: [u32; 8] = [3, 7, 1, 7, 1, 9, 9, 8];
const SHUFFLED: [u8; 8] = [6, 5, 1, 2, 0, 4, 3, 7];
const UNIFORM: f32 = 0.275_331_97;
const RANGE: f64 = 1.5923088251383342;

#[test]
fn every_part_of_the_key_matters() {
    let streams: BTreeSet<u64> = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1)]
        .into_iter()
        .map(|(seed, epoch, index)| SampleRng::new(seed, epoch, index).next_u64())
        .collect();
    assert_eq!(streams.len(), 6);
}

#[test]
fn draws_stay_in_range_and_are_even() {
    let mut rng = SampleRng::new(0, 0, 0);
    let mut seen = [0u32; 7];
    for _ in 0..70_000 {
        seen[rng.below(7) as usize] += 1;
        assert!((0.0..1.0).contains(&rng.uniform()));
        assert!((2.0..4.0).contains(&rng.range(2.0, 4.0)));
    }
    // Chi-square with 6 degrees of freedom, p = 0.001.
    let chi: f64 = seen.iter().map(|&n| (f64::from(n) - 1e4).powi(2) / 1e4).sum();
    assert!(chi < 22.5, "{seen:?}");
    assert_eq!((rng.below(0), rng.below(1), rng.below_u64(0)), (0, 0, 0));
    assert!(rng.below_u64(1 << 40) < 1 << 40);
    assert_eq!(rng.range(1.5, 1.5), 1.5);
}

#[test]
fn shuffles_reach_every_order() {
    let orders: BTreeSet<Vec<u8>> = (0..600)
        .map(|index| {
            let mut order = vec![0, 1, 2, 3];
            SampleRng::new(0, 0, index).shuffle(&mut order);
            order
        })
        .collect();
    assert_eq!(orders.len(), 24);
    let mut none: [u8; 0] = [];
    SampleRng::new(0, 0, 0).shuffle(&mut none);
}
