//! From nested dicts and lists to dotted names.

use std::collections::BTreeMap;

use super::value::{Id, Node, Pickle, Problem, Tensor, Value, View};

/// Checkpoints nest four or five deep.
const MAX_DEPTH: usize = 64;

/// Longer strings are no settings.
const MAX_TEXT: usize = 4096;

/// The named contents of a pickle.
#[derive(Debug, Default)]
pub(super) struct Contents<'n, 'a> {
    pub(super) views: BTreeMap<String, &'n View<'a>>,
    pub(super) unsupported: BTreeMap<String, String>,
    pub(super) metadata: BTreeMap<String, String>,
}

/// Collects tensors and scalars under the keys that lead to them. Values reached through themselves, and keys
/// that are neither text nor numbers, are left out.
pub(super) fn flatten<'n, 'a>(pickle: &'n Pickle<'a>) -> Result<Contents<'n, 'a>, Problem> {
    let mut walk = Walk {
        nodes: &pickle.nodes,
        contents: Contents::default(),
        path: Vec::new(),
        // A value that is shared is visited once per path to it. Real checkpoints share a few; a pickle made
        // to explode shares all of them.
        visits: pickle.len.saturating_mul(4).saturating_add(1024),
        budget: pickle.len.saturating_mul(64).saturating_add(1 << 20),
    };
    let mut name = String::new();
    walk.visit(&mut name, pickle.root)?;
    Ok(walk.contents)
}

struct Walk<'n, 'a> {
    nodes: &'n [Node<'a>],
    contents: Contents<'n, 'a>,
    /// The nodes that are being visited, outermost first.
    path: Vec<Id>,
    visits: usize,
    /// Bytes that names, texts and shapes may still take.
    budget: usize,
}

impl<'n, 'a> Walk<'n, 'a> {
    fn visit(&mut self, name: &mut String, value: Value<'a>) -> Result<(), Problem> {
        self.visits =
            self.visits.checked_sub(1).ok_or_else(|| problem("the same values are nested too often"))?;
        let nodes = self.nodes;
        let id = match value {
            Value::Node(id) => id,
            Value::Bool(value) => return self.note(name, &value),
            Value::Int(value) => return self.note(name, &value),
            Value::Float(value) => return self.note(name, &value),
            Value::Str(value) if value.len() <= MAX_TEXT => return self.note(name, &value),
            Value::Str(_) | Value::None | Value::Other => return Ok(()),
        };
        if self.path.contains(&id) {
            return Ok(());
        }
        if self.path.len() >= MAX_DEPTH {
            return Err(problem(format!("values are nested deeper than {MAX_DEPTH}")));
        }
        self.path.push(id);
        match nodes.get(id) {
            Some(Node::Tensor(tensor)) => self.tensor(name, tensor)?,
            Some(Node::Sequence(items)) => {
                for (i, &item) in items.iter().enumerate() {
                    self.child(name, Value::Int(i as i64), item)?;
                }
            }
            Some(Node::Dict(items)) => {
                for &(key, item) in items {
                    self.child(name, key, item)?;
                }
            }
            Some(Node::Object { state, items }) => {
                if let Some(state) = *state {
                    self.visit(name, state)?;
                }
                for &(key, item) in items {
                    self.child(name, key, item)?;
                }
            }
            Some(Node::Global { .. } | Node::Storage(_)) | None => {}
        }
        self.path.pop();
        Ok(())
    }

    fn child(&mut self, name: &mut String, key: Value<'a>, item: Value<'a>) -> Result<(), Problem> {
        let length = name.len();
        if !name.is_empty() {
            name.push('.');
        }
        match key {
            Value::Str(key) if key.len() <= MAX_TEXT => name.push_str(key),
            Value::Int(key) => name.push_str(&key.to_string()),
            Value::Bool(key) => name.push_str(&key.to_string()),
            Value::Float(key) => name.push_str(&key.to_string()),
            _ => {
                name.truncate(length);
                return Ok(());
            }
        }
        self.visit(name, item)?;
        name.truncate(length);
        Ok(())
    }

    fn tensor(&mut self, name: &str, tensor: &'n Tensor<'a>) -> Result<(), Problem> {
        // A file may be a single tensor.
        let name = if name.is_empty() { "tensor" } else { name };
        let name = self.own(name)?;
        if self.contents.views.contains_key(&name) || self.contents.unsupported.contains_key(&name) {
            return Err(problem(format!("two tensors are called `{name}`")));
        }
        match tensor {
            Tensor::View(view) => {
                // Every name gets a shape of its own later on.
                self.spend(view.shape.len() * 2 * size_of::<usize>())?;
                self.contents.views.insert(name, view);
            }
            Tensor::Unsupported { what, name: class } => {
                self.spend(class.len())?;
                self.contents.unsupported.insert(name, format!("{what} {class}"));
            }
        }
        Ok(())
    }

    fn note(&mut self, name: &str, value: &impl ToString) -> Result<(), Problem> {
        if !name.is_empty() {
            let name = self.own(name)?;
            let value = self.own(&value.to_string())?;
            self.contents.metadata.insert(name, value);
        }
        Ok(())
    }

    fn own(&mut self, text: &str) -> Result<String, Problem> {
        self.spend(text.len())?;
        Ok(text.to_owned())
    }

    fn spend(&mut self, bytes: usize) -> Result<(), Problem> {
        let left = self.budget.checked_sub(bytes);
        self.budget = left.ok_or_else(|| problem("the names and shapes are too long"))?;
        Ok(())
    }
}

fn problem(what: impl Into<String>) -> Problem {
    Problem { offset: 0, what: what.into() }
}
