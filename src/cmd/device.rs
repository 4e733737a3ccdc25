//! The device that the command line asks for.

use std::io::Write;
use std::str::FromStr;

use clap::ValueEnum;

use super::Global;
use crate::device::{Device, cuda};
use crate::error::{Error, Result};
use crate::var::Dtype;

/// What `--device` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    Auto,
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
}

/// What `--precision` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// Half the memory, and the matrix units of the card; what is used unless this says otherwise
    Bf16,
    /// As on the CPU: slower, to check
    F32,
}

impl FromStr for Choice {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Choice, String> {
        match text.split_once(':') {
            None if text == "auto" => Ok(Choice::Auto),
            None if text == "cpu" => Ok(Choice::Cpu),
            None if text == "cuda" => Ok(Choice::Cuda(0)),
            Some(("cuda", ordinal)) => ordinal.parse().map(Choice::Cuda).map_err(|_| format!("`{ordinal}` is not the number of a GPU")),
            _ => Err("choose auto, cpu, cuda or cuda:N".into()),
        }
    }
}

impl Global {
    /// The device that was asked for. `auto` reports on stderr if it falls back to the CPU, and why.
    pub fn device(&self) -> Result<Device> {
        let dtype = if self.precision == Some(Precision::F32) { Dtype::F32 } else { Dtype::Bf16 };
        match self.device {
            Choice::Cpu => self.cpu(),
            Choice::Cuda(ordinal) => Ok(Device::Gpu(cuda::open(ordinal, dtype)?)),
            Choice::Auto => match cuda::open(0, dtype) {
                Ok(gpu) => Ok(Device::Gpu(gpu)),
                Err(error) => {
                    let cpu = self.cpu()?;
                    // A closed stderr is no reason to stop.
                    let _ = writeln!(std::io::stderr(), "computing on the CPU: {}", reason(&error));
                    Ok(cpu)
                }
            },
        }
    }

    fn cpu(&self) -> Result<Device> {
        if self.precision == Some(Precision::Bf16) {
            return Err(Error::config("the CPU computes in f32, not in bf16", "leave out --precision, or choose --device cuda"));
        }
        Ok(Device::Cpu)
    }
}

/// An error without its remedy, because `auto` has already fallen back to the CPU.
fn reason(error: &Error) -> String {
    match error {
        Error::Config { what, .. } | Error::Device { what, .. } => what.clone(),
        other => other.to_string(),
    }
}
