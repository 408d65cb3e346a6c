//! The safetensors format: 8 bytes header length, a JSON header, the arrays back to back.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use safetensors::SafeTensors;
use serde_json::{Map, Value, json};

use crate::array::byte_len;
use crate::bytes::Bytes;
use crate::{Array, Dtype, Error, Result, StateDict};

/// The name that the header uses for free text.
const METADATA: &str = "__metadata__";

/// Readers refuse a longer header.
const MAX_HEADER: usize = 100_000_000;

/// The header of a state dict, and the arrays in the order in which they follow it.
///
/// Wide types come first, then names in order, so every array is aligned to its element size. The header is
/// written here because the map of the `safetensors` crate has no order: equal content must give equal bytes.
pub(crate) fn layout(state: &StateDict) -> Result<(Vec<u8>, Vec<&Array>)> {
    let mut arrays: Vec<(&String, &Array)> = state.tensors.iter().collect();
    arrays.sort_by_key(|(name, array)| (Reverse(array.dtype.size()), *name));
    let mut entries = Map::new();
    if !state.metadata.is_empty() {
        entries.insert(METADATA.to_owned(), json!(state.metadata));
    }
    let mut end = 0;
    for (name, array) in &arrays {
        if *name == METADATA {
            let problem = "the format reserves this name";
            return Err(Error::Name { name: (*name).clone(), problem });
        }
        array.validate().map_err(|error| name_length_error(error, name))?;
        let start = end;
        end += array.data.len();
        let entry =
            json!({ "dtype": array.dtype.name(), "shape": array.shape, "data_offsets": [start, end] });
        entries.insert((*name).clone(), entry);
    }
    let mut json = Value::Object(entries).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    if json.len() > MAX_HEADER {
        let problem = "the header would be longer than the format allows";
        return Err(Error::Name { name: METADATA.to_owned(), problem });
    }
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    Ok((header, arrays.into_iter().map(|(_, array)| array).collect()))
}

fn name_length_error(error: Error, name: &str) -> Error {
    match error {
        Error::Length { shape, expected, got, unit, .. } => {
            Error::Length { what: name.to_owned(), shape, expected, got, unit }
        }
        other => other,
    }
}

/// Whether the bytes start like a safetensors file.
pub(crate) fn looks_like(bytes: &[u8]) -> bool {
    bytes.get(8) == Some(&b'{') && bytes.first_chunk().is_some_and(|n| header_fits(*n))
}

fn header_fits(length: [u8; 8]) -> bool {
    usize::try_from(u64::from_le_bytes(length)).is_ok_and(|length| length <= MAX_HEADER)
}

/// Where an array lies.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    range: Range<usize>,
}

/// A parsed header over the bytes it describes.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    bytes: Bytes,
    pub(crate) entries: BTreeMap<String, Entry>,
    pub(crate) metadata: BTreeMap<String, String>,
    /// Arrays of a type this crate does not know, with that type.
    pub(crate) skipped: BTreeMap<String, String>,
}

impl Reader {
    pub(crate) fn parse(bytes: Bytes, path: &Path) -> Result<Self> {
        let buffer = bytes.as_ref();
        let (header_len, header) = SafeTensors::read_metadata(buffer)
            .map_err(|problem| Error::format(path, None, format!("safetensors header: {problem}")))?;
        let data_start = header_len + 8;
        let data_len = buffer.len().saturating_sub(data_start);
        let mut entries = BTreeMap::new();
        let mut skipped = BTreeMap::new();
        for name in header.offset_keys() {
            let Some(info) = header.info(&name) else { continue };
            let Some(dtype) = dtype_of(info.dtype) else {
                skipped.insert(name, format!("element type {:?}", info.dtype));
                continue;
            };
            let (start, end) = info.data_offsets;
            let expected = byte_len(dtype, &info.shape)
                .map_err(|problem| Error::format(path, None, format!("`{name}`: {problem}")))?;
            if start > end || end > data_len || end - start != expected {
                let problem = format!(
                    "`{name}` claims bytes {start}..{end} of {data_len} for {dtype} {:?}",
                    info.shape
                );
                return Err(Error::format(path, Some(8), problem));
            }
            let range = data_start + start..data_start + end;
            entries.insert(name, Entry { dtype, shape: info.shape.clone(), range });
        }
        let metadata = header.metadata().iter().flatten();
        let metadata = metadata.map(|(key, value)| (key.clone(), value.clone())).collect();
        Ok(Self { bytes, entries, metadata, skipped })
    }

    /// Copies one array out. `entry` must be one of this reader's.
    pub(crate) fn read(&self, entry: &Entry, path: &Path) -> Result<Array> {
        let data = self.bytes.as_ref().get(entry.range.clone()).ok_or_else(|| {
            Error::format(path, Some(entry.range.start as u64), "the file ends inside an array")
        })?;
        Array::new(entry.dtype, entry.shape.clone(), data.to_vec())
    }
}

fn dtype_of(dtype: safetensors::Dtype) -> Option<Dtype> {
    use safetensors::Dtype as Theirs;
    Some(match dtype {
        Theirs::F64 => Dtype::F64,
        Theirs::F32 => Dtype::F32,
        Theirs::F16 => Dtype::F16,
        Theirs::BF16 => Dtype::BF16,
        Theirs::I64 => Dtype::I64,
        Theirs::I32 => Dtype::I32,
        Theirs::I16 => Dtype::I16,
        Theirs::I8 => Dtype::I8,
        Theirs::U64 => Dtype::U64,
        Theirs::U32 => Dtype::U32,
        Theirs::U16 => Dtype::U16,
        Theirs::U8 => Dtype::U8,
        Theirs::BOOL => Dtype::Bool,
        _ => return None,
    })
}
