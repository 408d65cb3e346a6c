//! The bytes of a pickle: numbers, texts and lines, none longer than what is left.

use super::value::{Problem, Value};

pub(super) type Result<T> = std::result::Result<T, Problem>;

/// A reading position.
pub(super) struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where the opcode that is being carried out stands; errors name it.
    opcode_at: usize,
}

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, opcode_at: 0 }
    }

    /// The next opcode.
    pub(super) fn opcode(&mut self) -> Result<u8> {
        self.opcode_at = self.at;
        self.byte()
    }

    pub(super) fn number(&mut self, opcode: u8) -> Result<Value<'a>> {
        Ok(match opcode {
            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'K' => Value::Int(self.byte()?.into()),
            b'M' => Value::Int(u16::from_le_bytes(self.array()?).into()),
            b'J' => Value::Int(i32::from_le_bytes(self.array()?).into()),
            b'G' => Value::Float(f64::from_be_bytes(self.array()?)),
            b'I' => match self.utf8_line()? {
                "00" => Value::Bool(false),
                "01" => Value::Bool(true),
                line => line.trim().parse().map_or(Value::Other, Value::Int),
            },
            b'L' => {
                let line = self.utf8_line()?.trim().trim_end_matches('L');
                line.parse().map_or(Value::Other, Value::Int)
            }
            b'F' => self.utf8_line()?.trim().parse().map_or(Value::Other, Value::Float),
            0x8a => {
                let length = self.byte()?.into();
                little_endian(self.take(length)?)
            }
            _ => {
                let length = self.length_u32()?;
                little_endian(self.take(length)?)
            }
        })
    }

    pub(super) fn text(&mut self, opcode: u8) -> Result<Value<'a>> {
        let (bytes, is_text) = match opcode {
            b'S' | b'V' => {
                let line = self.line()?;
                let quoted = line.strip_prefix(b"'").and_then(|l| l.strip_suffix(b"'"));
                let quoted = quoted.or_else(|| line.strip_prefix(b"\"").and_then(|l| l.strip_suffix(b"\"")));
                let line = if opcode == b'S' { quoted.unwrap_or(line) } else { line };
                // Escapes of protocol 0 are not undone: no name of an array needs one.
                (line, !line.contains(&b'\\'))
            }
            b'U' | 0x8c => {
                let length = self.byte()?.into();
                (self.take(length)?, true)
            }
            b'T' | b'X' => {
                let length = self.length_u32()?;
                (self.take(length)?, true)
            }
            0x8d => {
                let length = self.length_u64()?;
                (self.take(length)?, true)
            }
            b'C' => {
                let length = self.byte()?.into();
                (self.take(length)?, false)
            }
            b'B' => {
                let length = self.length_u32()?;
                (self.take(length)?, false)
            }
            _ => {
                let length = self.length_u64()?;
                (self.take(length)?, false)
            }
        };
        Ok(match std::str::from_utf8(bytes) {
            Ok(text) if is_text => Value::Str(text),
            _ => Value::Other,
        })
    }

    // Input.

    /// How many bytes were taken.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn remaining(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(length);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let Some(taken) = taken else {
            let left = self.remaining();
            return Err(self.problem(format!("{length} bytes are announced, {left} are left")));
        };
        self.at += length;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let taken = self.take(N)?;
        taken.first_chunk().copied().ok_or_else(|| self.problem("the pickle ends inside a number"))
    }

    pub(super) fn byte(&mut self) -> Result<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn length_u32(&mut self) -> Result<usize> {
        // Lengths beyond the input fail in `take`, so saturating is as good as exact.
        Ok(usize::try_from(self.u32()?).unwrap_or(usize::MAX))
    }

    fn length_u64(&mut self) -> Result<usize> {
        Ok(usize::try_from(self.u64()?).unwrap_or(usize::MAX))
    }

    pub(super) fn line(&mut self) -> Result<&'a [u8]> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let Some(length) = rest.iter().position(|&byte| byte == b'\n') else {
            return Err(self.problem("a line does not end"));
        };
        let line = self.take(length)?;
        self.at += 1;
        Ok(line)
    }

    pub(super) fn utf8_line(&mut self) -> Result<&'a str> {
        let line = self.line()?;
        std::str::from_utf8(line).ok().ok_or_else(|| self.problem("a name is no UTF-8"))
    }

    pub(super) fn decimal_line(&mut self) -> Result<u64> {
        let line = self.utf8_line()?;
        line.trim().parse().ok().ok_or_else(|| self.problem("a memo key is no number"))
    }

    pub(super) fn problem(&self, what: impl Into<String>) -> Problem {
        Problem { offset: self.opcode_at, what: what.into() }
    }
}

/// A two's complement integer of any length; beyond 64 bits it is nothing a weight file needs.
pub(super) fn little_endian(bytes: &[u8]) -> Value<'static> {
    let mut wide = [if bytes.last().is_some_and(|&b| b >= 0x80) { 0xff } else { 0 }; 8];
    match wide.get_mut(..bytes.len()) {
        Some(low) => {
            low.copy_from_slice(bytes);
            Value::Int(i64::from_le_bytes(wide))
        }
        None => Value::Other,
    }
}
