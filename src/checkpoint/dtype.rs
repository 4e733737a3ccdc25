//! Element types of foreign tensors, and their conversion to f32.

/// Type of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    I16,
    I8,
    U32,
    U8,
    Bool,
    /// Complex, quantised and other types without a conversion, with the bytes of an element (0: unknown).
    Other(u8),
}

impl Dtype {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Dtype::F64 | Dtype::I64 => 8,
            Dtype::F32 | Dtype::I32 | Dtype::U32 => 4,
            Dtype::F16 | Dtype::Bf16 | Dtype::I16 => 2,
            Dtype::I8 | Dtype::U8 | Dtype::Bool => 1,
            Dtype::Other(bytes) => bytes.into(),
        }
    }

    /// The type of a `FloatStorage` and its like.
    pub fn of_storage(class: &str) -> Dtype {
        match class.strip_suffix("Storage").unwrap_or(class) {
            "Double" => Dtype::F64,
            "Float" => Dtype::F32,
            "Half" => Dtype::F16,
            "BFloat16" => Dtype::Bf16,
            "Long" => Dtype::I64,
            "Int" => Dtype::I32,
            "Short" => Dtype::I16,
            "Char" => Dtype::I8,
            "Byte" | "Untyped" => Dtype::U8,
            "Bool" => Dtype::Bool,
            "ComplexFloat" => Dtype::Other(8),
            "ComplexDouble" => Dtype::Other(16),
            "QInt8" | "QUInt8" => Dtype::Other(1),
            "QInt32" => Dtype::Other(4),
            _ => Dtype::Other(0),
        }
    }

    /// The type of a `torch.float32` and its like.
    pub fn of_torch(name: &str) -> Dtype {
        match name {
            "float64" => Dtype::F64,
            "float32" => Dtype::F32,
            "float16" => Dtype::F16,
            "bfloat16" => Dtype::Bf16,
            "int64" => Dtype::I64,
            "int32" => Dtype::I32,
            "int16" => Dtype::I16,
            "int8" => Dtype::I8,
            "uint32" => Dtype::U32,
            "uint8" => Dtype::U8,
            "bool" => Dtype::Bool,
            _ => Dtype::Other(0),
        }
    }

    /// The type of safetensors' name.
    pub fn of_safetensors(name: &str) -> Dtype {
        match name {
            "F64" => Dtype::F64,
            "F32" => Dtype::F32,
            "F16" => Dtype::F16,
            "BF16" => Dtype::Bf16,
            "I64" => Dtype::I64,
            "I32" => Dtype::I32,
            "I16" => Dtype::I16,
            "I8" => Dtype::I8,
            "U32" => Dtype::U32,
            "U8" => Dtype::U8,
            "BOOL" => Dtype::Bool,
            "U64" | "C64" => Dtype::Other(8),
            "U16" => Dtype::Other(2),
            _ => Dtype::Other(0),
        }
    }

    /// Little-endian elements as f32, rounded if f32 is narrower; `None` for types without a conversion.
    pub fn to_f32(self, bytes: &[u8]) -> Option<Vec<f32>> {
        fn each<const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> f32) -> Option<Vec<f32>> {
            Some(bytes.as_chunks::<N>().0.iter().map(|b| f(*b)).collect())
        }
        match self {
            Dtype::F64 => each(bytes, |b| f64::from_le_bytes(b) as f32),
            Dtype::F32 => each(bytes, f32::from_le_bytes),
            Dtype::F16 => each(bytes, |b| half(u16::from_le_bytes(b))),
            Dtype::Bf16 => each(bytes, |b| f32::from_bits((u16::from_le_bytes(b) as u32) << 16)),
            Dtype::I64 => each(bytes, |b| i64::from_le_bytes(b) as f32),
            Dtype::I32 => each(bytes, |b| i32::from_le_bytes(b) as f32),
            Dtype::I16 => each(bytes, |b| i16::from_le_bytes(b).into()),
            Dtype::I8 => each(bytes, |b| i8::from_le_bytes(b).into()),
            Dtype::U32 => each(bytes, |b| u32::from_le_bytes(b) as f32),
            Dtype::U8 | Dtype::Bool => each(bytes, |[b]| b.into()),
            Dtype::Other(_) => None,
        }
    }
}

/// IEEE's binary16: 1 sign, 5 exponent, 10 fraction.
fn half(bits: u16) -> f32 {
    let (sign, exponent, fraction) = ((bits as u32 & 0x8000) << 16, bits as u32 >> 10 & 31, bits as u32 & 1023);
    match exponent {
        0 => f32::from_bits(sign | (fraction as f32 / (1u32 << 24) as f32).to_bits()),
        31 => f32::from_bits(sign | 0x7F80_0000 | fraction << 13),
        e => f32::from_bits(sign | (e + 112) << 23 | fraction << 13),
    }
}
