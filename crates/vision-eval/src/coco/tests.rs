//! What the golden cases of `coco_eval` do not say: errors, merging, masks, and that nothing panics.

use proptest::prelude::*;

use super::*;

fn truth(bbox: [f64; 4], category: u64) -> Truth {
    Truth::new(bbox, category)
}

fn found(bbox: [f64; 4], score: f64, category: u64) -> Detection {
    Detection { bbox, score, category, mask: None }
}

fn close(summary: &Summary, name: &str, want: f64) {
    let got = summary.get(name).unwrap();
    assert!((got - want).abs() < 1e-12, "{name}: {got}");
}

#[test]
fn counts_by_hand() {
    let mut metric = CocoEval::new(Overlap::Boxes);
    // Two of three truths of category 1 are found, the second only up to an overlap of 0.6.
    let truths = [
        truth([0.0, 0.0, 10.0, 10.0], 1),
        truth([50.0, 0.0, 10.0, 10.0], 1),
        truth([0.0, 50.0, 10.0, 10.0], 1),
    ];
    let detections = [
        found([0.0, 0.0, 10.0, 10.0], 0.9, 1),
        found([50.0, 0.0, 10.0, 6.0], 0.8, 1),
        found([9.0; 4], 0.7, 2),
    ];
    metric.update(7, &truths, &detections).unwrap();
    metric.update(8, &[], &[]).unwrap();
    let summary = metric.summary();
    // Of the 101 recalls 34 are at most 1/3, 67 at most 2/3.
    let close = |name: &str, want: f64| close(&summary, name, want);
    close("ap_50", 67.0 / 101.0);
    close("ap_75", 34.0 / 101.0);
    close("ap", (3.0 * 67.0 + 7.0 * 34.0) / 1010.0);
    close("ap_small", (3.0 * 67.0 + 7.0 * 34.0) / 1010.0);
    close("ar_1", 1.0 / 3.0);
    close("ar_100", (3.0 * 2.0 + 7.0) / 30.0);
    assert_eq!((summary.get("ap_large"), summary.get("no such"), summary.images), (None, None, 2));
    assert_eq!(summary.stats()[5], -1.0);
    let [one, two] = summary.categories.try_into().unwrap();
    assert_eq!((one.category, one.truths, one.detections), (1, [3, 3, 0, 0], 2));
    assert_eq!((two.category, two.stats, two.detections), (2, [None; 12], 1));
    let values = metric.compute();
    assert_eq!(
        (values[0].name.as_str(), values[0].count, values[5].value, values[5].count),
        ("ap", 3, 0.0, 0)
    );
}

#[test]
fn mistakes_are_named_and_nothing_is_counted() {
    let mut metric = CocoEval::new(Overlap::Boxes);
    let good = [0.0, 0.0, 4.0, 4.0];
    metric.update(1, &[truth(good, 1)], &[]).unwrap();
    let before = metric.clone();
    let mut message = |truths: &[Truth], detections: &[Detection]| {
        let text = metric.update(2, truths, detections).unwrap_err().to_string();
        assert_eq!(metric, before);
        text
    };
    let cases = [
        ([f64::NAN, 0.0, 4.0, 4.0], "detection 1 of image 2: x is NaN"),
        ([0.0, f64::INFINITY, 4.0, 4.0], "detection 1 of image 2: y is inf"),
        ([0.0, 0.0, -4.0, 4.0], "detection 1 of image 2: width is -4, below 0"),
        ([0.0, 0.0, 4.0, -1.0], "detection 1 of image 2: height is -1, below 0"),
        ([0.0, 0.0, 1e200, 1e200], "is too large"),
    ];
    for (bbox, text) in cases {
        let got = message(&[], &[found(good, 0.5, 1), found(bbox, 0.5, 1)]);
        assert!(got.contains(text), "{got}");
    }
    assert_eq!(message(&[], &[found(good, f64::NAN, 1)]), "detection 0 of image 2: score is NaN");
    let area = |area: f64| Truth { area, ..truth(good, 1) };
    assert_eq!(message(&[area(f64::NAN)], &[]), "truth 0 of image 2: area is NaN");
    assert_eq!(message(&[area(-1.0)], &[]), "truth 0 of image 2: area is -1, below 0");
    assert_eq!(metric.update(1, &[], &[]).unwrap_err().to_string(), "image 1 was counted before");
    let unknown = metric.update_lists(&[3], &[(3, truth(good, 1))], &[(4, found(good, 1.0, 1))]);
    assert_eq!(
        unknown.unwrap_err().to_string(),
        "detection 0 of image 4: image is not in the list of images"
    );
    assert_eq!(
        metric.update_lists(&[3, 3], &[], &[]).unwrap_err().to_string(),
        "image 3 is in the list twice"
    );
    let late = metric.update_lists(&[3, 4], &[], &[(4, found([-1.0, 0.0, 1.0, -1.0], 1.0, 1))]);
    assert!(late.is_err());
    assert_eq!(metric, before);
    assert_eq!(metric.merge(&before).unwrap_err().to_string(), "image 1 was counted by both");
    assert!(matches!(metric.merge(&CocoEval::new(Overlap::Masks)), Err(Error::Merge { .. })));
}

#[test]
fn masks_are_compared_by_pixels() {
    let mask = |polygon: &[f64]| Some(Rle::from_polygon(20, 20, polygon).unwrap());
    let half = mask(&[0.0, 0.0, 10.0, 0.0, 10.0, 20.0, 0.0, 20.0]);
    let bbox = [0.0, 0.0, 20.0, 20.0];
    let mut metric = CocoEval::new(Overlap::Masks);
    let truths = [Truth { mask: half.clone(), area: 200.0, ..truth(bbox, 1) }];
    let whole = mask(&[0.0, 0.0, 20.0, 0.0, 20.0, 20.0, 0.0, 20.0]);
    let with = |mask: Option<Rle>, score: f64| Detection { mask, ..found(bbox, score, 1) };
    metric.update(1, &truths, &[with(whole.clone(), 0.5), with(half.clone(), 0.9)]).unwrap();
    let summary = metric.summary();
    close(&summary, "ap", 1.0);
    // The whole picture overlaps with half of it by exactly a half.
    let mut metric = CocoEval::new(Overlap::Masks);
    metric.update(1, &truths, &[with(whole, 0.5)]).unwrap();
    let summary = metric.summary();
    close(&summary, "ap_50", 1.0);
    close(&summary, "ap_75", 0.0);
    let missing = metric.update(2, &truths, &[with(None, 0.5)]).unwrap_err().to_string();
    assert_eq!(missing, "detection 0 of image 2: mask is missing");
    let other = Some(Rle::from_counts(3, 4, vec![12]).unwrap());
    let sizes = metric.update(2, &truths, &[with(other, 0.5)]).unwrap_err().to_string();
    assert_eq!(sizes, "detection 0 of image 2: mask is of 3 x 4 pixels, others are of 20 x 20");
}

#[test]
fn nothing_is_no_number() {
    let summary = CocoEval::new(Overlap::Boxes).summary();
    assert_eq!((summary.stats(), summary.categories.len()), ([-1.0; 12], 0));
    assert!(CocoEval::new(Overlap::Boxes).compute().iter().all(|v| v.value == 0.0 && v.count == 0));
}

fn boxes() -> impl Strategy<Value = [f64; 4]> {
    // Few places and sizes, so that boxes meet, and some wild ones.
    let tame = (0..4_u8, 0..4_u8, 0..5_u8, 0..5_u8).prop_map(|(x, y, w, h)| {
        [f64::from(x) * 4.0, f64::from(y) * 4.0, f64::from(w) * 9.0, f64::from(h) * 9.0]
    });
    prop_oneof![9 => tame, 1 => [any::<f64>(), any::<f64>(), any::<f64>(), any::<f64>()]]
}

fn image() -> impl Strategy<Value = (Vec<Truth>, Vec<Detection>)> {
    let truth = (boxes(), 0..3_u64, any::<bool>(), prop_oneof![0.0..2e4_f64, any::<f64>()])
        .prop_map(|(bbox, category, crowd, area)| Truth { bbox, category, crowd, area, mask: None });
    let found = (boxes(), 0..4_u8, 0..3_u64)
        .prop_map(|(bbox, score, category)| found(bbox, f64::from(score) / 4.0, category));
    (prop::collection::vec(truth, 0..6), prop::collection::vec(found, 0..9))
}

proptest! {
    #[test]
    fn order_and_shards_do_not_matter(
        images in prop::collection::vec(image(), 1..8),
        order in Just((0..8_u64).collect::<Vec<_>>()).prop_shuffle(),
        cut in 0..8_usize,
    ) {
        let mut whole = CocoEval::new(Overlap::Boxes);
        let mut known = Vec::new();
        for (id, (truths, detections)) in (0..).zip(&images) {
            // Wild numbers are refused, and leave nothing behind.
            if whole.update(id, truths, detections).is_ok() {
                known.push(id);
            }
        }
        let (mut a, mut b) = (CocoEval::new(Overlap::Boxes), CocoEval::new(Overlap::Boxes));
        for (position, id) in order.iter().filter(|id| known.contains(id)).enumerate() {
            let (truths, detections) = &images[*id as usize];
            let shard = if position < cut { &mut a } else { &mut b };
            shard.update(*id, truths, detections).unwrap();
        }
        let mut other_way = b.clone();
        other_way.merge(&a).unwrap();
        a.merge(&b).unwrap();
        prop_assert_eq!(&a, &whole);
        prop_assert_eq!(&other_way, &whole);
        let lists = |id: u64| images[id as usize].clone();
        let truths: Vec<_> = known.iter().flat_map(|&id| lists(id).0.into_iter().map(move |t| (id, t))).collect();
        let found: Vec<_> = known.iter().flat_map(|&id| lists(id).1.into_iter().map(move |d| (id, d))).collect();
        let mut at_once = CocoEval::new(Overlap::Boxes);
        at_once.update_lists(&known, &truths, &found).unwrap();
        prop_assert_eq!(&at_once, &whole);
        for stat in whole.summary().mean.into_iter().flatten() {
            prop_assert!((0.0..=1.0).contains(&stat), "{stat}");
        }
    }
}
