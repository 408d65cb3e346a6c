use candle_core::{DType, Var};
use proptest::prelude::*;

use super::*;
use crate::rng::Key;
use crate::testing::{assert_close, gradcheck};

fn boxes(values: &[[f64; 4]]) -> Tensor {
    Tensor::from_slice(values.as_flattened(), (values.len(), 4), &Device::Cpu).unwrap()
}

/// Proper boxes with sides between 1 and 5 in a square of 8.
fn random(name: &str, count: usize) -> Tensor {
    let key = Key::new(3).fold(name);
    let corner = key.uniform((count, 2), 0., 8., DType::F64, &Device::Cpu).unwrap();
    let size = key.fold("size").uniform((count, 2), 1., 5., DType::F64, &Device::Cpu).unwrap();
    Tensor::cat(&[&corner, &(&corner + size).unwrap()], 1).unwrap()
}

#[test]
fn hand_made_overlaps() {
    let a = boxes(&[[0., 0., 2., 2.]]);
    let b = boxes(&[[0., 0., 2., 2.], [1., 1., 3., 3.], [2., 0., 4., 2.], [4., 4., 6., 6.]]);
    let iou = box_iou(&a, &b).unwrap().to_vec2::<f64>().unwrap();
    assert_eq!(iou, [[1., 1. / 7., 0., 0.]]);
    let giou = generalized_box_iou(&a, &b).unwrap().to_vec2::<f64>().unwrap();
    assert_eq!(giou, [[1., 1. / 7. - 2. / 9., 0., -28. / 36.]]);
    let point = boxes(&[[1., 1., 1., 1.]]);
    assert!(box_iou(&point, &point).unwrap().to_vec2::<f64>().unwrap()[0][0].is_nan());
    assert_eq!(box_iou(&point, &a).unwrap().to_vec2::<f64>().unwrap(), [[0.]]);
}

#[test]
fn gradients_of_both_sets() {
    for (n, m) in [(3, 2), (2, 19), (1, 8)] {
        let inputs = [random("a", n), random("b", m)];
        gradcheck(|t| box_iou(&t[0], &t[1]), &inputs, 1e-6, 1e-6).unwrap();
        gradcheck(|t| generalized_box_iou(&t[0], &t[1]), &inputs, 1e-6, 1e-6).unwrap();
    }
}

#[test]
fn equal_edges_share_the_gradient() {
    let (a, b) = (boxes(&[[0., 0., 2., 2.]]), boxes(&[[0., 0., 2., 4.]]));
    let (a, b) = (Var::from_tensor(&a).unwrap(), Var::from_tensor(&b).unwrap());
    let grads = box_iou(&a, &b).unwrap().sum_all().unwrap().backward().unwrap();
    // I = 4, U = 8: dI = 1/8 + 4/64, dU of an area = -4/64. Shared x edges carry half of dI times height 2.
    let got = grads.get(&a).unwrap().to_vec2::<f64>().unwrap();
    let (edge, own) = (0.5 * 2. * (0.125 + 0.0625), 2. * 0.0625);
    assert_eq!(got, [[-edge + own, -edge + own, edge - own, 2. * edge - own]]);
    assert!(grads.get(&b).is_some());
}

#[test]
fn only_what_is_tracked_gets_a_gradient() {
    let (a, b) = (Var::from_tensor(&random("a", 3)).unwrap(), random("b", 2));
    let grads = box_iou(&a, &b).unwrap().sum_all().unwrap().backward().unwrap();
    assert!(grads.get(&a).is_some() && grads.get(&b).is_none());
}

#[test]
fn strided_empty_and_single_precision() {
    let (a, b) = (random("a", 40), random("b", 33));
    let want = generalized_box_iou(&a, &b).unwrap();
    let view = a.t().unwrap().contiguous().unwrap().t().unwrap();
    assert_close(&generalized_box_iou(&view, &b).unwrap(), &want, 0., 0.).unwrap();
    let single = |t: &Tensor| t.to_dtype(DType::F32).unwrap();
    assert_close(&generalized_box_iou(&single(&a), &single(&b)).unwrap(), &want, 1e-5, 1e-5).unwrap();
    let none = Var::zeros((0, 4), DType::F64, &Device::Cpu).unwrap();
    let out = box_iou(&none, &b).unwrap();
    assert_eq!(out.dims(), [0, 33]);
    assert_eq!(out.sum_all().unwrap().backward().unwrap().get(&none).unwrap().dims(), [0, 4]);
    assert_eq!(box_iou(&b, &none).unwrap().dims(), [33, 0]);
}

#[test]
fn threads_do_not_change_gradients() {
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let single = |name| random(name, 700).to_dtype(DType::F32).unwrap();
            let (a, b) = (Var::from_tensor(&single("a")).unwrap(), Var::from_tensor(&single("b")).unwrap());
            let grads = generalized_box_iou(&a, &b).unwrap().sum_all().unwrap().backward().unwrap();
            [&a, &b].map(|v| grads.get(v).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap())
        })
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn wrong_arguments_are_named() {
    let a = random("a", 2);
    let text = |b: &Tensor| generalized_box_iou(&a, b).unwrap_err().to_string();
    assert!(text(&a.narrow(1, 0, 3).unwrap()).starts_with("generalized_box_iou: boxes2"));
    assert!(text(&a.flatten_all().unwrap()).starts_with("generalized_box_iou: boxes2"));
    assert!(text(&a.to_dtype(DType::F32).unwrap()).contains("F64"));
    assert!(matches!(box_iou(&a.to_dtype(DType::U32).unwrap(), &a), Err(Error::Dtype { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn nothing_panics(
        values in prop::collection::vec(prop::num::f32::ANY, 0..80),
        split in 0_usize..20,
    ) {
        let count = values.len() / 4;
        let split = split.min(count);
        let row = |from: usize, to: usize| {
            Var::from_vec(values[from * 4..to * 4].to_vec(), (to - from, 4), &Device::Cpu).unwrap()
        };
        let (a, b) = (row(0, split), row(split, count));
        for out in [box_iou(&a, &b).unwrap(), generalized_box_iou(&a, &b).unwrap()] {
            prop_assert_eq!(out.dims(), [split, count - split]);
            out.sum_all().unwrap().backward().unwrap();
        }
    }
}
