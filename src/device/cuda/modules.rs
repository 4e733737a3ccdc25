//! The compiled kernels of a card. A file is compiled when one of its kernels is first launched, then kept.

use super::super::kernels::{Source, sources};
use super::super::signature;
use super::cache::{self, Cache};
use super::driver::{Card, failed};
use super::nvrtc::Nvrtc;
use crate::error::{Error, Result};
use crate::var::Dtype;
use cudarc::driver::sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
use cudarc::driver::{CudaContext, CudaFunction, CudaModule};
use cudarc::nvrtc::Ptx;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

/// The kernels of one card and one type of activations.
pub struct Modules {
    context: Arc<CudaContext>,
    nvrtc: Nvrtc,
    cache: Cache,
    options: Vec<String>,
    /// Bytes of shared memory that a block may use.
    shared: usize,
    modules: RefCell<HashMap<&'static str, Arc<CudaModule>>>, // by file
    kernels: RefCell<HashMap<&'static str, CudaFunction>>,    // by name
}

/// The compiler's options: the architecture, and the kernels' `T`.
pub fn options(architecture: &str, dtype: Dtype) -> Vec<String> {
    // Line numbers change no instruction and let profilers and checkers name the line.
    let mut options = vec![format!("--gpu-architecture={architecture}"), "--std=c++17".into(), "-lineinfo".into()];
    options.extend((dtype == Dtype::Bf16).then(|| "-DBF16=1".to_string()));
    options
}

/// The architecture to compile for: the card's own, with its specific features (`sm_90a`). For a card that the compiler does not know, a
/// virtual one, whose PTX the driver translates.
pub fn architecture((major, minor): (i32, i32), known: &[i32]) -> String {
    match major * 10 + minor {
        card if !known.contains(&card) => "compute_80".into(),
        90 => "sm_90a".into(),
        card => format!("sm_{card}"),
    }
}

/// Compiles a file, or takes it from the cache.
///
/// # Errors
/// The compiler refuses it.
pub fn image(source: &Source, nvrtc: &Nvrtc, cache: &Cache, options: &[String]) -> Result<Vec<u8>> {
    let headers: Vec<Source> = sources()?.iter().filter(|source| source.is_header()).copied().collect();
    cache.image(&cache::name(source, &headers, options, nvrtc), || {
        let compiled = nvrtc.compile(source, &headers, options).map_err(|why| {
            let (major, minor) = nvrtc.version;
            let what = format!("NVRTC {major}.{minor} cannot compile {} for {}: {why}", source.name, options[0]);
            Error::device(what, "try another version of it (SSLMEM_NVRTC), or choose --device cpu")
        })?;
        Ok(compiled.image)
    })
}

impl Modules {
    pub fn new(context: Arc<CudaContext>, card: &Card, nvrtc: Nvrtc, cache: Cache, dtype: Dtype) -> Modules {
        let options = options(&architecture(card.capability, &nvrtc.architectures), dtype);
        Modules { context, nvrtc, cache, options, shared: card.shared, modules: RefCell::default(), kernels: RefCell::default() }
    }

    /// A kernel that was used before.
    pub fn loaded(&self, kernel: &str) -> Option<CudaFunction> {
        self.kernels.borrow().get(kernel).cloned()
    }

    /// A kernel, compiled and loaded on first use, and allowed to use all the dynamic shared memory of a block.
    ///
    /// # Errors
    /// There is no such kernel, or it cannot be compiled or loaded.
    pub fn load(&self, kernel: &'static str) -> Result<CudaFunction> {
        let Some(signature) = signature::table()?.get(kernel) else {
            return Err(Error::device(format!("there is no kernel `{kernel}`"), "this is a fault of the program: please report it"));
        };
        let module = self.module(signature.file)?;
        let function = module.load_function(kernel).and_then(|function| {
            let own = function.shared_size_bytes()? as usize;
            function.set_attribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, (self.shared - own) as i32)?;
            Ok(function)
        });
        let function = function.map_err(|error| failed(format!("loading `{kernel}`"), error))?;
        self.kernels.borrow_mut().insert(kernel, function.clone());
        Ok(function)
    }

    fn module(&self, file: &'static str) -> Result<Arc<CudaModule>> {
        if let Some(module) = self.modules.borrow().get(file) {
            return Ok(module.clone());
        }
        let source = sources()?.iter().find(|source| source.name == file).expect("signatures are read from the sources");
        let image = image(source, &self.nvrtc, &self.cache, &self.options)?;
        let module = self.context.load_module(Ptx::from_binary(image)).map_err(|error| failed(format!("loading {file}"), error))?;
        self.modules.borrow_mut().insert(file, module.clone());
        Ok(module)
    }

    /// Everything loaded so far. A graph must keep these alive, because it refers to their kernels.
    pub fn all(&self) -> Vec<Arc<CudaModule>> {
        self.modules.borrow().values().cloned().collect()
    }

    /// Whether the target architecture has wgmma.
    pub fn hopper(&self) -> bool {
        self.options[0].ends_with("=sm_90a")
    }

    /// Compiler and target architecture, for people.
    pub fn describe(&self) -> String {
        let (major, minor) = self.nvrtc.version;
        format!("NVRTC {major}.{minor}, {}", self.options[0].trim_start_matches("--gpu-architecture="))
    }
}
