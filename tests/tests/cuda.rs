//! What a CUDA device has to do exactly as the CPU, beyond the golden cases. Needs a device, or the stand-in of
//! `tools/cuda-on-cpu`.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, reason = "tests")]

use candle_core::{DType, Device, Tensor, Var};
use vision_core::ops::{self, BoxExtent, Conv2dArgs, NmsArgs, SoftNmsArgs, SoftNmsMethod};
use vision_core::rng::Key;

const CPU: Device = Device::Cpu;

fn device() -> Device {
    Device::new_cuda(0).unwrap()
}

/// Crowded boxes with scores of a few values, some boxes and scores NaN or infinite.
fn boxes(count: usize, span: f64, levels: u32, dtype: DType) -> (Tensor, Tensor) {
    let key = Key::new(5).fold_u64(count as u64);
    let number = |i: usize, low: f64, high: f64| low + (high - low) * key.f64_at(i as u64);
    let mut rows: Vec<f64> = (0..count)
        .flat_map(|i| {
            let (x, y) = (number(5 * i, 0., span), number(5 * i + 1, 0., span));
            [x, y, x + number(5 * i + 2, 4., 60.), y + number(5 * i + 3, 4., 60.)]
        })
        .collect();
    let mut scores: Vec<f64> =
        (0..count).map(|i| f64::from(key.below_at(i as u64, levels).unwrap()) / f64::from(levels)).collect();
    for (at, odd) in [(3, f64::NAN), (40, f64::INFINITY), (77, f64::NEG_INFINITY), (78, -0.0)] {
        if at < count {
            rows[at * 4 + at % 4] = odd;
            scores[count - 1 - at] = odd;
        }
    }
    let boxes = Tensor::from_vec(rows, (count, 4), &CPU).unwrap().to_dtype(dtype).unwrap();
    (boxes, Tensor::new(scores, &CPU).unwrap().to_dtype(dtype).unwrap())
}

fn numbers(tensor: &Tensor) -> Vec<u64> {
    let flat = tensor.to_device(&CPU).unwrap().flatten_all().unwrap();
    match tensor.dtype() {
        DType::U32 => flat.to_vec1::<u32>().unwrap().into_iter().map(u64::from).collect(),
        _ => flat
            .to_dtype(DType::F64)
            .unwrap()
            .to_vec1::<f64>()
            .unwrap()
            .into_iter()
            .map(f64::to_bits)
            .collect(),
    }
}

#[test]
fn nms_keeps_the_same_boxes() {
    let device = device();
    for (count, span) in [(1, 1.), (64, 50.), (65, 200.), (257, 90.), (700, 300.), (1500, 2000.)] {
        for (dtype, extent) in [(DType::F32, BoxExtent::Continuous), (DType::F64, BoxExtent::Inclusive)] {
            for levels in [3, 1 << 20] {
                let (boxes, scores) = boxes(count, span, levels, dtype);
                let (there, scores_there) =
                    (boxes.to_device(&device).unwrap(), scores.to_device(&device).unwrap());
                let classes: Vec<i64> = (0..count as i64).map(|i| i * 7 % 5 - 2).collect();
                let classes = Tensor::new(classes, &CPU).unwrap();
                for iou_threshold in [0.1, 0.5] {
                    let args = NmsArgs { extent, ..NmsArgs::new(iou_threshold) };
                    let want = ops::nms(&boxes, &scores, &args).unwrap();
                    let got = ops::nms(&there, &scores_there, &args).unwrap();
                    assert!(got.device().is_cuda());
                    assert_eq!(numbers(&got), numbers(&want), "{count} {dtype:?} {levels}");
                    let want = ops::batched_nms(&boxes, &scores, &classes, &args).unwrap();
                    let classes = classes.to_device(&device).unwrap();
                    let got = ops::batched_nms(&there, &scores_there, &classes, &args).unwrap();
                    assert_eq!(numbers(&got), numbers(&want), "{count} {dtype:?} {levels} of classes");
                }
            }
        }
    }
}

#[test]
fn soft_nms_takes_the_same_boxes() {
    let device = device();
    for (count, span) in [(1, 1.), (65, 40.), (200, 10.), (300, 200.)] {
        for (dtype, extent) in [(DType::F32, BoxExtent::Inclusive), (DType::F64, BoxExtent::Continuous)] {
            for (levels, min_score) in [(3, 0.1), (1 << 20, 0.001), (3, 0.)] {
                let (boxes, scores) = boxes(count, span, levels, dtype);
                let (there, scores_there) =
                    (boxes.to_device(&device).unwrap(), scores.to_device(&device).unwrap());
                // The exponential of a device may differ in the last bit.
                for method in [SoftNmsMethod::Hard, SoftNmsMethod::Linear] {
                    let args = SoftNmsArgs { method, extent, min_score, ..SoftNmsArgs::default() };
                    let want = ops::soft_nms(&boxes, &scores, &args).unwrap();
                    let got = ops::soft_nms(&there, &scores_there, &args).unwrap();
                    assert!(got.keep.device().is_cuda() && got.boxes.device().is_cuda());
                    assert_eq!(numbers(&got.keep), numbers(&want.keep), "{count} {dtype:?} {args:?}");
                    assert_eq!(numbers(&got.scores), numbers(&want.scores), "{count} {dtype:?} {args:?}");
                    assert_eq!(numbers(&got.boxes), numbers(&want.boxes), "{count} {dtype:?} {args:?}");
                }
            }
        }
    }
}

#[test]
fn an_empty_map_gets_an_empty_gradient() {
    let device = device();
    let empty = Var::zeros((1, 3, 0, 5), DType::F32, &device).unwrap();
    let weight = Var::ones((2, 3, 1, 1), DType::F32, &device).unwrap();
    let y = ops::conv2d(&empty, &weight, None, &Conv2dArgs::square(1, 1)).unwrap();
    assert_eq!(y.dims(), [1, 2, 2, 7]);
    let grads = y.sum_all().unwrap().backward().unwrap();
    assert_eq!(grads.get(&empty).unwrap().dims(), [1, 3, 0, 5]);
    assert_eq!(numbers(grads.get(&weight).unwrap()), [0; 6]);
}
