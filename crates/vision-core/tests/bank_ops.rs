//! The memory bank operations against numbers computed by the released code of instance discrimination
//! (Wu et al., 2018; PyTorch 1.0, CPU, `f32`) on inputs given by formulas.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use candle_core::{DType, Device, Tensor, Var};
use vision_core::ops;

const ROWS: usize = 64;
const WIDTH: usize = 16;
const NEGATIVES: usize = 7;
const TARGETS: [u32; 4] = [5, 17, 40, 63];

fn tensor(rows: usize, value: impl Fn(f64, f64) -> f64, dtype: DType) -> Tensor {
    let values: Vec<f64> = (0..rows * WIDTH).map(|i| value((i / WIDTH) as f64, (i % WIDTH) as f64)).collect();
    Tensor::from_vec(values, (rows, WIDTH), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

struct Case {
    bank: Tensor,
    raw: Var,
    features: Tensor,
    /// Column 0 is the target, the others are the negatives.
    index: Tensor,
    target: Tensor,
}

fn case(dtype: DType) -> Case {
    let bank = tensor(ROWS, |i, j| (0.7 * i + 0.31 * j * (1. + 0.05 * i)).sin(), dtype);
    let raw = tensor(TARGETS.len(), |b, j| (0.9 * b + 0.53 * j + 0.2 * b * j).cos(), dtype);
    let raw = Var::from_tensor(&raw).unwrap();
    let index: Vec<u32> = (0..TARGETS.len() * (NEGATIVES + 1))
        .map(|i| {
            let (b, k) = (i / (NEGATIVES + 1), i % (NEGATIVES + 1));
            if k == 0 { TARGETS[b] } else { ((11 * b + 7 * k + 3 * k * b) % ROWS) as u32 }
        })
        .collect();
    Case {
        bank: ops::l2_normalize(&bank, 0.).unwrap(),
        features: ops::l2_normalize(&raw, 0.).unwrap(),
        raw,
        index: Tensor::from_vec(index, (TARGETS.len(), NEGATIVES + 1), &Device::Cpu).unwrap(),
        target: Tensor::new(&TARGETS, &Device::Cpu).unwrap(),
    }
}

fn flat(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn sum(v: &[f64]) -> f64 {
    v.iter().sum()
}

fn squares(v: &[f64]) -> f64 {
    v.iter().map(|x| x * x).sum()
}

#[track_caller]
fn near(got: f64, want: f64, tolerance: f64) {
    assert!((got - want).abs() <= tolerance, "got {got}, want {want} +- {tolerance:e}");
}

/// The gradients of `loss`: of the normalised features and of what they were made from.
fn gradients(case: &Case, loss: impl Fn(&Tensor) -> Tensor) -> (f64, Vec<f64>, Vec<f64>) {
    let features = Var::from_tensor(&case.features.detach().copy().unwrap()).unwrap();
    let grads = loss(&features).backward().unwrap();
    let direct = flat(grads.get(&features).unwrap());
    let total = loss(&case.features);
    let through = flat(total.backward().unwrap().get(&case.raw).unwrap());
    (flat(&total)[0], direct, through)
}

/// Noise-contrastive estimation as released: `P = exp(score) / Z` against `c = m / n`, with `Z` set from
/// the batch and 1e-7 inside the logarithms.
struct Nce {
    tau: f64,
    z: f64,
    loss: f64,
    first: f64,
    last: f64,
    df: [f64; 3],
    dx: [f64; 2],
}

#[test]
fn scores_and_their_gradient() {
    let golden = [
        Nce {
            tau: 0.07,
            z: 778527.4,
            loss: 10.8804321,
            first: 5.1088264e-4,
            last: 5.4326167e-5,
            df: [-3.4635248, 40.5380936, 0.4444179],
            dx: [-0.4263560, 3.6751127],
        },
        Nce {
            tau: 0.1,
            z: 22422.33,
            loss: 7.7283802,
            first: 2.9446639e-3,
            last: 6.1336264e-4,
            df: [-2.5812662, 20.2587891, 0.3212375],
            dx: [-0.3114316, 1.7803676],
        },
    ];
    for dtype in [DType::F32, DType::F64] {
        let case = case(dtype);
        for want in &golden {
            let scores = |f: &Tensor| ops::gather_scores(f, &case.bank, &case.index, 1. / want.tau).unwrap();
            let exp = scores(&case.features).exp().unwrap().detach();
            let z = ROWS as f64 * sum(&flat(&exp)) / exp.elem_count() as f64;
            near(z / want.z, 1., 1e-6);
            let p = flat(&exp).into_iter().map(|e| e / z).collect::<Vec<_>>();
            near(p[0] / want.first, 1., 2e-6);
            near(p[p.len() - 1] / want.last, 1., 2e-6);
            near(sum(&p), 0.5, 1e-6);

            let c = NEGATIVES as f64 / ROWS as f64;
            let loss = |f: &Tensor| {
                let p = scores(f).exp().unwrap().affine(1. / z, 0.).unwrap();
                let all = p.affine(1., c + 1e-7).unwrap();
                let positive = p.narrow(1, 0, 1).unwrap().div(&all.narrow(1, 0, 1).unwrap()).unwrap();
                let negative = all.narrow(1, 1, NEGATIVES).unwrap().recip().unwrap().affine(c, 0.).unwrap();
                let logs = positive.log().unwrap().sum_all().unwrap();
                let logs = logs.add(&negative.log().unwrap().sum_all().unwrap()).unwrap();
                logs.affine(-1. / TARGETS.len() as f64, 0.).unwrap()
            };
            let (value, df, dx) = gradients(&case, loss);
            near(value / want.loss, 1., 2e-6);
            near(sum(&df), want.df[0], 4e-5);
            near(squares(&df) / want.df[1], 1., 1e-5);
            near(df[0], want.df[2], 1e-5);
            near(sum(&dx), want.dx[0], 2e-5);
            near(squares(&dx) / want.dx[1], 1., 1e-5);
        }
    }
}

#[test]
fn softmax_over_the_whole_bank() {
    // tau, loss, sum of df, sum of df squared, df[0, 0]
    let golden = [
        [0.07, 13.1997652, -1.8291473, 88.0430832, 1.4581947],
        [0.1, 9.6387224, -1.2972312, 41.7652893, 0.9992334],
    ];
    for dtype in [DType::F32, DType::F64] {
        let case = case(dtype);
        for [tau, loss, df_sum, df_squares, df_first] in golden {
            let mean = |f: &Tensor| {
                ops::bank_cross_entropy(f, &case.bank, &case.target, 1. / tau).unwrap().mean_all().unwrap()
            };
            let (value, df, _) = gradients(&case, mean);
            near(value / loss, 1., 2e-6);
            near(sum(&df), df_sum, 4e-5);
            near(squares(&df) / df_squares, 1., 1e-5);
            near(df[0], df_first, 1e-5);
        }
    }
}

#[test]
fn bank_after_one_update() {
    for dtype in [DType::F32, DType::F64] {
        let case = case(dtype);
        let before = flat(&case.bank);
        ops::momentum_update_rows(&case.bank, &case.target, &case.features, 0.5).unwrap();
        let after = flat(&case.bank);
        near(after[5 * WIDTH], 0.1377514, 1e-6);
        near(after[63 * WIDTH + 15], 0.5868183, 1e-6);
        near(sum(&after), -0.7039950, 1e-5);
        for row in 0..ROWS {
            let (old, new) = (&before[row * WIDTH..][..WIDTH], &after[row * WIDTH..][..WIDTH]);
            assert_eq!(old != new, TARGETS.contains(&(row as u32)), "row {row}");
            near(squares(new), 1., 1e-6);
        }
    }
}

/// The three operations as a training step uses them: the loss of seeing the same features again falls.
#[test]
fn a_step_pulls_features_and_rows_together() {
    let case = case(DType::F32);
    let loss = |f: &Tensor| {
        flat(&ops::bank_cross_entropy(f, &case.bank, &case.target, 10.).unwrap().mean_all().unwrap())[0]
    };
    let before = loss(&case.features);
    ops::momentum_update_rows(&case.bank, &case.target, &case.features, 0.5).unwrap();
    let updated = loss(&case.features);
    assert!(updated < before, "{updated} after {before}");
    let features = Var::from_tensor(&case.features.detach().copy().unwrap()).unwrap();
    let total =
        ops::bank_cross_entropy(&features, &case.bank, &case.target, 10.).unwrap().mean_all().unwrap();
    let step = total.backward().unwrap().get(&features).unwrap().affine(0.05, 0.).unwrap();
    let moved = ops::l2_normalize(&features.sub(&step).unwrap(), 0.).unwrap();
    assert!(loss(&moved) < updated);
}
