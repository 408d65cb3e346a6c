//! Numbers of the released code (run on PyTorch 1.0) for a small case given by formulas.

#![allow(clippy::unwrap_used, reason = "tests")]

use candle_core::{DType, Device, Tensor, Var};
use instdisc::MemoryBank;
use instdisc::loss::{NceForm, first_batch_z, full_softmax, nce, scores};
use vision_core::ops;

const N: usize = 64;
const D: usize = 16;
const M: usize = 7;
const Y: [u32; 4] = [5, 17, 40, 63];

fn bank() -> Tensor {
    let rows: Vec<f64> = (0..N * D)
        .map(|at| {
            let (i, j) = ((at / D) as f64, (at % D) as f64);
            (0.7 * i + 0.31 * j * (1.0 + 0.05 * i)).sin()
        })
        .collect();
    unit(rows, N)
}

fn features() -> Tensor {
    let rows: Vec<f64> = (0..Y.len() * D)
        .map(|at| {
            let (b, j) = ((at / D) as f64, (at % D) as f64);
            (0.9 * b + 0.53 * j + 0.2 * b * j).cos()
        })
        .collect();
    unit(rows, Y.len())
}

fn unit(rows: Vec<f64>, count: usize) -> Tensor {
    let x = Tensor::from_vec(rows, (count, D), &Device::Cpu).unwrap();
    ops::l2_normalize(&x, 1e-12).unwrap().to_dtype(DType::F32).unwrap()
}

fn index() -> Tensor {
    let mut index = Vec::new();
    for (b, &y) in Y.iter().enumerate() {
        index.push(y);
        index.extend((1..=M).map(|k| ((11 * b + 7 * k + 3 * k * b) % N) as u32));
    }
    Tensor::from_vec(index, (Y.len(), M + 1), &Device::Cpu).unwrap()
}

fn scalar(x: &Tensor) -> f64 {
    f64::from(x.to_scalar::<f32>().unwrap())
}

fn close(got: f64, want: f64, tolerance: f64) {
    assert!((got - want).abs() <= tolerance, "got {got}, expected {want}");
}

/// Sum, sum of squares and first element of the gradient.
fn gradient(loss: &Tensor, features: &Var) -> [f64; 3] {
    let grads = loss.backward().unwrap();
    let g = grads.get(features).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let g: Vec<f64> = g.into_iter().map(f64::from).collect();
    [g.iter().sum(), g.iter().map(|v| v * v).sum(), g[0]]
}

#[test]
fn noise_contrastive_estimation() {
    for (tau, z, loss, p, grad) in [
        (
            0.07,
            778_527.4,
            10.880_432_1,
            [5.108_826_4e-4, 5.432_616_7e-5],
            [-3.463_524_8, 40.538_093_6, 0.444_417_9],
        ),
        (
            0.1,
            22_422.33,
            7.728_380_2,
            [2.944_663_9e-3, 6.133_626_4e-4],
            [-2.581_266_2, 20.258_789_1, 0.321_237_5],
        ),
    ] {
        let f = Var::from_tensor(&features()).unwrap();
        let s = scores(&f, &bank(), &index(), tau).unwrap();
        let got_z = first_batch_z(&s, N).unwrap();
        close(got_z, z, 2e-6 * z);
        let probability = |b: usize, k: usize| scalar(&s.get(b).unwrap().get(k).unwrap()).exp() / got_z;
        close(probability(0, 0), p[0], 1e-5 * p[0]);
        close(probability(3, 7), p[1], 1e-5 * p[1]);
        let got = nce(&s, N, got_z, NceForm::Epsilon).unwrap();
        close(scalar(&got), loss, 2e-6 * loss);
        for (got, want) in gradient(&got, &f).into_iter().zip(grad) {
            close(got, want, 1e-5 * want.abs().max(1.0));
        }
    }
}

#[test]
fn non_parametric_softmax() {
    for (tau, loss, grad) in [
        (0.07, 13.199_765_2, [-1.829_147_3, 88.043_083_2, 1.458_194_7]),
        (0.1, 9.638_722_4, [-1.297_231_2, 41.765_289_3, 0.999_233_4]),
    ] {
        let f = Var::from_tensor(&features()).unwrap();
        let target = Tensor::new(&Y, &Device::Cpu).unwrap();
        let got = full_softmax(&f, &bank(), &target, tau).unwrap();
        close(scalar(&got), loss, 2e-6 * loss);
        for (got, want) in gradient(&got, &f).into_iter().zip(grad) {
            close(got, want, 1e-5 * want.abs().max(1.0));
        }
    }
}

#[test]
fn memory_bank_update() {
    let mut bank = MemoryBank::from_features(&bank(), 0.5).unwrap();
    bank.update(&Y, &features()).unwrap();
    let rows = bank.features().to_vec2::<f32>().unwrap();
    close(f64::from(rows[5][0]), 0.137_751_4, 1e-6);
    close(f64::from(rows[63][15]), 0.586_818_3, 1e-6);
    close(rows.iter().flatten().map(|&v| f64::from(v)).sum(), -0.703_995_0, 1e-4);
}
