use candle_core::Var;

use super::*;
use crate::rng::Key;
use crate::testing::{assert_close, gradcheck};

pub(super) const CPU: Device = Device::Cpu;
pub(super) const PLAIN: EncodingArgs = EncodingArgs { normalize_distance: false };

/// Numbers in [-1, 1) from a stream and an index, the same as in other implementations' fixtures.
fn stream(number: u64, dims: &[usize], scale: f64, shift: f64) -> Tensor {
    let value = |i: u64| {
        let mut z = ((number << 32) + i).wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        let unit = (z >> 40) as f64 / f64::from(1 << 24);
        scale * (2.0 * unit - 1.0) + shift
    };
    let count: usize = dims.iter().product();
    Tensor::from_vec((0..count as u64).map(value).collect::<Vec<_>>(), dims, &CPU).unwrap()
}

pub(super) fn numbers(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

pub(super) fn near(got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() <= tolerance, "got {got}, expected {want}");
    }
}

/// Input `(2, 15, 6)` from maps `(2, 6, 3, 5)`, four codewords, scales and the gradient of the result.
pub(super) fn fixture(dtype: DType) -> [Tensor; 4] {
    let x = stream(1001, &[2, 6, 3, 5], 1.0, 0.0).flatten_from(2).unwrap().transpose(1, 2).unwrap();
    let c = stream(1002, &[4, 6], 0.5, 0.0);
    let s = stream(1003, &[4], 0.4, -0.5);
    let g = stream(1004, &[2, 4, 6], 1.0, 0.0);
    [x, c, s, g].map(|tensor| tensor.contiguous().unwrap().to_dtype(dtype).unwrap())
}

#[test]
fn numbers_of_the_original_forward() {
    assert_eq!(numbers(&stream(7, &[2], 1.0, 0.0)), [0.475_411_176_681_518_55, -0.794_962_644_577_026_4]);
    for (dtype, tolerance) in [(DType::F64, 6e-8), (DType::F32, 2e-6)] {
        let [x, c, s, _] = fixture(dtype);
        let a = numbers(&codeword_assignments(&x, &c, &s, &PLAIN).unwrap());
        near(&a[..4], &[0.136_529_8, 0.478_348, 0.232_42, 0.152_702_3], tolerance);
        let e = numbers(&encoding(&x, &c, &s, &PLAIN).unwrap());
        let first = [-0.794_661_7, 1.175_403_5, 0.835_324_6, -0.745_788_6, -0.682_051_8, 0.357_320_4];
        let last = [0.002_985_9, 0.568_449_8, -0.518_686_5, -0.469_208_4, 0.476_757_9, -0.627_184_7];
        near(&e[..6], &first, tolerance);
        near(&e[42..], &last, tolerance);
        let exact = if dtype == DType::F64 { 1e-12 } else { 2e-5 };
        near(&[e.iter().sum()], &[9.516_058_433_868_452], exact);
        near(&[e.iter().map(|e| e * e).sum()], &[77.978_067_565_245_74], 10.0 * exact);
    }
}

#[test]
fn numbers_of_the_original_backward() {
    for (dtype, tolerance) in [(DType::F64, 1e-7), (DType::F32, 1e-5)] {
        let [x, c, s, g] = fixture(dtype);
        let [x, c, s] = [x, c, s].map(|tensor| Var::from_tensor(&tensor).unwrap());
        let grads =
            (encoding(&x, &c, &s, &PLAIN).unwrap() * g).unwrap().sum_all().unwrap().backward().unwrap();
        let grad = |of: &Var| numbers(grads.get(of).unwrap());
        let (gx, gc, gs) = (grad(&x), grad(&c), grad(&s));
        let first = [0.552_057_8, -0.319_492_7, 0.403_158_1, -0.508_593, 0.315_907_5, -0.093_256_1];
        near(&gx[..6], &first, tolerance);
        // The sign of the part that goes through the distances shows here.
        let code = [2.730_404_8, 0.895_829_1, -1.081_503_2, -0.741_701_7, 2.014_070_1, -1.229_721_5];
        near(&gc[..6], &code, 3.0 * tolerance);
        near(&gs, &[-5.732_221_2, 7.352_762_2, 4.282_624_4, -2.529_344_1], 8.0 * tolerance);
        let relative = if dtype == DType::F64 { 1e-12 } else { 1e-5 };
        let square = |g: &[f64]| g.iter().map(|g| g * g).sum::<f64>();
        near(
            &[square(&gx) / 18.947_497_185_539_22, square(&gc) / 197.920_652_548_376_75],
            &[1.0; 2],
            relative,
        );
    }
}

#[test]
fn gradients() {
    for (b, n, d, k) in [(2, 15, 6, 4), (1, 1, 3, 2), (3, 7, 5, 1), (1, 100, 2, 37)] {
        let key = Key::new(3);
        let draw = |name: &str, dims: &[usize], mean: f64| {
            key.fold(name).normal(dims, mean, 0.5, DType::F64, &CPU).unwrap()
        };
        let inputs = [draw("x", &[b, n, d], 0.0), draw("c", &[k, d], 0.0), draw("s", &[k], -0.5)];
        for normalize_distance in [false, true] {
            let args = EncodingArgs { normalize_distance };
            gradcheck(|t| encoding(&t[0], &t[1], &t[2], &args), &inputs, 1e-5, 1e-6).unwrap();
        }
        let strided = |t: &[Tensor]| {
            encoding(&t[0].transpose(1, 2)?.transpose(1, 2)?, &t[1], &t[2], &EncodingArgs::default())
        };
        gradcheck(strided, &inputs, 1e-5, 1e-6).unwrap();
    }
}

#[test]
fn a_scale_of_zero_has_a_gradient() {
    let [x, c, s, _] = fixture(DType::F64);
    let mut scales = numbers(&s);
    scales[1] = 0.0;
    let s = Tensor::from_vec(scales, 4, &CPU).unwrap();
    gradcheck(|t| encoding(&t[0], &t[1], &t[2], &PLAIN), &[x, c, s], 1e-5, 1e-6).unwrap();
}

#[test]
fn only_what_is_asked_for_gets_a_gradient() {
    let [x, c, s, _] = fixture(DType::F64);
    let all = [&x, &c, &s].map(|tensor| Var::from_tensor(tensor).unwrap());
    let full = encoding(&all[0], &all[1], &all[2], &PLAIN).unwrap().sqr().unwrap().sum_all().unwrap();
    let full = full.backward().unwrap();
    for (which, var) in all.iter().enumerate() {
        let mut inputs = [x.clone(), c.clone(), s.clone()];
        inputs[which] = var.as_tensor().clone();
        let y = encoding(&inputs[0], &inputs[1], &inputs[2], &PLAIN).unwrap();
        let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        assert_close(grads.get(var).unwrap(), full.get(var).unwrap(), 1e-12, 1e-12).unwrap();
    }
}

#[test]
fn moving_and_permuting() {
    let [x, c, s, _] = fixture(DType::F64);
    let e = encoding(&x, &c, &s, &PLAIN).unwrap();
    let by = Tensor::new(&[1.5f64, -2.0, 0.25, 3.0, -0.75, 1.0], &CPU).unwrap();
    let [moved_x, moved_c] = [&x, &c].map(|tensor| tensor.broadcast_add(&by).unwrap());
    let moved = encoding(&moved_x, &moved_c, &s, &PLAIN).unwrap();
    assert_close(&moved, &e, 1e-12, 1e-12).unwrap();
    let turned = |t: &Tensor, dim: usize, by: usize| {
        let n = t.dim(dim).unwrap();
        Tensor::cat(&[t.narrow(dim, by, n - by).unwrap(), t.narrow(dim, 0, by).unwrap()], dim).unwrap()
    };
    assert_close(&encoding(&turned(&x, 1, 4), &c, &s, &PLAIN).unwrap(), &e, 1e-12, 1e-12).unwrap();
    let codes = encoding(&x, &turned(&c, 0, 1), &turned(&s, 0, 1), &PLAIN).unwrap();
    assert_close(&codes, &turned(&e, 1, 1), 1e-12, 1e-12).unwrap();
}

#[test]
fn assignments_sum_to_one_however_far_the_logits() {
    for dtype in [DType::F32, DType::F64] {
        // Distances of a few units, so logits reach 1e4 and more.
        let x = Key::new(5).normal((2, 33, 7), 0., 1., dtype, &CPU).unwrap();
        let c = Key::new(6).normal((5, 7), 0., 1., dtype, &CPU).unwrap();
        let s = Tensor::new(&[1e3, -1e3, 0., 500., -2e3], &CPU).unwrap().to_dtype(dtype).unwrap();
        let a = codeword_assignments(&x, &c, &s, &PLAIN).unwrap();
        for sum in numbers(&a.sum(2).unwrap()) {
            assert!((sum - 1.0).abs() <= 1e-6, "{sum}");
        }
        assert!(numbers(&encoding(&x, &c, &s, &PLAIN).unwrap()).iter().all(|e| e.is_finite()));
    }
}

#[test]
fn one_codeword_takes_all_and_usage_says_so() {
    let x = Tensor::new(&[[[1f64, 2.], [3., 5.]]], &CPU).unwrap();
    let (c, s) = (Tensor::new(&[[1f64, 1.]], &CPU).unwrap(), Tensor::new(&[-3f64], &CPU).unwrap());
    let e = encoding(&x, &c, &s, &PLAIN).unwrap();
    assert_eq!(e.to_vec3::<f64>().unwrap(), [[[2., 5.]]]);
    let usage = codeword_usage(&x, &c, &s, &PLAIN).unwrap();
    assert_eq!(usage, CodewordUsage { mean: vec![1.0], entropy: 0.0 });
    // Equal codewords share.
    let (c, s) = (Tensor::cat(&[&c, &c], 0).unwrap(), Tensor::cat(&[&s, &s], 0).unwrap());
    let usage = codeword_usage(&x, &c, &s, &PLAIN).unwrap();
    assert_eq!(usage.mean, [0.5, 0.5]);
    assert!((usage.entropy - 2f64.ln()).abs() < 1e-12);
    // Half the distance is twice the channels.
    let half = EncodingArgs { normalize_distance: true };
    let double = (&s * 2.0).unwrap();
    let [plain, normalised] = [(&s, PLAIN), (&double, half)]
        .map(|(s, args)| codeword_assignments(&x, &(&c + 0.0).unwrap(), s, &args).unwrap());
    assert_close(&normalised, &plain, 1e-12, 0.).unwrap();
}

#[test]
fn an_empty_batch_passes() {
    let x = Var::zeros((0, 5, 3), DType::F32, &CPU).unwrap();
    let (c, s) = (Var::ones((2, 3), DType::F32, &CPU).unwrap(), Var::ones(2, DType::F32, &CPU).unwrap());
    let e = encoding(&x, &c, &s, &PLAIN).unwrap();
    assert_eq!(e.dims(), [0, 2, 3]);
    let grads = e.sum_all().unwrap().backward().unwrap();
    assert_eq!(numbers(grads.get(&c).unwrap()), [0.0; 6]);
    assert_eq!(numbers(grads.get(&s).unwrap()), [0.0; 2]);
    assert!(codeword_usage(&x, &c, &s, &PLAIN).is_err());
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let x = Key::new(1).normal((2, 700, 20), 0., 1., DType::F32, &CPU).unwrap();
    let c = Key::new(2).normal((33, 20), 0., 1., DType::F32, &CPU).unwrap();
    let s = Key::new(3).uniform(33, -1., 0., DType::F32, &CPU).unwrap();
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let vars = [&x, &c, &s].map(|tensor| Var::from_tensor(tensor).unwrap());
            let e = encoding(&vars[0], &vars[1], &vars[2], &PLAIN).unwrap();
            let grads = e.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            let mut all = numbers(&e);
            for var in &vars {
                all.extend(numbers(grads.get(var).unwrap()));
            }
            all
        })
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn bad_input_is_refused() {
    let make = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &CPU).unwrap();
    let message = |x: &Tensor, c: &Tensor, s: &Tensor| encoding(x, c, s, &PLAIN).unwrap_err().to_string();
    let (x, c, s) = (make(&[2, 5, 3]), make(&[4, 3]), make(&[4]));
    assert!(encoding(&x, &c, &s, &PLAIN).is_ok());
    assert!(message(&make(&[5, 3]), &c, &s).starts_with("encoding: input"));
    assert!(message(&make(&[2, 0, 3]), &c, &s).starts_with("encoding: input"));
    assert!(message(&make(&[2, 5, 0]), &make(&[4, 0]), &s).starts_with("encoding: input"));
    assert!(message(&x, &make(&[4, 2]), &s).starts_with("encoding: codewords"));
    assert!(message(&x, &make(&[0, 3]), &make(&[0])).starts_with("encoding: codewords"));
    assert!(message(&x, &make(&[12]), &s).starts_with("encoding: codewords"));
    assert!(message(&x, &c, &make(&[3])).starts_with("encoding: scale"));
    let double = s.to_dtype(DType::F64).unwrap();
    assert!(message(&x, &c, &double).starts_with("encoding: scale"));
    let whole = x.to_dtype(DType::U32).unwrap();
    assert!(matches!(encoding(&whole, &c, &s, &PLAIN), Err(Error::Dtype { .. })));
}
