//! Rotation and blur beside what Pillow made of the same pictures; `fixtures/turns.py` wrote the results.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::path::Path;

use vision_image::{Filter, Image, gaussian_blur, open_native, rotate};

#[test]
fn equal_to_pillow() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let index = std::fs::read_to_string(fixtures.join("turns.txt")).unwrap();
    let samples = std::fs::read(fixtures.join("turns.bin")).unwrap();
    let mut rest = samples.as_slice();
    for line in index.lines() {
        let (what, shape) = line.split_once(" = ").unwrap();
        let shape: Vec<u32> = shape.split(' ').map(|word| word.parse().unwrap()).collect();
        let [width, height, channels] = shape[..] else { panic!("{line}") };
        let (data, next) = rest.split_at((width * height * channels) as usize);
        rest = next;
        let want = Image::new(width, height, channels as u8, data.to_vec()).unwrap();
        let words: Vec<&str> = what.split(' ').collect();
        let source = open_native(fixtures.join(format!("{}.png", words[1]))).unwrap();
        let got = if words[0] == "rotate" {
            let filter = if words[2] == "nearest" { Filter::Nearest } else { Filter::Bilinear };
            let fill: &[u8] = match words[1] {
                "rgb" => &[0, 10, 255],
                "gray" => &[200],
                _ => &[0; 4],
            };
            rotate(&source, words[3].parse().unwrap(), filter, fill).unwrap()
        } else {
            gaussian_blur(&source, words[2].parse().unwrap()).unwrap()
        };
        let most = got.data().iter().zip(want.data()).map(|(a, b)| a.abs_diff(*b)).max();
        let unequal = got.data().iter().zip(want.data()).filter(|(a, b)| a != b).count();
        assert!(got == want, "{what}: {unequal} samples differ, by up to {most:?}");
    }
    assert!(rest.is_empty());
}
