//! What a pickle describes: inert values in an arena.
//!
//! Nodes refer to each other by number, so a pickle that refers to itself costs nothing and nothing recurses
//! when the values are dropped.

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
    Tensor(Box<Tensor<'a>>),
    /// An instance of a class, or the result of a function, that is not known here.
    Object {
        state: Option<Value<'a>>,
        items: Vec<(Value<'a>, Value<'a>)>,
    },
}

/// The bytes behind one or more tensors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Storage<'a> {
    /// The record `data/KEY` of the archive.
    pub(super) key: &'a str,
    pub(super) kind: StorageKind<'a>,
    /// In elements; in bytes when untyped.
    pub(super) len: usize,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum StorageKind<'a> {
    Typed(Dtype),
    Untyped,
    /// A storage class this crate does not read.
    Unknown(&'a str),
}

/// A view of a storage, or why there is none.
#[derive(Debug, Clone)]
pub(super) enum Tensor<'a> {
    View(View<'a>),
    Unsupported { what: &'static str, name: &'a str },
}

#[derive(Debug, Clone)]
pub(super) struct View<'a> {
    pub(super) key: &'a str,
    pub(super) dtype: Dtype,
    /// Bytes that the pickle says the storage has.
    pub(super) storage_bytes: usize,
    /// In elements, like the strides.
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
    /// Length of the pickle in bytes; what it describes is held in proportion to it.
    pub(super) len: usize,
}
