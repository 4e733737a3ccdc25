//! The compile gate: the users' compiler builds every kernel for every architecture, without a card. Spills, stack frames and waits added
//! by the compiler are refused. Registers and shared memory are recorded in `kernels/usage.tsv`, so that a change shows in review
//! (`SSLMEM_BLESS=1` writes it anew).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sslmem::device::cuda::{Cache, Nvrtc, Search, image_name, options};
use sslmem::device::kernels::{Source, sources};
use sslmem::device::signature;
use sslmem::error::Error;
use sslmem::var::Dtype;

const ARCHITECTURES: [&str; 5] = ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100"];
/// The version that the table was written with: others may allocate registers differently.
const PINNED: (i32, i32) = (13, 0);
/// The variable that tells a process its share: "1/2" is every second job from the second.
const SHARE: &str = "SSLMEM_GATE_SHARE";

/// What one kernel takes of a multiprocessor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Usage {
    kernel: String,
    registers: u32,
    /// Static shared memory, bytes.
    shared: u32,
    stack: u32,
    spills: u32,
}

/// The pinned compiler that `.ci/run` puts beside the build, or any that the machine has. In CI there must be one.
pub fn compiler() -> Option<Nvrtc> {
    let exe = std::env::current_exe().unwrap();
    let pinned = exe.ancestors().map(|folder| folder.join("nvrtc/nvidia/cu13/lib/libnvrtc.so.13")).find(|path| path.exists());
    let found = match pinned {
        Some(path) => Some(Nvrtc::open(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))),
        None => Search::new(None).nvrtc,
    };
    assert!(found.is_some() || std::env::var("CI").as_deref() != Ok("true"), "CI needs NVRTC; `.ci/run` fetches it");
    found
}

/// One compilation.
#[derive(Clone, Copy)]
struct Job {
    source: Source,
    dtype: Dtype,
    architecture: &'static str,
}

/// Every file for every type and architecture that it is for.
fn jobs() -> Vec<Job> {
    let files = sources().unwrap().iter().filter(|source| !source.is_header());
    let types = files.flat_map(|&source| [Dtype::Bf16, Dtype::F32].map(|dtype| (source, dtype)));
    let all = types.flat_map(|(source, dtype)| ARCHITECTURES.map(|architecture| Job { source, dtype, architecture }));
    all.filter(|job| !job.source.is_hopper() || job.dtype == Dtype::Bf16 && job.architecture == "sm_90a").collect()
}

impl Job {
    /// What the compiler says, which `cache` keeps.
    fn log(&self, nvrtc: &Nvrtc, cache: &Cache) -> Result<String, String> {
        let headers: Vec<Source> = sources().unwrap().iter().filter(|source| source.is_header()).copied().collect();
        let mut options = options(self.architecture, self.dtype);
        options.push("--ptxas-options=-v".into());
        let compile = || {
            let compiled = nvrtc.compile(&self.source, &headers, &options).map_err(|why| Error::device(why, ""))?;
            Ok(compiled.log.into_bytes())
        };
        let log = cache.image(&image_name(&self.source, &headers, &options, nvrtc), compile);
        log.map(|log| String::from_utf8(log).unwrap()).map_err(|error| error.to_string())
    }

    /// What the kernels take; what must not be is an error.
    fn examine(&self, nvrtc: &Nvrtc, cache: &Cache) -> Result<Vec<Usage>, String> {
        let at = format!("{} for {}, {:?}", self.source.name, self.architecture, self.dtype);
        let log = self.log(nvrtc, cache).map_err(|why| format!("{at}: {why}"))?;
        // C7510 and its like: the compiler waits for each wgmma before the next.
        if let Some(line) = log.lines().find(|line| line.contains("(C75")) {
            return Err(format!("{at}: {line}"));
        }
        let usages = parse(&log);
        if let Some(bad) = usages.iter().find(|usage| usage.stack + usage.spills > 0) {
            return Err(format!("{at}: `{}` has {} bytes of stack and {} of spills", bad.kernel, bad.stack, bad.spills));
        }
        Ok(usages)
    }
}

/// Where what the compiler said is kept, so that only changed kernels are compiled again.
fn cache() -> Cache {
    let exe = std::env::current_exe().unwrap();
    Cache { folder: Some(exe.with_file_name("gate")) }
}

/// A share of the jobs, for a process of its own: NVRTC compiles one thing at a time in a process.
#[test]
#[ignore = "the gate starts it"]
fn compile_a_share() {
    let (Some(nvrtc), cache) = (compiler(), cache()) else { return };
    let share: Vec<usize> = std::env::var(SHARE).unwrap().split('/').map(|n| n.parse().unwrap()).collect();
    for job in jobs().iter().skip(share[0]).step_by(share[1]) {
        // The gate itself says what is wrong.
        let _ = job.log(&nvrtc, &cache);
    }
}

/// Fills the cache with a process per core.
fn compile_all() {
    let processes = std::thread::available_parallelism().map_or(1, usize::from);
    let start = |n: usize| {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "kernels::gate::compile_a_share", "--ignored"]).env(SHARE, format!("{n}/{processes}")).stdout(Stdio::null());
        child.spawn().unwrap()
    };
    let children: Vec<_> = (0..processes).map(start).collect();
    children.into_iter().for_each(|mut child| assert!(child.wait().unwrap().success(), "a process of the gate failed"));
}

/// What the assembler says of each kernel.
fn parse(log: &str) -> Vec<Usage> {
    let mut usages: Vec<Usage> = vec![];
    for line in log.lines() {
        // The number before a word: "Used 32 registers, used 1 barriers, 128 bytes smem".
        let number = |unit: &str| {
            line.split(unit).next().filter(|part| part.len() < line.len()).map_or(0, |part| {
                part.trim_end().rsplit([' ', ',']).next().and_then(|digits| digits.parse::<u32>().ok()).expect("a number")
            })
        };
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            usages.push(Usage { kernel: rest.split('\'').next().unwrap().into(), ..Usage::default() });
        } else if let Some(usage) = usages.last_mut() {
            if line.contains("bytes stack frame") {
                usage.stack = number("bytes stack frame");
                usage.spills = number("bytes spill stores") + number("bytes spill loads");
            }
            if line.contains("Used ") {
                (usage.registers, usage.shared) = (number("registers"), number("bytes smem"));
            }
        }
    }
    usages
}

/// The rows of the table: kernel, type, static shared memory, registers on each architecture.
fn table(nvrtc: &Nvrtc, errors: &mut Vec<String>) -> String {
    let (cache, mut rows) = (cache(), BTreeMap::<(String, &str), (u32, BTreeMap<&str, u32>)>::new());
    for job in jobs() {
        let written: Vec<&str> = signature::parse(&job.source).unwrap().iter().map(|s| s.kernel).collect();
        let usages = job.examine(nvrtc, &cache);
        for usage in usages.unwrap_or_else(|why| (errors.push(why), vec![]).1) {
            let Usage { kernel, registers, shared, .. } = usage;
            assert!(written.contains(&kernel.as_str()), "{}: `{kernel}` is not written as an entry point is", job.source.name);
            let row = rows.entry((kernel, if job.dtype == Dtype::Bf16 { "bf16" } else { "f32" })).or_default();
            row.0 = row.0.max(shared);
            row.1.insert(job.architecture, registers);
        }
    }
    let rows = rows.into_iter().map(|((kernel, dtype), (shared, registers))| {
        let on = ARCHITECTURES.map(|architecture| registers.get(architecture).map_or("-".into(), u32::to_string));
        format!("{kernel}\t{dtype}\t{shared}\t{}\n", on.join("\t"))
    });
    format!("kernel\ttype\tshared\t{}\n", ARCHITECTURES.join("\t")) + &rows.collect::<String>()
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/usage.tsv")
}

#[test]
fn every_kernel_compiles_as_it_was_recorded() {
    let Some(nvrtc) = compiler() else {
        println!("skipped: NVRTC is not here (pip install nvidia-cuda-nvrtc==13.0.88)");
        return;
    };
    compile_all();
    let mut errors = vec![];
    let table = table(&nvrtc, &mut errors);
    assert!(errors.is_empty(), "{}", errors.join("\n"));
    if std::env::var_os("SSLMEM_BLESS").is_some() {
        std::fs::write(path(), &table).unwrap();
    }
    if nvrtc.version != PINNED {
        println!("skipped: usage.tsv is of NVRTC {PINNED:?}, this is {:?}", nvrtc.version);
        return;
    }
    let recorded = std::fs::read_to_string(path()).unwrap();
    let changed: Vec<String> = diff(&recorded, &table).chain(diff(&table, &recorded).map(|line| format!("now {line}"))).collect();
    assert!(changed.is_empty(), "kernels/usage.tsv differs; look, then SSLMEM_BLESS=1:\n{}", changed.join("\n"));
}

/// The lines of `a` that `b` lacks.
fn diff<'a>(a: &'a str, b: &'a str) -> impl Iterator<Item = String> + 'a {
    a.lines().filter(|line| !b.lines().any(|other| other == *line)).map(str::to_string)
}

/// The gate can close: kernels with each fault are refused.
#[test]
fn spills_stack_frames_and_errors_are_refused() {
    let Some(nvrtc) = compiler() else { return };
    let refused = |text: &'static str, architecture: &'static str| {
        let job = Job { source: Source { name: "planted.cu", text }, dtype: Dtype::F32, architecture };
        job.examine(&nvrtc, &Cache { folder: None }).unwrap_err()
    };
    let spills = r#"
extern "C" __global__ void __launch_bounds__(1024, 2) greedy(float *x) {
  float r[80];
#pragma unroll
  for (int i = 0; i < 80; i++) r[i] = x[i * 1024 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 80; i++) x[i * 1024 + threadIdx.x] = r[79 - i] * r[(i * 7) % 80];
}"#;
    assert!(refused(spills, "sm_90a").contains("of spills"), "{}", refused(spills, "sm_90a"));
    let stack = r#"
extern "C" __global__ void indexed(float *x, const int *at) {
  float r[64];
#pragma unroll 1
  for (int i = 0; i < 64; i++) r[at[i]] = x[i];
  x[0] = r[at[64]];
}"#;
    assert!(refused(stack, "sm_80").contains("256 bytes of stack"), "{}", refused(stack, "sm_80"));
    let waits = r#"
extern "C" __global__ void __launch_bounds__(128, 1) hasty(float *x, unsigned long long a) {
  float d[4] = {0.f, 0.f, 0.f, 0.f};
  asm volatile("wgmma.fence.sync.aligned;");
#pragma unroll 1
  for (int i = 0; i < 4; i++) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %4, 1, 1, 1, 0, 0;"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "l"(a + i));
    x[threadIdx.x + i] = d[0];
  }
  asm volatile("wgmma.commit_group.sync.aligned;");
  asm volatile("wgmma.wait_group.sync.aligned 0;");
}"#;
    assert!(refused(waits, "sm_90a").contains("(C75"), "{}", refused(waits, "sm_90a"));
    let error = "extern \"C\" __global__ void wrong(float *x) { x[0] = y; }";
    assert!(refused(error, "sm_86").contains("planted.cu(1): error: identifier \"y\" is undefined"), "{}", refused(error, "sm_86"));
}
