use candle_core::Var;

use super::*;
use crate::rng::Key;
use crate::testing::{assert_close, gradcheck};

fn random(name: &str, dims: &[usize]) -> Tensor {
    Key::new(2).fold(name).normal(dims, 0., 2., DType::F64, &Device::Cpu).unwrap()
}

fn target(classes: u32, dims: &[usize]) -> Tensor {
    Key::new(3).below(classes, dims, &Device::Cpu).unwrap()
}

/// The definition, position by position, from a plain softmax.
fn naive(x: &Tensor, y: &[i64], args: &CrossEntropyArgs) -> Vec<f64> {
    let classes = x.dims()[1];
    let inner: usize = x.dims()[2..].iter().product();
    let flat: Vec<f64> = x.flatten_all().unwrap().to_vec1().unwrap();
    let w = args.weight.as_ref().map_or(vec![1.; classes], |w| w.to_vec1().unwrap());
    let loss = |position: usize| {
        let (n, s) = (position / inner, position % inner);
        if y[position] == args.ignore_index {
            return 0.;
        }
        let logits: Vec<f64> = (0..classes).map(|c| flat[(n * classes + c) * inner + s]).collect();
        let sum: f64 = logits.iter().map(|v| v.exp()).sum();
        let ln_p = |c: usize| logits[c] - sum.ln();
        let e = args.label_smoothing;
        let spread: f64 = (0..classes).map(|c| w[c] * ln_p(c)).sum();
        let y = y[position] as usize;
        -(1. - e) * w[y] * ln_p(y) - e / classes as f64 * spread
    };
    (0..y.len()).map(loss).collect()
}

#[test]
fn agrees_with_the_definition() {
    for dims in [&[5, 4][..], &[2, 3, 4, 5], &[2, 3, 700], &[1, 1]] {
        let classes = dims[1];
        let x = random("x", dims);
        let target_dims: Vec<usize> = [dims[0]].iter().chain(&dims[2..]).copied().collect();
        let y = target(classes as u32, &target_dims);
        let y64: Vec<i64> = y.to_dtype(DType::I64).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let w = Key::new(4).uniform(classes, 0.5, 2., DType::F64, &Device::Cpu).unwrap();
        for weight in [None, Some(w)] {
            for smoothing in [0., 0.3, 1.] {
                for ignore_index in [-100, 0] {
                    let mut args = CrossEntropyArgs {
                        weight: weight.clone(),
                        ignore_index,
                        reduction: Reduction::None,
                        label_smoothing: smoothing,
                    };
                    let want = naive(&x, &y64, &args);
                    let got = cross_entropy(&x, &y, &args).unwrap();
                    assert_eq!(got.dims(), target_dims);
                    let want_each = Tensor::new(want.as_slice(), &Device::Cpu).unwrap();
                    assert_close(&got.flatten_all().unwrap(), &want_each, 1e-12, 1e-12).unwrap();
                    let class_weight = |c: i64| match &args.weight {
                        Some(w) => w.to_vec1::<f64>().unwrap()[c as usize],
                        None => 1.,
                    };
                    let total: f64 =
                        y64.iter().filter(|c| **c != ignore_index).map(|c| class_weight(*c)).sum();
                    args.reduction = Reduction::Sum;
                    let sum = cross_entropy(&x, &y, &args).unwrap().to_scalar::<f64>().unwrap();
                    assert!((sum - want.iter().sum::<f64>()).abs() < 1e-9);
                    args.reduction = Reduction::Mean;
                    let mean = cross_entropy(&x, &y, &args).unwrap().to_scalar::<f64>().unwrap();
                    assert!(total == 0. && mean.is_nan() || (mean - sum / total).abs() < 1e-12);
                }
            }
        }
    }
}

#[test]
fn gradients() {
    let weight = Some(Key::new(4).uniform(3, 0.5, 2., DType::F64, &Device::Cpu).unwrap());
    for (weight, label_smoothing, reduction) in [
        (None, 0., Reduction::Mean),
        (None, 0.2, Reduction::Sum),
        (weight.clone(), 0., Reduction::None),
        (weight, 0.1, Reduction::Mean),
    ] {
        let args = CrossEntropyArgs { weight, ignore_index: 1, reduction, label_smoothing };
        let (flat, map) = (target(3, &[7]), target(3, &[2, 2, 3]));
        gradcheck(|t| cross_entropy(&t[0], &flat, &args), &[random("a", &[7, 3])], 1e-4, 1e-6).unwrap();
        gradcheck(|t| cross_entropy(&t[0], &map, &args), &[random("b", &[2, 3, 2, 3])], 1e-4, 1e-6).unwrap();
    }
    // A view whose classes are not where they seem.
    let y = target(4, &[3]);
    let f = |t: &[Tensor]| cross_entropy(&t[0].t()?, &y, &CrossEntropyArgs::default());
    gradcheck(f, &[random("c", &[4, 3])], 1e-4, 1e-6).unwrap();
}

#[test]
fn extreme_logits_stay_finite() {
    let x = Var::new(&[[1e4_f32, -1e4, 0.], [-1e30, 1e30, 0.]], &Device::Cpu).unwrap();
    let y = Tensor::new(&[1_u32, 1], &Device::Cpu).unwrap();
    let args = CrossEntropyArgs { reduction: Reduction::None, ..Default::default() };
    let loss = cross_entropy(&x, &y, &args).unwrap();
    assert_eq!(loss.to_vec1::<f32>().unwrap(), [2e4, 0.]);
    let grads = loss.sum_all().unwrap().backward().unwrap();
    assert_eq!(grads.get(&x).unwrap().to_vec2::<f32>().unwrap(), [[1., -1., 0.], [0.; 3]]);
}

#[test]
fn nothing_but_ignored_is_nan_with_zero_gradient() {
    let x = Var::new(&[[1_f32, 2.]], &Device::Cpu).unwrap();
    let y = Tensor::new(&[-100_i64], &Device::Cpu).unwrap();
    let loss = cross_entropy(&x, &y, &CrossEntropyArgs::default()).unwrap();
    assert!(loss.to_scalar::<f32>().unwrap().is_nan());
    let grads = loss.backward().unwrap();
    assert_eq!(grads.get(&x).unwrap().to_vec2::<f32>().unwrap(), [[0., 0.]]);
    let args = CrossEntropyArgs { reduction: Reduction::Sum, ..Default::default() };
    assert_eq!(cross_entropy(&x, &y, &args).unwrap().to_scalar::<f32>().unwrap(), 0.);
    let empty = Tensor::zeros((0, 3), DType::F32, &Device::Cpu).unwrap();
    let none = Tensor::zeros(0, DType::U32, &Device::Cpu).unwrap();
    assert_eq!(cross_entropy(&empty, &none, &args).unwrap().to_scalar::<f32>().unwrap(), 0.);
}

#[test]
fn bad_input_is_refused() {
    let x = random("x", &[2, 3]);
    let args = CrossEntropyArgs::default();
    let y = |v: &[i64]| Tensor::new(v, &Device::Cpu).unwrap();
    let message = cross_entropy(&x, &y(&[0, 3]), &args).unwrap_err().to_string();
    assert!(message.contains("index 3 at position 1") && message.contains("3 classes"), "{message}");
    assert!(matches!(cross_entropy(&x, &y(&[-1, 0]), &args), Err(Error::Argument { .. })));
    assert!(matches!(cross_entropy(&x, &y(&[0]), &args), Err(Error::Shape { .. })));
    assert!(matches!(cross_entropy(&x, &random("y", &[2]), &args), Err(Error::Dtype { .. })));
    assert!(matches!(cross_entropy(&random("x", &[3]), &y(&[0, 1, 2]), &args), Err(Error::Shape { .. })));
    let smooth = CrossEntropyArgs { label_smoothing: 1.5, ..Default::default() };
    assert!(matches!(cross_entropy(&x, &y(&[0, 1]), &smooth), Err(Error::Argument { .. })));
    let weighted = |w: Tensor| CrossEntropyArgs { weight: Some(w), ..Default::default() };
    assert!(matches!(cross_entropy(&x, &y(&[0, 1]), &weighted(random("w", &[2]))), Err(Error::Shape { .. })));
    let tracked = Var::from_tensor(&random("w", &[3])).unwrap().as_tensor().clone();
    assert!(matches!(cross_entropy(&x, &y(&[0, 1]), &weighted(tracked)), Err(Error::Argument { .. })));
}
