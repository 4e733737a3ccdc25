//! The results of calls in a pickle, for the few functions of `torch.save`: dictionaries, storages, tensors. Nothing is called.

use super::dtype::Dtype;
use super::pickle::{Fault, Id, Lent, MOST_VALUES, Machine, Made, Storage, Value, broken};

/// Longest class name or storage key. A bound, because names are copied at each use.
const LONGEST_WORD: usize = 256;

impl Machine<'_> {
    pub fn word(&self, id: Id) -> Option<&str> {
        if let Value::Text(text) = &self.values[id as usize] {
            Some(text).filter(|t| t.len() <= LONGEST_WORD).map(|t| &t[..])
        } else {
            None
        }
    }
    fn tuple(&self, id: Id) -> &[Id] {
        if let Value::Tuple(items) | Value::List(items) = &self.values[id as usize] { items } else { &[] }
    }
    fn whole(&self, id: Id) -> Option<usize> {
        if let Value::Int(number) = self.values[id as usize] { usize::try_from(number).ok() } else { None }
    }
    fn sizes(&self, id: Id) -> Option<Vec<usize>> {
        Some(self.tuple(id)).filter(|sizes| sizes.len() <= 8)?.iter().map(|n| self.whole(*n)).collect()
    }

    /// The result of `function(*arguments)` for the functions of `torch.save`, an opaque value for any other.
    pub fn call(&mut self, mut function: Id, mut arguments: Id) -> Result<Made, Fault> {
        // A subclass of Tensor wraps the function that makes the tensor. Real files nest it once; the bound stops a hostile one.
        for _ in 0..4 {
            let Value::Global(name) = &self.values[function as usize] else { return Ok(Made::New(Value::Opaque(None))) };
            let items = self.tuple(arguments);
            match (name.as_str(), items) {
                ("torch._tensor _rebuild_from_type_v2", &[inner, _, of, ..]) => (function, arguments) = (inner, of),
                ("torch.nn.parameter Parameter" | "torch Size", &[of, ..])
                | ("torch._utils _rebuild_parameter" | "torch._utils _rebuild_parameter_with_state", &[of, ..]) => {
                    return Ok(Made::Old(of));
                }
                ("torch._utils _rebuild_tensor" | "torch._utils _rebuild_tensor_v2" | "torch._utils _rebuild_tensor_v3", _) => {
                    let dtype = if name.ends_with("v3") { items.get(6) } else { None };
                    let made = self.tensor(items, dtype.copied());
                    return made
                        .map(|lent| Made::New(Value::Tensor(Box::new(lent))))
                        .ok_or_else(|| broken("a tensor is not described as such"));
                }
                ("collections OrderedDict" | "collections defaultdict" | "builtins dict" | "__builtin__ dict", _) => {
                    let listed = items.first().map(|list| self.tuple(*list)).unwrap_or_default();
                    if self.copied + listed.len() > MOST_VALUES {
                        return Err(broken("it copies without end"));
                    }
                    let pair = |id: &Id| if let &[key, value] = self.tuple(*id) { Some((key, value)) } else { None };
                    let dict: Vec<(Id, Id)> = listed.iter().filter_map(pair).collect();
                    self.copied += listed.len();
                    return Ok(Made::New(Value::Dict(dict)));
                }
                _ => return Ok(Made::New(Value::Opaque(None))),
            }
        }
        Ok(Made::New(Value::Opaque(None)))
    }

    /// ("storage", class, key, location, elements[, view]).
    pub fn storage(&self, id: Id) -> Option<Storage> {
        let items = self.tuple(id);
        let (class, key) = (*items.get(1)?, *items.get(2)?);
        let Value::Global(class) = &self.values[class as usize] else { return None };
        let key = match self.values[key as usize] {
            Value::Int(number) => number.to_string(),
            _ => self.word(key)?.to_string(),
        };
        // (key of the view, first element, elements)
        let first = items.get(5).map_or(Some(0), |view| match self.tuple(*view) {
            [] => Some(0),
            view => self.whole(*view.get(1)?),
        })?;
        let class = class.rsplit(' ').next().unwrap_or_default();
        Some(Storage { key, dtype: Dtype::of_storage(class), first })
    }

    /// (storage, offset, shape, strides, ...), and a type for a storage of bytes.
    fn tensor(&self, items: &[Id], dtype: Option<Id>) -> Option<Lent> {
        let &[storage, offset, shape, strides, ..] = items else { return None };
        let Value::Storage(storage) = &self.values[storage as usize] else { return None };
        let (shape, strides) = (self.sizes(shape)?, self.sizes(strides)?);
        let mut storage = (**storage).clone();
        if let Some(dtype) = dtype {
            let Value::Global(name) = &self.values[dtype as usize] else { return None };
            storage.dtype = Dtype::of_torch(name.rsplit([' ', '.']).next().unwrap_or_default());
        }
        (shape.len() == strides.len()).then_some(Lent { offset: self.whole(offset)?.checked_add(storage.first)?, storage, shape, strides })
    }
}
