use candle_core::{D, Var};

use super::*;
use crate::rng::Key;
use crate::testing::{assert_close, gradcheck};

fn unit(name: &str, dims: (usize, usize)) -> Tensor {
    let t = Key::new(1).fold(name).normal(dims, 0., 1., DType::F64, &Device::Cpu).unwrap();
    crate::ops::l2_normalize(&t, 0.).unwrap()
}

fn targets(n: usize, batch: usize) -> Tensor {
    Key::new(2).below(n as u32, batch, &Device::Cpu).unwrap()
}

/// Losses and feature gradient for the upstream gradient `1, 2, 3, ...`, from the whole matrix of logits.
fn naive(f: &Tensor, v: &Tensor, y: &Tensor, scale: f64) -> (Tensor, Tensor) {
    let logits = f.matmul(&v.t().unwrap()).unwrap().affine(scale, 0.).unwrap();
    let top = logits.max_keepdim(D::Minus1).unwrap();
    let exp = logits.broadcast_sub(&top).unwrap().exp().unwrap();
    let sum = exp.sum_keepdim(D::Minus1).unwrap();
    let hit = logits.gather(&y.unsqueeze(1).unwrap(), 1).unwrap();
    let losses = sum.log().unwrap().add(&top).unwrap().sub(&hit).unwrap().squeeze(1).unwrap();
    let pulled =
        exp.broadcast_div(&sum).unwrap().matmul(v).unwrap().sub(&v.index_select(y, 0).unwrap()).unwrap();
    let g = upstream(f.dims()[0], DType::F64).unsqueeze(1).unwrap();
    (losses, pulled.broadcast_mul(&g).unwrap().affine(scale, 0.).unwrap())
}

fn upstream(batch: usize, dtype: DType) -> Tensor {
    Tensor::arange(1_f64, batch as f64 + 1., &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

fn tiled(f: &Tensor, v: &Tensor, y: &Tensor, scale: f64) -> (Tensor, Tensor) {
    let f = Var::from_tensor(f).unwrap();
    let losses = bank_cross_entropy(&f, v, y, scale).unwrap();
    let g = upstream(f.dims()[0], f.dtype());
    let grads = losses.mul(&g).unwrap().sum_all().unwrap().backward().unwrap();
    (losses.detach(), grads.get(&f).unwrap().clone())
}

#[test]
fn tiled_equals_naive() {
    for n in [1, 7, 127, 5000] {
        for batch in [1, 3, 64, 70] {
            for scale in [1. / 0.07, 1. / 0.005] {
                let (f, v, y) = (unit("f", (batch, 16)), unit("v", (n, 16)), targets(n, batch));
                let (losses, df) = naive(&f, &v, &y, scale);
                let (got, got_df) = tiled(&f, &v, &y, scale);
                assert_close(&got, &losses, 1e-12, 1e-12).unwrap();
                assert_close(&got_df, &df, 1e-10, 1e-9).unwrap();
                let single = |t: &Tensor| t.to_dtype(DType::F32).unwrap();
                // Logits of `scale` in size are good to about 1e-7 times that in `f32`.
                let (got, got_df) = tiled(&single(&f), &single(&v), &y, scale);
                assert_close(&got, &losses, 1e-6, 4e-7 * scale).unwrap();
                assert_close(&got_df, &df, 1e-4, 1e-6 * scale * scale * batch as f64).unwrap();
            }
        }
    }
}

#[test]
fn gradient_goes_to_the_features_only() {
    let (v, y) = (unit("v", (1100, 5)), targets(1100, 3));
    let f = |t: &[Tensor]| bank_cross_entropy(&t[0], &v, &y, 10.);
    gradcheck(f, &[unit("f", (3, 5))], 1e-5, 1e-6).unwrap();
    let (f, bank) = (Var::from_tensor(&unit("f", (3, 5))).unwrap(), Var::from_tensor(&v).unwrap());
    // A bank that happens to be part of a graph stays a constant.
    let loss = bank_cross_entropy(&f, &bank.affine(1., 0.).unwrap(), &y, 10.).unwrap();
    let grads = loss.sum_all().unwrap().backward().unwrap();
    assert!(grads.get(&bank).is_none());
    assert_eq!(grads.get_ids().count(), 1);
}

#[test]
fn threads_do_not_change_a_bit() {
    let single = |t: Tensor| t.to_dtype(DType::F32).unwrap();
    let (f, v, y) = (single(unit("f", (100, 32))), single(unit("v", (9000, 32))), targets(9000, 100));
    let run = || {
        let (losses, df) = tiled(&f, &v, &y, 14.);
        (losses.to_vec1::<f32>().unwrap(), df.to_vec2::<f32>().unwrap())
    };
    let threads = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
    assert!(threads(1).install(run) == threads(3).install(run));
}

#[test]
fn far_away_scores_do_not_overflow_and_nan_is_not_hidden() {
    let f = Var::new(&[[1_f32, 0.]], &Device::Cpu).unwrap();
    let v = Tensor::new(&[[1_f32, 0.], [-1., 0.]], &Device::Cpu).unwrap();
    let far = Tensor::new(&[1_u32], &Device::Cpu).unwrap();
    let loss = bank_cross_entropy(&f, &v, &far, 1e30).unwrap();
    assert_eq!(loss.to_vec1::<f32>().unwrap(), [2e30]);
    let grads = loss.backward().unwrap();
    assert_eq!(grads.get(&f).unwrap().to_vec2::<f32>().unwrap(), [[2e30, 0.]]);
    let nan = Tensor::new(&[[f32::NAN, 0.]], &Device::Cpu).unwrap();
    assert!(bank_cross_entropy(&nan, &v, &far, 1.).unwrap().to_vec1::<f32>().unwrap()[0].is_nan());
}

#[test]
fn empty_batches_and_bad_input() {
    let (f, v, y) = (unit("f", (2, 5)), unit("v", (7, 5)), targets(7, 2));
    let none = Tensor::zeros((0, 5), DType::F64, &Device::Cpu).unwrap();
    let no_target = Tensor::zeros(0, DType::U32, &Device::Cpu).unwrap();
    let (losses, df) = tiled(&none, &v, &no_target, 1.);
    assert_eq!((losses.dims(), df.dims()), (&[0][..], &[0, 5][..]));
    let no_bank = Tensor::zeros((0, 5), DType::F64, &Device::Cpu).unwrap();
    assert_eq!(bank_cross_entropy(&none, &no_bank, &no_target, 1.).unwrap().dims(), [0]);
    assert!(matches!(bank_cross_entropy(&f, &no_bank, &y, 1.), Err(Error::Argument { .. })));

    let message = bank_cross_entropy(&f, &v, &Tensor::new(&[0_u32, 7], &Device::Cpu).unwrap(), 1.);
    let message = message.unwrap_err().to_string();
    assert!(message.contains("7 at position 1 is not a row of a bank of 7"), "{message}");
    assert!(matches!(bank_cross_entropy(&f, &v, &targets(7, 3), 1.), Err(Error::Shape { .. })));
    assert!(matches!(bank_cross_entropy(&f, &unit("v", (7, 4)), &y, 1.), Err(Error::Shape { .. })));
    assert!(matches!(bank_cross_entropy(&f, &v, &y, f64::INFINITY), Err(Error::Argument { .. })));
    let wide = y.to_dtype(DType::I64).unwrap();
    assert!(matches!(bank_cross_entropy(&f, &v, &wide, 1.), Err(Error::Dtype { .. })));
}
