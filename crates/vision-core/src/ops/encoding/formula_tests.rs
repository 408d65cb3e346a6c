//! Every number of the reference problem against the formulas written out in loops, and those against the numbers that
//! the authors' code gave.

use candle_core::Var;

use super::tests::{CPU, PLAIN, fixture, near, numbers};
use super::*;
use crate::testing::gradcheck;

/// What the formulas give in `f64`, row by row.
struct Formula {
    /// Logits `s[k] d[i, k]`, `(B, N, K)`.
    logits: Vec<f64>,
    assignments: Vec<f64>,
    encoded: Vec<f64>,
    /// Gradients of `sum of e g`: of features, codewords and scales.
    grads: [Vec<f64>; 3],
    /// That of the codewords with the other sign in the part that goes through the distances: what the authors' code for
    /// the CPU gives.
    flipped: Vec<f64>,
}

impl Formula {
    fn of([x, c, s, g]: &[Tensor; 4]) -> Self {
        let ((b, n, d), k) = (x.dims3().unwrap(), s.elem_count());
        let [x, c, s, g] = [x, c, s, g].map(numbers);
        let mut out = Self {
            logits: vec![0.0; b * n * k],
            assignments: vec![0.0; b * n * k],
            encoded: vec![0.0; b * k * d],
            grads: [vec![0.0; b * n * d], vec![0.0; k * d], vec![0.0; k]],
            flipped: vec![0.0; k * d],
        };
        for row in 0..b * n {
            let (x, of) = (&x[row * d..][..d], row / n * k);
            let residual = |code: usize, channel: usize| x[channel] - c[code * d + channel];
            let distances: Vec<f64> =
                (0..k).map(|code| (0..d).map(|channel| residual(code, channel).powi(2)).sum()).collect();
            let logits = &mut out.logits[row * k..][..k];
            logits.iter_mut().enumerate().for_each(|(code, logit)| *logit = s[code] * distances[code]);
            let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = logits.iter().map(|logit| (logit - top).exp()).sum();
            let a: Vec<f64> = logits.iter().map(|logit| (logit - top).exp() / sum).collect();
            let at = |code: usize, channel: usize| (of + code) * d + channel;
            let u: Vec<f64> = (0..k)
                .map(|code| (0..d).map(|channel| residual(code, channel) * g[at(code, channel)]).sum())
                .collect();
            let mean: f64 = a.iter().zip(&u).map(|(a, u)| a * u).sum();
            for code in 0..k {
                let q = a[code] * (u[code] - mean);
                out.grads[2][code] += q * distances[code];
                for channel in 0..d {
                    out.encoded[at(code, channel)] += a[code] * residual(code, channel);
                    let direct = a[code] * g[at(code, channel)];
                    let through = 2.0 * s[code] * q * residual(code, channel);
                    out.grads[0][row * d + channel] += direct + through;
                    out.grads[1][code * d + channel] -= direct + through;
                    out.flipped[code * d + channel] -= direct - through;
                }
            }
            out.assignments[row * k..][..k].copy_from_slice(&a);
        }
        out
    }
}

/// Fails unless the numbers differ by less than `tolerance` times the largest of them.
fn near_to_largest(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    let largest = want.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() <= tolerance * largest, "{what}: got {got}, expected {want}");
    }
    assert_eq!(got.len(), want.len(), "{what}");
}

/// Result and gradients of the operation.
fn operation([x, c, s, g]: &[Tensor; 4]) -> (Vec<f64>, [Vec<f64>; 3]) {
    let vars = [x, c, s].map(|tensor| Var::from_tensor(tensor).unwrap());
    let e = encoding(&vars[0], &vars[1], &vars[2], &PLAIN).unwrap();
    let grads = (&e * g).unwrap().sum_all().unwrap().backward().unwrap();
    (numbers(&e), vars.each_ref().map(|var| numbers(grads.get(var).unwrap())))
}

#[test]
fn logits_assignments_and_results_of_the_original() {
    let want = Formula::of(&fixture(DType::F64));
    // As far as the authors' code printed them.
    near(&want.logits[..4], &[-1.744_144_9, -0.490_349, -1.212_141_3, -1.632_197_2], 6e-8);
    near(&want.assignments[..4], &[0.136_529_8, 0.478_348, 0.232_42, 0.152_702_3], 6e-8);
    near(&[want.encoded.iter().sum()], &[9.516_058_433_868_452], 1e-12);
    near(&[want.encoded.iter().map(|e| e * e).sum()], &[77.978_067_565_245_74], 1e-11);
    for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 2e-6)] {
        let inputs = fixture(dtype);
        let a = numbers(&codeword_assignments(&inputs[0], &inputs[1], &inputs[2], &PLAIN).unwrap());
        near(&a, &want.assignments, tolerance);
        near(&operation(&inputs).0, &want.encoded, tolerance);
        // Shares tell logits up to a constant of each position.
        let differences = |log: &dyn Fn(usize) -> f64| -> Vec<f64> {
            (0..a.len()).map(|i| log(i) - log(i / 4 * 4)).collect()
        };
        near(&differences(&|i| a[i].ln()), &differences(&|i| want.logits[i]), tolerance);
    }
}

#[test]
fn every_gradient_of_the_original() {
    let want = Formula::of(&fixture(DType::F64));
    near(&want.grads[1][..3], &[2.730_404_8, 0.895_829_1, -1.081_503_2], 6e-8);
    near(&want.grads[2], &[-5.732_221_2, 7.352_762_2, 4.282_624_4, -2.529_344_1], 6e-8);
    for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 1e-5)] {
        let (_, got) = operation(&fixture(dtype));
        for ((name, got), want) in ["x", "codewords", "scale"].iter().zip(&got).zip(&want.grads) {
            near_to_largest(name, got, want, tolerance);
        }
        // The wrong sign would show by far.
        let off = got[1].iter().zip(&want.flipped).map(|(got, flipped)| (got - flipped).abs());
        assert!(off.fold(0.0, f64::max) > 1.0);
    }
    let [x, c, s, g] = fixture(DType::F64);
    let weighed = |t: &[Tensor]| Ok((encoding(&t[0], &t[1], &t[2], &PLAIN)? * &g)?);
    gradcheck(weighed, &[x, c, s], 1e-5, 1e-6).unwrap();
}

#[test]
fn gradients_beside_a_scale_of_zero() {
    let with_zero = |dtype| {
        let [x, c, s, g] = fixture(dtype);
        let mut scales = numbers(&s);
        scales[1] = 0.0;
        [x, c, Tensor::from_vec(scales, 4, &CPU).unwrap().to_dtype(dtype).unwrap(), g]
    };
    let want = Formula::of(&with_zero(DType::F64));
    for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 1e-5)] {
        let (encoded, got) = operation(&with_zero(dtype));
        assert!(got.iter().flatten().chain(&encoded).all(|value| value.is_finite()));
        for ((name, got), want) in ["x", "codewords", "scale"].iter().zip(&got).zip(&want.grads) {
            near_to_largest(name, got, want, tolerance);
        }
    }
}
