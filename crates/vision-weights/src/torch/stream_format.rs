//! The stream that `torch.save` wrote before `PyTorch` 1.6, and still can: pickles of a magic number, a version,
//! facts about the machine, the object and the keys of its storages, then the storages, each a number of elements
//! and the raw bytes.

use std::collections::BTreeMap;
use std::path::Path;

use super::stream::{Stream, check_byte_order};
use super::value::{Key, Node, Pickle, Value};
use super::{Description, Pieces, Reader, rebuild};
use crate::bytes::Bytes;
use crate::file::Format;
use crate::{Error, Result};

/// The magic number, ten bytes long, as protocol 2 and later write it.
const MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// The magic number as protocols 0 and 1 write it.
const MAGIC_TEXT: &[u8] = b"L119547037146038801333356L\n.";

/// The only version there ever was.
const VERSION: i64 = 1001;

/// Whether the bytes start with a pickle of the magic number.
pub(super) fn looks_like(bytes: &[u8]) -> bool {
    let body = match bytes {
        // Protocol 4 and later put a frame around it.
        [0x80, _, 0x95, rest @ ..] => rest.get(8..).unwrap_or_default(),
        [0x80, _, rest @ ..] => rest,
        _ => return bytes.starts_with(MAGIC_TEXT),
    };
    body.starts_with(MAGIC)
}

pub(super) fn parse(bytes: &Bytes, path: &Path) -> Result<Reader> {
    let mut stream = Stream::new(bytes.as_ref(), "", path);
    stream.pickle("magic number", &rebuild::no_persistent)?;
    let start = stream.position();
    match stream.pickle("version", &rebuild::no_persistent)?.root {
        Value::Int(VERSION) => {}
        Value::Int(other) => return Err(Error::unsupported(path, format!("version {other} of the stream"))),
        other => return Err(stream.problem_at(start, format!("version: {other:?} is no number"))),
    }
    check_byte_order(&stream.pickle("facts about the machine", &rebuild::no_persistent)?, path)?;
    let start = stream.position() as u64;
    let name = "the pickled object";
    let object = stream.pickle(name, &rebuild::persistent)?;
    let roots = roots(&object);
    let mut numbers = BTreeMap::new();
    let mut ranges = Vec::new();
    for key in keys(&mut stream)? {
        let what = format!("storage {key}");
        let root = roots.get(&key).ok_or_else(|| stream.problem(format!("{what} belongs to nothing")))?;
        let Some(size) = root.element_size else {
            return Err(Error::unsupported(path, format!("{what}, whose class {} is unknown,", root.class)));
        };
        let at = stream.position();
        let elements = stream.length(&what)?;
        if elements != root.elements {
            let problem = format!("{what} has {elements} elements, the object says {}", root.elements);
            return Err(stream.problem_at(at, problem));
        }
        let length = elements.checked_mul(size);
        let length = length.ok_or_else(|| stream.problem_at(at, format!("{what} is too long")))?;
        let range = stream.take(length, &what)?;
        if numbers.insert(key, ranges.len()).is_some() {
            return Err(stream.problem_at(at, format!("{what} is there twice")));
        }
        ranges.push(range);
    }
    let lengths: Vec<u64> = ranges.iter().map(|range| range.len() as u64).collect();
    let mut reader = Reader::new(Format::TorchStream, Pieces::Ranges(bytes.clone(), ranges));
    reader.describe(&Description { pickle: &object, name, start }, path, |key| {
        let found = numbers.get(&key).and_then(|&number| Some((number, *lengths.get(number)?)));
        found.ok_or_else(|| Error::format(path, None, format!("storage {key} is missing")))
    })?;
    Ok(reader)
}

/// What the object says about a stored piece.
struct Root<'a> {
    elements: usize,
    element_size: Option<usize>,
    class: &'a str,
}

/// The stored pieces of an object. Where several storages share one, the first says what its elements are.
fn roots<'a>(object: &Pickle<'a>) -> BTreeMap<Key<'a>, Root<'a>> {
    let mut roots = BTreeMap::new();
    for node in &object.nodes {
        if let Node::Storage(storage) = node {
            roots.entry(storage.key).or_insert_with(|| Root {
                elements: storage.stored_len,
                element_size: rebuild::element_size(storage.kind),
                class: storage.kind.unknown_class(),
            });
        }
    }
    roots
}

/// The keys of the storages, in the order in which they follow.
fn keys<'a>(stream: &mut Stream<'a>) -> Result<Vec<Key<'a>>> {
    let start = stream.position();
    let list = stream.pickle("list of storages", &rebuild::no_persistent)?;
    let keys = rebuild::sequence(&list.nodes, list.root)
        .and_then(|items| items.iter().map(|&item| Key::of(item)).collect::<Option<Vec<_>>>());
    keys.ok_or_else(|| stream.problem_at(start, "list of storages: it is no list of keys"))
}
