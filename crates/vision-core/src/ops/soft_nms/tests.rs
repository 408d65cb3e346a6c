use candle_core::DType;
use proptest::prelude::*;

use super::*;
use crate::rng::Key;

type Row = ([f64; 4], f64);

fn run(rows: &[Row], args: &SoftNmsArgs) -> (Vec<u32>, Vec<f64>) {
    let boxes: Vec<f64> = rows.iter().flat_map(|row| row.0).collect();
    let scores: Vec<f64> = rows.iter().map(|row| row.1).collect();
    let boxes = Tensor::from_vec(boxes, (rows.len(), 4), &Device::Cpu).unwrap();
    let got = soft_nms(&boxes, &Tensor::new(scores, &Device::Cpu).unwrap(), args).unwrap();
    assert_eq!(got.boxes.dims(), [got.keep.elem_count(), 4]);
    (got.keep.to_vec1().unwrap(), got.scores.to_vec1().unwrap())
}

/// The original's loop, step by step.
fn naive(rows: &[Row], args: &SoftNmsArgs) -> (Vec<u32>, Vec<f64>) {
    let one = if args.extent == BoxExtent::Inclusive { 1. } else { 0. };
    let mut all: Vec<(Row, u32)> = rows.iter().copied().zip(0..).collect();
    let mut i = 0;
    while i < all.len() {
        let mut best = i;
        for pos in i + 1..all.len() {
            if all[best].0.1 < all[pos].0.1 {
                best = pos;
            }
        }
        all.swap(i, best);
        let a = all[i].0.0;
        let mut pos = i + 1;
        while pos < all.len() {
            let (b, score) = all[pos].0;
            let w = a[2].min(b[2]) - a[0].max(b[0]) + one;
            let h = a[3].min(b[3]) - a[1].max(b[1]) + one;
            if w > 0. && h > 0. {
                let area = |b: [f64; 4]| (b[2] - b[0] + one) * (b[3] - b[1] + one);
                let overlap = w * h / (area(a) + area(b) - w * h);
                let weight = match args.method {
                    SoftNmsMethod::Gaussian => (-(overlap * overlap) / args.sigma).exp(),
                    _ if overlap <= args.iou_threshold => 1.,
                    SoftNmsMethod::Linear => 1. - overlap,
                    SoftNmsMethod::Hard => 0.,
                };
                all[pos].0.1 = weight * score;
                if all[pos].0.1 < args.min_score {
                    all.swap_remove(pos);
                    continue;
                }
            }
            pos += 1;
        }
        i += 1;
    }
    all.into_iter().map(|(row, number)| (number, row.1)).unzip()
}

/// Computed by the original code.
#[test]
fn published_code() {
    let rows = [
        ([10., 10., 60., 60.], 0.9),
        ([12., 12., 62., 62.], 0.85),
        ([14., 10., 64., 60.], 0.8),
        ([100., 100., 150., 150.], 0.7),
        ([10., 10., 60., 60.], 0.3),
        ([105., 100., 155., 150.], 0.02),
    ];
    let check = |method, sigma, want: &[f64]| {
        let args = SoftNmsArgs { method, sigma, extent: BoxExtent::Inclusive, ..SoftNmsArgs::default() };
        let (keep, scores) = run(&rows, &args);
        assert_eq!(scores.len(), want.len(), "{scores:?}");
        assert!(scores.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{scores:?}");
        keep
    };
    let gaussian = [0.9, 0.7, 0.223_468, 0.055_752, 0.005_865, 0.003_394];
    assert_eq!(check(SoftNmsMethod::Gaussian, 0.55, &gaussian)[5], 4);
    let linear = [0.9, 0.7, 0.121_385, 0.016_617, 0.003_571];
    check(SoftNmsMethod::Linear, 0.5, &linear);
    assert_eq!(check(SoftNmsMethod::Hard, 0.5, &[0.9, 0.7]), [0, 3]);
}

/// Without dropping, as the relation network code runs it.
#[test]
fn nothing_is_dropped_below_a_threshold_of_zero() {
    let rows = [
        ([10., 10., 59., 109.], 0.9),
        ([12., 14., 63., 113.], 0.85),
        ([100., 40., 199., 89.], 0.8),
        ([14., 8., 57., 105.], 0.7),
        ([98., 38., 205., 95.], 0.6),
    ];
    let args = SoftNmsArgs {
        method: SoftNmsMethod::Gaussian,
        sigma: 0.6,
        min_score: 0.,
        extent: BoxExtent::Inclusive,
        ..SoftNmsArgs::default()
    };
    let (keep, scores) = run(&rows, &args);
    assert_eq!(keep, [0, 2, 1, 4, 3]);
    let want = [0.9, 0.8, 0.274_106_14, 0.207_478_12, 0.088_910_39];
    assert!(scores.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{scores:?}");
}

fn random(count: usize, span: f64, levels: Option<u32>) -> Vec<Row> {
    let key = Key::new(6).fold_u64(count as u64);
    let number = |i: usize, low: f64, high: f64| low + (high - low) * key.f64_at(i as u64);
    (0..count)
        .map(|i| {
            let (x, y) = (number(5 * i, 0., span), number(5 * i + 1, 0., span));
            let score = match levels {
                None => number(5 * i + 4, 0., 1.),
                Some(n) => f64::from(key.below_at(i as u64, n).unwrap()) / f64::from(n),
            };
            ([x, y, x + number(5 * i + 2, 4., 60.), y + number(5 * i + 3, 4., 60.)], score)
        })
        .collect()
}

#[test]
fn agrees_with_the_loop_ties_included() {
    for (count, span) in [(0, 1.), (1, 1.), (64, 100.), (65, 40.), (200, 10.), (700, 400.)] {
        for levels in [None, Some(3)] {
            let rows = random(count, span, levels);
            for method in [SoftNmsMethod::Hard, SoftNmsMethod::Linear, SoftNmsMethod::Gaussian] {
                for min_score in [0., 0.001, 0.1] {
                    let args = SoftNmsArgs { method, min_score, ..SoftNmsArgs::default() };
                    assert_eq!(run(&rows, &args), naive(&rows, &args), "{count} {args:?}");
                }
            }
        }
    }
}

#[test]
fn wrong_arguments_are_named() {
    let boxes = Tensor::zeros((3, 4), DType::F32, &Device::Cpu).unwrap();
    let scores = Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap();
    let text = |args: SoftNmsArgs| soft_nms(&boxes, &scores, &args).unwrap_err().to_string();
    let args = SoftNmsArgs::default();
    assert!(text(SoftNmsArgs { sigma: 0., ..args }).starts_with("soft_nms: sigma"));
    assert!(text(SoftNmsArgs { iou_threshold: f64::NAN, ..args }).starts_with("soft_nms: iou_threshold"));
    assert!(text(SoftNmsArgs { min_score: f64::NAN, ..args }).starts_with("soft_nms: min_score"));
    let short = scores.narrow(0, 0, 2).unwrap();
    assert!(soft_nms(&boxes, &short, &args).unwrap_err().to_string().starts_with("soft_nms: scores"));
    assert!(soft_nms(&scores, &scores, &args).unwrap_err().to_string().starts_with("soft_nms: boxes"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn nothing_panics(values in prop::collection::vec(prop::num::f64::ANY, 0..700), gaussian: bool) {
        let rows: Vec<Row> = values.as_chunks::<5>().0.iter().map(|&[a, b, c, d, s]| ([a, b, c, d], s)).collect();
        let method = if gaussian { SoftNmsMethod::Gaussian } else { SoftNmsMethod::Linear };
        let (keep, _) = run(&rows, &SoftNmsArgs { method, ..SoftNmsArgs::default() });
        prop_assert!(keep.len() <= rows.len() && keep.is_empty() == rows.is_empty());
    }
}
