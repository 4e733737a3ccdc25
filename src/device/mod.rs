//! Where programs run. The CPU is the default and the definition of correct.

pub mod conv;
mod host;
pub mod product;

pub(crate) use host::Place;
pub use host::{Buffer, Cell, Host};
