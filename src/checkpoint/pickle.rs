//! Pickles as data. Nothing is imported or run. Objects of a class become opaque values, except for the few functions with which
//! `torch.save` makes dictionaries and tensors. Every loop is bounded by the length of the pickle.

use super::dtype::Dtype;
use std::collections::HashMap;

/// An error in a file, as the sentence after the file's name.
pub type Fault = String;

/// Index of a value of a [`Pickle`].
pub type Id = u32;

/// Longest tensor name in bytes.
pub const LONGEST_NAME: usize = 256;

/// Most values of a pickle: hundreds of times those of the largest encoders with their optimizers.
pub(super) const MOST_VALUES: usize = 4 << 20;

pub enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than eight bytes, little-endian.
    Long(Vec<u8>),
    Text(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// `module name`.
    Global(String),
    Storage(Box<Storage>),
    Tensor(Box<Lent>),
    /// Any other object, with the state that Python would set.
    Opaque(Option<Id>),
}

/// A storage: the bytes of a file that tensors are views of.
#[derive(Clone)]
pub struct Storage {
    pub key: String,
    pub dtype: Dtype,
    /// First element of a view of the storage (old files).
    pub first: usize,
}

/// A view of a storage, in elements.
#[derive(Clone)]
pub struct Lent {
    pub storage: Storage,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

/// The values of a pickle. Values may refer to shared values.
pub struct Pickle {
    pub values: Vec<Value>,
    pub root: Id,
    /// Length in bytes, with the end opcode.
    pub len: usize,
}

impl Pickle {
    pub fn get(&self, id: Id) -> &Value {
        &self.values[id as usize]
    }
    pub fn root(&self) -> &Value {
        self.get(self.root)
    }
    /// A dictionary's key as part of a tensor's name.
    pub fn key(&self, id: Id) -> Option<String> {
        match self.get(id) {
            Value::Text(text) => Some(text.clone()),
            Value::Int(number) => Some(number.to_string()),
            _ => None,
        }
    }
    /// A dictionary's value under `name`.
    pub fn entry(&self, dict: Id, name: &str) -> Option<Id> {
        let Value::Dict(pairs) = self.get(dict) else { return None };
        pairs.iter().rev().find(|(key, _)| matches!(self.get(*key), Value::Text(text) if text == name)).map(|(_, value)| *value)
    }
}

/// Reads the pickle that `bytes` begins with.
pub fn load(bytes: &[u8]) -> Result<Pickle, Fault> {
    let mut machine = Machine { bytes, at: 0, values: vec![], stack: vec![], marks: vec![], memo: HashMap::new(), copied: 0 };
    loop {
        let op = machine.byte()?;
        if op == b'.' {
            let root = machine.pop()?;
            return Ok(Pickle { values: machine.values, root, len: machine.at });
        }
        machine.step(op)?;
    }
}

/// Result of a call.
pub enum Made {
    New(Value),
    Old(Id),
}

pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    pub(super) values: Vec<Value>,
    stack: Vec<Id>,
    /// Stack heights at the marks.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
    /// Pairs that were copied from lists into dictionaries.
    pub(super) copied: usize,
}

/// Refuses unprintable names, because names go into error messages.
pub fn printable(name: &str) -> Result<(), Fault> {
    let fine = name.len() <= LONGEST_NAME && !name.chars().any(char::is_control);
    if fine { Ok(()) } else { Err("has a tensor with an unreasonable name; save the state_dict alone".into()) }
}

pub(super) fn broken(what: &str) -> Fault {
    format!("is a broken pickle ({what}); get it again")
}

impl Machine<'_> {
    fn take(&mut self, len: usize) -> Result<&[u8], Fault> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len()).ok_or_else(|| broken("it ends early"))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }
    fn byte(&mut self) -> Result<u8, Fault> {
        Ok(self.take(1)?[0])
    }
    /// A little-endian number of up to eight bytes.
    fn number(&mut self, width: usize) -> Result<u64, Fault> {
        Ok(self.take(width)?.iter().rev().fold(0, |n, b| n << 8 | *b as u64))
    }
    fn len(&mut self, width: usize) -> Result<usize, Fault> {
        usize::try_from(self.number(width)?).map_err(|_| broken("a length beyond the file"))
    }
    fn line(&mut self) -> Result<String, Fault> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|b| *b == b'\n').ok_or_else(|| broken("it ends early"))?;
        self.at += end + 1;
        Ok(String::from_utf8_lossy(&rest[..end]).into_owned())
    }
    fn text(&mut self, width: usize) -> Result<(), Fault> {
        let len = self.len(width)?;
        let text = String::from_utf8_lossy(self.take(len)?).into_owned();
        self.push(Value::Text(text))
    }
    /// Skips bytes, which are never needed.
    fn skip(&mut self, width: usize) -> Result<(), Fault> {
        let len = self.len(width)?;
        self.take(len)?;
        self.push(Value::Opaque(None))
    }

    fn push(&mut self, value: Value) -> Result<(), Fault> {
        if self.values.len() == MOST_VALUES {
            return Err(format!("holds more than {MOST_VALUES} values beside its tensors; save the state_dict alone"));
        }
        self.stack.push(self.values.len() as Id);
        self.values.push(value);
        Ok(())
    }
    /// The top of the stack above the last mark.
    fn pop(&mut self) -> Result<Id, Fault> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor { Err(broken("it takes what is not there")) } else { Ok(self.stack.pop().unwrap_or_default()) }
    }
    fn top(&self) -> Result<Id, Fault> {
        self.stack.last().copied().ok_or_else(|| broken("it takes what is not there"))
    }
    /// Everything above the last mark.
    fn marked(&mut self) -> Result<Vec<Id>, Fault> {
        let floor = self.marks.pop().ok_or_else(|| broken("a mark is missing"))?;
        Ok(self.stack.split_off(floor.min(self.stack.len())))
    }
    fn remember(&mut self, key: u64) -> Result<(), Fault> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }
    fn recall(&mut self, key: u64) -> Result<(), Fault> {
        let id = *self.memo.get(&key).ok_or_else(|| broken("it recalls what it has not seen"))?;
        if self.stack.len() > MOST_VALUES {
            return Err(broken("its stack grows without end"));
        }
        self.stack.push(id);
        Ok(())
    }

    fn step(&mut self, op: u8) -> Result<(), Fault> {
        match op {
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.marked()?),
            b'2' => {
                let top = self.top()?;
                if self.stack.len() > MOST_VALUES {
                    return Err(broken("its stack grows without end"));
                }
                self.stack.push(top);
            }
            0x80 => match self.byte()? {
                0..=5 => {}
                other => return Err(format!("is a pickle of protocol {other}; up to 5 are known here")),
            },
            0x95 => drop(self.number(8)?), // the length of what follows
            b'N' => self.push(Value::None)?,
            0x88 => self.push(Value::Bool(true))?,
            0x89 => self.push(Value::Bool(false))?,
            b'J' => {
                let number = self.number(4)? as u32 as i32;
                self.push(Value::Int(number.into()))?;
            }
            b'K' | b'M' => {
                let number = self.number(if op == b'K' { 1 } else { 2 })?;
                self.push(Value::Int(number as i64))?;
            }
            0x8a | 0x8b => {
                let len = self.len(if op == 0x8a { 1 } else { 4 })?;
                let value = long(self.take(len)?);
                self.push(value)?;
            }
            b'I' | b'L' => {
                let line = self.line()?;
                let value = match line.trim_end_matches('L') {
                    "00" if op == b'I' => Value::Bool(false),
                    "01" if op == b'I' => Value::Bool(true),
                    digits => digits.trim().parse().map_or(Value::Opaque(None), Value::Int),
                };
                self.push(value)?;
            }
            b'F' => {
                self.line()?;
                self.push(Value::Opaque(None))?;
            }
            b'G' => {
                self.number(8)?;
                self.push(Value::Opaque(None))?;
            }
            b'S' => {
                let line = self.line()?;
                self.push(Value::Text(line.trim().trim_matches(['\'', '"']).to_string()))?;
            }
            b'V' => {
                let line = self.line()?;
                self.push(Value::Text(line))?;
            }
            b'U' | 0x8c => self.text(1)?,
            b'T' | b'X' => self.text(4)?,
            0x8d => self.text(8)?,
            b'C' => self.skip(1)?,
            b'B' => self.skip(4)?,
            0x8e | 0x96 => self.skip(8)?,
            b')' => self.push(Value::Tuple(vec![]))?,
            b']' => self.push(Value::List(vec![]))?,
            b'}' => self.push(Value::Dict(vec![]))?,
            0x8f => self.push(Value::Opaque(None))?, // a set
            b't' | b'l' | b'd' | 0x91 => {
                let items = self.marked()?;
                self.push(match op {
                    b't' => Value::Tuple(items),
                    b'l' => Value::List(items),
                    b'd' => Value::Dict(pairs(&items)),
                    _ => Value::Opaque(None),
                })?;
            }
            0x85..=0x87 => {
                let mut items = (0x85..=op).map(|_| self.pop()).collect::<Result<Vec<Id>, Fault>>()?;
                items.reverse();
                self.push(Value::Tuple(items))?;
            }
            b'a' | b'e' | 0x90 => {
                let items = if op == b'a' { vec![self.pop()?] } else { self.marked()? };
                let to = self.top()?;
                if let Value::List(list) = &mut self.values[to as usize] {
                    list.extend(items);
                }
            }
            b's' | b'u' => {
                let items = if op == b'u' {
                    self.marked()?
                } else {
                    let value = self.pop()?;
                    vec![self.pop()?, value]
                };
                let to = self.top()?;
                if let Value::Dict(dict) = &mut self.values[to as usize] {
                    dict.extend(pairs(&items));
                }
            }
            b'p' | b'g' => {
                let key = self.line()?.trim().parse().map_err(|_| broken("a number that is none"))?;
                if op == b'p' { self.remember(key)? } else { self.recall(key)? }
            }
            b'q' | b'r' => {
                let key = self.number(if op == b'q' { 1 } else { 4 })?;
                self.remember(key)?;
            }
            b'h' | b'j' => {
                let key = self.number(if op == b'h' { 1 } else { 4 })?;
                self.recall(key)?;
            }
            0x94 => self.remember(self.memo.len() as u64)?,
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Value::Global(format!("{module} {name}")))?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let value = match (self.word(module), self.word(name)) {
                    (Some(module), Some(name)) => Value::Global(format!("{module} {name}")),
                    _ => Value::Opaque(None),
                };
                self.push(value)?;
            }
            b'P' => {
                self.line()?;
                self.push(Value::Opaque(None))?;
            }
            b'Q' => {
                let id = self.pop()?;
                let value = self.storage(id).map_or(Value::Opaque(None), |storage| Value::Storage(Box::new(storage)));
                self.push(value)?;
            }
            b'R' | 0x81 => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                let made = self.call(function, arguments)?;
                self.give(made)?;
            }
            0x92 => {
                for _ in 0..3 {
                    self.pop()?;
                }
                self.push(Value::Opaque(None))?;
            }
            b'i' | b'o' => {
                if op == b'i' {
                    self.line()?;
                    self.line()?;
                }
                self.marked()?;
                self.push(Value::Opaque(None))?;
            }
            b'b' => {
                let state = self.pop()?;
                let to = self.top()?;
                // The attributes of an OrderedDict, which are not needed.
                if let Value::Opaque(held) = &mut self.values[to as usize] {
                    *held = Some(state);
                }
            }
            other => return Err(broken(&format!("byte {other:#04x} is no instruction"))),
        }
        Ok(())
    }

    /// Pushes a new value or an existing one.
    fn give(&mut self, made: Made) -> Result<(), Fault> {
        match made {
            Made::New(value) => self.push(value),
            Made::Old(id) => {
                self.stack.push(id);
                Ok(())
            }
        }
    }
}

fn pairs(items: &[Id]) -> Vec<(Id, Id)> {
    items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
}

/// Two's complement, little-endian.
fn long(bytes: &[u8]) -> Value {
    if bytes.len() > 8 {
        return Value::Long(bytes.to_vec());
    }
    let fill = if bytes.last().is_some_and(|b| b & 0x80 != 0) { 0xFF } else { 0 };
    let mut whole = [fill; 8];
    whole[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(whole))
}
