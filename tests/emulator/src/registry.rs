//! The kernels that were compiled in: their entry points and parameters, as the build script found them.

pub struct Kernel {
    pub name: &'static str,
    /// Compiled with bf16 activations.
    pub bf16: bool,
    /// One of the test kernels of this crate.
    pub own: bool,
    pub entry: unsafe extern "C" fn(words: *const u64),
    /// The threads of `__launch_bounds__`.
    pub bounds: unsafe extern "C" fn() -> i32,
    pub params: &'static [Param],
}

pub struct Param {
    pub name: &'static str,
    pub kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Debug)]
#[cfg_attr(not(compiler), allow(dead_code))] // there are no kernels then
pub enum Kind {
    /// A pointer to what the kernel only reads.
    In,
    /// A pointer to what the kernel may write.
    Out,
    Value,
    /// A tensor map by value; the word is its address.
    Map,
    /// Another structure by value, given by its address as well: of each pointer in it the name, the first byte, whether it is `const`.
    Struct(&'static [(&'static str, usize, bool)]),
}

include!(concat!(env!("OUT_DIR"), "/registry.rs"));

/// Names of the kernels of the product, each once.
pub fn kernels() -> Vec<&'static str> {
    KERNELS.iter().filter(|k| !k.own && !k.bf16).map(|k| k.name).collect()
}

pub fn find(name: &str, bf16: bool) -> Result<&'static Kernel, String> {
    let kind = if bf16 { "bf16" } else { "f32" };
    KERNELS
        .iter()
        .find(|k| k.name == name && (k.bf16 == bf16 || k.own))
        .ok_or_else(|| format!("no kernel of the name `{name}` was compiled for {kind}"))
}
