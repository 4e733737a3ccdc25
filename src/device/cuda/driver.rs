//! The driver and its cards: their presence, properties and errors.

use crate::error::{Error, Result};
use cudarc::driver::{DriverError, result, sys};

/// The oldest CUDA whose driver has every function used here.
const OLDEST: i32 = 12;
/// The oldest compute capability with the instructions of the kernels.
const OLDEST_CARD: (i32, i32) = (8, 0);

/// The initialised driver. cudarc panics when no driver is installed, so everything goes through [`Driver::start`], which checks first.
#[derive(Clone, Copy, Debug)]
pub struct Driver {
    /// The CUDA it is for: major and minor.
    pub version: (i32, i32),
    pub cards: usize,
}

/// The driver's properties of a card.
#[derive(Clone, Debug)]
pub struct Card {
    pub name: String,
    /// Bytes.
    pub memory: usize,
    /// Compute capability, major and minor.
    pub capability: (i32, i32),
    /// Bytes of shared memory that a block may ask for.
    pub shared: usize,
    pub multiprocessors: usize,
}

impl Driver {
    /// # Errors
    /// There is no driver, it is too old, or it finds no card.
    pub fn start() -> Result<Driver> {
        // SAFETY: opens the driver's library, which the driver means to be opened.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::config("this machine has no NVIDIA driver (libcuda.so.1)", "install one, or choose --device cpu"));
        }
        let mut version = 0;
        // SAFETY: the library is there, and the pointer is to an integer that outlives the call.
        let asked = unsafe { sys::cuDriverGetVersion(&mut version) }.result();
        asked.map_err(|error| absent("the NVIDIA driver does not answer", error))?;
        let version = (version / 1000, version % 1000 / 10);
        if version.0 < OLDEST {
            let what = format!("the NVIDIA driver is for CUDA {}.{}, which is too old", version.0, version.1);
            return Err(Error::config(what, "install driver 525 or a newer one, or choose --device cpu"));
        }
        match result::init().and_then(|()| result::device::get_count()) {
            Ok(cards) if cards > 0 => Ok(Driver { version, cards: cards as usize }),
            Ok(_) | Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => {
                Err(Error::config("the NVIDIA driver finds no GPU", "check nvidia-smi and CUDA_VISIBLE_DEVICES, or choose --device cpu"))
            }
            Err(error) => Err(absent("the NVIDIA driver does not start", error)),
        }
    }

    /// # Errors
    /// There are fewer cards.
    pub fn card(&self, ordinal: usize) -> Result<Card> {
        if ordinal >= self.cards {
            let found = if self.cards == 1 { "there is one".into() } else { format!("there are {}", self.cards) };
            return Err(Error::config(format!("there is no GPU {ordinal}: {found}"), format!("choose --device cuda:{}", self.cards - 1)));
        }
        read(ordinal).map_err(|error| absent(&format!("GPU {ordinal} does not answer"), error))
    }
}

impl Card {
    /// # Errors
    /// The card lacks what the kernels need.
    pub fn must_suffice(&self) -> Result<()> {
        let (major, minor) = self.capability;
        if self.capability < OLDEST_CARD {
            let what = format!("the {} has compute capability {major}.{minor}, the kernels need 8.0 (Ampere)", self.name);
            return Err(Error::config(what, "choose another card with --device cuda:N, or --device cpu"));
        }
        Ok(())
    }
}

fn read(ordinal: usize) -> std::result::Result<Card, DriverError> {
    use sys::CUdevice_attribute_enum as Attribute;
    let device = result::device::get(ordinal as i32)?;
    // SAFETY: `device` is one that the driver just named.
    let (memory, attribute) = unsafe { (result::device::total_mem(device)?, |attribute| result::device::get_attribute(device, attribute)) };
    Ok(Card {
        name: result::device::get_name(device)?,
        memory,
        capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        shared: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as usize,
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize,
    })
}

/// The error of a driver or card that is missing.
fn absent(what: &str, error: DriverError) -> Error {
    Error::config(format!("{what}: {}", words(error)), "check nvidia-smi, or choose --device cpu")
}

/// The error of a driver or card that failed at `what`. Kernels run after their launch returns, so the failure may be that of an earlier
/// one.
pub fn failed(what: impl std::fmt::Display, error: DriverError) -> Error {
    Error::device(format!("the GPU failed ({what}): {}", words(error)), "set CUDA_LAUNCH_BLOCKING=1 to learn which kernel did")
}

/// The driver's own words and the name of its error.
fn words(error: DriverError) -> String {
    let text = |text: std::result::Result<&std::ffi::CStr, DriverError>| text.ok().map(|t| t.to_string_lossy().into_owned());
    match (text(error.error_string()), text(error.error_name())) {
        (Some(string), Some(name)) => format!("{string} ({name})"),
        _ => format!("error {}", error.0 as i32),
    }
}
