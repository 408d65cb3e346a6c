use std::collections::BTreeSet;

use candle_core::{Device, Tensor};
use proptest::prelude::*;
use vision_core::FeatureMap;
use vision_core::ops::{Conv2dArgs, conv2d_nhwc};

use super::*;

/// The generator of the reference numbers: a fraction in -1..1 for element `i` of tensor `t`.
fn reference(t: u64, count: usize) -> Vec<f32> {
    (0..count as u64)
        .map(|i| {
            let mut z = ((t << 32) + i).wrapping_add(0x9E37_79B9_7F4A_7C15);
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^= z >> 31;
            (2.0 * ((z >> 40) as f64 / f64::from(1 << 24)) - 1.0) as f32
        })
        .collect()
}

/// A 3x3 convolution to five classes, times `gain`, as the network.
fn toy(gain: f64) -> impl FnMut(&FeatureMap) -> Result<FeatureMap> {
    let device = &Device::Cpu;
    let weight =
        (Tensor::from_vec(reference(3001, 5 * 27), (5, 3, 3, 3), device).unwrap() * (0.5 * gain)).unwrap();
    let bias = (Tensor::from_vec(reference(3002, 5), 5, device).unwrap() * (0.1 * gain)).unwrap();
    move |windows| {
        let args = Conv2dArgs { padding: [1, 1], ..Conv2dArgs::default() };
        Ok(conv2d_nhwc(windows, &weight, Some(&bias), &args)?)
    }
}

fn picture(transposed: bool) -> FeatureMap {
    let nchw = Tensor::from_vec(reference(3003, 3 * 40 * 61), (1, 3, 40, 61), &Device::Cpu).unwrap();
    let nchw = if transposed { nchw.transpose(2, 3).unwrap() } else { nchw };
    FeatureMap::from_nchw(&nchw).unwrap()
}

/// What black becomes with the usual mean and standard deviation.
fn fill() -> [f32; 3] {
    let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    std::array::from_fn(|c| -mean[c] / std[c])
}

fn config(flip: bool) -> SlidingConfig {
    SlidingConfig { base_size: 52, crop_size: 48, flip, ..SlidingConfig::default() }
}

fn histogram(scores: &Scores) -> Vec<usize> {
    let mut counts = vec![0; scores.classes()];
    scores.argmax().iter().for_each(|&class| counts[class as usize] += 1);
    counts
}

/// Check 21: the authors' `MultiEvalModule` on the same network and picture.
#[test]
fn numbers_of_the_original() {
    for (flip, transposed, counts, sum, first) in [
        (
            true,
            false,
            [324, 782, 346, 454, 534],
            Some(1_528_179.456_7),
            Some([5.4575, 6.6234, 8.24793, 2.80017, 7.37177]),
        ),
        (true, true, [331, 781, 371, 450, 507], None, Some([5.32724, 9.46792, 8.50387, 4.26838, 14.94641])),
        (false, false, [292, 595, 517, 437, 599], Some(113_221.448_4), None),
        (false, true, [300, 557, 500, 461, 622], None, None),
    ] {
        let config = config(flip);
        let mut calls = 0;
        let mut network = toy(1.0);
        let scores = config
            .scores(&picture(transposed), &fill(), 5, |windows| {
                calls += windows.dims()?.0;
                network(windows)
            })
            .unwrap();
        assert_eq!(calls, if flip { 32 } else { 16 });
        assert_eq!(calls, config.forwards(scores.size()[0], scores.size()[1]));
        assert_eq!(histogram(&scores), counts, "flip {flip}, transposed {transposed}");
        let values = scores.to_vec();
        if let Some(sum) = sum {
            let got: f64 = values.iter().map(|&v| f64::from(v)).sum();
            assert!((got - sum).abs() <= 1e-4 * sum, "{got} for {sum}");
        }
        for (got, want) in values.iter().zip(first.into_iter().flatten()) {
            assert!((f64::from(*got) - want).abs() <= 1e-4 * want, "{got} for {want}");
        }
    }
}

/// The same in f64 and without any care for overflow, which f64 does not need here.
fn literally(config: &SlidingConfig, picture: &FeatureMap, gain: f64) -> Vec<u32> {
    let (_, height, width, _) = picture.dims().unwrap();
    let mut sums = vec![0f64; height * width * 5];
    let mut network = toy(gain);
    for &scale in &config.scales {
        let [h, w] = scaled_size(height, width, (config.base_size as f64 * scale).ceil() as usize);
        let bilinear = InterpolateArgs::bilinear(true);
        let pixels: Vec<f32> = interpolate_nhwc(picture, ResizeTo::Size([h, w]), &bilinear)
            .unwrap()
            .nhwc()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        let (mut canvas, mut counts) = (vec![0f64; h * w * 5], vec![0f64; h * w]);
        let crop = config.crop_size;
        for window in Window::cover([h, w], crop) {
            let views = [(&window, false), (&window, true)];
            let input = windows::gather(&pixels, [h, w], crop, &fill(), &views).unwrap();
            let output: Vec<f32> = network(&input).unwrap().nhwc().flatten_all().unwrap().to_vec1().unwrap();
            for y in 0..window.inside[0] {
                for x in 0..window.inside[1] {
                    let at = (window.first[0] + y) * w + window.first[1] + x;
                    counts[at] += 1.0;
                    for c in 0..5 {
                        let plain = output[(y * crop + x) * 5 + c];
                        let mirrored = output[((crop + y) * crop + crop - 1 - x) * 5 + c];
                        canvas[at * 5 + c] += (f64::from(plain) + f64::from(mirrored)).exp();
                    }
                }
            }
        }
        for (pixel, count) in canvas.chunks_mut(5).zip(counts) {
            for value in pixel {
                *value /= count;
            }
        }
        let canvas =
            FeatureMap::from_nhwc(Tensor::from_vec(canvas, (1, h, w, 5), &Device::Cpu).unwrap()).unwrap();
        let resized = interpolate_nhwc(&canvas, ResizeTo::Size([height, width]), &bilinear).unwrap();
        let resized: Vec<f64> = resized.nhwc().flatten_all().unwrap().to_vec1().unwrap();
        sums.iter_mut().zip(resized).for_each(|(sum, value)| *sum += value);
    }
    let best = |pixel: &[f64]| (0..5).fold(0, |best, c| if pixel[c] > pixel[best] { c } else { best });
    sums.chunks(5).map(|pixel| best(pixel) as u32).collect()
}

/// Check 21: sums of two logits far beyond what an exponential in f32 can hold.
#[test]
fn large_logits_stay_finite_and_decide_as_in_f64() {
    let config = config(true);
    let scores = config.scores(&picture(false), &fill(), 5, toy(60.0)).unwrap();
    assert!(scores.shares().iter().all(|share| share.is_finite()));
    assert!(scores.to_vec().iter().any(|score| score.is_infinite()), "the test needs larger logits");
    let (got, want) = (scores.argmax(), literally(&config, &picture(false), 60.0));
    let differ = got.iter().zip(&want).filter(|(got, want)| got != want).count();
    assert_eq!(differ, 0, "of {} pixels", got.len());
}

#[test]
fn batches_change_nothing() {
    let one = SlidingConfig { batch: 1, ..config(true) };
    let want = one.scores(&picture(false), &fill(), 5, toy(1.0)).unwrap();
    for batch in [2, 3, 5, 64] {
        let config = SlidingConfig { batch, ..one.clone() };
        let mut largest = 0;
        let mut network = toy(1.0);
        let scores = config
            .scores(&picture(false), &fill(), 5, |windows| {
                largest = largest.max(windows.dims()?.0);
                network(windows)
            })
            .unwrap();
        assert!(largest <= batch);
        assert_eq!(scores, want, "{batch}");
    }
}

#[test]
fn probabilities_add_up() {
    let config = SlidingConfig { fusion: Fusion::Softmax, ..config(true) };
    let scores = config.scores(&picture(false), &fill(), 5, toy(1.0)).unwrap();
    for pixel in scores.to_vec().chunks(5) {
        let sum: f32 = pixel.iter().sum();
        assert!((sum - 6.0).abs() < 1e-4, "{sum}");
    }
}

/// Check 22.
#[test]
fn windows_of_a_usual_picture() {
    let config = SlidingConfig::default();
    for (height, width) in [(375, 500), (500, 375), (512, 683)] {
        let counts = config.scales.iter().map(|&scale| {
            let one = SlidingConfig { scales: vec![scale], flip: false, ..config.clone() };
            one.forwards(height, width)
        });
        assert_eq!(counts.collect::<Vec<_>>(), [1, 1, 2, 4, 4, 6]);
        assert_eq!(config.forwards(height, width), 36);
    }
}

#[test]
fn scaled_sizes_by_hand() {
    assert_eq!(scaled_size(375, 500, 520), [390, 520]);
    assert_eq!(scaled_size(500, 375, 260), [260, 195]);
    // 260 * 375 / 500 = 195; 683 and 512 round to the nearest.
    assert_eq!(scaled_size(512, 683, 390), [292, 390]);
    assert_eq!(scaled_size(1, 1000, 500), [1, 500]);
}

proptest! {
    /// Check 22.
    #[test]
    fn every_pixel_is_covered(
        size in prop::array::uniform2(1usize..=2000),
        crop in prop_oneof![2usize..700, Just(480), Just(576)],
    ) {
        let windows = Window::cover(size, crop);
        // Windows are all pairs of a range of rows and one of columns, so it is enough that each side is covered.
        let mut sides = [BTreeSet::new(), BTreeSet::new()];
        for window in &windows {
            for (side, axis) in sides.iter_mut().enumerate() {
                axis.insert((window.first[side], window.inside[side]));
            }
        }
        prop_assert_eq!(windows.len(), sides[0].len() * sides[1].len());
        for (ranges, size) in sides.iter().zip(size) {
            let mut times = vec![0usize; size];
            for &(first, inside) in ranges {
                prop_assert!(inside >= 1 && inside <= crop && first + inside <= size);
                times[first..first + inside].iter_mut().for_each(|times| *times += 1);
            }
            prop_assert!(times.iter().all(|times| *times >= 1), "{} {}: {:?}", size, crop, ranges);
        }
    }
}

#[test]
fn wrong_settings_and_networks_are_named() {
    let picture = picture(false);
    let problem =
        |config: SlidingConfig| config.scores(&picture, &fill(), 5, toy(1.0)).unwrap_err().to_string();
    assert!(problem(SlidingConfig { scales: vec![], ..config(true) }).contains("sliding.scales"));
    assert!(problem(SlidingConfig { scales: vec![f64::NAN], ..config(true) }).contains("sliding.scales"));
    assert!(problem(SlidingConfig { crop_size: 1, ..config(true) }).contains("sliding.crop_size"));
    assert!(problem(SlidingConfig { base_size: 1 << 40, ..config(true) }).contains("sliding.base_size"));
    assert!(problem(SlidingConfig { batch: 0, ..config(true) }).contains("sliding.batch"));
    let run = |fill: &[f32], classes, gain| config(true).scores(&picture, fill, classes, toy(gain));
    assert!(run(&[0.0], 5, 1.0).unwrap_err().to_string().contains("picture"));
    assert!(run(&fill(), 4, 1.0).unwrap_err().to_string().contains("logits"));
    assert!(run(&fill(), 5, f64::NAN).unwrap_err().to_string().contains("logits"));
}
