use candle_core::{Device, Var};
use proptest::prelude::*;

use super::*;
use crate::rng::Key;
use crate::testing::{assert_close, gradcheck};

fn random(name: &str, dims: &[usize]) -> Tensor {
    Key::new(2).fold(name).normal(dims, 0., 3., DType::F64, &Device::Cpu).unwrap()
}

fn positive(name: &str, dims: &[usize]) -> Tensor {
    Key::new(2).fold(name).uniform(dims, 0., 1., DType::F64, &Device::Cpu).unwrap()
}

fn args(reduction: Reduction) -> BceWithLogitsArgs {
    BceWithLogitsArgs { reduction, ..BceWithLogitsArgs::default() }
}

#[test]
fn the_logarithm_is_exact() {
    for i in 0..=100_000 {
        let e = f64::from(i) * 1e-5;
        let (want, single) = (e.ln_1p(), ln_1p_unit(e as f32));
        assert!((ln_1p_unit(e) - want).abs() <= 7e-16 * want, "{e}");
        assert!((f64::from(single) - f64::from(e as f32).ln_1p()).abs() <= 3e-7 * want, "{e}");
    }
    assert!(ln_1p_unit(f32::NAN).is_nan());
}

#[test]
fn huge_logits_stay_finite() {
    let x = [100_f32, -100., 1e4, -1e4, 3e38, -3e38, 0.];
    let check = |t: f32, want: [f32; 7], slopes: [f32; 7]| {
        let x = Var::new(&x, &Device::Cpu).unwrap();
        let t = Tensor::full(t, 7, &Device::Cpu).unwrap();
        let loss = binary_cross_entropy_with_logits(&x, &t, &args(Reduction::None)).unwrap();
        for (got, want) in loss.to_vec1::<f32>().unwrap().into_iter().zip(want) {
            assert!((got - want).abs() <= 1e-6 * want.abs(), "{got} {want}");
        }
        let grads = loss.sum_all().unwrap().backward().unwrap();
        assert_eq!(grads.get(&x).unwrap().to_vec1::<f32>().unwrap(), slopes);
    };
    let ln_2 = 2_f32.ln();
    check(1., [0., 100., 0., 1e4, 0., 3e38, ln_2], [0., -1., 0., -1., 0., -1., -0.5]);
    check(0., [100., 0., 1e4, 0., 3e38, 0., ln_2], [1., 0., 1., 0., 1., 0., 0.5]);
}

#[test]
fn agrees_with_the_definition() {
    let (x, t) = (random("x", &[7, 3, 500]), positive("t", &[7, 3, 500]));
    let (w, q) = (positive("w", &[7, 1, 500]), positive("q", &[3, 1]));
    let got = binary_cross_entropy_with_logits(
        &x,
        &t,
        &BceWithLogitsArgs { weight: Some(w.clone()), pos_weight: Some(q.clone()), ..args(Reduction::None) },
    )
    .unwrap();
    let p = (x.neg().unwrap().exp().unwrap() + 1.).unwrap().recip().unwrap();
    let positive = t.broadcast_mul(&q).unwrap().mul(&p.log().unwrap()).unwrap();
    let rest = (1. - &t).unwrap().mul(&(1. - &p).unwrap().log().unwrap()).unwrap();
    let want = (positive + rest).unwrap().neg().unwrap().broadcast_mul(&w).unwrap();
    assert_close(&got, &want, 1e-9, 1e-12).unwrap();
    let single = |t: &Tensor| t.to_dtype(DType::F32).unwrap();
    let each = binary_cross_entropy_with_logits(&single(&x), &single(&t), &args(Reduction::None)).unwrap();
    let mean = binary_cross_entropy_with_logits(&single(&x), &single(&t), &args(Reduction::Mean)).unwrap();
    assert_close(&mean, &each.to_dtype(DType::F64).unwrap().mean_all().unwrap(), 1e-6, 0.).unwrap();
}

#[test]
fn gradients() {
    let inputs = [random("x", &[4, 6]), positive("t", &[4, 6])];
    for reduction in [Reduction::None, Reduction::Mean, Reduction::Sum] {
        for weight in [None, Some(positive("w", &[4, 6])), Some(positive("w", &[4, 1]))] {
            for pos_weight in [None, Some(positive("q", &[6])), Some(positive("q", &[]))] {
                let args = BceWithLogitsArgs { weight: weight.clone(), pos_weight, reduction };
                gradcheck(|t| binary_cross_entropy_with_logits(&t[0], &t[1], &args), &inputs, 1e-5, 1e-6)
                    .unwrap();
            }
        }
    }
}

#[test]
fn strided_and_empty_inputs() {
    let (x, t) = (random("x", &[5, 8]), positive("t", &[5, 8]));
    let want = binary_cross_entropy_with_logits(&x, &t, &args(Reduction::Mean)).unwrap();
    let got =
        binary_cross_entropy_with_logits(&x.t().unwrap(), &t.t().unwrap(), &args(Reduction::Mean)).unwrap();
    assert_close(&got, &want, 1e-14, 0.).unwrap();
    let none = Var::zeros((0, 3), DType::F32, &Device::Cpu).unwrap();
    let with = BceWithLogitsArgs {
        pos_weight: Some(Tensor::ones(3, DType::F32, &Device::Cpu).unwrap()),
        ..args(Reduction::Sum)
    };
    let sum = binary_cross_entropy_with_logits(&none, &none, &with).unwrap();
    assert_eq!(sum.to_scalar::<f32>().unwrap(), 0.);
    assert_eq!(sum.backward().unwrap().get(&none).unwrap().dims(), [0, 3]);
    let mean = binary_cross_entropy_with_logits(&none, &none, &args(Reduction::Mean)).unwrap();
    assert!(mean.to_scalar::<f32>().unwrap().is_nan());
}

#[test]
fn wrong_arguments_are_named() {
    let x = random("x", &[2, 3]);
    let text = |t: &Tensor, args: BceWithLogitsArgs| {
        binary_cross_entropy_with_logits(&x, t, &args).unwrap_err().to_string()
    };
    assert!(text(&x.t().unwrap(), args(Reduction::Mean)).contains("logits: target"));
    assert!(text(&x.to_dtype(DType::F32).unwrap(), args(Reduction::Mean)).contains("logits: target"));
    let weight = |weight: Tensor| BceWithLogitsArgs { weight: Some(weight), ..args(Reduction::Mean) };
    assert!(text(&x, weight(random("w", &[2]))).contains("logits: weight"));
    assert!(text(&x, weight(Var::from_tensor(&x).unwrap().as_tensor().clone())).contains("detach"));
    assert!(text(&x, weight(x.to_dtype(DType::U32).unwrap())).contains("logits: weight"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn nothing_panics(values in prop::collection::vec(prop::num::f32::ANY, 0..50), width in 1_usize..5) {
        let rows = values.len() / width;
        let x = Var::from_slice(&values[..rows * width], (rows, width), &Device::Cpu).unwrap();
        let pos_weight = Some(Tensor::full(0.5_f32, width, &Device::Cpu).unwrap());
        let args = BceWithLogitsArgs { pos_weight, ..args(Reduction::Mean) };
        let loss = binary_cross_entropy_with_logits(&x, &x, &args).unwrap();
        let grads = loss.backward().unwrap();
        prop_assert_eq!(grads.get(&x).unwrap().dims(), [rows, width]);
    }
}
