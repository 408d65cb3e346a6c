//! Masks and polygons against pycocotools 2.0.11, whose results `fixtures/rle.py` wrote into `fixtures/rle.txt`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::str::FromStr;

use vision_eval::rle::Rle;

/// What was asked and what came of it, for all lines of a kind.
fn lines(kind: &str) -> Vec<(Vec<&'static str>, Vec<&'static str>)> {
    let split = |text: &'static str| text.split(' ').collect::<Vec<_>>();
    let found: Vec<_> = include_str!("fixtures/rle.txt")
        .lines()
        .filter_map(|line| line.strip_prefix(kind)?.strip_prefix(' ')?.split_once(" = "))
        .map(|(asked, got)| (split(asked), split(got)))
        .collect();
    assert!(found.len() > 50, "{kind}");
    found
}

fn number<T: FromStr>(word: &str) -> T {
    word.parse().ok().expect("a number")
}

fn numbers<T: FromStr>(words: &[&str]) -> Vec<T> {
    words.iter().map(|word| number(word)).collect()
}

fn list<T: FromStr>(word: &str) -> Vec<T> {
    word.split(',').map(number).collect()
}

fn mask(asked: &[&str], index: usize) -> Rle {
    Rle::from_text(number(asked[0]), number(asked[1]), asked[index]).unwrap()
}

#[test]
fn polygons() {
    for (asked, got) in lines("polygon") {
        let rle = Rle::from_polygon(number(asked[0]), number(asked[1]), &list::<f64>(asked[2])).unwrap();
        assert_eq!(rle.to_text(), got[0], "{asked:?}");
        assert_eq!(rle, Rle::from_text(rle.height(), rle.width(), got[0]).unwrap());
        assert_eq!(rle.area(), number::<u32>(got[1]), "{asked:?}");
        // Of an empty run inside, pycocotools makes a box.
        if rle.area() > 0 {
            assert_eq!(rle.bounding_box().to_vec(), numbers::<u32>(&got[2..]), "{asked:?}");
        }
    }
}

#[test]
fn pixels_counts_and_text() {
    for (asked, got) in lines("mask") {
        let (height, width) = (number(asked[0]), number(asked[1]));
        let pixels: Vec<u8> = asked[2].bytes().map(|digit| digit - b'0').collect();
        let rle = Rle::encode(height, width, &pixels).unwrap();
        assert_eq!(rle.to_text(), got[0], "{asked:?}");
        assert_eq!(rle.counts(), list::<u32>(got[1]), "{asked:?}");
        assert_eq!(rle.area(), number::<u32>(got[2]));
        assert_eq!(Rle::from_text(height, width, got[0]).unwrap().decode(), pixels);
        assert_eq!(Rle::from_counts(height, width, list(got[1])).unwrap(), rle);
    }
    for (asked, got) in lines("box") {
        assert_eq!(mask(&asked, 2).bounding_box().to_vec(), numbers::<u32>(&got), "{asked:?}");
    }
}

#[test]
fn two_masks() {
    for (asked, got) in lines("union") {
        assert_eq!(mask(&asked, 2).union(&mask(&asked, 3)).unwrap().to_text(), got[0], "{asked:?}");
    }
    for (asked, got) in lines("intersection") {
        assert_eq!(mask(&asked, 2).intersection(&mask(&asked, 3)).unwrap().to_text(), got[0], "{asked:?}");
    }
    for (asked, got) in lines("iou") {
        let iou = mask(&asked, 2).iou(&mask(&asked, 3), asked[4] == "1").unwrap();
        assert_eq!(iou, number::<f64>(got[0]), "{asked:?}");
    }
}
