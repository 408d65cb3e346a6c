//! Reads files that `tests/fixtures/generate.py` made with `PyTorch`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may stop on the first surprise")]

use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use vision_weights::{Dtype, Error, Format, KeyMap, LoadReport, OpenOptions, WeightFile, open};
use zip::write::SimpleFileOptions;
use zip::{ZipArchive, ZipWriter};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn names(file: &WeightFile) -> Vec<&str> {
    file.names().collect()
}

/// The fixture's `torch.arange(n) / 8 - 1`.
fn ramp(n: usize) -> Vec<f32> {
    (0..n).map(|i| i as f32 / 8.0 - 1.0).collect()
}

#[test]
fn a_state_dict_of_any_protocol() {
    for name in ["state_dict.pth", "state_dict_protocol5.pth", "deflated.pth"] {
        let file = open(fixture(name)).unwrap();
        assert_eq!(file.format(), Format::TorchZip);
        let want = [
            "bn.bias",
            "bn.num_batches_tracked",
            "bn.running_mean",
            "bn.running_var",
            "bn.weight",
            "conv.bias",
            "conv.weight",
            "fc.bias",
            "fc.weight",
        ];
        assert_eq!(names(&file), want, "{name}");
        assert_eq!(file.info("conv.weight"), Some((Dtype::F32, [3, 2, 3, 3].as_slice())));
        assert_eq!(file.read("conv.weight").unwrap().to_f32().unwrap(), ramp(54), "{name}");
        assert_eq!(file.read("bn.num_batches_tracked").unwrap().to_i64().unwrap(), [0]);
        let state = file.state_dict().unwrap();
        assert_eq!(state.len(), 9);
        assert_eq!(state.get("fc.weight").unwrap().to_f32().unwrap(), ramp(8));
        assert!(file.skipped().is_empty());
    }
}

#[test]
fn a_checkpoint_is_flattened() {
    let file = open(fixture("checkpoint.pth")).unwrap();
    let meta = file.metadata();
    assert_eq!(
        (meta["epoch"].as_str(), meta["arch"].as_str(), meta["best_prec1"].as_str()),
        ("7", "tiny", "0.5")
    );
    assert_eq!(meta["optimizer.param_groups.0.momentum"], "0.9");
    assert!(!meta.contains_key("args"));
    assert_eq!(file.read("history.1").unwrap().to_f32().unwrap(), [2.0]);
    // Keys 4 and 5 are the weight and the bias of the linear layer; its gradient is one everywhere.
    assert_eq!(file.read("optimizer.state.4.momentum_buffer").unwrap().to_f32().unwrap(), [1.0; 8]);
    let map = KeyMap::new()
        .keep_prefix("state_dict.")
        .strip_prefix("state_dict.")
        .strip_prefix("module.")
        .drop_suffix("num_batches_tracked");
    let state = map.apply(file.state_dict().unwrap()).unwrap();
    assert_eq!(state.len(), 8);
    let weight = state.get("fc.weight").unwrap().to_f32().unwrap();
    assert!(weight.iter().zip(ramp(8)).all(|(got, old)| (got - (old - 0.03)).abs() < 1e-6));
    LoadReport::compare(&state.shapes(), &state.shapes()).check().unwrap();
}

#[test]
fn every_element_type() {
    let file = open(fixture("dtypes.pth")).unwrap();
    let types = [
        ("float64", Dtype::F64),
        ("float32", Dtype::F32),
        ("float16", Dtype::F16),
        ("bfloat16", Dtype::BF16),
        ("int64", Dtype::I64),
        ("int32", Dtype::I32),
        ("int16", Dtype::I16),
        ("int8", Dtype::I8),
        ("uint64", Dtype::U64),
        ("uint32", Dtype::U32),
        ("uint16", Dtype::U16),
        ("uint8", Dtype::U8),
    ];
    for (name, dtype) in types {
        assert_eq!(file.info(name), Some((dtype, [4].as_slice())), "{name}");
        let array = file.read(name).unwrap();
        assert_eq!(array.to_f32().unwrap(), [0.0, 1.0, 2.0, 100.0], "{name}");
        assert_eq!(array.to_f64().unwrap(), [0.0, 1.0, 2.0, 100.0], "{name}");
        if !dtype.is_float() {
            assert_eq!(array.to_i64().unwrap(), [0, 1, 2, 100], "{name}");
            assert_eq!(array.to_u32().unwrap(), [0, 1, 2, 100], "{name}");
        }
    }
    assert_eq!(file.read("bool").unwrap().to_u32().unwrap(), [1, 0, 1]);
    // What cannot be read is listed, and asking for it says why.
    let skipped: Vec<_> = file.skipped().keys().map(String::as_str).collect();
    assert_eq!(skipped, ["complex64", "float8_e4m3fn", "sparse"]);
    let error = file.read("float8_e4m3fn").unwrap_err();
    assert!(matches!(&error, Error::Unsupported { what, .. } if what.contains("float8_e4m3fn")), "{error}");
    assert!(matches!(file.read("float128"), Err(Error::NotFound { .. })));
}

#[test]
fn views_are_laid_out() {
    let file = open(fixture("views.pth")).unwrap();
    let check = |name: &str, shape: &[usize], want: &[f32]| {
        let array = file.read(name).unwrap();
        assert_eq!(array.shape, shape, "{name}");
        assert_eq!(array.to_f32().unwrap(), want, "{name}");
        assert_eq!(file.state_dict().unwrap().get(name), Some(&array), "{name}");
    };
    let base: Vec<f32> = (0..24u8).map(f32::from).collect();
    check("base", &[24], &base);
    let permuted: Vec<f32> = (0..24).map(|i| ((i % 6) * 4 + i / 6) as f32).collect();
    check("permuted", &[4, 2, 3], &permuted);
    let odd: Vec<f32> = base.iter().copied().skip(1).step_by(2).collect();
    check("every_other", &[12], &odd);
    check("window", &[2, 2, 2], &[5.0, 6.0, 9.0, 10.0, 17.0, 18.0, 21.0, 22.0]);
    check("expanded", &[2, 3], &[5.0, 5.0, 5.0, 6.0, 6.0, 6.0]);
    check("scalar", &[], &[2.5]);
    check("empty", &[0, 3], &[]);
    check("parameter", &[2], &[0.0, 1.0]);
}

#[test]
fn a_tensor_and_a_module() {
    let file = open(fixture("single.pth")).unwrap();
    assert_eq!(file.read("tensor").unwrap().to_f32().unwrap(), [1.0, 2.0]);
    let file = open(fixture("module.pth")).unwrap();
    assert_eq!(names(&file), ["_modules.0._parameters.bias", "_modules.0._parameters.weight"]);
}

#[test]
fn a_malicious_pickle_is_inert() {
    let file = open(fixture("malicious.pth")).unwrap();
    assert_eq!(names(&file), ["inside.1", "weight"]);
    assert_eq!(file.state_dict().unwrap().len(), 2);
    assert!(!Path::new("vision-weights-was-here").exists());
}

#[test]
fn other_files_are_refused_by_name() {
    let error = open(fixture("generate.py")).unwrap_err();
    assert!(matches!(&error, Error::Format { path, .. } if path.ends_with("generate.py")), "{error}");
    assert!(matches!(open(fixture("absent.pth")), Err(Error::Io { .. })));
    let other = archive(&[("readme.txt", b"hello")]);
    assert!(matches!(OpenOptions::new().from_bytes(other), Err(Error::Unsupported { .. })));
    assert!(matches!(OpenOptions::new().from_bytes(Vec::new()), Err(Error::Format { .. })));
}

fn archive(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, content) in records {
        writer.start_file(*name, options).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// A pickle of one float tensor of `len` elements in storage 0.
fn one_tensor(len: u8, shape: &[u8]) -> Vec<u8> {
    let mut out =
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK"
            .to_vec();
    out.extend([len, b't', b'Q', b'K', 0]);
    for sizes in [shape, [1].as_slice()] {
        out.push(b'(');
        out.extend(sizes.iter().flat_map(|&size| [b'K', size]));
        out.push(b't');
    }
    out.extend(b"\x89NtR.");
    out
}

#[test]
fn tensors_must_agree_with_their_records() {
    let read = |pickle: &[u8], record: &[u8]| {
        OpenOptions::new().from_bytes(archive(&[("x/data.pkl", pickle), ("x/data/0", record)]))
    };
    let one = 1f32.to_le_bytes();
    assert_eq!(read(&one_tensor(1, &[1]), &one).unwrap().read("tensor").unwrap().to_f32().unwrap(), [1.0]);
    let message = |result: vision_weights::Result<WeightFile>| result.unwrap_err().to_string();
    let text = message(read(&one_tensor(2, &[1]), &one));
    assert!(text.contains("storage of 8 bytes is a record of 4"), "{text}");
    let text = message(read(&one_tensor(1, &[2]), &one));
    assert!(text.contains("leave its storage"), "{text}");
    let text = message(read(&one_tensor(1, &[1, 1]), &one));
    assert!(text.contains("2 sizes and 1 strides"), "{text}");
    let gone = archive(&[("x/data.pkl", &one_tensor(1, &[1])), ("x/data/1", &one)]);
    let text = message(OpenOptions::new().from_bytes(gone));
    assert!(text.contains("x/data/0 is missing"), "{text}");
    let big = archive(&[("x/data.pkl", &one_tensor(1, &[1])), ("x/data/0", &one), ("x/byteorder", b"big")]);
    assert!(matches!(OpenOptions::new().from_bytes(big), Err(Error::Unsupported { .. })));
}

#[test]
fn checksums_are_verified_unless_told_otherwise() {
    let mut bytes = fs::read(fixture("state_dict.pth")).unwrap();
    let start = {
        let mut archive = ZipArchive::new(Cursor::new(bytes.as_slice())).unwrap();
        let record = archive.by_name("state_dict/data/0").unwrap();
        record.data_start().unwrap() as usize
    };
    bytes[start] ^= 1;
    let error = OpenOptions::new().from_bytes(bytes.clone()).unwrap().read("conv.weight").unwrap_err();
    assert!(error.to_string().contains("state_dict/data/0"), "{error}");
    let lenient = OpenOptions::new().verify_checksums(false).from_bytes(bytes).unwrap();
    assert_eq!(lenient.read("conv.weight").unwrap().len(), 54);
}
