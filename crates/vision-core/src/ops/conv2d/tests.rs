use candle_core::{DType, Var};

use super::*;
use crate::rng::Key;
use crate::testing::{assert_close, gradcheck};

const CPU: Device = Device::Cpu;

fn normal(name: &str, shape: &[usize]) -> Tensor {
    Key::new(11).fold(name).normal(shape, 0.0, 1.0, DType::F64, &CPU).unwrap()
}

/// The formula of the module documentation, element by element.
fn naive(input: &Tensor, weight: &Tensor, bias: Option<&Tensor>, args: &Conv2dArgs) -> Tensor {
    let (n, c, h, w) = input.dims4().unwrap();
    let (o, cg, kh, kw) = weight.dims4().unwrap();
    let out = |size: usize, k: usize, axis: usize| {
        (size + 2 * args.padding[axis] - args.dilation[axis] * (k - 1) - 1) / args.stride[axis] + 1
    };
    let (oh, ow) = (out(h, kh, 0), out(w, kw, 1));
    let x: Vec<f64> = input.flatten_all().unwrap().to_vec1().unwrap();
    let f: Vec<f64> = weight.flatten_all().unwrap().to_vec1().unwrap();
    let bias: Vec<f64> = bias.map_or(vec![0.0; o], |b| b.to_vec1().unwrap());
    let og = o / args.groups;
    let mut y = Vec::new();
    for image in 0..n {
        for oc in 0..o {
            for oy in 0..oh {
                for ox in 0..ow {
                    let mut sum = bias[oc];
                    for ic in 0..cg {
                        for ky in 0..kh {
                            for kx in 0..kw {
                                let iy = (oy * args.stride[0] + ky * args.dilation[0]) as i64
                                    - args.padding[0] as i64;
                                let ix = (ox * args.stride[1] + kx * args.dilation[1]) as i64
                                    - args.padding[1] as i64;
                                if iy < 0 || ix < 0 || iy >= h as i64 || ix >= w as i64 {
                                    continue;
                                }
                                let channel = oc / og * cg + ic;
                                let at = ((image * c + channel) * h + iy as usize) * w + ix as usize;
                                sum += x[at] * f[((oc * cg + ic) * kh + ky) * kw + kx];
                            }
                        }
                    }
                    y.push(sum);
                }
            }
        }
    }
    Tensor::from_vec(y, (n, o, oh, ow), &CPU).unwrap()
}

/// Options worth trying: (input, weight, arguments).
fn cases() -> Vec<([usize; 4], [usize; 4], Conv2dArgs)> {
    let square = Conv2dArgs::square;
    vec![
        ([2, 3, 5, 4], [4, 3, 3, 3], square(1, 1)),
        ([2, 3, 7, 8], [4, 3, 3, 3], square(2, 1)),
        ([1, 2, 9, 9], [3, 2, 7, 7], square(2, 3)),
        ([2, 4, 4, 5], [6, 4, 1, 1], square(1, 0)),
        ([2, 4, 5, 4], [6, 4, 1, 1], square(2, 0)),
        ([2, 2, 3, 3], [2, 2, 1, 1], square(1, 1)),
        ([1, 2, 5, 5], [3, 2, 2, 2], square(3, 0)),
        ([1, 2, 1, 6], [3, 2, 1, 3], Conv2dArgs { padding: [0, 1], ..Conv2dArgs::default() }),
        ([2, 4, 6, 7], [6, 2, 3, 2], Conv2dArgs { groups: 2, ..square(1, 1) }),
        ([2, 3, 6, 5], [6, 1, 3, 3], Conv2dArgs { groups: 3, ..square(2, 1) }),
        (
            [1, 2, 9, 7],
            [2, 2, 3, 2],
            Conv2dArgs { stride: [2, 1], padding: [2, 0], dilation: [2, 3], groups: 1 },
        ),
        ([1, 4, 6, 6], [4, 2, 1, 1], Conv2dArgs { groups: 2, ..square(1, 0) }),
    ]
}

#[test]
fn equals_the_formula() {
    for (x, w, args) in cases() {
        let (x, w, b) = (normal("x", &x), normal("w", &w), normal("b", &w[..1]));
        for bias in [None, Some(&b)] {
            let want = naive(&x, &w, bias, &args);
            assert_close(&conv2d(&x, &w, bias, &args).unwrap(), &want, 1e-12, 1e-12).unwrap();
            let [x, w] = [&x, &w].map(|t| t.to_dtype(DType::F32).unwrap());
            let bias = bias.map(|b| b.to_dtype(DType::F32).unwrap());
            assert_close(&conv2d(&x, &w, bias.as_ref(), &args).unwrap(), &want, 1e-5, 1e-5).unwrap();
        }
    }
}

#[test]
fn gradients() {
    for (x, w, args) in cases() {
        let inputs = [normal("x", &x), normal("w", &w), normal("b", &w[..1])];
        gradcheck(|t| conv2d(&t[0], &t[1], Some(&t[2]), &args), &inputs, 1e-5, 1e-7).unwrap();
        gradcheck(|t| conv2d(&t[0], &t[1], None, &args), &inputs[..2], 1e-5, 1e-7).unwrap();
    }
}

#[test]
fn many_blocks_and_large_weights_give_right_gradients() {
    // Large enough for several blocks, chunks and cut kernels; compared in the bilinear form
    // <y, conv(x, w)> = <dx, x> = <dw, w>.
    for (x, w, args) in [
        ([3, 8, 40, 41], [16, 8, 3, 3], Conv2dArgs::square(1, 1)),
        ([3, 8, 40, 41], [16, 8, 3, 3], Conv2dArgs::square(2, 1)),
        ([2, 128, 9, 9], [128, 128, 3, 3], Conv2dArgs::square(2, 1)),
        ([2, 64, 20, 20], [96, 64, 1, 1], Conv2dArgs::square(1, 0)),
    ] {
        let x = Var::from_tensor(&normal("x", &x)).unwrap();
        let w = Var::from_tensor(&normal("w", &w)).unwrap();
        let y = conv2d(&x, &w, None, &args).unwrap();
        assert_close(&y, &naive(&x, &w, None, &args), 1e-10, 1e-10).unwrap();
        let upstream = normal("y", y.dims());
        let form = (&y * upstream).unwrap().sum_all().unwrap();
        let grads = form.backward().unwrap();
        for var in [&x, &w] {
            let product = (grads.get(var).unwrap() * var.as_tensor()).unwrap().sum_all().unwrap();
            assert_close(&product, &form, 1e-9, 1e-9).unwrap();
        }
    }
}

/// The margin itself could not be held in memory.
#[test]
fn few_windows_over_a_wide_margin() {
    let (input, weight) = (normal("input", &[1, 2, 5, 4]), normal("weight", &[3, 2, 3, 3]));
    let args =
        Conv2dArgs { padding: [1 << 40, 1], stride: [1 << 40, 1], dilation: [1, 1], ..Conv2dArgs::default() };
    let y = conv2d(&input, &weight, None, &args).unwrap();
    assert_eq!(y.dims(), [1, 3, 3, 4]);
    assert_close(&y, &naive(&input, &weight, None, &args), 1e-12, 1e-12).unwrap();
    gradcheck(|t| conv2d(&t[0], &t[1], None, &args), &[input, weight], 1e-5, 1e-7).unwrap();
}

#[test]
fn strided_input_and_weight() {
    let (x, w) = (normal("x", &[5, 2, 3, 6]), normal("w", &[3, 3, 2, 4]));
    let (x, w) = (x.permute((1, 2, 0, 3)).unwrap(), w.transpose(1, 0).unwrap().transpose(2, 3).unwrap());
    let args = Conv2dArgs::square(1, 1);
    let want = naive(&x, &w, None, &args);
    assert_close(&conv2d(&x, &w, None, &args).unwrap(), &want, 1e-12, 1e-12).unwrap();
    gradcheck(|t| conv2d(&t[0], &t[1], None, &args), &[x, w], 1e-5, 1e-7).unwrap();
}

#[test]
fn an_untracked_input_gets_no_gradient() {
    let x = normal("x", &[1, 2, 5, 5]);
    let w = Var::from_tensor(&normal("w", &[3, 2, 3, 3])).unwrap();
    let grads = conv2d(&x, &w, None, &Conv2dArgs::default()).unwrap().sum_all().unwrap().backward().unwrap();
    assert!(grads.get(&x).is_none() && grads.get(&w).is_some());
}

#[test]
fn empty_batches() {
    let w = Var::from_tensor(&normal("w", &[3, 2, 3, 3])).unwrap();
    let b = Var::from_tensor(&normal("b", &[3])).unwrap();
    for stride in [1, 2] {
        let x = Var::zeros((0, 2, 5, 6), DType::F64, &CPU).unwrap();
        let y = conv2d(&x, &w, Some(&b), &Conv2dArgs::square(stride, 1)).unwrap();
        let grads = y.sum_all().unwrap().backward().unwrap();
        assert_eq!(grads.get(&x).unwrap().dims(), [0, 2, 5, 6]);
        assert_eq!(grads.get(&b).unwrap().to_vec1::<f64>().unwrap(), [0.0; 3]);
        let dw: f64 = grads.get(&w).unwrap().sqr().unwrap().sum_all().unwrap().to_scalar().unwrap();
        assert_eq!(dw, 0.0);
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let [x, w] = [("x", [7, 16, 31, 33]), ("w", [24, 16, 3, 3])]
        .map(|(n, s)| normal(n, &s).to_dtype(DType::F32).unwrap());
    let run = |threads: usize, stride: usize| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            let [x, w] = [&x, &w].map(|t| Var::from_tensor(t).unwrap());
            let y = conv2d(&x, &w, None, &Conv2dArgs::square(stride, 1)).unwrap();
            let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            [y, grads.get(&x).unwrap().clone(), grads.get(&w).unwrap().clone()]
                .map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap())
        })
    };
    for stride in [1, 2] {
        assert_eq!(run(1, stride), run(2, stride));
    }
}

#[test]
fn wrong_arguments_are_named() {
    let x = normal("x", &[1, 4, 5, 5]);
    let w = normal("w", &[6, 4, 3, 3]);
    let problem =
        |x: &Tensor, w: &Tensor, args: Conv2dArgs| conv2d(x, w, None, &args).unwrap_err().to_string();
    let args = Conv2dArgs::default();
    assert!(problem(&x, &w, Conv2dArgs { groups: 0, ..args }).contains("groups"));
    assert!(problem(&x, &w, Conv2dArgs { groups: 3, ..args }).contains("groups"));
    assert!(problem(&x, &w, Conv2dArgs { groups: 2, ..args }).contains("weight"));
    assert!(problem(&x, &w, Conv2dArgs { stride: [1, 0], ..args }).contains("stride"));
    assert!(problem(&x, &w, Conv2dArgs { dilation: [0, 1], ..args }).contains("dilation"));
    assert!(problem(&x, &w, Conv2dArgs { dilation: [3, 1], ..args }).contains("input"));
    assert!(problem(&x, &w, Conv2dArgs { padding: [usize::MAX, 1], ..args }).contains("input"));
    assert!(problem(&x, &normal("w", &[6, 3, 3, 3]), args).contains("weight"));
    assert!(problem(&x, &normal("w", &[6, 4, 3]), args).contains("weight"));
    assert!(problem(&x.flatten_all().unwrap(), &w, args).contains("(N, C, H, W)"));
    let narrow = w.to_dtype(DType::F32).unwrap();
    assert!(matches!(conv2d(&x, &narrow, None, &args), Err(Error::Dtype { .. })));
    let bias = conv2d(&x, &w, Some(&normal("b", &[5])), &args).unwrap_err().to_string();
    assert!(bias.contains("bias"), "{bias}");
}
