//! The tar archive that `torch.save` wrote in `PyTorch` 0.1: member `storages` has storages and which of them are
//! parts of others, `tensors` has views of them, `pickle` the object that refers to both by number.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

use super::stream::{Stream, check_byte_order};
use super::value::{Key, Node, Pickle, Storage, Tensor, Value};
use super::{Description, Pieces, Reader, rebuild};
use crate::bytes::Bytes;
use crate::file::Format;
use crate::{Error, Result};

/// Where a tar archive says what it is.
const MAGIC_AT: usize = 257;

/// Whether the bytes start with the header of a tar archive.
pub(super) fn looks_like(bytes: &[u8]) -> bool {
    bytes.get(MAGIC_AT..).is_some_and(|rest| rest.starts_with(b"ustar"))
}

pub(super) fn parse(bytes: &Bytes, path: &Path) -> Result<Reader> {
    let all = bytes.as_ref();
    let members = members(all, path)?;
    if let Some(sys_info) = member(all, &members, "sys_info") {
        let mut stream = Stream::new(sys_info, "member sys_info: ", path);
        check_byte_order(&stream.pickle("facts about the machine", &rebuild::no_persistent)?, path)?;
    }
    let require = |name: &str| {
        let what = format!("a tar archive without the member `{name}` of PyTorch");
        member(all, &members, name).ok_or_else(|| Error::unsupported(path, what))
    };
    let mut objects = Objects::default();
    objects.read_storages(&mut Stream::new(require("storages")?, "member storages: ", path))?;
    objects.read_tensors(&mut Stream::new(require("tensors")?, "member tensors: ", path))?;
    let name = "the pickled object";
    let mut stream = Stream::new(require("pickle")?, "member pickle: ", path);
    let object = stream.pickle(name, &|nodes, id| objects.load(nodes, id))?;
    // The member's place was checked when it was found.
    let start = members.get("storages").map_or(0, |range| range.start);
    let ranges: Vec<Range<usize>> =
        objects.ranges.iter().map(|range| start + range.start..start + range.end).collect();
    let mut reader = Reader::new(Format::TorchTar, Pieces::Ranges(bytes.clone(), ranges));
    let description = Description { pickle: &object, name: "member pickle: the pickled object", start: 0 };
    reader.describe(&description, path, |key| {
        let number = objects.numbers.get(&key).copied();
        let found = number.and_then(|number| Some((number, objects.ranges.get(number)?.len() as u64)));
        found.ok_or_else(|| Error::format(path, None, format!("storage {key} is missing")))
    })?;
    Ok(reader)
}

/// The places of the regular files in a tar archive.
fn members(bytes: &[u8], path: &Path) -> Result<BTreeMap<String, Range<usize>>> {
    let damaged = |problem: std::io::Error| Error::format(path, None, format!("tar archive: {problem}"));
    let mut archive = tar::Archive::new(Cursor::new(bytes));
    let mut members = BTreeMap::new();
    for entry in archive.entries_with_seek().map_err(damaged)? {
        let entry = entry.map_err(damaged)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let start = usize::try_from(entry.raw_file_position()).ok();
        let size = usize::try_from(entry.size()).ok();
        let end = start.zip(size).and_then(|(start, size)| start.checked_add(size));
        let Some((start, end)) = start.zip(end).filter(|&(_, end)| end <= bytes.len()) else {
            return Err(Error::format(path, None, format!("member {name} runs past the end of the file")));
        };
        if members.insert(name.clone(), start..end).is_some() {
            return Err(Error::format(path, None, format!("member {name} is there twice")));
        }
    }
    Ok(members)
}

fn member<'a>(bytes: &'a [u8], members: &BTreeMap<String, Range<usize>>, name: &str) -> Option<&'a [u8]> {
    bytes.get(members.get(name)?.clone())
}

/// What persistent ids refer to.
#[derive(Default)]
struct Objects<'a> {
    storages: BTreeMap<i64, Storage<'a>>,
    tensors: BTreeMap<i64, Rc<Tensor<'a>>>,
    /// The stored pieces, by key, as indices into `ranges`.
    numbers: BTreeMap<Key<'a>, usize>,
    /// Places within the member.
    ranges: Vec<Range<usize>>,
}

impl<'a> Objects<'a> {
    fn read_storages(&mut self, stream: &mut Stream<'a>) -> Result<()> {
        for _ in 0..stream.count("number of storages")? {
            let at = stream.position();
            let header = stream.pickle("header of a storage", &rebuild::no_persistent)?;
            let Some(&[Value::Int(number), _, class]) = fields(&header) else {
                return Err(stream.problem_at(at, "the header of a storage is no key, place and class"));
            };
            let key = Key::Number(number);
            let what = format!("storage {number}");
            let Some(kind) = rebuild::storage_kind(&header.nodes, class) else {
                return Err(stream.problem_at(at, format!("the class of {what} is no name")));
            };
            let Some(size) = rebuild::element_size(kind) else {
                let what = format!("{what}, whose class {} is unknown,", kind.unknown_class());
                return Err(stream.unsupported(what));
            };
            let at = stream.position();
            let len = stream.length(&what)?;
            let length = len.checked_mul(size);
            let length = length.ok_or_else(|| stream.problem_at(at, format!("{what} is too long")))?;
            let range = stream.take(length, &what)?;
            let storage = Storage { key, kind, stored_len: len, start: 0, len };
            if self.storages.insert(number, storage).is_some() {
                return Err(stream.problem_at(at, format!("{what} is there twice")));
            }
            self.numbers.insert(key, self.ranges.len());
            self.ranges.push(range);
        }
        self.read_parts(stream)
    }

    /// The storages that are parts of others.
    fn read_parts(&mut self, stream: &mut Stream<'a>) -> Result<()> {
        let at = stream.position();
        let parts = stream.pickle("parts of storages", &rebuild::no_persistent)?;
        let wrong = |problem: &str| stream.problem_at(at, format!("parts of storages: {problem}"));
        let items = fields(&parts).ok_or_else(|| wrong("they are no list"))?;
        for &item in items {
            let Some(&[Value::Int(number), Value::Int(root), Value::Int(start), Value::Int(len)]) =
                rebuild::sequence(&parts.nodes, item)
            else {
                return Err(wrong("one has not four numbers"));
            };
            let whole = self.storages.get(&root).copied();
            let whole = whole.ok_or_else(|| wrong(&format!("storage {root} is missing")))?;
            let size = |n: i64| usize::try_from(n).ok().ok_or_else(|| wrong(&format!("a size is {n}")));
            // Parts of parts: what is stored is always the outermost.
            let (start, len) = (size(start)?, size(len)?);
            rebuild::part_fits(whole.key, whole.len, start, len).map_err(|problem| wrong(&problem))?;
            let part = Storage { start: whole.start.saturating_add(start), len, ..whole };
            if self.storages.insert(number, part).is_some() {
                return Err(wrong(&format!("storage {number} is there twice")));
            }
        }
        Ok(())
    }

    fn read_tensors(&mut self, stream: &mut Stream<'a>) -> Result<()> {
        for _ in 0..stream.count("number of tensors")? {
            let at = stream.position();
            let header = stream.pickle("header of a tensor", &rebuild::no_persistent)?;
            let Some(&[Value::Int(number), storage, _]) = fields(&header) else {
                return Err(stream.problem_at(at, "the header of a tensor is no key, storage and class"));
            };
            let what = format!("tensor {number}");
            let at = stream.position();
            let dimensions = usize::try_from(stream.i32(&what)?).ok();
            let Some(dimensions) = dimensions.filter(|&n| n <= rebuild::MAX_DIMENSIONS) else {
                return Err(stream.problem_at(at, format!("{what} has an impossible number of dimensions")));
            };
            // The number was meant to have 64 bits; the upper half was never written with care.
            stream.take(4, &what)?;
            let shape = (0..dimensions).map(|_| stream.length(&what)).collect::<Result<Vec<_>>>()?;
            let strides = (0..dimensions).map(|_| stream.length(&what)).collect::<Result<Vec<_>>>()?;
            let offset = stream.length(&what)?;
            let tensor = match storage {
                // A tensor that never got memory.
                Value::None => Tensor::Unsupported { what: "a tensor without", name: "storage" },
                Value::Int(storage) => {
                    let gone = || stream.problem_at(at, format!("{what}: storage {storage} is missing"));
                    let storage = self.storages.get(&storage).ok_or_else(gone)?;
                    rebuild::view(storage, None, offset, shape, strides)
                        .map_err(|problem| stream.problem_at(at, format!("{what}: {problem}")))?
                }
                _ => return Err(stream.problem_at(at, format!("{what}: its storage is no number"))),
            };
            if self.storages.contains_key(&number) || self.tensors.insert(number, Rc::new(tensor)).is_some() {
                return Err(stream.problem_at(at, format!("{what} is there twice")));
            }
        }
        Ok(())
    }

    /// What a persistent id stands for: a number, as such or as text, is a storage or a tensor; anything else is
    /// the class of a module with its source code.
    fn load(&self, _: &[Node<'a>], id: Value<'a>) -> std::result::Result<Node<'a>, String> {
        let number = match id {
            Value::Int(number) => number,
            Value::Str(text) => {
                text.trim().parse().ok().ok_or_else(|| format!("the persistent id {text} is no number"))?
            }
            _ => return Ok(Node::Object { state: None, items: Vec::new() }),
        };
        let tensor = self.tensors.get(&number).map(|tensor| Node::Tensor(Rc::clone(tensor)));
        let found = tensor.or_else(|| self.storages.get(&number).map(|&storage| Node::Storage(storage)));
        found.ok_or_else(|| format!("tensor or storage {number} is missing"))
    }
}

fn fields<'p, 'a>(pickle: &'p Pickle<'a>) -> Option<&'p [Value<'a>]> {
    rebuild::sequence(&pickle.nodes, pickle.root)
}
