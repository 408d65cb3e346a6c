//! The few functions and classes that describe tensors. They are recognised by name, never called; every other
//! name becomes an inert object.

use std::rc::Rc;

use super::value::{Key, Node, Storage, StorageKind, Tensor, Value, View};
use crate::Dtype;

/// `PyTorch` itself stops at 64.
pub(super) const MAX_DIMENSIONS: usize = 64;

type Result<T> = std::result::Result<T, String>;

/// What a call stands for.
pub(super) enum Outcome<'a> {
    Value(Value<'a>),
    Node(Node<'a>),
}

impl Outcome<'_> {
    /// How many values it copied out of its arguments. A few bytes can refer to long arguments again and again,
    /// so the caller keeps count.
    pub(super) fn copied(&self) -> usize {
        match self {
            Self::Node(Node::Dict(items)) => items.len(),
            Self::Node(Node::Tensor(tensor)) => match &**tensor {
                Tensor::View(view) => view.shape.len() + view.strides.len(),
                Tensor::Unsupported { .. } => 0,
            },
            _ => 0,
        }
    }
}

fn object<'a>() -> Outcome<'a> {
    Outcome::Node(Node::Object { state: None, items: Vec::new() })
}

/// What `callable(*arguments)` describes.
pub(super) fn reduce<'a>(
    nodes: &[Node<'a>],
    callable: Value<'a>,
    arguments: Value<'a>,
) -> Result<Outcome<'a>> {
    let Some(Node::Global { module, name }) = node(nodes, callable) else { return Ok(object()) };
    let Some(arguments) = sequence(nodes, arguments) else {
        return Err(format!("the arguments of {module}.{name} are no tuple"));
    };
    let argument = |i: usize| arguments.get(i).copied().unwrap_or(Value::None);
    Ok(match (*module, *name) {
        ("collections", "OrderedDict" | "defaultdict") => {
            Outcome::Node(Node::Dict(pairs(nodes, argument(0))))
        }
        ("torch", "Size") => Outcome::Value(argument(0)),
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => {
            Outcome::Node(Node::Tensor(Rc::new(tensor(nodes, arguments, None)?)))
        }
        ("torch._utils", "_rebuild_tensor_v3") => {
            Outcome::Node(Node::Tensor(Rc::new(tensor(nodes, arguments, Some(argument(6)))?)))
        }
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
            Outcome::Value(argument(0))
        }
        // What parameters were before they had a function of their own.
        ("torch.nn.parameter", "Parameter") | ("torch.autograd.variable", "Variable")
            if matches!(node(nodes, argument(0)), Some(Node::Tensor(_))) =>
        {
            Outcome::Value(argument(0))
        }
        // A tensor subclass: function, class, arguments of the function, attributes.
        ("torch._tensor", "_rebuild_from_type_v2") => match node(nodes, argument(0)) {
            // One level is all that PyTorch writes; a chain of them would recurse.
            Some(Node::Global { name: "_rebuild_from_type_v2", .. }) => object(),
            _ => return reduce(nodes, argument(0), argument(2)),
        },
        (module, name) if module.starts_with("torch") && name.starts_with("_rebuild_") => {
            Outcome::Node(Node::Tensor(Rc::new(Tensor::Unsupported { what: "a tensor made by", name })))
        }
        _ => object(),
    })
}

/// What a persistent id stands for: a storage, when it is `("storage", class, key, location, length)`. Files from
/// before the archive add what part of the stored piece it is, `(key, offset, length)`.
pub(super) fn persistent<'a>(nodes: &[Node<'a>], id: Value<'a>) -> Result<Node<'a>> {
    let fields = sequence(nodes, id).unwrap_or_default();
    let &[Value::Str("storage"), class, key, _, Value::Int(stored_len), ..] = fields else {
        return Ok(Node::Object { state: None, items: Vec::new() });
    };
    let key = Key::of(key).ok_or_else(|| "the key of a storage is neither text nor a number".to_owned())?;
    let length = |n: i64| usize::try_from(n).ok().ok_or_else(|| format!("storage {key} has {n} elements"));
    let stored_len = length(stored_len)?;
    let (start, len) = match fields.get(5).and_then(|&part| node(nodes, part)) {
        None => (0, stored_len),
        Some(Node::Sequence(part)) => match part.as_slice() {
            &[_, Value::Int(start), Value::Int(len)] => (length(start)?, length(len)?),
            _ => return Err(format!("the part of storage {key} is no key, offset and length")),
        },
        Some(_) => return Err(format!("the part of storage {key} is no tuple")),
    };
    part_fits(key, stored_len, start, len)?;
    let kind = storage_kind(nodes, class).ok_or_else(|| format!("the class of storage {key} is no name"))?;
    Ok(Node::Storage(Storage { key, kind, stored_len, start, len }))
}

/// For pickles that have no business with storages.
pub(super) fn no_persistent<'a>(_: &[Node<'a>], _: Value<'a>) -> Result<Node<'a>> {
    Err("a persistent id is out of place here".to_owned())
}

/// Checks that a part lies within its stored piece.
pub(super) fn part_fits(key: Key<'_>, stored_len: usize, start: usize, len: usize) -> Result<()> {
    if start.checked_add(len).is_none_or(|end| end > stored_len) {
        return Err(format!("{len} elements from {start} on leave storage {key} of {stored_len}"));
    }
    Ok(())
}

/// The class of a storage; `None` when the value names none.
pub(super) fn storage_kind<'a>(nodes: &[Node<'a>], class: Value<'a>) -> Option<StorageKind<'a>> {
    let Some(Node::Global { module, name }) = node(nodes, class) else { return None };
    Some(match (*module, *name) {
        ("torch.storage" | "torch", "UntypedStorage") => StorageKind::Untyped,
        ("torch" | "torch.cuda", name) => {
            storage_dtype(name).map_or(StorageKind::Unknown(name), StorageKind::Typed)
        }
        (_, name) => StorageKind::Unknown(name),
    })
}

/// Bytes per element, also of the classes that are only skipped; `None` when that is not known.
pub(super) fn element_size(kind: StorageKind<'_>) -> Option<usize> {
    Some(match kind {
        StorageKind::Typed(dtype) => dtype.size(),
        StorageKind::Unknown("ComplexDoubleStorage") => 16,
        StorageKind::Unknown("ComplexFloatStorage") => 8,
        StorageKind::Unknown("QInt32Storage") => 4,
        StorageKind::Untyped
        | StorageKind::Unknown("QInt8Storage" | "QUInt8Storage" | "QUInt4x2Storage" | "QUInt2x4Storage") => 1,
        StorageKind::Unknown(_) => return None,
    })
}

fn tensor<'a>(nodes: &[Node<'a>], arguments: &[Value<'a>], dtype: Option<Value<'a>>) -> Result<Tensor<'a>> {
    let &[storage, offset, shape, strides, ..] = arguments else {
        return Err(format!("a tensor has {} arguments", arguments.len()));
    };
    let Some(Node::Storage(storage)) = node(nodes, storage) else {
        return Err("a tensor has no storage".to_owned());
    };
    let dtype = match (storage.kind, dtype.and_then(|value| node(nodes, value))) {
        (StorageKind::Untyped, Some(Node::Global { name, .. })) => match torch_dtype(name) {
            Some(dtype) => Some(dtype),
            None => return Ok(Tensor::Unsupported { what: "element type", name }),
        },
        _ => None,
    };
    let Value::Int(offset) = offset else { return Err("a tensor's offset is no number".to_owned()) };
    let offset = usize::try_from(offset).ok().ok_or_else(|| format!("a tensor's offset is {offset}"))?;
    let shape = sizes(nodes, shape, "shape")?;
    let strides = sizes(nodes, strides, "strides")?;
    view(storage, dtype, offset, shape, strides)
}

/// A view of a storage; `dtype` is what an untyped storage is read as.
pub(super) fn view<'a>(
    storage: &Storage<'a>,
    dtype: Option<Dtype>,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
) -> Result<Tensor<'a>> {
    let Storage { key, kind, start, len, .. } = *storage;
    let dtype = match (kind, dtype) {
        (StorageKind::Typed(dtype), _) | (StorageKind::Untyped, Some(dtype)) => dtype,
        (StorageKind::Untyped, None) => {
            return Err(format!("the tensor of storage {key} has no element type"));
        }
        (StorageKind::Unknown(name), _) => return Ok(Tensor::Unsupported { what: "storage class", name }),
    };
    if shape.len() != strides.len() {
        return Err(format!("a tensor has {} sizes and {} strides", shape.len(), strides.len()));
    }
    let unit = if matches!(kind, StorageKind::Untyped) { 1 } else { dtype.size() };
    let in_bytes = |elements: usize| {
        elements.checked_mul(unit).ok_or_else(|| format!("storage {key} has {elements} elements"))
    };
    let storage_bytes = in_bytes(start.saturating_add(len))?;
    let start = in_bytes(start)?;
    if start % dtype.size() != 0 {
        return Err(format!("a part of storage {key} begins inside an element"));
    }
    let offset = offset.checked_add(start / dtype.size());
    let offset = offset.ok_or_else(|| format!("a tensor's offset in storage {key} overflows"))?;
    Ok(Tensor::View(View { key, dtype, storage_bytes, offset, shape, strides }))
}

fn sizes(nodes: &[Node<'_>], value: Value<'_>, what: &str) -> Result<Vec<usize>> {
    let items = sequence(nodes, value).ok_or_else(|| format!("a tensor's {what} is no tuple"))?;
    if items.len() > MAX_DIMENSIONS {
        return Err(format!("a tensor's {what} has {} dimensions", items.len()));
    }
    let size = |item: &Value<'_>| match *item {
        Value::Int(size) => usize::try_from(size).ok(),
        _ => None,
    };
    let sizes: Option<Vec<usize>> = items.iter().map(size).collect();
    sizes.ok_or_else(|| format!("a tensor's {what} holds something that is no size"))
}

/// The entries of a dict's first argument: a sequence of pairs.
fn pairs<'a>(nodes: &[Node<'a>], value: Value<'a>) -> Vec<(Value<'a>, Value<'a>)> {
    let items = sequence(nodes, value).unwrap_or_default();
    items
        .iter()
        .filter_map(|&item| match sequence(nodes, item) {
            Some(&[key, value]) => Some((key, value)),
            _ => None,
        })
        .collect()
}

pub(super) fn node<'n, 'a>(nodes: &'n [Node<'a>], value: Value<'a>) -> Option<&'n Node<'a>> {
    match value {
        Value::Node(id) => nodes.get(id),
        _ => None,
    }
}

pub(super) fn sequence<'n, 'a>(nodes: &'n [Node<'a>], value: Value<'a>) -> Option<&'n [Value<'a>]> {
    match node(nodes, value) {
        Some(Node::Sequence(items)) => Some(items),
        _ => None,
    }
}

fn storage_dtype(class: &str) -> Option<Dtype> {
    Some(match class {
        "DoubleStorage" => Dtype::F64,
        "FloatStorage" => Dtype::F32,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" => Dtype::U8,
        "BoolStorage" => Dtype::Bool,
        _ => return None,
    })
}

fn torch_dtype(name: &str) -> Option<Dtype> {
    Some(match name {
        "float64" => Dtype::F64,
        "float32" => Dtype::F32,
        "float16" => Dtype::F16,
        "bfloat16" => Dtype::BF16,
        "int64" => Dtype::I64,
        "int32" => Dtype::I32,
        "int16" => Dtype::I16,
        "int8" => Dtype::I8,
        "uint64" => Dtype::U64,
        "uint32" => Dtype::U32,
        "uint16" => Dtype::U16,
        "uint8" => Dtype::U8,
        "bool" => Dtype::Bool,
        _ => return None,
    })
}
