//! Thousands of damaged files: none may panic, hang or make the reader ask for much memory.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may stop on the first surprise")]

use std::fs;
use std::path::Path;

use vision_weights::{Array, OpenOptions, StateDict};
use zip::ZipArchive;

/// A small generator, so that failures repeat: splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// Reads all there is to read. Checksums are off, so that damage gets past them.
fn exercise(bytes: Vec<u8>) -> bool {
    let Ok(file) = OpenOptions::new().verify_checksums(false).from_bytes(bytes) else { return false };
    for name in file.names() {
        let (dtype, shape) = file.info(name).unwrap();
        if let Ok(array) = file.read(name) {
            assert_eq!((array.dtype, array.shape.as_slice()), (dtype, shape));
            array.validate().unwrap();
        }
    }
    file.state_dict().is_ok()
}

fn damage(original: &[u8], random: &mut Random, places: std::ops::Range<usize>) -> Vec<u8> {
    let mut bytes = original.to_vec();
    for _ in 0..=random.below(3) {
        let at = places.start + random.below(places.len());
        match random.below(4) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => bytes[at] = [0, 0xff, 0x7f, 0x80, b'.', b'R', b'(', b't'][random.below(8)],
            // Lengths and offsets span several bytes.
            _ => {
                let end = (at + 1 + random.below(8)).min(places.end);
                bytes[at..end].fill(if random.below(2) == 0 { 0xff } else { 0 });
            }
        }
    }
    bytes
}

fn fixtures() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let names = [
        "checkpoint.pth",
        "deflated.pth",
        "dtypes.pth",
        "malicious.pth",
        "module.pth",
        "views.pth",
        "state_dict_protocol5.pth",
        "checkpoint_stream.pth.tar",
        "dtypes_stream.pth",
        "malicious_stream.pth",
        "parts_stream.pth",
        "state_dict_stream1.pth",
        "views_stream.pth",
        "wrapped.zip",
    ];
    let mut files: Vec<Vec<u8>> = names.iter().map(|name| fs::read(folder.join(name)).unwrap()).collect();
    let mut state = StateDict::new();
    state.insert("conv.weight", Array::from_f32([2, 3], &[1.0; 6]).unwrap());
    state.insert("count", Array::from_i64(Vec::new(), &[3]).unwrap());
    state.insert_metadata("arch", "tiny");
    files.push(state.to_bytes().unwrap());
    files.push(with_zip64(&files[0]));
    // Without the zeros that end a tar archive.
    let tar = fs::read(folder.join("checkpoint_tar.pth")).unwrap();
    let end = tar.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    files.push(tar[..end.next_multiple_of(512)].to_vec());
    files
}

/// The same archive with the 64-bit records that large files have, so that their fields get damaged too.
fn with_zip64(file: &[u8]) -> Vec<u8> {
    let end = file.len() - 22;
    assert!(file[end..].starts_with(b"PK\x05\x06"));
    let entries = u16::from_le_bytes([file[end + 10], file[end + 11]]);
    let field = |at: usize| u32::from_le_bytes(file[end + at..end + at + 4].try_into().unwrap());
    let mut out = file[..end].to_vec();
    out.extend(b"PK\x06\x06");
    out.extend(44u64.to_le_bytes());
    out.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for value in [u64::from(entries), u64::from(entries), field(12).into(), field(16).into()] {
        out.extend(value.to_le_bytes());
    }
    out.extend(b"PK\x06\x07\0\0\0\0");
    out.extend((end as u64).to_le_bytes());
    out.extend(1u32.to_le_bytes());
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend([0xff; 12]);
    out.extend([0, 0]);
    out
}

/// Peak of the address space in bytes, where the system tells.
fn peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmPeak:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes << 10)
}

#[test]
fn damaged_files_are_errors_or_readable() {
    let before = peak();
    let mut random = Random(20);
    let (mut runs, mut readable) = (0, 0);
    for file in fixtures() {
        assert!(exercise(file.clone()));
        for end in 0..file.len() {
            readable += usize::from(exercise(file[..end].to_vec()));
            runs += 1;
        }
        for _ in 0..2500 {
            readable += usize::from(exercise(damage(&file, &mut random, 0..file.len())));
            runs += 1;
        }
        // The tables at the end of an archive, and the header of a safetensors file.
        let tail = file.len().saturating_sub(400)..file.len();
        for _ in 0..2500 {
            readable += usize::from(exercise(damage(&file, &mut random, tail.clone())));
            runs += 1;
        }
        // Most of an archive is tensor bytes and padding: aim at the pickle too. One that wraps a file has none.
        let Ok(mut archive) = ZipArchive::new(std::io::Cursor::new(file.as_slice())) else { continue };
        let mut names = archive.file_names().map(|name| name.unwrap().into_owned());
        if let Some(name) = names.find(|name| name.ends_with("data.pkl")) {
            drop(names);
            let record = archive.by_name(&name).unwrap();
            let start = record.data_start().unwrap() as usize;
            let end = start + record.compressed_size() as usize;
            for _ in 0..2500 {
                readable += usize::from(exercise(damage(&file, &mut random, start..end)));
                runs += 1;
            }
        }
    }
    assert!(runs > 50_000 && readable > 1000, "{runs} runs, {readable} readable");
    // The largest fixture has 6 kB. Views may repeat a storage up to 64 MiB; nothing may ask for gigabytes.
    if let (Some(before), Some(after)) = (before, peak()) {
        assert!(after - before < 512 << 20, "grew by {} MiB", (after - before) >> 20);
    }
}
