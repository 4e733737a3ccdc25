//! NVRTC, the compiler of the kernels. Only this file finds, loads and calls it.

use super::super::kernels::Source;
use libloading::Library;
use std::ffi::{CStr, CString, c_char, c_int};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The variable that names the library or its folder, instead of a search.
pub const PLACE: &str = "SSLMEM_NVRTC";
/// The library of CUDA 13 or 12; older ones do not know `sm_90a`.
const NAMES: [&str; 2] = ["libnvrtc.so.13", "libnvrtc.so.12"];
/// The finding for a place without a library.
pub const NOT_THERE: &str = "not there";

type Program = *mut std::ffi::c_void;
type Text = *const c_char;

/// The functions of the library that are used, as its header declares them.
struct Api {
    error_string: unsafe extern "C" fn(c_int) -> Text,
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int,
    architecture_count: unsafe extern "C" fn(*mut c_int) -> c_int,
    architectures: unsafe extern "C" fn(*mut c_int) -> c_int,
    create: unsafe extern "C" fn(*mut Program, Text, Text, c_int, *const Text, *const Text) -> c_int,
    destroy: unsafe extern "C" fn(*mut Program) -> c_int,
    compile: unsafe extern "C" fn(Program, c_int, *const Text) -> c_int,
    log: Output,
    cubin: Output,
    ptx: Output,
}

/// The functions that return the size of an output, and the output.
struct Output {
    size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    bytes: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
}

/// The loaded compiler.
pub struct Nvrtc {
    api: Api,
    pub path: PathBuf,
    /// Major and minor.
    pub version: (i32, i32),
    /// The architectures that it knows, such as 80.
    pub architectures: Vec<i32>,
}

/// A place of the search, and the finding.
pub struct Looked {
    pub place: PathBuf,
    /// The version, or why it cannot be used.
    pub found: Result<(i32, i32), String>,
}

/// The outcome of the search for the compiler.
pub struct Search {
    pub nvrtc: Option<Nvrtc>,
    pub looked: Vec<Looked>,
}

/// A compiled source.
pub struct Compiled {
    /// CUBIN of a real architecture (`sm_90a`), PTX with a zero at its end of a virtual one (`compute_80`).
    pub image: Vec<u8>,
    /// The compiler's log; with `--ptxas-options=-v` it has the registers of each kernel.
    pub log: String,
}

impl Search {
    /// Searches until a library opens that is no newer than CUDA `newest`, the driver's version: a driver does not load code of a later
    /// CUDA.
    pub fn new(newest: Option<i32>) -> Search {
        let mut looked = vec![];
        for place in places(|name| std::env::var(name).ok().filter(|value| !value.is_empty())) {
            let opened = Nvrtc::open(&place).and_then(|nvrtc| match newest {
                Some(newest) if nvrtc.version.0 > newest => {
                    Err(format!("NVRTC {}.{} is newer than the driver, which knows CUDA {newest}", nvrtc.version.0, nvrtc.version.1))
                }
                _ => Ok(nvrtc),
            });
            match opened {
                Ok(nvrtc) => {
                    looked.push(Looked { place, found: Ok(nvrtc.version) });
                    return Search { nvrtc: Some(nvrtc), looked };
                }
                Err(why) => looked.push(Looked { place, found: Err(why) }),
            }
        }
        Search { nvrtc: None, looked }
    }
}

/// The places to search, by the environment's variables: the named place alone, or the system's search path, then CUDA's folders, then the
/// wheels of every Python nearby.
pub fn places(variable: impl Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    if let Some(named) = variable(PLACE) {
        let named = PathBuf::from(named);
        return if named.is_dir() { NAMES.map(|name| named.join(name)).into() } else { vec![named] };
    }
    let mut folders = vec![];
    for name in ["CUDA_HOME", "CUDA_PATH"] {
        folders.extend(variable(name).map(|home| Path::new(&home).join("lib64")));
    }
    folders.push("/usr/local/cuda/lib64".into());
    folders.extend(variable("CONDA_PREFIX").map(|prefix| Path::new(&prefix).join("lib")));
    for packages in prefixes(&variable).iter().flat_map(|prefix| packages(prefix)) {
        folders.extend(["nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib"].map(|wheel| packages.join(wheel)).into_iter().filter(|f| f.is_dir()));
    }
    let mut places: Vec<PathBuf> = NAMES.map(PathBuf::from).into();
    places.extend(folders.iter().flat_map(|folder| NAMES.map(|name| folder.join(name))));
    let mut seen = std::collections::HashSet::new();
    places.retain(|place| seen.insert(place.clone()));
    places
}

/// The folders that Pythons are installed in, without running one.
fn prefixes(variable: &impl Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = ["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(|name| variable(name)).map(PathBuf::from).collect();
    let path = variable("PATH").unwrap_or_default();
    let pythons = std::env::split_paths(&path).filter(|folder| folder.join("python3").exists());
    found.extend(pythons.filter_map(|folder| folder.parent().map(Path::to_path_buf)));
    if let Some(home) = variable("HOME").map(PathBuf::from) {
        found.push(home.join(".local"));
        found.extend(inside(&variable("PYENV_ROOT").map_or(home.join(".pyenv"), PathBuf::from).join("versions")));
    }
    found.extend(["/usr/local", "/usr", "/opt/conda"].map(PathBuf::from));
    found
}

/// The folders of Python packages below a prefix.
fn packages(prefix: &Path) -> Vec<PathBuf> {
    let pythons =
        inside(&prefix.join("lib")).into_iter().filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("python3")));
    pythons.flat_map(|python| ["site-packages", "dist-packages"].map(|name| python.join(name))).collect()
}

/// The entries of a folder, by name; none if it cannot be read.
fn inside(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}

impl Nvrtc {
    /// Loads one library.
    ///
    /// # Errors
    /// It is missing, or it is not NVRTC.
    pub fn open(path: &Path) -> Result<Nvrtc, String> {
        let bare = path.parent().is_none_or(|folder| folder.as_os_str().is_empty());
        if !bare && !path.exists() {
            return Err(NOT_THERE.into());
        }
        // The wheel of 13.0 does not say where its second library (builtins) is, so open that first.
        for builtins in path.parent().map(inside).unwrap_or_default().iter().filter(|p| is_builtins(p)) {
            // If it does not open here, the compiler reports it when it needs it.
            let _ = load(builtins);
        }
        let library = load(path).map_err(|why| if bare { NOT_THERE.into() } else { why })?;
        let api = Api::of(library)?;
        let (mut version, mut count) = ((0, 0), 0);
        // SAFETY: the pointers are to integers that outlive the calls, and the list has the length that was asked for.
        let architectures = unsafe {
            api.done((api.version)(&mut version.0, &mut version.1))?;
            api.done((api.architecture_count)(&mut count))?;
            let mut list = vec![0; count as usize];
            api.done((api.architectures)(list.as_mut_ptr()))?;
            list
        };
        Ok(Nvrtc { api, path: path.to_path_buf(), version, architectures })
    }

    /// Compiles a source that includes any of `headers`.
    ///
    /// # Errors
    /// What the compiler said.
    pub fn compile(&self, source: &Source, headers: &[Source], options: &[String]) -> Result<Compiled, String> {
        let text = |text: &str| CString::new(text).map_err(|_| format!("{}: a zero byte in the text", source.name));
        let texts = |all: &mut dyn Iterator<Item = &str>| all.map(text).collect::<Result<Vec<CString>, String>>();
        let names = texts(&mut headers.iter().map(|header| header.name))?;
        let bodies = texts(&mut headers.iter().map(|header| header.text))?;
        let options = texts(&mut options.iter().map(String::as_str))?;
        let pointers = |texts: &[CString]| texts.iter().map(|text| text.as_ptr()).collect::<Vec<Text>>();
        let (name, body) = (text(source.name)?, text(source.text)?);
        let mut job = Job { api: &self.api, program: std::ptr::null_mut() };
        // SAFETY: every text and list outlives the calls that take pointers to them; counts are those of the lists.
        let status = unsafe {
            let (headers, names) = (pointers(&bodies), pointers(&names));
            let count = headers.len() as c_int;
            self.api.done((self.api.create)(&mut job.program, body.as_ptr(), name.as_ptr(), count, headers.as_ptr(), names.as_ptr()))?;
            (self.api.compile)(job.program, options.len() as c_int, pointers(&options).as_ptr())
        };
        let log = String::from_utf8_lossy(&job.output(&self.api.log)?).trim_end_matches('\0').trim_end().to_string();
        self.api.done(status).map_err(|why| if log.is_empty() { why } else { log.clone() })?;
        let real = options.iter().any(|option| option.to_bytes().starts_with(b"--gpu-architecture=sm_"));
        Ok(Compiled { image: job.output(if real { &self.api.cubin } else { &self.api.ptx })?, log })
    }
}

/// A program of the compiler's, destroyed when it is dropped.
struct Job<'a> {
    api: &'a Api,
    program: Program,
}

impl Job<'_> {
    fn output(&self, output: &Output) -> Result<Vec<u8>, String> {
        let mut size = 0;
        // SAFETY: the program exists while `self` does, and the buffer has the size that the compiler named.
        unsafe {
            self.api.done((output.size)(self.program, &mut size))?;
            let mut bytes = vec![0u8; size];
            self.api.done((output.bytes)(self.program, bytes.as_mut_ptr().cast()))?;
            Ok(bytes)
        }
    }
}

impl Drop for Job<'_> {
    fn drop(&mut self) {
        if !self.program.is_null() {
            // SAFETY: made by `create` and used by nobody after this.
            unsafe { (self.api.destroy)(&mut self.program) };
        }
    }
}

impl Api {
    fn of(library: &'static Library) -> Result<Api, String> {
        // SAFETY: the types are those of the header `nvrtc.h`, the same in CUDA 12 and 13.
        unsafe {
            Ok(Api {
                error_string: symbol(library, "nvrtcGetErrorString")?,
                version: symbol(library, "nvrtcVersion")?,
                architecture_count: symbol(library, "nvrtcGetNumSupportedArchs")?,
                architectures: symbol(library, "nvrtcGetSupportedArchs")?,
                create: symbol(library, "nvrtcCreateProgram")?,
                destroy: symbol(library, "nvrtcDestroyProgram")?,
                compile: symbol(library, "nvrtcCompileProgram")?,
                log: Output { size: symbol(library, "nvrtcGetProgramLogSize")?, bytes: symbol(library, "nvrtcGetProgramLog")? },
                cubin: Output { size: symbol(library, "nvrtcGetCUBINSize")?, bytes: symbol(library, "nvrtcGetCUBIN")? },
                ptx: Output { size: symbol(library, "nvrtcGetPTXSize")?, bytes: symbol(library, "nvrtcGetPTX")? },
            })
        }
    }

    fn done(&self, status: c_int) -> Result<(), String> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: the library returns a text that lives as long as it does, for any status.
        let text = unsafe { CStr::from_ptr((self.error_string)(status)) };
        Err(text.to_string_lossy().into_owned())
    }
}

/// # Safety
/// `T` must be the type of the function of this name.
unsafe fn symbol<T: Copy>(library: &'static Library, name: &str) -> Result<T, String> {
    // SAFETY: as the caller says.
    unsafe { library.get::<T>(name) }.map(|symbol| *symbol).map_err(|_| format!("it is not NVRTC: it has no {name}"))
}

/// A library that is never unloaded: its exit handlers must still exist when the program ends.
fn load(path: &Path) -> Result<&'static Library, String> {
    static LOADED: OnceLock<std::sync::Mutex<Vec<(PathBuf, &'static Library)>>> = OnceLock::new();
    let mut loaded = LOADED.get_or_init(Default::default).lock().expect("nothing panics while it holds this");
    if let Some((_, library)) = loaded.iter().find(|(p, _)| p == path) {
        return Ok(library);
    }
    // SAFETY: NVRTC and its builtins do nothing when they are loaded but set up their own memory.
    let library = unsafe { Library::new(path) }.map_err(|error| format!("it cannot be loaded ({})", reason(&error)))?;
    let library: &'static Library = Box::leak(Box::new(library));
    loaded.push((path.to_path_buf(), library));
    Ok(library)
}

/// The system's words, on one line.
fn reason(error: &libloading::Error) -> String {
    let text = std::error::Error::source(error).map_or(error.to_string(), ToString::to_string);
    text.lines().collect::<Vec<_>>().join(" ")
}

fn is_builtins(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libnvrtc-builtins.so."))
}
