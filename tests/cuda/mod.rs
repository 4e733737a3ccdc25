//! The host's side of the CUDA device without a card: a mock driver and compiler (`cuda/driver.cpp`) stand in for the real ones in
//! processes of their own. Search paths, messages and the cache are tested without them.

mod card;
mod large;
pub mod script;
mod survive;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use sslmem::device::cuda::{self, Cache, architecture, places};
use sslmem::device::{GpuDevice, Launch};
use sslmem::error::Error;
use sslmem::var::Dtype;

/// The kernels that the pretended driver knows, as a folder of sources.
const KERNELS: &str = r#"
#include "types.cuh"
KERNEL void __launch_bounds__(256) scale_fwd(float *y, const float *__restrict__ x, float factor, int n) { y[0] = x[0]; }
KERNEL void fault() {}
"#;

/// A folder with libcuda.so.1, libnvrtc.so.13 and `kernels/`.
struct Fake {
    folder: tempfile::TempDir,
}

impl Fake {
    /// None without a C++ compiler, which CI has.
    fn new() -> Option<Fake> {
        static LIBRARY: OnceLock<Option<Vec<u8>>> = OnceLock::new();
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("libcuda.so.1");
        let library = LIBRARY.get_or_init(|| {
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda/driver.cpp");
            let flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-Wall", "-Werror", "-o"];
            let built = Command::new("g++").args(flags).args([&at, &source]).status();
            match built {
                Ok(status) => assert!(status.success(), "tests/cuda/driver.cpp does not compile"),
                Err(_) => assert!(std::env::var("CI").as_deref() != Ok("true"), "CI needs g++"),
            }
            std::fs::read(&at).ok()
        });
        let Some(library) = library else {
            println!("skipped: there is no g++");
            return None;
        };
        for name in ["libcuda.so.1", "libnvrtc.so.13"] {
            std::fs::write(folder.path().join(name), library).unwrap();
        }
        let kernels = folder.path().join("kernels");
        std::fs::create_dir(&kernels).unwrap();
        std::fs::write(kernels.join("scale.cu"), KERNELS).unwrap();
        std::fs::write(kernels.join("types.cuh"), "typedef float T;\n").unwrap();
        Some(Fake { folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command that finds the pretended driver, compiler and kernels.
    fn command(&self, program: impl Into<OsString>) -> Command {
        let mut command = Command::new(program.into());
        command.env("LD_LIBRARY_PATH", self.folder.path()).env(cuda::NVRTC, self.folder.path()).env(cuda::CACHE, self.path("cache"));
        command.env("SSLMEM_KERNELS", self.path("kernels")).env("FAKE_LOG", self.path("log"));
        command
    }

    fn doctor(&self, settings: &[(&str, &str)]) -> String {
        let output = self.command(env!("CARGO_BIN_EXE_sslmem")).arg("doctor").envs(settings.iter().copied()).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs one of the tests below that are marked `ignore` in a process with the pretended driver.
    fn run(&self, test: &str, settings: &[(&str, &str)]) {
        let mut command = self.command(std::env::current_exe().unwrap());
        command.envs(settings.iter().copied());
        let output: Output = command.args(["--exact", &format!("cuda::{test}"), "--ignored", "--nocapture"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    }

    fn compilations(&self) -> Vec<String> {
        std::fs::read_to_string(self.path("log")).unwrap_or_default().lines().map(str::to_string).collect()
    }
}

#[test]
fn the_doctor_says_what_is_there_and_what_is_missing() {
    let Some(fake) = Fake::new() else { return };
    let page = fake.doctor(&[("FAKE_CARDS", "2")]);
    for part in [
        "driver     for CUDA 13.0\n",
        "cuda:0     Fake H200, 1 GiB, compute capability 9.0, code for sm_90a, 132 multiprocessors, 227 KiB shared\n",
        "cuda:1     Fake H200",
        "compiler   NVRTC 13.0\n",
        "libnvrtc.so.13: found, 13.0\n",
        "cache      ",
        "result     --device cuda:1 works: Fake H200 (NVRTC 13.0, sm_90a), driver for CUDA 13.0, bf16\n",
    ] {
        assert!(page.contains(part), "{part} in\n{page}");
    }
    let page = fake.doctor(&[("SSLMEM_PORTABLE", "1")]);
    assert!(page.contains("works: Fake H200 (NVRTC 13.0, sm_90a, portable kernels), driver"), "{page}");
    for (settings, sentence) in [
        (("FAKE_VERSION", "11080"), "the NVIDIA driver is for CUDA 11.8, which is too old; install driver 525 or a newer one"),
        (("FAKE_CARDS", "0"), "the NVIDIA driver finds no GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES"),
        (("FAKE_CAPABILITY", "75"), "the Fake H200 has compute capability 7.5, the kernels need 8.0 (Ampere); choose another card"),
        (
            ("FAKE_VERSION", "12040"),
            "libnvrtc.so.13: NVRTC 13.0 is newer than the driver, which knows CUDA 12); `pip install nvidia-cuda-nvrtc-cu12`",
        ),
        (
            ("SSLMEM_NVRTC", "/nowhere"),
            "SSLMEM_NVRTC names /nowhere, which is not the compiler of the kernels, NVRTC; `pip install nvidia-cuda-nvrtc`",
        ),
    ] {
        let page = fake.doctor(&[settings]);
        assert!(page.contains(sentence), "{sentence} in\n{page}");
    }
}

#[test]
fn a_device_that_is_not_there_is_one_sentence_and_nothing_is_begun() {
    let folder = tempfile::tempdir().unwrap();
    let run = |device: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sslmem"));
        // A machine with a card has none for this process.
        command.current_dir(folder.path()).args(["demo", "--out", "run"]).args(device);
        command.env("CUDA_VISIBLE_DEVICES", "").env("SSLMEM_NVRTC", "/nowhere").output().unwrap()
    };
    for (device, status) in
        [(&["--device", "cuda"][..], 2), (&["--device", "cuda:1"], 2), (&["--precision", "bf16"], 2), (&["--device", "gpu"], 2)]
    {
        let output = run(device);
        assert_eq!(output.status.code(), Some(status), "{device:?}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.starts_with("error: ") && !error.contains("panicked"), "{error}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is begun");
    let auto = ["score", "--device", "auto", "--f", "f", "--g", "g", "--data", "synthetic:20", "--out", "s.csv"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_sslmem"));
    let output = command.current_dir(folder.path()).args(auto).env("CUDA_VISIBLE_DEVICES", "").env("SSLMEM_NVRTC", "/nowhere").output();
    let error = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(error.starts_with("computing on the CPU: ") && error.lines().nth(1).unwrap().starts_with("error: cannot read f"), "{error}");
}

#[test]
fn bytes_arrive_in_order_and_graphs_replay() {
    let Some(fake) = Fake::new() else { return };
    fake.run("worker_queue", &[]);
    let compiled = fake.compilations();
    assert_eq!(compiled, ["compiled scale.cu with types.cuh --gpu-architecture=sm_90a --std=c++17 -lineinfo"], "once for two kernels");
    fake.run("worker_queue", &[("FAKE_EARLY", "1")]);
    assert_eq!(fake.compilations().len(), 1, "the second process finds it compiled");
    let image = std::fs::read_dir(fake.path("cache")).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&image, "half a").unwrap();
    fake.run("worker_queue", &[]);
    assert_eq!(fake.compilations().len(), 2, "a damaged file is made again");
    fake.run("worker_queue", &[]);
    assert_eq!(fake.compilations().len(), 2, "and whole");
    std::fs::write(fake.path("kernels/types.cuh"), "typedef float T; // changed\n").unwrap();
    fake.run("worker_queue", &[]);
    assert_eq!(fake.compilations().len(), 3, "a header is part of what was compiled");
}

fn open() -> std::rc::Rc<dyn GpuDevice> {
    cuda::open(0, Dtype::F32).unwrap()
}

const SCALE: Launch = Launch { kernel: "scale_fwd", grid: [4, 1, 1], block: [256, 1, 1], shared: 200 * 1024 };

fn scale(gpu: &dyn GpuDevice, y: u64, x: u64, factor: f32, n: i32) -> Result<(), Error> {
    gpu.launch(&SCALE, &[y, x, factor.to_bits() as u64, n as u32 as u64])
}

fn floats(gpu: &dyn GpuDevice, from: u64) -> Vec<f32> {
    let mut values = vec![0f32; 1024];
    gpu.download(from, bytemuck::cast_slice_mut(&mut values)).unwrap();
    values
}

#[test]
#[ignore = "bytes_arrive_in_order_and_graphs_replay runs it with a pretended driver"]
fn worker_queue() {
    let gpu = open();
    assert_eq!((gpu.dtype(), gpu.capabilities().shared), (Dtype::F32, 232_448));
    // More than the ring of pieces holds, overwritten by the host as soon as `upload` is back.
    let bytes = (180 << 20) + 12_345;
    let big = gpu.alloc(bytes).unwrap();
    let mut sent: Vec<u8> = (0..bytes).map(|i| (i / 977) as u8).collect();
    gpu.upload(big, &sent).unwrap();
    let kept = sent.clone();
    sent.fill(0);
    let mut got = vec![1u8; kept.len()];
    gpu.download(big, &mut got).unwrap();
    assert!(got == kept, "a large upload arrives whole");
    gpu.free(big);
    // An upload comes after the kernels before it and before those after it, though it does not wait for them.
    let (x, y, z) = (gpu.alloc(4096).unwrap(), gpu.alloc(4096).unwrap(), gpu.alloc(4096).unwrap());
    for round in 0..100 {
        gpu.upload(x, bytemuck::cast_slice(&[round as f32; 1024])).unwrap();
        scale(&*gpu, y, x, 2.0, 1).unwrap();
        gpu.upload(x, bytemuck::cast_slice(&[-1f32; 1024])).unwrap();
        scale(&*gpu, z, x, 1.0, 0).unwrap();
    }
    assert_eq!((floats(&*gpu, y), floats(&*gpu, z)), (vec![199.0; 1024], vec![-1.0; 1024]));
    // A graph does what was launched while it was made, as often as it is replayed.
    let mut work = || scale(&*gpu, x, x, 2.0, 0).and_then(|()| scale(&*gpu, x, x, 1.0, 3));
    let replay = gpu.capture(&mut work).unwrap().unwrap();
    assert_eq!(floats(&*gpu, x), vec![-1.0; 1024], "making it runs nothing");
    replay().unwrap();
    replay().unwrap();
    assert_eq!(floats(&*gpu, x), vec![5.0; 1024], "2 (2 (-1) + 3) + 3");
    assert_eq!(gpu.time(&mut || replay()).unwrap(), 0.0025);
    // Nothing of no bytes.
    let empty = gpu.alloc(0).unwrap();
    gpu.upload(empty, &[]).unwrap();
    gpu.download(empty, &mut []).unwrap();
}

#[test]
fn what_fails_is_said() {
    let Some(fake) = Fake::new() else { return };
    fake.run("worker_failures", &[]);
}

#[test]
#[ignore = "what_fails_is_said runs it with a pretended driver"]
fn worker_failures() {
    let message = |result: Result<(), Error>| result.unwrap_err().to_string();
    let gpu = open();
    let said = message(gpu.alloc(3 << 29).map(drop));
    assert_eq!(
        said,
        "the GPU has no room for 1.50 GiB more: 1.00 of 1.00 GiB are free; lower train.batch or score.batch, or end other programs on this card"
    );
    let x = gpu.alloc(4096).unwrap();
    let bug = "; this is a fault of the program: please report it";
    let mut spoil = || gpu.alloc(16).map(drop);
    assert_eq!(message(gpu.capture(&mut spoil).map(drop)), format!("memory is asked for while a graph is made{bug}"));
    let mut spoil = || gpu.upload(x, &[1]);
    assert_eq!(message(gpu.capture(&mut spoil).map(drop)), format!("an upload while a graph is made{bug}"));
    let mut early = || scale(&*gpu, x, x, 1.0, 0);
    assert_eq!(
        message(gpu.capture(&mut early).map(drop)),
        format!("`scale_fwd` is launched for the first time while a graph is made{bug}")
    );
    let launch = Launch { kernel: "scale_bwd", ..SCALE };
    assert_eq!(message(gpu.launch(&launch, &[])), format!("there is no kernel `scale_bwd`{bug}"));
    let launch = Launch { shared: 230 * 1024, ..SCALE };
    let said = message(gpu.launch(&launch, &[x, x, 0, 0]));
    let what = "`scale_fwd` with grid [4, 1, 1], block [256, 1, 1] and 235520 bytes of shared memory";
    assert!(said.starts_with(&format!("the GPU failed ({what}): invalid argument (CUDA_ERROR_INVALID_VALUE)")), "{said}");
    gpu.launch(&Launch { kernel: "fault", ..SCALE }, &[]).unwrap();
    let said = message(gpu.download(x, &mut [0]));
    let end = "an illegal memory access was encountered (CUDA_ERROR_ILLEGAL_ADDRESS); set CUDA_LAUNCH_BLOCKING=1 to learn which kernel did";
    assert_eq!(said, format!("the GPU failed (a download): {end}"));
}

#[test]
fn a_kernel_that_does_not_compile_is_said_with_the_compilers_words() {
    let Some(fake) = Fake::new() else { return };
    std::fs::write(fake.path("kernels/scale.cu"), format!("{KERNELS}#error\n")).unwrap();
    fake.run("worker_compile", &[]);
    assert!(std::fs::read_dir(fake.path("cache")).is_err(), "nothing is kept of it");
}

#[test]
#[ignore = "a_kernel_that_does_not_compile_is_said_with_the_compilers_words runs it with a pretended driver"]
fn worker_compile() {
    let said = scale(&*open(), 0, 0, 1.0, 0).unwrap_err().to_string();
    let sentence = "NVRTC 13.0 cannot compile scale.cu for --gpu-architecture=sm_90a: planted.cu(1): error: as the text says; ";
    assert!(said.starts_with(sentence), "{said}");
}

#[test]
fn the_cache_survives_what_happens_to_files() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache { folder: Some(folder.path().join("deep/er")) };
    let made = std::cell::Cell::new(0);
    let image = |cache: &Cache| {
        let make = || {
            made.set(made.get() + 1);
            Ok(vec![7; 1000])
        };
        assert_eq!(cache.image("a.image", make).unwrap(), vec![7; 1000]);
        made.get()
    };
    assert_eq!((image(&cache), image(&cache)), (1, 1));
    let path = folder.path().join("deep/er/a.image");
    let whole = std::fs::read(&path).unwrap();
    let (mut flipped, mut made_before) = (whole.clone(), 1);
    flipped[500] ^= 1;
    for damaged in [&whole[..700], &flipped, b"", b"short"] {
        std::fs::write(&path, damaged).unwrap();
        made_before += 1;
        assert_eq!((image(&cache), image(&cache)), (made_before, made_before), "made again, then kept");
    }
    assert_eq!(std::fs::read_dir(folder.path().join("deep/er")).unwrap().count(), 1, "nothing unfinished is left");
    assert_eq!(cache.size(), (1, 1032));
    std::fs::write(folder.path().join("file"), "").unwrap();
    for nowhere in [Some(folder.path().join("file/x")), None] {
        let cache = Cache { folder: nowhere };
        let before = made.get();
        assert_eq!((image(&cache), image(&cache)), (before + 1, before + 2), "a folder that cannot be written costs time alone");
    }
    let failing = || Err(Error::device("no", ""));
    assert!(cache.image("b.image", failing).is_err() && cache.size().0 == 1);
}

#[test]
fn the_cache_lies_where_the_variables_say() {
    let folder = |variables: &[(&str, &str)]| {
        let find = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string());
        Cache::new(find).folder
    };
    assert_eq!(folder(&[("HOME", "/h")]), Some("/h/.cache/sslmem".into()));
    assert_eq!(folder(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), Some("/x/sslmem".into()));
    assert_eq!(folder(&[("HOME", "/h"), ("XDG_CACHE_HOME", ""), ("SSLMEM_CACHE", "/c")]), Some("/c".into()));
    assert_eq!(folder(&[]), None);
}

#[test]
fn the_compiler_is_looked_for_where_it_may_be() {
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path);
    for wheel in
        ["env/lib/python3.12/site-packages/nvidia/cu13/lib", "home/.local/lib/python3.11/site-packages/nvidia/cuda_nvrtc/lib", "env/bin"]
    {
        std::fs::create_dir_all(at(wheel)).unwrap();
    }
    std::fs::write(at("env/bin/python3"), "").unwrap();
    let text = |path: &str| at(path).display().to_string();
    let variables = |all: Vec<(&'static str, String)>| move |name: &str| all.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone());
    let found = places(variables(vec![("PATH", text("env/bin")), ("HOME", text("home")), ("CUDA_HOME", "/cuda".into())]));
    let order = [
        PathBuf::from("libnvrtc.so.13"),
        "/cuda/lib64/libnvrtc.so.12".into(),
        at("env/lib/python3.12/site-packages/nvidia/cu13/lib/libnvrtc.so.13"),
        at("home/.local/lib/python3.11/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12"),
    ];
    let positions: Vec<usize> =
        order.iter().map(|p| found.iter().position(|f| f == p).unwrap_or_else(|| panic!("{p:?} in {found:?}"))).collect();
    assert!(positions.is_sorted(), "{positions:?} in {found:?}");
    let named = |value: String| places(variables(vec![("SSLMEM_NVRTC", value), ("CUDA_HOME", "/cuda".into())]));
    assert_eq!(named("/some/libnvrtc.so".into()), [PathBuf::from("/some/libnvrtc.so")], "a named file is the only place");
    assert_eq!(named(text("env")), [at("env/libnvrtc.so.13"), at("env/libnvrtc.so.12")], "and a named folder");
}

#[test]
fn each_card_gets_the_code_it_runs_best() {
    let known = [80, 86, 89, 90, 100, 120];
    for (card, code) in
        [((8, 0), "sm_80"), ((8, 9), "sm_89"), ((9, 0), "sm_90a"), ((10, 0), "sm_100"), ((12, 0), "sm_120"), ((15, 0), "compute_80")]
    {
        assert_eq!(architecture(card, &known), code);
    }
    assert_eq!(architecture((10, 0), &[80, 90]), "compute_80", "a card later than the compiler");
}
