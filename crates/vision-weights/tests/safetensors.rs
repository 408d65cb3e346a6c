//! Round trips through safetensors files, and agreement with the reference reader.
#![allow(clippy::unwrap_used, reason = "tests may stop on the first surprise")]

use proptest::prelude::*;
use vision_weights::{Array, Dtype, Error, Format, OpenOptions, StateDict, open};

const TYPES: [Dtype; 13] = [
    Dtype::F64,
    Dtype::F32,
    Dtype::F16,
    Dtype::BF16,
    Dtype::I64,
    Dtype::I32,
    Dtype::I16,
    Dtype::I8,
    Dtype::U64,
    Dtype::U32,
    Dtype::U16,
    Dtype::U8,
    Dtype::Bool,
];

fn sample() -> StateDict {
    let mut state = StateDict::new();
    state.insert("fc.weight", Array::from_f32([2, 3], &[0.5, -1.0, 2.0, 3.0, 4.0, 5.0]).unwrap());
    state.insert("visits", Array::from_u32([3], &[1, 2, 3]).unwrap());
    state.insert("flag", Array::new(Dtype::Bool, [1], vec![1]).unwrap());
    state.insert("odd \"name\" \u{e9}", Array::from_i64(Vec::new(), &[-7]).unwrap());
    state.insert("empty", Array::from_f32([0, 4], &[]).unwrap());
    state.insert_metadata("config", "seed = 1\n");
    state.insert_metadata("a", "\u{1f600}");
    state
}

#[test]
fn a_file_comes_back_as_it_went() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let state = sample();
    state.save(&path).unwrap();
    let file = open(&path).unwrap();
    assert_eq!(file.format(), Format::Safetensors);
    assert_eq!(file.info("fc.weight"), Some((Dtype::F32, [2, 3].as_slice())));
    assert_eq!(file.shapes(), state.shapes());
    assert_eq!(file.state_dict().unwrap(), state);
    // Replacing a file that is open leaves the open one whole.
    StateDict::new().save(&path).unwrap();
    assert_eq!(file.state_dict().unwrap(), state);
    assert!(open(&path).unwrap().state_dict().unwrap().is_empty());
}

#[test]
fn equal_content_gives_equal_aligned_bytes() {
    let bytes = sample().to_bytes().unwrap();
    assert_eq!(bytes, sample().to_bytes().unwrap());
    let (header, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!((header + 8) % 8, 0);
    for info in metadata.tensors().into_values() {
        assert_eq!(info.data_offsets.0 % (info.dtype.bitsize() / 8), 0);
    }
    let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(theirs.tensor("visits").unwrap().data(), [1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]);
}

#[test]
fn unsound_arrays_are_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    sample().save(&path).unwrap();
    let mut bad = sample();
    bad.insert("short", Array { dtype: Dtype::F32, shape: vec![2], data: vec![0; 4] });
    let error = bad.save(&path).unwrap_err();
    assert!(matches!(&error, Error::Length { what, .. } if what == "short"), "{error}");
    let mut bad = sample();
    bad.insert("__metadata__", Array::from_u32([1], &[1]).unwrap());
    assert!(matches!(bad.save(&path), Err(Error::Name { .. })));
    assert_eq!(open(&path).unwrap().state_dict().unwrap(), sample());
}

#[test]
fn headers_that_lie_are_errors() {
    let file = |header: &str, data: &[u8]| {
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat();
        OpenOptions::new().from_bytes(bytes)
    };
    assert!(file(r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, &[0; 4]).is_ok());
    let lies = [
        r#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#,
        r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}}"#,
        r#"{"x":{"dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,4]}}"#,
        r#"{"x":{"dtype":"U8","shape":[18446744073709551612],"data_offsets":[0,18446744073709551612]}}"#,
        r#"{"x":{"dtype":"NO","shape":[1],"data_offsets":[0,4]}}"#,
        r#"{"x":"#,
        "[]",
    ];
    for header in lies {
        assert!(matches!(file(header, &[0; 4]), Err(Error::Format { .. })), "{header}");
    }
    let odd = file(r#"{"x":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}}"#, &[0; 4]).unwrap();
    assert_eq!(odd.names().count(), 0);
    assert!(matches!(odd.read("x"), Err(Error::Unsupported { .. })));
    assert_eq!(odd.skipped().len(), 1);
}

#[test]
fn prefixes_join_and_part() {
    let mut all = StateDict::new();
    all.extend_with_prefix("backbone.", sample()).unwrap();
    assert!(matches!(all.extend_with_prefix("backbone.", sample()), Err(Error::Collision { .. })));
    all.extend_with_prefix("head.", sample()).unwrap();
    assert_eq!(all.len(), 10);
    assert_eq!(all.with_prefix("head."), sample());
    assert!(matches!(all.require("nothing"), Err(Error::NotFound { .. })));
}

fn arrays() -> impl Strategy<Value = StateDict> {
    let array = (0..TYPES.len(), prop::collection::vec(0usize..4, 0..4), any::<u8>());
    prop::collection::btree_map("[a-z.]{0,8}", array, 0..6).prop_map(|entries| {
        let build = |(name, (dtype, shape, fill)): (String, (usize, Vec<usize>, u8))| {
            let dtype = TYPES[dtype];
            let bytes = shape.iter().product::<usize>() * dtype.size();
            (name, Array::new(dtype, shape, vec![fill; bytes]).unwrap())
        };
        entries.into_iter().map(build).collect()
    })
}

proptest! {
    #[test]
    fn any_state_survives(state in arrays()) {
        let bytes = state.to_bytes().unwrap();
        let file = OpenOptions::new().from_bytes(bytes).unwrap();
        prop_assert_eq!(file.state_dict().unwrap(), state);
    }
}
