use candle_core::{DType, Var};
use proptest::prelude::*;

use super::*;
use crate::ops::{Conv2dArgs, conv2d};
use crate::rng::Key;
use crate::testing::gradcheck;

fn normal(key: u64, dims: &[usize], std: f64) -> Tensor {
    Key::new(key).normal(dims, 0., std, DType::F64, &Device::Cpu).unwrap()
}

fn flat(t: &Tensor) -> Vec<f64> {
    t.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

fn assert_near(got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() <= tolerance * want.abs().max(1.), "{got} is not {want}");
    }
}

/// A column 1, 5, 9 read by a kernel of one tap that is moved down by `dy`.
fn column(dy: f64, border: DeformBorder) -> Vec<f64> {
    let x = Tensor::from_slice(&[1.0f64, 5.0, 9.0], (1, 1, 3, 1), &Device::Cpu).unwrap();
    let mut offset = vec![dy; 3];
    offset.extend([0.; 3]);
    let offset = Tensor::from_vec(offset, (1, 2, 3, 1), &Device::Cpu).unwrap();
    let weight = Tensor::ones((1, 1, 1, 1), DType::F64, &Device::Cpu).unwrap();
    let args = DeformConv2dArgs { border, ..DeformConv2dArgs::default() };
    flat(&deform_conv2d(&x, &offset, &weight, None, None, &args).unwrap())
}

#[test]
fn the_two_border_rules() {
    assert_eq!(column(-0.5, DeformBorder::Zeros), [0.5, 3.0, 7.0]);
    assert_eq!(column(0.25, DeformBorder::Zeros), [2.0, 6.0, 6.75]);
    assert_eq!(column(0.5, DeformBorder::Zeros), [3.0, 7.0, 4.5]);
    assert_eq!(column(-0.5, DeformBorder::Clamped), [0.0, 3.0, 7.0]);
    assert_eq!(column(0.25, DeformBorder::Clamped), [2.0, 6.0, 9.0]);
    assert_eq!(column(0.5, DeformBorder::Clamped), [3.0, 7.0, 9.0]);
    for border in [DeformBorder::Zeros, DeformBorder::Clamped] {
        assert_eq!(column(0., border), [1.0, 5.0, 9.0]);
        assert_eq!(column(3., border), [0.0; 3]);
        assert_eq!(column(f64::INFINITY, border), [0.0; 3]);
        assert_eq!(column(-1e300, border), [0.0; 3]);
    }
    assert!(column(f64::NAN, DeformBorder::Zeros)[0].is_nan());
    assert_eq!(column(f64::NAN, DeformBorder::Clamped), [0.0; 3]);
}

#[test]
fn without_offsets_it_is_a_convolution() {
    for (groups, stride, dilation) in [(1, 1, 2), (2, 2, 1), (4, 1, 1)] {
        let x = normal(1, &[2, 8, 9, 7], 1.);
        let weight = normal(2, &[4, 8 / groups, 3, 3], 1.);
        let bias = normal(3, &[4], 1.);
        let plain = Conv2dArgs { stride: [stride; 2], padding: [2, 1], dilation: [dilation; 2], groups };
        let want = conv2d(&x, &weight, Some(&bias), &plain).unwrap();
        let (oh, ow) = (want.dim(2).unwrap(), want.dim(3).unwrap());
        let args = DeformConv2dArgs {
            stride: plain.stride,
            padding: plain.padding,
            dilation: plain.dilation,
            border: DeformBorder::Zeros,
        };
        for offset_groups in [1, 2, 8] {
            let zeros = Tensor::zeros((2, 18 * offset_groups, oh, ow), DType::F64, &Device::Cpu).unwrap();
            let got = deform_conv2d(&x, &zeros, &weight, Some(&bias), None, &args).unwrap();
            assert_near(&flat(&got), &flat(&want), 1e-12);
        }
    }
}

#[test]
fn gradients_of_all_options() {
    let border = [DeformBorder::Zeros, DeformBorder::Clamped];
    for (border, groups, offset_groups) in
        [(border[0], 1, 1), (border[1], 1, 2), (border[0], 2, 3), (border[1], 3, 2), (border[0], 6, 6)]
    {
        let x = normal(1, &[2, 6, 5, 6], 1.);
        // 5 + 2 - 2 = 5 rows, every second; 6 + 2 - 2 = 6 columns.
        let offset = normal(2, &[2, 12 * offset_groups, 3, 6], 0.9);
        let mask = normal(3, &[2, 6 * offset_groups, 3, 6], 1.);
        let weight = normal(4, &[6, 6 / groups, 3, 2], 1.);
        let bias = normal(5, &[6], 1.);
        let args = DeformConv2dArgs { stride: [2, 1], padding: [1, 1], dilation: [1, 2], border };
        let inputs = [x, offset, weight, bias, mask];
        let run = |t: &[Tensor]| deform_conv2d(&t[0], &t[1], &t[2], Some(&t[3]), Some(&t[4]), &args);
        gradcheck(run, &inputs, 1e-6, 1e-7).unwrap();
        let run = |t: &[Tensor]| deform_conv2d(&t[0], &t[1], &t[2], None, None, &args);
        gradcheck(run, &inputs[..3], 1e-6, 1e-7).unwrap();
    }
}

/// Inputs of a formula, `(N, C, H, W)`.
fn formula(dims: [usize; 4], value: impl Fn([f64; 4]) -> f64) -> Var {
    let [_, c, h, w] = dims;
    let at = |i: usize| [i / (c * h * w), i / (h * w) % c, i / w % h, i % w].map(|i| i as f64);
    let values: Vec<f64> = (0..dims.iter().product()).map(|i| value(at(i))).collect();
    Var::from_tensor(&Tensor::from_vec(values, &dims, &Device::Cpu).unwrap()).unwrap()
}

#[test]
fn sums_that_mxnet_computed() {
    let x = formula([2, 8, 7, 9], |[n, c, y, x]| (0.13 * n + 0.37 * c + 0.11 * y + 0.23 * x).sin());
    let offset = formula([2, 72, 7, 9], |[n, k, y, x]| 0.9 * (0.5 * k + 0.21 * y + 0.17 * x + n).sin());
    let weight = formula([6, 8, 3, 3], |[o, i, a, b]| 0.1 * (0.3 * o + 0.7 * i + 0.9 * a + 1.1 * b).cos());
    let args = DeformConv2dArgs {
        padding: [2, 2],
        dilation: [2, 2],
        border: DeformBorder::Clamped,
        ..DeformConv2dArgs::default()
    };
    let y = deform_conv2d(&x, &offset, &weight, None, None, &args).unwrap();
    let grads = (y.sqr().unwrap().sum_all().unwrap() * 0.5).unwrap().backward().unwrap();
    let got = [&y, grads.get(&x).unwrap(), grads.get(&offset).unwrap(), grads.get(&weight).unwrap()];
    // Sum, sum of squares, first and last element, by MXNet 1.9.1 in `f32`.
    let want = [
        [-388.615572, 729.002397, 0.146160, -1.138951],
        [20.374835, 2428.504631, -0.351073, 2.041859],
        [40.391908, 37.048582, 0., 0.],
        [-1161.327770, 875158.34, -77.061600, -27.523212],
    ];
    for (got, want) in got.into_iter().zip(want) {
        let got = flat(got);
        let squares = got.iter().map(|x| x * x).sum();
        assert_near(&[got.iter().sum(), squares, got[0], got[got.len() - 1]], &want, 2e-5);
    }
    // The other rule, by torchvision.
    let args = DeformConv2dArgs { border: DeformBorder::Zeros, ..args };
    let y = flat(&deform_conv2d(&x, &offset, &weight, None, None, &args).unwrap());
    assert_near(&[y.iter().sum(), y[0], y[y.len() - 1]], &[-369.908421, 0.292358, -0.755302], 2e-5);
}

#[test]
fn the_result_does_not_depend_on_the_number_of_threads() {
    // Several tiles, one of them short.
    let f32 = |t: Tensor| t.to_dtype(DType::F32).unwrap();
    let (x, weight) = (f32(normal(1, &[3, 16, 17, 19], 1.)), f32(normal(4, &[8, 16, 3, 3], 0.1)));
    let (offset, mask) = (f32(normal(2, &[3, 36, 17, 19], 2.)), f32(normal(3, &[3, 18, 17, 19], 1.)));
    let args = DeformConv2dArgs { padding: [1, 1], ..DeformConv2dArgs::default() };
    let run = |threads| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            let vars = [&x, &offset, &weight, &mask].map(|t| Var::from_tensor(t).unwrap());
            let y = deform_conv2d(&vars[0], &vars[1], &vars[2], None, Some(&vars[3]), &args).unwrap();
            let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            let mut all = vec![flat(&y)];
            all.extend(vars.iter().map(|var| flat(grads.get(var).unwrap())));
            all
        })
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn strided_and_empty_inputs() {
    let args = DeformConv2dArgs { padding: [1, 1], ..DeformConv2dArgs::default() };
    let (x, weight) = (normal(1, &[2, 5, 6, 4], 1.), normal(2, &[3, 4, 3, 3], 1.));
    let (offset, weight_t) = (normal(3, &[2, 18, 6, 5], 1.), normal(2, &[3, 4, 3, 3], 1.));
    let (view, turned) = (x.transpose(1, 3).unwrap(), offset.transpose(2, 3).unwrap());
    let view = view.transpose(2, 3).unwrap();
    let run = |x: &Tensor, offset: &Tensor, weight: &Tensor| {
        flat(&deform_conv2d(x, offset, weight, None, None, &args).unwrap())
    };
    let kernel = weight_t.transpose(2, 3).unwrap();
    assert_eq!(
        run(&view, &turned, &kernel),
        run(&view.contiguous().unwrap(), &turned.contiguous().unwrap(), &kernel.contiguous().unwrap())
    );
    let empty = Var::zeros((0, 4, 5, 6), DType::F64, &Device::Cpu).unwrap();
    let offset = Var::zeros((0, 18, 5, 6), DType::F64, &Device::Cpu).unwrap();
    let (weight, bias) =
        (Var::from_tensor(&weight).unwrap(), Var::ones(3, DType::F64, &Device::Cpu).unwrap());
    let y = deform_conv2d(&empty, &offset, &weight, Some(&bias), None, &args).unwrap();
    assert_eq!(y.dims(), [0, 3, 5, 6]);
    let grads = y.sum_all().unwrap().backward().unwrap();
    assert_eq!(grads.get(&empty).unwrap().dims(), [0, 4, 5, 6]);
    assert_eq!(flat(grads.get(&weight).unwrap()), vec![0.; weight.elem_count()]);
    assert_eq!(flat(grads.get(&bias).unwrap()), [0.; 3]);
    // Windows that lie in the padding see nothing but the bias.
    let none = Tensor::zeros((1, 4, 0, 6), DType::F64, &Device::Cpu).unwrap();
    let offset = Tensor::zeros((1, 18, 1, 6), DType::F64, &Device::Cpu).unwrap();
    let args = DeformConv2dArgs { padding: [2, 1], stride: [2, 1], ..args };
    let y = deform_conv2d(&none, &offset, &weight, Some(&bias), None, &args).unwrap();
    assert_eq!(flat(&y), [1.; 18]);
    assert_eq!(y.sum_all().unwrap().backward().unwrap().get(&bias).map(flat), Some(vec![6.; 3]));
}

#[test]
fn wrong_arguments_are_named() {
    let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
    let plain = DeformConv2dArgs::default();
    let problem = |x: &[usize], offset: &[usize], weight: &[usize], args: &DeformConv2dArgs| {
        let got = deform_conv2d(&zeros(x), &zeros(offset), &zeros(weight), None, None, args);
        got.unwrap_err().to_string()
    };
    let (x, offset, weight) = ([1, 4, 3, 3], [1, 2, 3, 3], [2, 4, 1, 1]);
    assert!(problem(&[4, 3, 3], &offset, &weight, &plain).starts_with("deform_conv2d: input"));
    assert!(problem(&x, &[2, 3, 3], &weight, &plain).starts_with("deform_conv2d: offset"));
    assert!(problem(&x, &[1, 3, 3, 3], &weight, &plain).starts_with("deform_conv2d: offset"));
    assert!(problem(&x, &[1, 6, 3, 3], &weight, &plain).starts_with("deform_conv2d: offset"));
    assert!(problem(&x, &[1, 2, 3, 2], &weight, &plain).starts_with("deform_conv2d: offset"));
    assert!(problem(&x, &offset, &[2, 3, 1, 1], &plain).starts_with("deform_conv2d: weight"));
    assert!(problem(&x, &offset, &[3, 2, 1, 1], &plain).starts_with("deform_conv2d: weight"));
    assert!(problem(&x, &offset, &[2, 0, 1, 1], &plain).starts_with("deform_conv2d: weight"));
    assert!(problem(&x, &offset, &[2, 4], &plain).starts_with("deform_conv2d: weight"));
    assert!(problem(&x, &offset, &[2, 4, 4, 1], &plain).starts_with("deform_conv2d: input"));
    let args = DeformConv2dArgs { stride: [0, 1], ..plain };
    assert!(problem(&x, &offset, &weight, &args).starts_with("deform_conv2d: stride"));
    let args = DeformConv2dArgs { dilation: [1, 0], ..plain };
    assert!(problem(&x, &offset, &weight, &args).starts_with("deform_conv2d: dilation"));
    let args = DeformConv2dArgs { padding: [usize::MAX, 0], ..plain };
    assert!(problem(&x, &offset, &weight, &args).starts_with("deform_conv2d: input"));
    let (x, offset, weight) = (zeros(&x), zeros(&offset), zeros(&weight));
    let got = deform_conv2d(&x, &offset, &weight, None, Some(&zeros(&[1, 2, 3, 3])), &plain);
    assert!(got.unwrap_err().to_string().starts_with("deform_conv2d: mask"));
    let got = deform_conv2d(&x, &offset, &weight, Some(&zeros(&[3])), None, &plain);
    assert!(got.unwrap_err().to_string().starts_with("deform_conv2d: bias"));
    let wide = offset.to_dtype(DType::F64).unwrap();
    let got = deform_conv2d(&x, &wide, &weight, None, None, &plain);
    assert!(matches!(got, Err(Error::Dtype { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_place_gives_a_result(
        [n, c, h, w] in prop::array::uniform4(0usize..5),
        [o, kh, kw, offset_groups] in prop::array::uniform4(1usize..4),
        stride in prop::array::uniform2(0usize..3),
        padding in prop::array::uniform2(0usize..3),
        dilation in prop::array::uniform2(0usize..3),
        value in prop::num::f32::ANY,
        (clamped, groups) in (any::<bool>(), 1usize..4),
    ) {
        let border = if clamped { DeformBorder::Clamped } else { DeformBorder::Zeros };
        let args = DeformConv2dArgs { stride, padding, dilation, border };
        let size = |size: usize, axis: usize, kernel: usize| {
            (size + 2 * padding[axis]).checked_sub(dilation[axis] * (kernel - 1) + 1).map_or(1, |rest| {
                rest / stride[axis].max(1) + 1
            })
        };
        let full = |value: f32, dims: &[usize]| {
            Var::from_tensor(&Tensor::full(value, dims, &Device::Cpu).unwrap()).unwrap()
        };
        let (oh, ow) = (size(h, 0, kh), size(w, 1, kw));
        let (x, weight) = (full(1., &[n, c, h, w]), full(1., &[o, c / groups, kh, kw]));
        let offset = full(value, &[n, 2 * kh * kw * offset_groups, oh, ow]);
        let mask = full(1., &[n, kh * kw * offset_groups, oh, ow]);
        if let Ok(y) = deform_conv2d(&x, &offset, &weight, None, Some(&mask), &args) {
            prop_assert_eq!(y.dims(), &[n, o, oh, ow]);
            y.sum_all().unwrap().backward().unwrap();
        }
    }
}
