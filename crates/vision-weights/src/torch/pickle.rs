//! A restricted unpickler: it builds [`Value`]s and never calls, imports or instantiates anything.
//!
//! Every opcode makes at most one node and takes its bytes from the input, so memory stays in proportion to
//! the length of the pickle.

use std::collections::BTreeMap;

use super::input::{Input, Result};
use super::rebuild;
use super::value::{Id, Node, Pickle, Value};

/// A checkpoint of 10,000 tensors is described in about 2 MB.
pub(super) const MAX_LENGTH: u64 = 32 << 20;

/// Most of the 32 MB could be one-byte opcodes that each make a node.
const MAX_NODES: usize = 4_000_000;

/// Says what a persistent id stands for.
pub(super) type Load<'l, 'a> = &'l dyn Fn(&[Node<'a>], Value<'a>) -> std::result::Result<Node<'a>, String>;

/// Reads the pickle, of any protocol from 0 to 5, that `bytes` start with.
pub(super) fn parse<'a>(bytes: &'a [u8], load: Load<'_, 'a>) -> Result<Pickle<'a>> {
    let mut machine = Machine {
        input: Input::new(bytes),
        load,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: BTreeMap::new(),
        nodes: Vec::new(),
        copied: 0,
    };
    let root = machine.run()?;
    Ok(Pickle { nodes: machine.nodes, root, len: machine.input.position() })
}

struct Machine<'l, 'a> {
    input: Input<'a>,
    load: Load<'l, 'a>,
    stack: Vec<Value<'a>>,
    /// Heights of the stack at each mark; nothing below the last one may be popped.
    marks: Vec<usize>,
    memo: BTreeMap<u64, Value<'a>>,
    nodes: Vec<Node<'a>>,
    /// How many values calls have copied out of their arguments.
    copied: usize,
}

impl<'a> Machine<'_, 'a> {
    fn run(&mut self) -> Result<Value<'a>> {
        loop {
            let opcode = self.input.opcode()?;
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode)?;
            if self.nodes.len() > MAX_NODES {
                return Err(self.input.problem(format!("more than {MAX_NODES} values")));
            }
            if self.input.position() as u64 > MAX_LENGTH {
                return Err(self.input.problem(format!("the pickle is longer than {MAX_LENGTH} bytes")));
            }
        }
    }

    fn step(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            // Protocol, frames, stack, memo.
            0x80 => {
                let protocol = self.input.byte()?;
                if protocol > 5 {
                    return Err(self.input.problem(format!("pickle protocol {protocol} is unknown")));
                }
            }
            0x95 => {
                let length = self.input.u64()?;
                if length > self.input.remaining() as u64 {
                    return Err(self.input.problem(format!("a frame of {length} bytes runs past the end")));
                }
            }
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                // Popping an empty section removes its mark.
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            b'1' => drop(self.pop_mark()?),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            b'p' => self.put_text()?,
            b'q' => {
                let key = self.input.byte()?.into();
                self.put(key)?;
            }
            b'r' => {
                let key = self.input.u32()?.into();
                self.put(key)?;
            }
            0x94 => self.put(self.memo.len() as u64)?,
            b'g' => {
                let key = self.input.decimal_line()?;
                self.get(key)?;
            }
            b'h' => {
                let key = self.input.byte()?.into();
                self.get(key)?;
            }
            b'j' => {
                let key = self.input.u32()?.into();
                self.get(key)?;
            }
            b'N' | 0x88 | 0x89 | b'I' | b'J' | b'K' | b'M' | b'L' | 0x8a | 0x8b | b'F' | b'G' => {
                let value = self.input.number(opcode)?;
                self.stack.push(value);
            }
            b'S' | b'T' | b'U' | b'V' | b'X' | 0x8c | 0x8d | b'B' | b'C' | 0x8e | 0x96 => {
                let value = self.input.text(opcode)?;
                self.stack.push(value);
            }
            // Out-of-band buffers and the extension registry have no meaning in a file.
            0x97 => self.stack.push(Value::Other),
            0x98 => {}
            0x82 => self.extension(1)?,
            0x83 => self.extension(2)?,
            0x84 => self.extension(4)?,
            _ => return self.step_container(opcode),
        }
        Ok(())
    }

    fn step_container(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            b']' | b')' | 0x8f => self.push_node(Node::Sequence(Vec::new())),
            b'}' => self.push_node(Node::Dict(Vec::new())),
            b'l' | b't' | 0x91 => {
                let items = self.pop_mark()?;
                self.push_node(Node::Sequence(items));
            }
            0x85..=0x87 => {
                let count = usize::from(opcode - 0x84);
                let mut items = vec![Value::None; count];
                for slot in items.iter_mut().rev() {
                    *slot = self.pop()?;
                }
                self.push_node(Node::Sequence(items));
            }
            b'd' => {
                let pairs = self.pop_pairs()?;
                self.push_node(Node::Dict(pairs));
            }
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            b'e' | 0x90 => {
                let items = self.pop_mark()?;
                self.append(&items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(vec![(key, value)])?;
            }
            b'u' => {
                let pairs = self.pop_pairs()?;
                self.set_items(pairs)?;
            }
            b'c' => {
                let module = self.input.utf8_line()?;
                let name = self.input.utf8_line()?;
                self.push_node(Node::Global { module, name });
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (module, name) {
                    (Value::Str(module), Value::Str(name)) => self.push_node(Node::Global { module, name }),
                    _ => return Err(self.input.problem("a class whose name is no text")),
                }
            }
            b'P' => {
                let id = self.input.utf8_line()?;
                self.persistent(Value::Str(id))?;
            }
            b'Q' => {
                let id = self.pop()?;
                self.persistent(id)?;
            }
            b'R' | 0x81 => {
                let arguments = self.pop()?;
                let callable = self.pop()?;
                self.reduce(callable, arguments)?;
            }
            0x92 => {
                self.pop()?;
                let arguments = self.pop()?;
                let callable = self.pop()?;
                self.reduce(callable, arguments)?;
            }
            b'i' => {
                self.input.utf8_line()?;
                self.input.utf8_line()?;
                self.pop_mark()?;
                self.push_node(Node::Object { state: None, items: Vec::new() });
            }
            b'o' => {
                self.pop_mark()?;
                self.push_node(Node::Object { state: None, items: Vec::new() });
            }
            b'b' => {
                let new = self.pop()?;
                let target = self.top()?;
                // Attributes set on a dict or a tensor (a module's `_metadata`) carry no weights.
                if let Value::Node(id) = target
                    && let Some(Node::Object { state, .. }) = self.nodes.get_mut(id)
                {
                    *state = Some(new);
                }
            }
            other => return Err(self.input.problem(format!("unknown opcode {other:#04x}"))),
        }
        Ok(())
    }

    fn persistent(&mut self, id: Value<'a>) -> Result<()> {
        let node = (self.load)(&self.nodes, id).map_err(|what| self.input.problem(what))?;
        self.push_node(node);
        Ok(())
    }

    fn reduce(&mut self, callable: Value<'a>, arguments: Value<'a>) -> Result<()> {
        let value =
            rebuild::reduce(&self.nodes, callable, arguments).map_err(|what| self.input.problem(what))?;
        // In proportion to what was read so far, as all that is kept.
        self.copied = self.copied.saturating_add(value.copied());
        if self.copied > self.input.position().saturating_mul(4) {
            return Err(self.input.problem("the same arguments are used too often"));
        }
        match value {
            rebuild::Outcome::Value(value) => self.stack.push(value),
            rebuild::Outcome::Node(node) => self.push_node(node),
        }
        Ok(())
    }

    fn append(&mut self, new: &[Value<'a>]) -> Result<()> {
        let target = self.top_node()?;
        match self.nodes.get_mut(target) {
            Some(Node::Sequence(items)) => items.extend_from_slice(new),
            Some(Node::Object { items, .. }) => {
                for &value in new {
                    items.push((Value::Int(items.len() as i64), value));
                }
            }
            _ => return Err(self.input.problem("items are added to something that is no list")),
        }
        Ok(())
    }

    fn set_items(&mut self, new: Vec<(Value<'a>, Value<'a>)>) -> Result<()> {
        let target = self.top_node()?;
        match self.nodes.get_mut(target) {
            Some(Node::Dict(items) | Node::Object { items, .. }) => items.extend(new),
            _ => return Err(self.input.problem("entries are set in something that is no dict")),
        }
        Ok(())
    }

    // Stack and memo.

    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Value<'a>> {
        let value = if self.stack.len() > self.floor() { self.stack.pop() } else { None };
        value.ok_or_else(|| self.input.problem("the stack is empty"))
    }

    fn top(&self) -> Result<Value<'a>> {
        let value = if self.stack.len() > self.floor() { self.stack.last().copied() } else { None };
        value.ok_or_else(|| self.input.problem("the stack is empty"))
    }

    fn top_node(&self) -> Result<Id> {
        match self.top()? {
            Value::Node(id) => Ok(id),
            _ => Err(self.input.problem("a plain value cannot hold others")),
        }
    }

    fn pop_mark(&mut self) -> Result<Vec<Value<'a>>> {
        let height = self.marks.pop().ok_or_else(|| self.input.problem("no mark is set"))?;
        // `pop` never goes below a mark, so the stack is at least this high.
        Ok(self.stack.split_off(height.min(self.stack.len())))
    }

    fn pop_pairs(&mut self) -> Result<Vec<(Value<'a>, Value<'a>)>> {
        let items = self.pop_mark()?;
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.input.problem("a dict has a key without a value"));
        }
        Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
    }

    fn push_node(&mut self, node: Node<'a>) {
        self.stack.push(Value::Node(self.nodes.len()));
        self.nodes.push(node);
    }

    fn put(&mut self, key: u64) -> Result<()> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn put_text(&mut self) -> Result<()> {
        let key = self.input.decimal_line()?;
        self.put(key)
    }

    fn get(&mut self, key: u64) -> Result<()> {
        let value =
            self.memo.get(&key).copied().ok_or_else(|| self.input.problem(format!("memo {key} is empty")))?;
        self.stack.push(value);
        Ok(())
    }

    fn extension(&mut self, length: usize) -> Result<()> {
        self.input.take(length)?;
        self.stack.push(Value::Other);
        Ok(())
    }
}

#[cfg(test)]
#[path = "pickle_tests.rs"]
mod tests;
