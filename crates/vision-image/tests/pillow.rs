//! Comparison with what Pillow and torchvision made of the same pictures; `fixtures/generate.py` wrote the results.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::path::{Path, PathBuf};

use vision_image::{
    Filter, Image, colour, decode_native, open, open_labels, open_native, resize, resize_box,
    resize_short_side,
};

struct Case {
    words: Vec<String>,
    want: Image,
}

impl Case {
    fn number<T: std::str::FromStr>(&self, index: usize) -> T {
        self.words[index].parse().ok().expect("a number")
    }

    fn filter(&self) -> Filter {
        match self.words[2].as_str() {
            "nearest" => Filter::Nearest,
            "bilinear" => Filter::Bilinear,
            "bicubic" => Filter::Bicubic,
            "lanczos" => Filter::Lanczos,
            other => panic!("filter {other}"),
        }
    }

    fn source(&self) -> Image {
        fixture(&format!("{}.png", self.words[1]))
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn fixture(name: &str) -> Image {
    open_native(fixtures().join(name)).unwrap()
}

fn cases(kinds: &[&str]) -> Vec<Case> {
    let index = std::fs::read_to_string(fixtures().join("cases.txt")).unwrap();
    let samples = std::fs::read(fixtures().join("cases.bin")).unwrap();
    let mut rest = samples.as_slice();
    let mut found = Vec::new();
    for line in index.lines() {
        let (what, shape) = line.split_once(" = ").unwrap();
        let shape: Vec<u32> = shape.split(' ').map(|word| word.parse().unwrap()).collect();
        let [width, height, channels] = shape[..] else { panic!("{line}") };
        let (data, next) = rest.split_at((width * height * channels) as usize);
        rest = next;
        let words: Vec<String> = what.split(' ').map(String::from).collect();
        if kinds.contains(&words[0].as_str()) {
            let want = Image::new(width, height, channels as u8, data.to_vec()).unwrap();
            found.push(Case { words, want });
        }
    }
    assert!(rest.is_empty() && !found.is_empty());
    found
}

/// Largest and mean difference of two pictures of one shape.
fn difference(got: &Image, want: &Image) -> (u8, f64) {
    assert_eq!(
        (got.width(), got.height(), got.channels()),
        (want.width(), want.height(), want.channels()),
        "shape"
    );
    let steps = || got.data().iter().zip(want.data()).map(|(a, b)| a.abs_diff(*b));
    let sum: u64 = steps().map(u64::from).sum();
    (steps().max().unwrap_or(0), sum as f64 / got.data().len() as f64)
}

#[test]
fn resizing() {
    for case in cases(&["resize", "box"]) {
        let (source, filter) = (case.source(), case.filter());
        let (width, height) = (case.number(3), case.number(4));
        let got = if case.words[0] == "resize" {
            resize(&source, width, height, filter)
        } else {
            let region = [case.number(5), case.number(6), case.number(7), case.number(8)];
            resize_box(&source, region, width, height, filter)
        };
        assert_eq!(difference(&got.unwrap(), &case.want).0, 0, "{:?}", case.words);
    }
}

#[test]
fn torchvision_sizes() {
    for case in cases(&["short", "center"]) {
        let rgb = fixture("rgb.png");
        let got = if case.words[0] == "short" {
            let source = if case.words[1] == "turned" { quarter_turn(&rgb) } else { rgb };
            resize_short_side(&source, case.number(3), case.filter())
        } else {
            rgb.center_crop(case.number(1), case.number(2))
        };
        assert_eq!(difference(&got.unwrap(), &case.want).0, 0, "{:?}", case.words);
    }
}

/// A quarter turn to the left.
fn quarter_turn(image: &Image) -> Image {
    let mut data = Vec::new();
    for x in (0..image.width()).rev() {
        for y in 0..image.height() {
            data.extend_from_slice(image.pixel(x, y).unwrap());
        }
    }
    Image::new(image.height(), image.width(), image.channels(), data).unwrap()
}

#[test]
fn colours() {
    for case in cases(&["brightness", "contrast", "saturation", "hue", "gray3", "gray", "over"]) {
        let cube = fixture("cube.png");
        let mut got = cube.clone();
        match case.words[0].as_str() {
            "brightness" => colour::adjust_brightness(&mut got, case.number(1)).unwrap(),
            "contrast" => colour::adjust_contrast(&mut got, case.number(1)).unwrap(),
            "saturation" => colour::adjust_saturation(&mut got, case.number(1)).unwrap(),
            "hue" => colour::adjust_hue(&mut got, case.number(1)).unwrap(),
            "gray3" => got = colour::grayscale3(&cube).unwrap(),
            "gray" => got = cube.to_gray(),
            _ => got = fixture("rgba.png").over([case.number(1), case.number(2), case.number(3)]),
        }
        assert_eq!(difference(&got, &case.want).0, 0, "{:?}", case.words);
    }
}

#[test]
fn files() {
    for case in cases(&["file"]) {
        let name = &case.words[1];
        let got = fixture(name);
        let (largest, mean) = difference(&got, &case.want);
        // PNG is exact. JPEG decoders round the inverse transform and the colour conversion differently, and where
        // chroma is halved the interpolation too; the bounds are what was measured, with little to spare.
        let (most, average) = match name.as_str() {
            name if Path::new(name).extension().is_some_and(|end| end == "png") => (0, 0.0),
            "420.jpg" | "422.jpg" | "progressive.jpg" => (3, 0.4),
            _ => (2, 0.03),
        };
        assert!(largest <= most && mean <= average, "{name}: {largest} levels, {mean} on average");
        let rgb = open(fixtures().join(name)).unwrap();
        assert_eq!(rgb, got.to_rgb(), "{name}");
    }
}

#[test]
fn masks() {
    for case in cases(&["labels"]) {
        let labels = open_labels(fixtures().join(&case.words[1])).unwrap();
        assert_eq!(labels.into_gray(), case.want, "{}", case.words[1]);
    }
    for name in ["rgb.png", "rgba.png", "gray16.png", "gray_alpha.png", "444.jpg"] {
        assert!(open_labels(fixtures().join(name)).is_err(), "{name}");
    }
}

#[test]
fn every_truncation_of_every_file_is_an_error() {
    for case in cases(&["file"]) {
        let bytes = std::fs::read(fixtures().join(&case.words[1])).unwrap();
        for end in 0..bytes.len() {
            assert!(decode_native(&bytes[..end]).is_err(), "{} cut to {end} bytes", case.words[1]);
        }
    }
}
