//! A digest of a file of weights in the file itself, so that a reader notices a change.

use super::Checkpoint;
use crate::error::{Error, Result};

/// The digest's key in the metadata.
pub const SEAL: &str = "blake3";

/// A digest over metadata and then tensors, each sorted by name.
pub struct Seal(blake3::Hasher);

impl Seal {
    /// Starts with this metadata, without the digest itself.
    pub fn new<'a>(metadata: impl IntoIterator<Item = (&'a String, &'a String)>) -> Seal {
        let mut seal = Seal(blake3::Hasher::new());
        metadata.into_iter().filter(|(key, _)| *key != SEAL).for_each(|(key, value)| seal.texts([&key[..], value]));
        seal
    }

    pub fn tensor(&mut self, name: &str, shape: &[usize], bytes: &[u8]) {
        self.texts([name]);
        shape.iter().for_each(|&extent| {
            self.0.update(&(extent as u64).to_le_bytes());
        });
        self.0.update(bytes);
    }

    /// BLAKE3, hexadecimal.
    pub fn finish(&self) -> String {
        self.0.finalize().to_hex().to_string()
    }

    fn texts<'a>(&mut self, texts: impl IntoIterator<Item = &'a str>) {
        for text in texts {
            self.0.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
    }
}

impl Checkpoint {
    /// Compares a file with the digest in its metadata, if it has one.
    ///
    /// # Errors
    /// They differ.
    pub fn verify(&self) -> Result<()> {
        let Some(want) = self.metadata.get(SEAL) else { return Ok(()) };
        let mut seal = Seal::new(&self.metadata);
        for (name, tensor) in &self.tensors {
            seal.tensor(name, &tensor.shape, &self.bytes(name)?);
        }
        if seal.finish() == *want {
            return Ok(());
        }
        Err(Error::format(self.path(), "was changed or damaged since it was written; get it again, or delete it to train it again"))
    }
}
