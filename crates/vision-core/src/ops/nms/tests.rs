use proptest::prelude::*;

use super::*;
use crate::rng::Key;

fn kept(boxes: &[[f32; 4]], scores: &[f32], args: &NmsArgs) -> Vec<u32> {
    let boxes = Tensor::from_slice(boxes.as_flattened(), (scores.len(), 4), &Device::Cpu).unwrap();
    nms(&boxes, &Tensor::new(scores, &Device::Cpu).unwrap(), args).unwrap().to_vec1().unwrap()
}

/// The definition, pair by pair.
fn naive(boxes: &[[f32; 4]], scores: &[f32], args: &NmsArgs) -> Vec<u32> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let margin = if args.extent == BoxExtent::Inclusive { 1. } else { 0. };
    let area = |b: [f32; 4]| (b[2] - b[0] + margin) * (b[3] - b[1] + margin);
    let mut kept: Vec<usize> = Vec::new();
    for i in order {
        let b = boxes[i];
        let clear = kept.iter().all(|&k| {
            let a = boxes[k];
            let w = (a[2].min(b[2]) - a[0].max(b[0]) + margin).max(0.);
            let h = (a[3].min(b[3]) - a[1].max(b[1]) + margin).max(0.);
            f64::from(w * h / (area(a) + area(b) - w * h)) <= args.iou_threshold
        });
        if clear {
            kept.push(i);
        }
    }
    kept.into_iter().map(|i| i as u32).collect()
}

fn random(name: &str, count: usize, span: f32) -> (Vec<[f32; 4]>, Vec<f32>) {
    let key = Key::new(8).fold(name);
    let number = |i: usize, low: f32, high: f32| low + (high - low) * key.f64_at(i as u64) as f32;
    let boxes = (0..count)
        .map(|i| {
            let (x, y) = (number(5 * i, 0., span), number(5 * i + 1, 0., span));
            [x, y, x + number(5 * i + 2, 4., 60.), y + number(5 * i + 3, 4., 60.)]
        })
        .collect();
    (boxes, (0..count).map(|i| number(5 * i + 4, 0., 1.)).collect())
}

#[test]
fn greedy_by_score() {
    let boxes = [[10., 10., 59., 109.], [12., 14., 63., 113.], [100., 40., 199., 89.], [14., 8., 57., 105.]];
    let scores = [0.9, 0.85, 0.8, 0.7];
    let inclusive = NmsArgs { extent: BoxExtent::Inclusive, ..NmsArgs::new(0.5) };
    assert_eq!(kept(&boxes, &scores, &inclusive), [0, 2]);
    assert_eq!(kept(&boxes, &scores, &NmsArgs::new(0.99)), [0, 1, 2, 3]);
    // An overlap equal to the threshold is kept.
    let third = [[0., 0., 2., 1.], [1., 0., 3., 1.]];
    assert_eq!(kept(&third, &[1., 2.], &NmsArgs::new(1. / 3.)), [1]);
    assert_eq!(kept(&third, &[1., 2.], &NmsArgs::new(0.333_333_35)), [1, 0]);
    // Equal scores: the first wins.
    assert_eq!(kept(&[[0., 0., 1., 1.]; 3], &[0.5; 3], &NmsArgs::new(0.5)), [0]);
    assert_eq!(kept(&[], &[], &NmsArgs::new(0.5)), [0_u32; 0]);
}

#[test]
fn extents_differ() {
    let boxes = [[0., 0., 9., 9.], [5., 0., 14., 9.]];
    // 40 / 140 of continuous boxes of side 9, 50 / 150 of pixels.
    let args = |extent| NmsArgs { iou_threshold: 0.3, extent };
    assert_eq!(kept(&boxes, &[0.9, 0.8], &args(BoxExtent::Continuous)), [0, 1]);
    assert_eq!(kept(&boxes, &[0.9, 0.8], &args(BoxExtent::Inclusive)), [0]);
}

#[test]
fn agrees_with_the_definition() {
    for (count, span) in [(1, 10.), (63, 100.), (64, 100.), (65, 50.), (500, 200.), (3000, 700.)] {
        let (boxes, scores) = random("boxes", count, span);
        for threshold in [-1., 0., 0.3, 0.7, 2.] {
            for extent in [BoxExtent::Continuous, BoxExtent::Inclusive] {
                let args = NmsArgs { iou_threshold: threshold, extent };
                assert_eq!(kept(&boxes, &scores, &args), naive(&boxes, &scores, &args), "{count} {args:?}");
            }
        }
    }
}

#[test]
fn batched_is_nms_of_every_class() {
    let (boxes, scores) = random("classes", 900, 150.);
    let classes: Vec<i64> = (0..900).map(|i| Key::new(4).below_at(i, 5).unwrap().into()).collect();
    let args = NmsArgs::new(0.4);
    let mut want: Vec<u32> = (0..5)
        .flat_map(|class| {
            let rows: Vec<usize> = (0..900).filter(|&i| classes[i] == class).collect();
            let boxes: Vec<_> = rows.iter().map(|&i| boxes[i]).collect();
            let scores: Vec<_> = rows.iter().map(|&i| scores[i]).collect();
            naive(&boxes, &scores, &args).into_iter().map(|i| rows[i as usize] as u32).collect::<Vec<_>>()
        })
        .collect();
    want.sort_by(|&a, &b| scores[b as usize].total_cmp(&scores[a as usize]));
    let boxes = Tensor::from_slice(boxes.as_flattened(), (900, 4), &Device::Cpu).unwrap();
    let scores = Tensor::new(scores, &Device::Cpu).unwrap();
    let classes = Tensor::new(classes, &Device::Cpu).unwrap();
    let got = batched_nms(&boxes, &scores, &classes, &args).unwrap();
    assert_eq!(got.to_vec1::<u32>().unwrap(), want);
    let unsigned = classes.to_dtype(DType::U32).unwrap();
    let got = batched_nms(&boxes, &scores, &unsigned, &args).unwrap();
    assert_eq!(got.to_vec1::<u32>().unwrap(), want);
    let transposed = boxes.t().unwrap().contiguous().unwrap().t().unwrap();
    let got = batched_nms(&transposed, &scores, &classes, &args).unwrap();
    assert_eq!(got.to_vec1::<u32>().unwrap(), want);
}

#[test]
fn wrong_arguments_are_named() {
    let boxes = Tensor::zeros((3, 4), DType::F32, &Device::Cpu).unwrap();
    let scores = Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap();
    let args = NmsArgs::new(0.5);
    let text = |boxes: &Tensor, scores: &Tensor| nms(boxes, scores, &args).unwrap_err().to_string();
    assert!(text(&boxes.t().unwrap(), &scores).starts_with("nms: boxes"));
    assert!(text(&boxes, &scores.narrow(0, 0, 2).unwrap()).starts_with("nms: scores"));
    assert!(text(&boxes, &scores.to_dtype(DType::F64).unwrap()).starts_with("nms: scores"));
    let nan = nms(&boxes, &scores, &NmsArgs::new(f64::NAN)).unwrap_err().to_string();
    assert!(nan.starts_with("nms: iou_threshold"));
    let idxs = batched_nms(&boxes, &scores, &scores, &args).unwrap_err().to_string();
    assert!(idxs.starts_with("batched_nms: idxs"));
    let short = Tensor::zeros(2, DType::U32, &Device::Cpu).unwrap();
    assert!(batched_nms(&boxes, &scores, &short, &args).unwrap_err().to_string().contains("idxs"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn nothing_panics_and_the_best_is_kept(
        values in prop::collection::vec(prop::num::f32::ANY, 0..700),
        threshold in -0.5_f64..1.5,
    ) {
        let count = values.len() / 5;
        let boxes: Vec<[f32; 4]> = values[..count * 4].as_chunks().0.to_vec();
        let scores = &values[count * 4..count * 5];
        let got = kept(&boxes, scores, &NmsArgs::new(threshold));
        prop_assert!(got.len() <= count && (count == 0) == got.is_empty());
        for pair in got.windows(2) {
            let (a, b) = (scores[pair[0] as usize], scores[pair[1] as usize]);
            prop_assert!(a.is_nan() || a >= b, "{a} before {b}");
        }
    }
}
