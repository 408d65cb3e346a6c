use super::*;
use crate::ops::conv2d::kernels;
use crate::rng::Key;

fn normal<T: Float>(name: &str, count: usize) -> Vec<T> {
    let values =
        Key::new(5).fold(name).normal(&[count], 0.0, 1.0, candle_core::DType::F64, &candle_core::Device::Cpu);
    values.unwrap().to_vec1::<f64>().unwrap().into_iter().map(T::from_f64).collect()
}

/// A geometry of `[batch, height, width]`, channels in and out, padding and dilation.
fn geometry(
    [batch, height, width]: [usize; 3],
    [in_channels, out_channels]: [usize; 2],
    padding: [usize; 2],
    dilation: [usize; 2],
) -> Geometry {
    let output = [0, 1].map(|axis| [height, width][axis] + 2 * padding[axis] - 2 * dilation[axis]);
    Geometry {
        batch,
        input: [height, width],
        output,
        in_channels,
        out_channels,
        kernel: [3, 3],
        args: Conv2dArgs { padding, dilation, ..Conv2dArgs::default() },
    }
}

/// Even and odd sizes, tiles over every edge, interleaved tiles, channels that fill no vector, several blocks.
fn cases() -> Vec<Geometry> {
    vec![
        geometry([1, 14, 14], [32, 32], [1, 1], [1, 1]),
        geometry([2, 13, 15], [36, 41], [1, 1], [1, 1]),
        geometry([1, 31, 17], [40, 33], [2, 2], [2, 2]),
        geometry([1, 19, 30], [32, 48], [4, 3], [4, 3]),
        geometry([3, 16, 16], [64, 32], [0, 0], [1, 1]),
        geometry([1, 12, 33], [33, 35], [5, 0], [1, 2]),
        geometry([1, 40, 40], [700, 32], [1, 1], [1, 1]),
    ]
}

fn largest_difference<T: Float>(g: &Geometry, bare: bool) -> f64 {
    let input = normal::<T>("input", g.batch * g.input[0] * g.input[1] * g.in_channels);
    let weight = normal::<T>("weight", g.out_channels * g.in_channels * 9);
    let scale = normal::<T>("scale", g.out_channels);
    let bias = normal::<T>("bias", g.out_channels);
    let residual = normal::<T>("residual", g.batch * g.output[0] * g.output[1] * g.out_channels);
    let epilogue = if bare {
        Epilogue::NONE
    } else {
        Epilogue { scale: Some(&scale), bias: Some(&bias), residual: Some(&residual), relu: true }
    };
    let plain = kernels::forward(g, &input, &weight, epilogue);
    let ours = forward(g, &input, &pack(g, &weight), epilogue);
    assert_eq!(plain.len(), ours.len());
    let sum = ((g.in_channels * 9) as f64).sqrt();
    plain.iter().zip(&ours).map(|(a, b)| (a.to_f64() - b.to_f64()).abs() / sum).fold(0.0, f64::max)
}

#[test]
fn equals_the_plain_form() {
    for g in cases() {
        for bare in [true, false] {
            let double = largest_difference::<f64>(&g, bare);
            assert!(double < 1e-14, "{g:?}: {double}");
            let single = largest_difference::<f32>(&g, bare);
            assert!(single < 5e-6, "{g:?}: {single}");
        }
    }
}

/// What the documentation says of its rounding.
#[test]
fn rounds_up_to_three_times_as_coarsely_as_the_plain_form() {
    for g in cases() {
        let exact_input = normal::<f64>("input", g.batch * g.input[0] * g.input[1] * g.in_channels);
        let exact_weight = normal::<f64>("weight", g.out_channels * g.in_channels * 9);
        let round = |values: &[f64]| values.iter().map(|&x| x as f32).collect::<Vec<f32>>();
        let (input, weight) = (round(&exact_input), round(&exact_weight));
        let widen = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        let exact = kernels::forward(&g, &widen(&input), &widen(&weight), Epilogue::NONE);
        let error = |got: &[f32]| {
            let squares = got.iter().zip(&exact).map(|(&got, exact)| (f64::from(got) - exact).powi(2));
            (squares.sum::<f64>() / exact.len() as f64).sqrt()
        };
        let plain = error(&kernels::forward(&g, &input, &weight, Epilogue::NONE));
        let ours = error(&forward(&g, &input, &pack(&g, &weight), Epilogue::NONE));
        assert!(ours < 3.0 * plain, "{g:?}: {ours:e} and {plain:e}");
    }
}

#[test]
fn is_chosen_where_it_pays() {
    assert!(cases().iter().all(suits));
    let good = geometry([1, 14, 14], [32, 32], [1, 1], [1, 1]);
    let with = |change: fn(&mut Geometry)| {
        let mut g = good;
        change(&mut g);
        suits(&g)
    };
    assert!(!with(|g| g.args.stride = [2, 1]));
    assert!(!with(|g| g.args.groups = 2));
    assert!(!with(|g| g.kernel = [3, 1]));
    assert!(!with(|g| g.in_channels = 31));
    assert!(!with(|g| g.out_channels = 31));
    // Few tiles, and tiles most of whose results lie outside.
    assert!(!with(|g| g.output = [13, 12]));
    assert!(!with(|g| g.output = [1, 400]));
    assert!(!with(|g| g.batch = 0));
}

#[test]
fn nan_reaches_the_results_that_see_it() {
    let g = geometry([1, 14, 14], [32, 32], [1, 1], [1, 1]);
    let mut input = vec![1.0f32; 14 * 14 * 32];
    input[(5 * 14 + 6) * 32] = f32::NAN;
    let weight = vec![1.0f32; 32 * 32 * 9];
    let relu = Epilogue { relu: true, ..Epilogue::NONE };
    let out = forward(&g, &input, &pack(&g, &weight), relu);
    for y in 0..14usize {
        for x in 0..14usize {
            let sees = y.abs_diff(5) <= 1 && x.abs_diff(6) <= 1;
            let near = y.abs_diff(5) <= 2 && x.abs_diff(6) <= 2;
            let nan = out[(y * 14 + x) * 32].is_nan();
            assert!(if sees { nan } else { near || !nan }, "{y} {x}");
        }
    }
}
