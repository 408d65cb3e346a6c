//! Damaged files: thousands of mutations come back as a picture or a typed error, never as a panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::path::Path;

use proptest::prelude::*;
use vision_image::{Error, decode, decode_labels, decode_native, decode_native_limited};

fn files() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "jpg" || end == "png"))
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap()))
        .collect();
    files.sort();
    assert!(files.len() > 20);
    files
}

#[derive(Debug, Clone)]
enum Damage {
    Flip(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize),
    Cut(prop::sample::Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        6 => (at(), 1..=255_u8).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        1 => (at(), prop::collection::vec(any::<u8>(), 1..20)).prop_map(|(at, new)| Damage::Insert(at, new)),
        1 => (at(), 1..40_usize).prop_map(|(at, count)| Damage::Remove(at, count)),
        1 => (at(), 1..200_usize).prop_map(|(at, count)| Damage::Repeat(at, count)),
        1 => at().prop_map(Damage::Cut),
    ]
}

fn apply(bytes: &mut Vec<u8>, damage: &Damage) {
    if bytes.is_empty() {
        return;
    }
    let range = |at: &prop::sample::Index, count: usize, len: usize| {
        let start = at.index(len);
        start..(start + count).min(len)
    };
    let len = bytes.len();
    match damage {
        Damage::Flip(at, bits) => bytes[at.index(len)] ^= bits,
        Damage::Insert(at, new) => {
            let start = at.index(len);
            bytes.splice(start..start, new.iter().copied());
        }
        Damage::Remove(at, count) => drop(bytes.drain(range(at, *count, len))),
        Damage::Repeat(at, count) => {
            let piece = bytes[range(at, *count, len)].to_vec();
            let start = at.index(len);
            bytes.splice(start..start, piece);
        }
        Damage::Cut(at) => bytes.truncate(at.index(len)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_files_never_panic(
        which in any::<prop::sample::Index>(),
        damages in prop::collection::vec(damage(), 1..6),
    ) {
        let files = files();
        let (_, mut bytes) = which.get(&files).clone();
        for damage in &damages {
            apply(&mut bytes, damage);
        }
        if let Ok(image) = decode_native(&bytes) {
            // A header cannot make a small file take much memory.
            prop_assert!(image.data().len() <= bytes.len() * 1040 * 8 * 4);
        }
        if let Ok(labels) = decode_labels(&bytes) {
            prop_assert!(labels.data().len() <= bytes.len() * 1040 * 8);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0..3_u8) {
        let mut file = match kind {
            0 => vec![0xff, 0xd8, 0xff],
            1 => b"\x89PNG\r\n\x1a\n".to_vec(),
            _ => vec![],
        };
        file.extend(bytes);
        prop_assert!(decode(&file).is_err());
        prop_assert!(decode_labels(&file).is_err());
    }
}

#[test]
fn single_flips_of_a_header_never_panic() {
    for (name, bytes) in files() {
        if !["420.jpg", "progressive.jpg", "cmyk.jpg", "palette_alpha.png"].contains(&name.as_str()) {
            continue;
        }
        // Quantisation and Huffman tables, frame and scan headers all lie in here.
        for at in 0..bytes.len().min(700) {
            for value in [0, 1, bytes[at] ^ 0x10, 0x7f, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                let _ = decode_native(&damaged);
            }
        }
    }
}

#[test]
fn errors_have_their_kind() {
    assert!(matches!(decode(b""), Err(Error::UnknownFormat { .. })));
    assert!(matches!(decode(b"GIF89a...."), Err(Error::UnknownFormat { .. })));
    let files = files();
    let file = |name: &str| files.iter().find(|(other, _)| other == name).unwrap().1.clone();
    let png = file("rgb.png");
    assert!(matches!(
        decode_native_limited(&png, 100),
        Err(Error::TooLarge { width: 23, height: 17, limit: 100 })
    ));
    let mut wrong_checksum = png.clone();
    let middle = wrong_checksum.len() / 2;
    wrong_checksum[middle] ^= 1;
    assert!(matches!(decode(&wrong_checksum), Err(Error::Corrupt { .. })));
    let jpeg = file("444.jpg");
    assert!(matches!(decode(&jpeg[..jpeg.len() - 2]), Err(Error::Truncated { .. })));
    // The frame type of arithmetic coding.
    let mut arithmetic = jpeg.clone();
    let frame = arithmetic.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    arithmetic[frame + 1] = 0xc9;
    assert!(matches!(decode(&arithmetic), Err(Error::Unsupported { .. })));
}
