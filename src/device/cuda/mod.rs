//! An NVIDIA card as a [`GpuDevice`]. Only this folder uses cudarc. Building needs no CUDA: driver and NVRTC are loaded at run time, and
//! their absence is an error with a remedy.

mod cache;
mod driver;
mod modules;
mod nvrtc;
mod staging;

use super::signature::{self, MAP};
use super::{Capabilities, GpuDevice, Launch, Matrix, Replay};
use crate::error::{Error, Result};
use crate::var::Dtype;
use cudarc::driver::sys::{self, CUevent_flags::CU_EVENT_DEFAULT};
use cudarc::driver::{CudaContext, CudaStream, DriverError, result};
use std::cell::Cell;
use std::ffi::c_void;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

pub use cache::{Cache, PLACE as CACHE, name as image_name};
pub use driver::{Card, Driver};
pub use modules::{architecture, image, options};
pub use nvrtc::{Compiled, Looked, Nvrtc, PLACE as NVRTC, Search, places};

/// A card and everything created on it. Fields are dropped in this order.
pub struct Cuda {
    staging: staging::Staging,
    modules: modules::Modules,
    /// All kernels run on this stream, in order. It is not the default stream, which cannot be captured.
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
    card: Card,
    driver: Driver,
    dtype: Dtype,
    /// Restricted to the portable kernels.
    portable: bool,
    /// A capture is in progress: nothing may be allocated, copied or waited for.
    capturing: Cell<bool>,
}

/// The variable that restricts a Hopper card to the portable kernels, to compare the two.
pub const PORTABLE: &str = "SSLMEM_PORTABLE";

/// Opens card number `ordinal` for programs whose activations are `dtype`.
///
/// # Errors
/// Driver, card or compiler is missing or too old.
pub fn open(ordinal: usize, dtype: Dtype) -> Result<Rc<dyn GpuDevice>> {
    Ok(Rc::new(Cuda::open(ordinal, dtype)?))
}

impl Cuda {
    fn open(ordinal: usize, dtype: Dtype) -> Result<Cuda> {
        let driver = Driver::start()?;
        let card = driver.card(ordinal)?;
        card.must_suffice()?;
        let nvrtc = compiler(driver)?;
        let starting = |error| driver::failed(format!("starting GPU {ordinal}"), error);
        let context = CudaContext::new(ordinal).map_err(starting)?;
        // SAFETY: memory is not tied to streams here; one stream orders its use. The events that would be recorded
        // otherwise cannot be part of a graph.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(starting)?;
        let staging = staging::Staging::new(&context).map_err(starting)?;
        let modules = modules::Modules::new(context.clone(), &card, nvrtc, cache(), dtype);
        let portable = std::env::var(PORTABLE).is_ok_and(|value| !value.is_empty());
        Ok(Cuda { staging, modules, stream, context, card, driver, dtype, portable, capturing: Cell::new(false) })
    }

    /// Makes the card current on this thread, which may have used another since.
    fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(|error| driver::failed("turning to this card", error))
    }

    /// Refuses operations that would invalidate the capture in progress.
    fn not_capturing(&self, what: &str) -> Result<()> {
        if self.capturing.get() {
            let what = format!("{what} while a graph is made");
            return Err(Error::device(what, "this is a fault of the program: please report it"));
        }
        Ok(())
    }

    fn no_room(&self, bytes: usize) -> Error {
        let gib = |bytes: usize| bytes as f64 / (1u64 << 30) as f64;
        let free = result::mem_get_info().map_or(0, |(free, _)| free);
        let what =
            format!("the GPU has no room for {:.2} GiB more: {:.2} of {:.2} GiB are free", gib(bytes), gib(free), gib(self.card.memory));
        Error::config(what, "lower train.batch or score.batch, or end other programs on this card")
    }
}

/// The compiler that goes with a driver.
fn compiler(driver: Driver) -> Result<Nvrtc> {
    let search = Search::new(Some(driver.version.0));
    search.nvrtc.ok_or_else(|| missing(&search.looked, Some(driver)))
}

/// Why there is no compiler, and where to get one.
fn missing(looked: &[Looked], driver: Option<Driver>) -> Error {
    let package = if driver.is_some_and(|driver| driver.version.0 < 13) { "nvidia-cuda-nvrtc-cu12" } else { "nvidia-cuda-nvrtc" };
    // Report the place that came nearest: a library that does not open tells more than one that is missing.
    let why = |looked: &Looked| looked.found.as_ref().err().filter(|why| *why != nvrtc::NOT_THERE).cloned();
    let near = looked.iter().find_map(|l| Some(format!(" ({}: {})", l.place.display(), why(l)?))).unwrap_or_default();
    let what = match std::env::var(NVRTC) {
        Ok(named) if !named.is_empty() => format!("{NVRTC} names {named}, which is not the compiler of the kernels, NVRTC{near}"),
        _ => format!("the compiler of the kernels, NVRTC, is not to be found{near}"),
    };
    Error::config(
        what,
        format!("`pip install {package}`, or let {NVRTC} name the folder of libnvrtc.so; `sslmem doctor` lists where it looked"),
    )
}

fn cache() -> Cache {
    Cache::new(|name| std::env::var(name).ok())
}

impl GpuDevice for Cuda {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn capabilities(&self) -> Capabilities {
        let Card { capability, multiprocessors, shared, .. } = self.card;
        let wgmma = self.dtype == Dtype::Bf16 && self.modules.hopper() && !self.portable;
        Capabilities { wgmma, ..Capabilities::portable(capability, multiprocessors, shared) }
    }

    fn map(&self, address: u64, matrix: &Matrix) -> Result<[u64; MAP]> {
        let Matrix { rows, columns, high } = *matrix;
        let mut map = sys::CUtensorMap { opaque: [0; MAP] };
        // SAFETY: all pointers are to arrays as long as the rank of 2 has them; the driver keeps none, and checks the numbers.
        let made = unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map,
                sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                2,
                address as *mut c_void,
                [columns as u64, rows as u64].as_ptr(),
                [2 * columns as u64].as_ptr(),
                [64, high as u32].as_ptr(),
                [1, 1].as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        made.result().map_err(|error| driver::failed(format!("a map of {matrix:?} at {address:#x}"), error))?;
        Ok(map.opaque)
    }

    fn name(&self) -> String {
        let (major, minor) = self.driver.version;
        let kernels = if self.portable { ", portable kernels" } else { "" };
        let dtype = self.dtype.name().to_lowercase();
        format!("{} ({}{kernels}), driver for CUDA {major}.{minor}, {dtype}", self.card.name, self.modules.describe())
    }

    fn alloc(&self, bytes: usize) -> Result<u64> {
        self.not_capturing("memory is asked for")?;
        self.bind()?;
        // SAFETY: what the memory holds is not defined, and callers are told so. The driver refuses a size of zero.
        match unsafe { result::malloc_sync(bytes.max(1)) } {
            Ok(address) => Ok(address),
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => Err(self.no_room(bytes)),
            Err(error) => Err(driver::failed("asking for memory", error)),
        }
    }

    fn free(&self, address: u64) {
        // SAFETY: the address is of `alloc`, and its owner is gone. A driver that fails here has failed before.
        let _ = self.bind().map(|()| unsafe { result::free_sync(address) });
    }

    fn upload(&self, to: u64, bytes: &[u8]) -> Result<()> {
        self.not_capturing("an upload")?;
        self.staging.upload(&self.stream, to, bytes).map_err(|error| driver::failed("an upload", error))
    }

    fn download(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        self.not_capturing("a download")?;
        if bytes.is_empty() {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the caller's allocation holds as many bytes; `bytes` is not touched before the stream is done.
        let copied = unsafe { result::memcpy_dtoh_async(bytes, from, self.stream.cu_stream()) };
        copied.and_then(|()| self.stream.synchronize()).map_err(|error| driver::failed("a download", error))
    }

    fn launch(&self, launch: &Launch, words: &[u64]) -> Result<()> {
        self.bind()?;
        let function = match self.modules.loaded(launch.kernel) {
            Some(function) => function,
            None => {
                self.not_capturing(&format!("`{}` is launched for the first time", launch.kernel))?;
                self.modules.load(launch.kernel)?
            }
        };
        let (firsts, takes) = signature::find(launch.kernel).map_or_else(Default::default, |signature| signature.words());
        assert_eq!(takes, words.len(), "{} takes {takes} words", launch.kernel);
        let mut params: Vec<*mut c_void> = firsts.iter().map(|&first| std::ptr::from_ref(&words[first]).cast_mut().cast()).collect();
        let Launch { grid: [gx, gy, gz], block: [bx, by, bz], shared, .. } = *launch;
        // SAFETY: there are words for each parameter, which begin with its bits (addresses, the low half of a word, a whole map);
        // `Gpu::launch` checked the kinds. The driver copies the words before it returns.
        let started = unsafe {
            result::launch_kernel(function.cu_function(), (gx, gy, gz), (bx, by, bz), shared, self.stream.cu_stream(), &mut params)
        };
        started.map_err(|error| {
            let Launch { kernel, grid, block, .. } = launch;
            driver::failed(format!("`{kernel}` with grid {grid:?}, block {block:?} and {shared} bytes of shared memory"), error)
        })
    }

    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Option<Replay>> {
        let wrong = |error| driver::failed("making a graph", error);
        self.stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).map_err(wrong)?;
        self.capturing.set(true);
        let worked = work();
        self.capturing.set(false);
        let graph = self.stream.end_capture(sys::CUgraphInstantiate_flags(0));
        // The error of the work tells more than that of the capture that it invalidated.
        worked?;
        let Some(graph) = graph.map_err(wrong)? else { return Ok(None) };
        graph.upload().map_err(wrong)?;
        let modules = self.modules.all();
        Ok(Some(Box::new(move || {
            let _alive = &modules;
            graph.launch().map_err(|error| driver::failed("a graph", error))
        })))
    }

    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        let wrong = |error| driver::failed("taking the time", error);
        let start = self.stream.record_event(Some(CU_EVENT_DEFAULT)).map_err(wrong)?;
        work()?;
        let end = self.stream.record_event(Some(CU_EVENT_DEFAULT)).map_err(wrong)?;
        Ok(start.elapsed_ms(&end).map_err(wrong)? as f64 / 1e3)
    }
}

/// What this machine has for programs on a GPU. A missing part says why, and what to do.
pub struct Survey {
    pub driver: Result<Driver>,
    pub cards: Vec<Result<Card>>,
    pub nvrtc: Result<Nvrtc>,
    pub looked: Vec<Looked>,
    /// Where compiled kernels are kept; files and bytes in it.
    pub cache: (Option<PathBuf>, (usize, u64)),
}

/// Looks; changes nothing and fails at nothing.
pub fn survey() -> Survey {
    let driver = Driver::start();
    let cards = driver.iter().flat_map(|driver| (0..driver.cards).map(|ordinal| driver.card(ordinal))).collect();
    let known = driver.as_ref().ok().copied();
    let search = Search::new(known.map(|driver| driver.version.0));
    let nvrtc = search.nvrtc.ok_or_else(|| missing(&search.looked, known));
    let cache = cache();
    let size = cache.size();
    Survey { driver, cards, nvrtc, looked: search.looked, cache: (cache.folder, size) }
}
