//! What holds for every operation on pairs.

use std::collections::BTreeSet;

use vision_image::{Filter, Image, LabelMap, resize};

use super::*;
use crate::transforms::{CenterCrop, RandomCrop, RandomHorizontalFlip, ResizeShortSide, ToPixels};
use crate::{Segmented, Transform};

const PRESETS: [SegmentationPreset; 4] =
    [SegmentationPreset::Paper, SegmentationPreset::V042, SegmentationPreset::V050, SegmentationPreset::V1];

/// A picture whose every pixel shows its label (times 20) in red, and its place in green and blue.
fn pair(width: u32, height: u32) -> Segmented {
    let (mut data, mut labels) = (Vec::new(), Vec::new());
    for y in 0..height {
        for x in 0..width {
            let label = ((x / 7 + 2 * (y / 5)) % 6) as u8;
            labels.push(label);
            data.extend([20 * label, (x * 3 % 256) as u8, (y * 3 % 256) as u8]);
        }
    }
    let image = Image::new(width, height, 3, data).unwrap();
    let labels = LabelMap::new(width, height, labels).unwrap();
    Segmented { image, labels, index: 5, name: "s#5".into() }
}

fn sizes() -> TrainSizes {
    TrainSizes { base: 52, crop: 48, ..TrainSizes::default() }
}

#[test]
fn training_pictures_are_always_crop_by_crop() {
    for preset in PRESETS {
        let pipeline = preset.train(&sizes()).unwrap();
        assert_eq!(pipeline.output_size(), Some([48, 48]));
        for (number, shape) in [[50, 37], [37, 50], [20, 90], [48, 48], [3, 5]].into_iter().enumerate() {
            for epoch in 0..20 {
                let sample = pair(shape[0], shape[1]);
                let before: BTreeSet<u8> = sample.labels.data().iter().copied().collect();
                let out = pipeline.apply(sample, &mut SampleRng::new(1, epoch, number as u64)).unwrap();
                assert_eq!((out.pixels.width, out.pixels.height), (48, 48));
                assert_eq!((out.labels.width(), out.labels.height()), (48, 48));
                assert_eq!((out.index, out.name.as_str()), (5, "s#5"));
                assert!(out.labels.data().iter().all(|l| before.contains(l) || *l == IGNORE_LABEL));
            }
        }
    }
}

#[test]
fn the_key_decides_and_nothing_else() {
    for preset in PRESETS {
        let pipeline = preset.train(&sizes()).unwrap();
        let of = |seed, epoch, index| {
            pipeline.apply(pair(61, 47), &mut SampleRng::new(seed, epoch, index)).unwrap()
        };
        assert_eq!(of(3, 4, 5), of(3, 4, 5));
        for other in [of(4, 4, 5), of(3, 5, 5), of(3, 4, 6)] {
            assert_ne!(other.pixels, of(3, 4, 5).pixels);
        }
    }
}

#[test]
fn picture_and_labels_move_together() {
    // Without filters between pixels the picture still shows its labels.
    let ops = vec![
        SegmentationOp::RandomHorizontalFlip(RandomHorizontalFlip { p: 0.5 }),
        SegmentationOp::PadRightBottom(PadRightBottom { width: 50, height: 60, color: [100; 3], label: 5 }),
        SegmentationOp::RandomCrop(RandomCrop { width: 33, height: 41 }),
        SegmentationOp::CenterCrop(CenterCrop { width: 31, height: 30 }),
    ];
    let pipeline = SegmentationPipeline::new(ops, ToPixels::default()).unwrap();
    let (mut mirrored, mut places) = (0, BTreeSet::new());
    for index in 0..400 {
        let out = pipeline.augment(pair(40, 40), &mut SampleRng::new(0, 0, index)).unwrap();
        let shown: Vec<u8> = out.image.data().chunks(3).map(|pixel| pixel[0] / 20).collect();
        assert_eq!(shown, out.labels.data());
        let (first, second) = (out.image.pixel(0, 0).unwrap(), out.image.pixel(1, 0).unwrap());
        mirrored += usize::from(first[1] > second[1]);
        places.insert((first[1], first[2]));
    }
    assert!((160..240).contains(&mirrored), "{mirrored}");
    assert!(places.len() > 150, "{}", places.len());
}

#[test]
fn both_ends_of_the_scale_occur() {
    let op = SegmentationOp::RandomSide(RandomSide { side: Side::Short, range: [26, 30] });
    let mut seen = [0; 5];
    for index in 0..2000 {
        let out = op.apply(pair(40, 30), &mut SampleRng::new(0, 0, index)).unwrap();
        seen[out.image.height() as usize - 26] += 1;
        assert_eq!(out.image.width(), 40 * out.image.height() / 30);
    }
    assert!(seen.iter().all(|&count| (330..470).contains(&count)), "{seen:?}");
    // The published numbers.
    let default = SegmentationPreset::V042.train(&TrainSizes::default()).unwrap();
    let want = SegmentationOp::RandomSide(RandomSide { side: Side::Short, range: [260, 1040] });
    assert_eq!(default.ops[1], want);
    let long =
        SegmentationPreset::V1.train(&TrainSizes { scale: [0.5, 2.5], ..TrainSizes::default() }).unwrap();
    let want = SegmentationOp::RandomSide(RandomSide { side: Side::Long, range: [260, 1300] });
    assert_eq!(long.ops[1], want);
    assert_eq!(choose(&mut SampleRng::new(0, 0, 0), [u32::MAX, u32::MAX]), u32::MAX);
    choose(&mut SampleRng::new(0, 0, 0), [0, u32::MAX]);
}

#[test]
fn pictures_are_filtered_and_labels_are_not() {
    let op = SegmentationOp::RandomSide(RandomSide { side: Side::Long, range: [23, 23] });
    let sample = pair(41, 30);
    let out = op.apply(sample.clone(), &mut SampleRng::new(0, 0, 0)).unwrap();
    // `vision_image::resize` is Pillow's, bit for bit.
    assert_eq!(out.image, resize(&sample.image, 23, 17, Filter::Bilinear).unwrap());
    let labels = resize(&sample.labels.into_gray(), 23, 17, Filter::Nearest).unwrap();
    assert_eq!(out.labels.data(), labels.data());
}

#[test]
fn corners_and_padding_get_their_label() {
    let turn = |label| SegmentationOp::RandomRotation(RandomRotation { label, ..RandomRotation::default() });
    let (mut kept, mut filled) = (0, 0);
    for index in 0..50 {
        let rng = || SampleRng::new(0, 0, index);
        let ignored = turn(IGNORE_LABEL).apply(pair(50, 40), &mut rng()).unwrap();
        let zero = turn(0).apply(pair(50, 40), &mut rng()).unwrap();
        for (a, b) in ignored.labels.data().iter().zip(zero.labels.data()) {
            if *a == IGNORE_LABEL {
                assert_eq!(*b, 0);
                filled += 1;
            } else {
                assert_eq!(a, b);
                kept += 1;
            }
        }
    }
    // On average a turn of five degrees loses some percent of a picture.
    let share = f64::from(filled) / f64::from(filled + kept);
    assert!((0.01..0.1).contains(&share), "{share}");
    let pad = PadRightBottom { width: 6, height: 4, color: [1, 2, 3], label: IGNORE_LABEL };
    let out = SegmentationOp::PadRightBottom(pad).apply(pair(5, 3), &mut SampleRng::new(0, 0, 0)).unwrap();
    assert_eq!((out.labels.label(5, 0), out.labels.label(0, 3)), (Some(255), Some(255)));
    assert_eq!((out.image.pixel(5, 0), out.labels.label(4, 2)), (Some(&[1, 2, 3][..]), Some(0)));
}

#[test]
fn blur_leaves_labels_alone() {
    let op = SegmentationOp::RandomBlur(RandomBlur { p: 0.5, radius: [0.4, 1.0] });
    let blurred = (0..400)
        .filter(|&index| {
            let out = op.apply(pair(30, 20), &mut SampleRng::new(0, 0, index)).unwrap();
            assert_eq!(out.labels, pair(30, 20).labels);
            out.image != pair(30, 20).image
        })
        .count();
    assert!((160..240).contains(&blurred), "{blurred}");
}

#[test]
fn validation_takes_the_middle() {
    let pipeline = SegmentationPreset::val(24).unwrap();
    assert_eq!(pipeline.output_size(), Some([24, 24]));
    let sample = pair(60, 40);
    let out = pipeline.augment(sample.clone(), &mut SampleRng::new(0, 0, 0)).unwrap();
    // 60 * 24 / 40 = 36, and (36 - 24) / 2 = 6.
    let small = resize(&sample.image, 36, 24, Filter::Bilinear).unwrap();
    assert_eq!(out.image, small.crop(6, 0, 24, 24).unwrap());
    let labels = resize(&sample.labels.into_gray(), 36, 24, Filter::Nearest).unwrap();
    assert_eq!(out.labels.data(), labels.crop(6, 0, 24, 24).unwrap().data());
    let tiny = SegmentationOp::CenterCrop(CenterCrop { width: 4, height: 4 });
    let out = tiny.apply(pair(1, 1), &mut SampleRng::new(0, 0, 0)).unwrap();
    assert_eq!(out.labels.counts()[255], 15);
    assert_eq!(SegmentationPreset::testval().output_size(), None);
}

#[test]
fn every_op_survives_toml_under_its_name() {
    let mut ops: Vec<SegmentationOp> = PRESETS.iter().flat_map(|p| p.train(&sizes()).unwrap().ops).collect();
    ops.push(SegmentationOp::ResizeShortSide(ResizeShortSide { size: 3, filter: Filter::Bicubic }));
    ops.push(SegmentationOp::CenterCrop(CenterCrop { width: 1, height: 2 }));
    let pipeline = SegmentationPipeline::new(ops, ToPixels::default()).unwrap();
    let text = toml::to_string(&pipeline).unwrap();
    assert_eq!(toml::from_str::<SegmentationPipeline>(&text).unwrap(), pipeline);
    for op in &pipeline.ops {
        assert!(text.contains(&format!("op = \"{}\"", op.name())), "{text}");
    }
    let sizes: TrainSizes = toml::from_str("crop = 32").unwrap();
    assert_eq!(sizes, TrainSizes { crop: 32, ..TrainSizes::default() });
}

#[test]
fn what_cannot_work_is_an_error() {
    let rng = &mut SampleRng::new(0, 0, 0);
    let crop = SegmentationOp::RandomCrop(RandomCrop { width: 9, height: 3 });
    let message = crop.apply(pair(8, 8), rng).unwrap_err().to_string();
    assert!(message.contains("9x3") && message.contains("8x8"), "{message}");
    let mut uneven = pair(8, 8);
    uneven.labels = pair(7, 8).labels;
    let message = crop.apply(uneven, rng).unwrap_err().to_string();
    assert!(message.contains("7x8 labels"), "{message}");
    let huge = SegmentationOp::RandomSide(RandomSide { side: Side::Short, range: [5000, 5000] });
    assert!(huge.apply(pair(2000, 1), rng).is_err());
    let bad = vec![
        SegmentationOp::RandomBlur(RandomBlur { p: 2.0, radius: [1.0, 0.0] }),
        SegmentationOp::RandomRotation(RandomRotation { degrees: f64::NAN, ..RandomRotation::default() }),
        SegmentationOp::RandomCrop(RandomCrop { width: 0, height: 1 }),
    ];
    let message = SegmentationPipeline::new(bad, ToPixels::default()).unwrap_err().to_string();
    for word in ["0 (random_blur): p: 2", "radius: [1, 0]", "1 (random_rotation): degrees", "2 (random_crop)"]
    {
        assert!(message.contains(word), "{message}");
    }
    let sizes = TrainSizes { scale: [2.0, 1.0], ..sizes() };
    assert!(SegmentationPreset::V1.train(&sizes).is_err());
    assert!(SegmentationPreset::V1.train(&TrainSizes { base: 0, ..TrainSizes::default() }).is_err());
}
