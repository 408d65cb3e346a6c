use candle_core::Device;

use super::*;
use crate::ops::relu_nhwc;
use crate::rng::Key;
use crate::testing::{assert_close, gradcheck};

const CPU: Device = Device::Cpu;

fn normal(name: &str, shape: &[usize]) -> Tensor {
    Key::new(7).fold(name).normal(shape, 0.3, 1.5, DType::F64, &CPU).unwrap()
}

/// Fresh running statistics.
fn running(channels: usize, dtype: DType) -> (Var, Var) {
    (Var::zeros(channels, dtype, &CPU).unwrap(), Var::ones(channels, dtype, &CPU).unwrap())
}

/// [`batch_norm`] in training with running statistics nobody looks at.
fn train(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let (running_mean, running_var) = running(weight.dims1().unwrap(), x.dtype());
    let stats = BatchStats { running_mean: &running_mean, running_var: &running_var };
    batch_norm(x, weight, bias, stats, true, 0.1, eps)
}

#[test]
fn batch_statistics_and_running_update() {
    // One channel: 1, 2, 3, 6 with mean 3, biased variance 3.5, unbiased 14 / 3.
    let x = Tensor::new(&[1.0f32, 2.0, 3.0, 6.0], &CPU).unwrap().reshape((2, 1, 1, 2)).unwrap();
    let weight = Tensor::new(&[2.0f32], &CPU).unwrap();
    let bias = Tensor::new(&[1.0f32], &CPU).unwrap();
    let mean = Var::new(&[1.0f32], &CPU).unwrap();
    let var = Var::new(&[1.0f32], &CPU).unwrap();
    let stats = BatchStats { running_mean: &mean, running_var: &var };
    let y = batch_norm(&x, &weight, &bias, stats, true, 0.1, 0.5).unwrap();
    let want = Tensor::new(&[-1.0f32, 0.0, 1.0, 4.0], &CPU).unwrap().reshape((2, 1, 1, 2)).unwrap();
    assert_close(&y, &want, 1e-6, 1e-6).unwrap();
    assert_close(&mean, &Tensor::new(&[1.2f32], &CPU).unwrap(), 1e-6, 0.0).unwrap();
    assert_close(&var, &Tensor::new(&[0.9 + 1.4 / 3.0], &CPU).unwrap(), 1e-6, 0.0).unwrap();
    let stats = BatchStats { running_mean: &bias, running_var: &weight };
    let y = batch_norm(&x, &weight, &bias, stats, false, 0.1, 2.0).unwrap();
    let want = Tensor::new(&[1.0f32, 2.0, 3.0, 6.0], &CPU).unwrap().reshape((2, 1, 1, 2)).unwrap();
    assert_close(&y, &want, 1e-6, 1e-6).unwrap();
}

#[test]
fn the_running_variance_can_be_the_biased_one() {
    // 1, 2, 3, 6 as above: 14 / 4 = 3.5 instead of 14 / 3.
    let x = Tensor::new(&[1.0f64, 2.0, 3.0, 6.0], &CPU).unwrap().reshape((2, 1, 2, 1)).unwrap();
    let x = FeatureMap::from_nhwc(x).unwrap();
    let (weight, bias) =
        (Tensor::ones(1, DType::F64, &CPU).unwrap(), Tensor::zeros(1, DType::F64, &CPU).unwrap());
    let run = |running_var| {
        let (mean, var) = running(1, DType::F64);
        let stats = BatchStats { running_mean: &mean, running_var: &var };
        let args = BatchNormArgs { training: true, running_var, ..BatchNormArgs::default() };
        let y = batch_norm_nhwc(&x, &weight, &bias, stats, &args, None).unwrap();
        [y.nhwc(), mean.as_tensor(), var.as_tensor()].map(|t| to_f64(&t.flatten_all().unwrap()).unwrap())
    };
    let (biased, unbiased) = (run(RunningVar::Biased), run(RunningVar::Unbiased));
    assert!((biased[2][0] - 1.25).abs() < 1e-12, "{biased:?}");
    assert!((unbiased[2][0] - (0.9 + 1.4 / 3.0)).abs() < 1e-12, "{unbiased:?}");
    // Nothing else differs.
    assert_eq!(biased[..2], unbiased[..2]);
    // One value has a biased variance, but nothing to normalise with.
    let one = FeatureMap::from_nhwc(Tensor::ones((1, 1, 1, 1), DType::F64, &CPU).unwrap()).unwrap();
    let (mean, var) = running(1, DType::F64);
    let stats = BatchStats { running_mean: &mean, running_var: &var };
    let args = BatchNormArgs { training: true, running_var: RunningVar::Biased, ..BatchNormArgs::default() };
    assert!(batch_norm_nhwc(&one, &weight, &bias, stats, &args, None).is_err());
}

#[test]
fn large_mean_does_not_cancel() {
    let x = normal("x", &[4, 1, 8, 8]).affine(1e-3, 1e6).unwrap();
    let (weight, bias) =
        (Tensor::ones(1, DType::F64, &CPU).unwrap(), Tensor::zeros(1, DType::F64, &CPU).unwrap());
    let y = train(&x, &weight, &bias, 0.0).unwrap();
    let second: f64 = y.sqr().unwrap().mean_all().unwrap().to_scalar().unwrap();
    assert!((second - 1.0).abs() < 1e-6, "{second}");
}

#[test]
fn gradients() {
    for channels in [1, 3, 130] {
        let inputs =
            [normal("x", &[2, channels, 2, 3]), normal("weight", &[channels]), normal("bias", &[channels])];
        gradcheck(|t| train(&t[0], &t[1], &t[2], 1e-3), &inputs, 1e-5, 1e-7).unwrap();
        let var = normal("var", &[channels]).sqr().unwrap();
        let fixed = BatchStats { running_mean: &inputs[2], running_var: &var };
        gradcheck(|t| batch_norm(&t[0], &t[1], &t[2], fixed, false, 0.1, 1e-1), &inputs, 1e-5, 1e-7).unwrap();
    }
}

#[test]
fn fused_equals_composed() {
    let names = ["x", "residual"];
    let [x, residual] = names.map(|n| Var::from_tensor(&normal(n, &[3, 4, 5, 6])).unwrap());
    let [weight, bias] = ["weight", "bias"].map(|n| Var::from_tensor(&normal(n, &[6])).unwrap());
    let upstream = normal("upstream", &[3, 4, 5, 6]);
    let run = |fused: bool| {
        let [x, residual] = [&x, &residual].map(|v| FeatureMap::from_nhwc(v.as_tensor().clone()).unwrap());
        let (running_mean, running_var) = running(6, DType::F64);
        let stats = BatchStats { running_mean: &running_mean, running_var: &running_var };
        let args = BatchNormArgs { training: true, relu: fused, ..BatchNormArgs::default() };
        let y = if fused {
            batch_norm_nhwc(&x, &weight, &bias, stats, &args, Some(&residual)).unwrap()
        } else {
            let y = batch_norm_nhwc(&x, &weight, &bias, stats, &args, None).unwrap();
            relu_nhwc(&FeatureMap::from_nhwc((y.nhwc() + residual.nhwc()).unwrap()).unwrap()).unwrap()
        };
        let grads = (y.nhwc() * &upstream).unwrap().sum_all().unwrap().backward().unwrap();
        (y, grads)
    };
    let ((y1, g1), (y2, g2)) = (run(true), run(false));
    assert_close(y1.nhwc(), y2.nhwc(), 1e-12, 1e-12).unwrap();
    for var in [&x, &residual, &weight, &bias] {
        assert_close(g1.get(var).unwrap(), g2.get(var).unwrap(), 1e-10, 1e-10).unwrap();
    }
}

#[test]
fn frozen_parameters_and_untracked_inputs_get_no_gradient() {
    let x = normal("x", &[2, 3, 4, 4]);
    let weight = Var::from_tensor(&normal("weight", &[3])).unwrap();
    let bias = normal("bias", &[3]);
    let y = train(&x, &weight, &bias, 1e-5).unwrap();
    let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
    assert!(grads.get(&weight).is_some() && grads.get(&x).is_none());
}

#[test]
fn threads_do_not_change_a_bit() {
    let x = normal("x", &[8, 33, 40, 40]).to_dtype(DType::F32).unwrap();
    let weight = normal("weight", &[33]).to_dtype(DType::F32).unwrap();
    let run = |threads: usize| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            let x = Var::from_tensor(&x).unwrap();
            let y = train(&x, &weight, &weight, 1e-5).unwrap();
            let grads = y.powf(3.0).unwrap().sum_all().unwrap().backward().unwrap();
            [y, grads.get(&x).unwrap().clone()].map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap())
        })
    };
    assert_eq!(run(1), run(2));
}

#[test]
fn empty_batches() {
    let x = Var::zeros((0, 3, 4, 4), DType::F32, &CPU).unwrap();
    let weight = Var::ones(3, DType::F32, &CPU).unwrap();
    let (mean, var) = running(3, DType::F32);
    let stats = BatchStats { running_mean: &mean, running_var: &var };
    let y = batch_norm(&x, &weight, &mean, stats, true, 0.1, 1e-5).unwrap();
    assert_eq!(y.dims(), [0, 3, 4, 4]);
    let grads = y.sum_all().unwrap().backward().unwrap();
    assert_eq!(grads.get(&weight).unwrap().to_vec1::<f32>().unwrap(), [0.0; 3]);
    assert_eq!(mean.to_vec1::<f32>().unwrap(), [0.0; 3]);
    let y = batch_norm(&x, &weight, &mean, stats, false, 0.1, 1e-5).unwrap();
    let grads = y.sum_all().unwrap().backward().unwrap();
    assert_eq!(grads.get(&x).unwrap().dims(), [0, 3, 4, 4]);
}

#[test]
fn wrong_arguments_are_named() {
    let x = Tensor::zeros((1, 2, 1, 1), DType::F32, &CPU).unwrap();
    let two = Tensor::ones(2, DType::F32, &CPU).unwrap();
    let three = Tensor::ones(3, DType::F32, &CPU).unwrap();
    let stats = BatchStats { running_mean: &two, running_var: &two };
    let eval = |weight: &Tensor, bias: &Tensor, momentum: f64, eps: f64| {
        batch_norm(&x, weight, bias, stats, false, momentum, eps).unwrap_err().to_string()
    };
    let single = train(&x, &two, &two, 1e-5).unwrap_err().to_string();
    assert!(single.contains("more than one value per channel"), "{single}");
    let pair = Tensor::cat(&[&x, &x], 0).unwrap();
    let constant = batch_norm(&pair, &two, &two, stats, true, 0.1, 1e-5).unwrap_err().to_string();
    assert!(constant.contains("running_mean") && constant.contains("variable"), "{constant}");
    assert!(eval(&three, &two, 0.1, 1e-5).contains("weight"));
    assert!(eval(&two, &three, 0.1, 1e-5).contains("bias"));
    assert!(eval(&two, &two, 0.1, -1.0).contains("eps"));
    assert!(eval(&two, &two, 1.5, 1e-5).contains("momentum"));
    let wide = two.to_dtype(DType::F64).unwrap();
    assert!(matches!(batch_norm(&x, &wide, &two, stats, false, 0.1, 1e-5), Err(Error::Dtype { .. })));
}
