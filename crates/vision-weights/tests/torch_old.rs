//! Reads what `torch.save` wrote before the zip archive, and zip archives that wrap it; `tests/fixtures/generate.py`
//! made the files.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may stop on the first surprise")]

use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use vision_weights::{Dtype, Error, Format, KeyMap, OpenOptions, Result, StateDict, WeightFile, open};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn bytes(name: &str) -> Vec<u8> {
    fs::read(fixture(name)).unwrap()
}

fn read(bytes: Vec<u8>) -> Result<WeightFile> {
    OpenOptions::new().from_bytes(bytes)
}

/// The bytes with `from`, which is there once, replaced by `to`.
fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let places: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at..].starts_with(from)).collect();
    assert_eq!(places.len(), 1, "{from:?} is there {} times", places.len());
    [&bytes[..places[0]], to, &bytes[places[0] + from.len()..]].concat()
}

fn all(name: &str) -> StateDict {
    open(fixture(name)).unwrap().state_dict().unwrap()
}

#[test]
fn streams_are_what_archives_are() {
    for (stream, archive) in [
        ("state_dict_stream.pth", "state_dict.pth"),
        ("state_dict_stream1.pth", "state_dict.pth"),
        ("state_dict_stream4.pth", "state_dict.pth"),
        ("checkpoint_stream.pth.tar", "checkpoint.pth"),
        ("views_stream.pth", "views.pth"),
        ("module_stream.pth", "module.pth"),
        ("malicious_stream.pth", "malicious.pth"),
        ("wrapped.zip", "state_dict.pth"),
    ] {
        let file = open(fixture(stream)).unwrap();
        assert_eq!(file.format(), Format::TorchStream, "{stream}");
        assert!(file.names().count() > 0 && file.skipped().is_empty(), "{stream}");
        assert_eq!(file.state_dict().unwrap(), all(archive), "{stream}");
        for name in file.names() {
            assert_eq!(file.read(name).unwrap(), open(fixture(archive)).unwrap().read(name).unwrap());
        }
    }
    assert!(!Path::new("vision-weights-was-here").exists());
}

#[test]
fn element_types_of_streams() {
    let (stream, archive) =
        (open(fixture("dtypes_stream.pth")).unwrap(), open(fixture("dtypes.pth")).unwrap());
    for name in
        ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
    {
        assert_eq!(stream.read(name).unwrap(), archive.read(name).unwrap(), "{name}");
    }
    assert_eq!(stream.names().count(), 10);
    // The storages of what cannot be read are passed over.
    let skipped: Vec<_> = stream.skipped().keys().map(String::as_str).collect();
    assert_eq!(skipped, ["complex64", "sparse"]);
}

#[test]
fn a_checkpoint_called_tar_is_a_stream() {
    let file = open(fixture("checkpoint_stream.pth.tar")).unwrap();
    assert_eq!(file.metadata()["epoch"], "7");
    assert_eq!(file.read("optimizer.state.4.momentum_buffer").unwrap().to_f32().unwrap(), [1.0; 8]);
    let map = KeyMap::new().keep_prefix("state_dict.").strip_prefix("state_dict.").strip_prefix("module.");
    let state = map.apply(file.state_dict().unwrap()).unwrap();
    assert_eq!(state.get("fc.weight").unwrap().shape, [2, 4]);
}

#[test]
fn storages_that_are_parts_of_others() {
    let file = open(fixture("parts_stream.pth")).unwrap();
    assert_eq!(file.read("low").unwrap().to_f32().unwrap(), [0.0, 1.0, 2.0, 3.0]);
    assert_eq!(file.read("high").unwrap().to_f32().unwrap(), [5.0, 8.0, 6.0, 9.0]);
    // A tensor must stay inside its part, also where the stored piece goes on: `low` has four elements, so a last row
    // that begins at three leaves it. Sizes (2, 2), strides (2, 1).
    let strides = b"K\x02K\x01\x86";
    let error = read(replaced(&bytes("parts_stream.pth"), strides, b"K\x03K\x01\x86")).unwrap_err();
    assert!(error.to_string().contains("leave its storage of 16 bytes"), "{error}");
    let error = read(replaced(&bytes("parts_stream.pth"), b"K\x04K\x06\x87", b"K\x05K\x06\x87")).unwrap_err();
    assert!(error.to_string().contains("6 elements from 5 on leave storage root of 10"), "{error}");
}

#[test]
fn a_tar_archive() {
    let file = open(fixture("checkpoint_tar.pth")).unwrap();
    assert_eq!(file.format(), Format::TorchTar);
    assert_eq!(file.metadata()["epoch"], "7");
    let views = open(fixture("views.pth")).unwrap();
    for name in ["base", "permuted", "every_other", "window", "expanded", "scalar", "empty"] {
        assert_eq!(file.read(&format!("state_dict.{name}")).unwrap(), views.read(name).unwrap(), "{name}");
    }
    let types = open(fixture("dtypes.pth")).unwrap();
    for name in ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8"] {
        assert_eq!(file.read(&format!("state_dict.{name}")).unwrap(), types.read(name).unwrap(), "{name}");
    }
    assert_eq!(file.read("state_dict.part").unwrap().to_f32().unwrap(), [3.0, 4.0, 5.0]);
    assert_eq!(file.info("state_dict.float16"), Some((Dtype::F16, [4].as_slice())));
    assert_eq!(file.state_dict().unwrap().len(), 16);
    // Another tar archive is none of these.
    let other = replaced(&bytes("checkpoint_tar.pth"), b"tensors\0", b"tension\0");
    assert!(matches!(read(other), Err(Error::Format { .. } | Error::Unsupported { .. })));
}

#[test]
fn big_endian_files_are_refused() {
    let (yes, no) = (b"little_endianq\x02\x88", b"little_endianq\x02\x89");
    for name in ["state_dict_stream.pth", "checkpoint_tar.pth"] {
        let error = read(replaced(&bytes(name), yes, no)).unwrap_err();
        assert!(matches!(&error, Error::Unsupported { what, .. } if what.contains("big-endian")), "{error}");
    }
}

#[test]
fn streams_that_lie_are_errors() {
    let good = bytes("parts_stream.pth");
    let message = |bytes: Vec<u8>| read(bytes).unwrap_err().to_string();
    // Ten floats at the end.
    let count = good.len() - 48;
    assert_eq!(good[count..count + 8], 10u64.to_le_bytes());
    for (count_says, problem) in
        [(u64::MAX, "is -1"), (1 << 62, "says 10"), (9, "says 10"), (11, "says 10"), (0, "says 10")]
    {
        let text = message([&good[..count], &count_says.to_le_bytes(), &good[count + 8..]].concat());
        assert!(text.contains("storage root") && text.contains(problem), "{text}");
    }
    // The pickle and the number agree, but the file ends.
    let huge = replaced(&good, b"cpuq\x06K\x0a", b"cpuq\x06J\xff\xff\xff\x7f");
    let end = huge.len() - 48;
    let text = message([&huge[..end], &0x7fff_ffffu64.to_le_bytes(), &huge[end + 8..]].concat());
    assert!(text.contains("8589934588 bytes are announced, 40 are left"), "{text}");
    assert!(message(good[..good.len() - 1].to_vec()).contains("40 bytes are announced, 39 are left"));
    assert!(message(good[..count].to_vec()).contains("8 bytes are announced, 0 are left"));
    // Another magic number, another version, a storage that is not listed, one that is listed twice.
    let magic = replaced(&good, b"\x8a\x0a\x6c\xfc", b"\x8a\x0a\x6d\xfc");
    assert!(matches!(read(magic), Err(Error::Format { offset: Some(0), .. })));
    let version = replaced(&good, b"M\xe9\x03.", b"M\xea\x03.");
    assert!(matches!(read(version), Err(Error::Unsupported { .. })));
    let list = b"]q\x00X\x04\0\0\0rootq\x01a.";
    assert!(message(replaced(&good, list, b"]q\x00.")).contains("`high`: storage root is missing"));
    assert!(
        message(replaced(&good, list, b"]q\x00(X\x04\0\0\0rootK\x05e."))
            .contains("storage 5 belongs to nothing")
    );
    let list_twice = replaced(&good, list, b"]q\x00(X\x04\0\0\0rootq\x01h\x01e.");
    let again = &good[count..];
    assert!(message([&list_twice, again].concat()).contains("root is there twice"));
}

fn zipped(files: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        writer.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

#[test]
fn zip_archives_that_wrap_a_file() {
    let content = bytes("state_dict_stream.pth");
    let want = all("state_dict.pth");
    for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
        let files: [(&str, &[u8]); 4] = [
            ("README.md", b"about"),
            ("__MACOSX/._tiny.pth", b"shadow"),
            ("weights/", b""),
            ("weights/Tiny.PTH", &content),
        ];
        let file = read(zipped(&files, method)).unwrap();
        assert_eq!(file.format(), Format::TorchStream);
        assert_eq!(file.state_dict().unwrap(), want);
        for (inner, format) in
            [("state_dict.pth", Format::TorchZip), ("checkpoint_tar.pth", Format::TorchTar)]
        {
            let file = read(zipped(&[("x.pth", &bytes(inner))], method)).unwrap();
            assert_eq!((file.format(), file.state_dict().unwrap()), (format, all(inner)));
        }
        let two = read(zipped(&[("a.pth", &content), ("b.pt", &content)], method));
        assert!(matches!(&two, Err(Error::Unsupported { what, .. }) if what.contains("a.pth")), "{two:?}");
        let deeper = zipped(&[("x.pth", &zipped(&[("y.pth", &content)], method))], method);
        assert!(matches!(read(deeper), Err(Error::Unsupported { .. })));
        assert!(matches!(read(zipped(&[("x.pth", b"text")], method)), Err(Error::Format { .. })));
        assert!(matches!(read(zipped(&[("x.txt", &content)], method)), Err(Error::Unsupported { .. })));
    }
    // Its checksum counts.
    let mut damaged = zipped(&[("x.pth", &content)], CompressionMethod::Stored);
    let last = damaged.windows(4).position(|window| window == b"PK\x01\x02").unwrap() - 1;
    damaged[last] ^= 1;
    assert!(matches!(read(damaged.clone()), Err(Error::Format { .. })));
    assert!(OpenOptions::new().verify_checksums(false).from_bytes(damaged).is_ok());
}
