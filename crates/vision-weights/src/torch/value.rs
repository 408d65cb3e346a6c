//! What a pickle describes: inert values in an arena.
//!
//! Nodes refer to each other by number, so a pickle that refers to itself costs nothing and nothing recurses
//! when the values are dropped.

use std::fmt;
use std::rc::Rc;

use crate::Dtype;

/// Number of a [`Node`].
pub(super) type Id = usize;

/// A value on the stack of the unpickler.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(&'a str),
    Node(Id),
    /// Something that no weight file needs: bytes, big integers, strings that are no UTF-8, extension codes.
    Other,
}

/// A value that other values can refer to, or that grows after it was made.
#[derive(Debug)]
pub(super) enum Node<'a> {
    /// A list, tuple or set.
    Sequence(Vec<Value<'a>>),
    Dict(Vec<(Value<'a>, Value<'a>)>),
    /// A class or function, by name only.
    Global {
        module: &'a str,
        name: &'a str,
    },
    Storage(Storage<'a>),
    Tensor(Rc<Tensor<'a>>),
    /// An instance of a class, or the result of a function, that is not known here.
    Object {
        state: Option<Value<'a>>,
        items: Vec<(Value<'a>, Value<'a>)>,
    },
}

/// What a file calls a stored piece of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key<'a> {
    Number(i64),
    Text(&'a str),
}

impl<'a> Key<'a> {
    pub(super) fn of(value: Value<'a>) -> Option<Self> {
        match value {
            Value::Int(number) => Some(Self::Number(number)),
            Value::Str(text) => Some(Self::Text(text)),
            _ => None,
        }
    }
}

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

/// The memory behind one or more tensors: a stored piece or, in old files, a part of one. Lengths are in
/// elements; in bytes when untyped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Storage<'a> {
    /// The stored piece.
    pub(super) key: Key<'a>,
    pub(super) kind: StorageKind<'a>,
    /// Length of the stored piece.
    pub(super) stored_len: usize,
    /// Where this storage begins in it.
    pub(super) start: usize,
    pub(super) len: usize,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum StorageKind<'a> {
    Typed(Dtype),
    Untyped,
    /// A storage class this crate does not read.
    Unknown(&'a str),
}

impl<'a> StorageKind<'a> {
    /// The name of a class this crate does not read; empty for the others.
    pub(super) fn unknown_class(self) -> &'a str {
        match self {
            Self::Unknown(name) => name,
            Self::Typed(_) | Self::Untyped => "",
        }
    }
}

/// A view of a storage, or why there is none.
#[derive(Debug, Clone)]
pub(super) enum Tensor<'a> {
    View(View<'a>),
    Unsupported { what: &'static str, name: &'a str },
}

#[derive(Debug, Clone)]
pub(super) struct View<'a> {
    pub(super) key: Key<'a>,
    pub(super) dtype: Dtype,
    /// Where the storage ends in the stored piece, as the pickle says; in bytes.
    pub(super) storage_bytes: usize,
    /// From the beginning of the stored piece; in elements, like the strides.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// What is wrong with a pickle, and where in it.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) offset: usize,
    pub(super) what: String,
}

/// A fully read pickle.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    pub(super) nodes: Vec<Node<'a>>,
    pub(super) root: Value<'a>,
    /// How many bytes it took; what it describes is held in proportion to it.
    pub(super) len: usize,
}
