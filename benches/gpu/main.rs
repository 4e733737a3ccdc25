//! How fast on a GPU: what the card can do at best, every kernel at the sizes of real training, whole networks, scoring.
//!
//! `cargo bench --bench gpu` prints a JSON line per number: {"name", "value", "unit"} and, of a kernel, "seconds", "flops",
//! "bytes" of its floor, and the "kernels" that were launched. Flags, after `--`:
//! - `--only PREFIX,...` measures some, `--seconds N` begins nothing after N seconds, `--precision f32` measures in f32;
//! - `--tma` multiplies plain matrices by the kernels that fetch by TMA, `--label WORD` adds a word to every name;
//! - `--merge FOLDER` makes the report of what benches/gpu.sh collected, `--compile FOLDER` compiles all kernels for Hopper into a folder;
//! - `--emulate` runs everything at tiny sizes on the emulator, to try the benchmark: its times mean nothing.

#[allow(dead_code)] // tests also fill memory
#[path = "../../tests/around.rs"]
mod around;
mod ceilings;
mod cold;
mod compile;
#[allow(dead_code)] // tests also count accesses
#[path = "../../tests/emulated.rs"]
mod emulated;
mod images;
mod kernels;
mod library;
mod products;
#[path = "../programs.rs"]
mod programs;
mod table;
mod whole;

use around::{Around, Fill};
use sslmem::device::{Capabilities, Device, GpuDevice};
use sslmem::error::{Error, Result};
use sslmem::program::Program;
use sslmem::tape::Cost;
use sslmem::var::Dtype;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Instant;

/// One number.
#[derive(serde::Serialize)]
pub struct Line {
    pub name: String,
    pub value: f64,
    pub unit: &'static str,
    /// Of a kernel: its time and the floor of its work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flops: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Names of the kernels that were launched for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kernels: Vec<&'static str>,
}

impl Line {
    pub fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Line {
        Line { name: name.into(), value, unit, seconds: None, flops: None, bytes: None, kernels: vec![] }
    }
    /// Of one kernel's work.
    pub fn kernel(name: impl Into<String>, seconds: f64, cost: Cost) -> Line {
        Line { seconds: Some(seconds), flops: Some(cost.flops), bytes: Some(cost.bytes), ..Line::new(name, seconds * 1e6, "us") }
    }
}

/// What is measured, and how large.
pub struct Bench {
    gpu: Rc<dyn GpuDevice>,
    /// The same card, cold whenever a single call is timed, and its device.
    cold: Rc<cold::Cold>,
    device: Device,
    tiny: bool,
    start: Instant,
    /// Seconds after which nothing begins.
    limit: f64,
    /// The end of every name, where the kernels of this process are not the program's own choice: "/by TMA".
    label: String,
}

impl Bench {
    fn new(gpu: Rc<dyn GpuDevice>, tiny: bool, limit: f64, label: String) -> Result<Bench> {
        let flushed = if tiny { 1 << 12 } else { 256 << 20 };
        let cold = Rc::new(cold::Cold::new(gpu.clone(), flushed)?);
        Ok(Bench { gpu, device: Device::Gpu(cold.clone()), cold, tiny, start: Instant::now(), limit, label })
    }
    /// An error when the time is over.
    pub fn in_time(&self) -> Result<()> {
        if self.start.elapsed().as_secs_f64() < self.limit {
            return Ok(());
        }
        Err(Error::config("no time was left", "allow more with --seconds"))
    }
    /// Prints a number at once, so that nothing is lost when the program is stopped.
    pub fn tell(&self, line: Line) {
        let name = format!("{}{}", line.name, self.label);
        print(&serde_json::json!(Line { name, ..line }));
    }
    /// A size on a card, and one for going through the motions.
    pub fn size(&self, real: usize, tiny: usize) -> usize {
        if self.tiny { tiny } else { real }
    }
    /// Seconds that one run takes when many follow each other, median of five times.
    pub fn seconds(&self, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
        (0..if self.tiny { 2 } else { 3 }).try_for_each(|_| run())?;
        let once = self.gpu.time(&mut run)?;
        let times = if self.tiny { 1 } else { (0.03 / once).ceil().clamp(1.0, 200.0) as usize };
        let mut many = || (0..times).try_for_each(|_| run());
        let measured = (0..5).map(|_| self.gpu.time(&mut many)).collect::<Result<Vec<f64>>>()?;
        Ok(median(measured) / times as f64)
    }
    /// Every call of a program by itself with cold caches, medians; calls of one name are added up.
    pub fn calls(&self, case: &str, mut program: Program) -> Result<()> {
        program.run()?;
        let start = Instant::now();
        let mut runs = vec![program.profile()?];
        while runs.len() < self.size(25, 1) && start.elapsed().as_secs_f64() < 0.4 {
            runs.push(program.profile()?);
        }
        let mut kernels: BTreeMap<&str, BTreeSet<&'static str>> = BTreeMap::new();
        for (i, (name, _)) in program.calls().into_iter().enumerate() {
            self.cold.take_launched();
            program.run_call(i)?;
            kernels.entry(name).or_default().extend(self.cold.take_launched());
        }
        let mut sums: BTreeMap<&str, (f64, Cost)> = BTreeMap::new();
        for (i, (name, _, cost)) in runs[0].iter().enumerate() {
            let sum = sums.entry(name).or_default();
            sum.0 += median(runs.iter().map(|run| run[i].1).collect());
            sum.1 = Cost { flops: sum.1.flops + cost.flops, bytes: sum.1.bytes + cost.bytes };
        }
        for (name, (seconds, cost)) in sums {
            let kernels = kernels.remove(name).unwrap_or_default().into_iter().collect();
            self.tell(Line { kernels, ..Line::kernel(format!("{name}/{case}"), seconds, cost) });
        }
        Ok(())
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The first card, or the emulation of one.
fn open(emulate: bool, dtype: Dtype) -> Result<Rc<dyn GpuDevice>> {
    if emulate {
        let options = emulator::Options::default();
        return Ok(if dtype == Dtype::Bf16 { emulated::Emulated::hopper(options) } else { emulated::Emulated::new(dtype, options) });
    }
    sslmem::device::cuda::open(0, dtype)
}

type Job = (&'static str, fn(&Bench) -> Result<()>);

/// In the order of importance, for the time may end before the list does.
fn jobs() -> impl Iterator<Item = Job> {
    let sections = [ceilings::JOBS, library::JOBS, products::JOBS, whole::JOBS, kernels::JOBS, whole::SCORING];
    sections.into_iter().flatten().copied()
}

/// Whether a job came to its end; if not, prints why.
fn measure(bench: &Bench, (name, job): Job) -> bool {
    let ended = catch_unwind(AssertUnwindSafe(|| bench.in_time().and_then(|()| job(bench))));
    let error = match ended {
        Ok(Ok(())) => return true,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "panicked, see above".into(),
    };
    print(&serde_json::json!({ "name": name, "error": error }));
    false
}

fn print(value: &serde_json::Value) {
    println!("{value}");
    let _ = std::io::stdout().flush();
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let value = |flag: &str| args.iter().position(|a| a == flag).and_then(|i| args.get(i + 1));
    if let Some(folder) = value("--merge") {
        return match table::merge(Path::new(folder)) {
            Ok(text) => {
                print!("{text}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    if let Some(folder) = value("--compile") {
        return match compile::all(Path::new(folder)) {
            Ok(count) => {
                println!("{count} files compiled into {folder}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    let dtype = if value("--precision").is_some_and(|p| p == "f32") { Dtype::F32 } else { Dtype::Bf16 };
    let emulate = args.iter().any(|a| a == "--emulate");
    let gpu = match open(emulate, dtype) {
        Ok(gpu) => gpu,
        Err(error) => {
            eprintln!("nothing was measured: {error}");
            return ExitCode::SUCCESS;
        }
    };
    let own = gpu.capabilities();
    let chosen = Capabilities { tma: args.iter().any(|a| a == "--tma") && own.wgmma, ..own };
    let gpu: Rc<dyn GpuDevice> = Around::choosing(gpu, Fill::Nothing, chosen);
    let only = value("--only").cloned().unwrap_or_default();
    let limit = value("--seconds").and_then(|s| s.parse().ok()).unwrap_or(f64::INFINITY);
    let label = value("--label").cloned().unwrap_or_default();
    let bench = match Bench::new(gpu, emulate, limit, label) {
        Ok(bench) => bench,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let chosen = jobs().filter(|(name, _)| only.split(',').any(|prefix| name.starts_with(prefix)));
    let failed = chosen.filter(|job| !measure(&bench, *job)).count();
    ExitCode::from((failed > 0) as u8)
}
