//! Compiles every kernel with g++, its memory accesses instrumented, and writes the table of entry points.
//!
//! A .cu file becomes one unit per type of activations, the crate's own test kernels one per planted bug. A unit is compiled again
//! only if its text, a header it includes or the flags have changed.

#[path = "../../src/device/signature/parse.rs"]
mod parse;

use parse::{Entry, Field, without_comments};
use std::collections::hash_map::DefaultHasher;
use std::fmt::Write;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs};

const FLAGS: &str = "-std=c++17 -g1 -march=x86-64-v3 -ffp-contract=fast -fno-strict-aliasing -fno-exceptions -fno-rtti -fPIC -Wno-psabi";
const CHECKS: &str = "-fsanitize=thread --param=tsan-instrument-func-entry-exit=0 -ftrivial-auto-var-init=pattern \
    -fsanitize=alignment,bounds,shift-exponent,signed-integer-overflow,integer-divide-by-zero";

/// What is compiled: a file with the words defined before it.
struct Unit {
    name: String,
    file: PathBuf,
    bf16: bool,
    /// A define of the crate's own test kernels, which plants a bug; it is the suffix of their names.
    bug: Option<String>,
    /// One of the crate's own test kernels, or one of the product with a bug.
    own: bool,
    /// A bug that is planted in a kernel of the product.
    planted: Option<Planted>,
}

/// A kernel of the product with one text replaced, in its file or in a header.
struct Planted {
    name: String,
    file: String,
    changed: String,
    from: String,
    to: String,
}

struct Kernel {
    name: String,
    bounds: String,
    params: Vec<(String, String)>,
}

fn main() {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").unwrap());
    let out = PathBuf::from(env::var("OUT_DIR").unwrap());
    let folders = [root.join("include"), root.join("../../kernels"), root.join("kernels")];
    for folder in &folders {
        println!("cargo::rerun-if-changed={}", folder.display());
    }
    println!("cargo::rerun-if-env-changed=EMULATOR_OPT");
    println!("cargo::rerun-if-env-changed=CXX");
    println!("cargo::rustc-check-cfg=cfg(compiler)");
    if Command::new(compiler()).arg("--version").output().is_err() {
        return without_compiler(&out);
    }
    println!("cargo::rustc-cfg=compiler");
    let mut jobs = vec![];
    let mut registry = String::new();
    let mut table = String::new();
    println!("cargo::rerun-if-changed={}", root.join("planted.txt").display());
    println!("cargo::rerun-if-changed={}", root.join("../../src/device/signature/parse.rs").display());
    let planted = planted(&fs::read_to_string(root.join("planted.txt")).unwrap());
    let planted = planted.into_iter().map(|p| plant(p, &folders[1], &out.join("planted")));
    let emulator = fs::read_to_string(root.join("include/emulator.h")).unwrap();
    for unit in units(&folders[1], &folders[2]).into_iter().chain(planted) {
        let source = fs::read_to_string(&unit.file).unwrap();
        // A planted bug may be in a header beside the file.
        let beside: Vec<PathBuf> = unit.file.parent().map(Path::to_path_buf).into_iter().chain(folders.clone()).collect();
        let all = with_headers(&source, &beside);
        let kernels =
            kernels(&without_comments(&source), &without_comments(&all)).unwrap_or_else(|e| stop(&format!("{}: {e}", unit.file.display())));
        let mut text = text_of(&unit);
        for kernel in &kernels {
            entry(&unit, kernel, &mut text, &mut registry, &mut table);
        }
        let path = out.join(format!("{}.cpp", unit.name));
        jobs.push(Job { path, text, checked: true, headers: all + &emulator });
    }
    let hooks = root.join("include/hooks.cpp");
    jobs.push(Job { path: out.join("hooks.cpp"), text: fs::read_to_string(hooks).unwrap(), checked: false, headers: String::new() });
    let objects = compile(&jobs, &folders);
    archive(&out, &objects);
    fs::write(out.join("registry.rs"), format!("unsafe extern \"C\" {{\n{registry}}}\npub static KERNELS: &[Kernel] = &[\n{table}];\n"))
        .unwrap();
}

fn compiler() -> String {
    env::var("CXX").unwrap_or("g++".into())
}

/// The crate has no kernels then, and tests that need them say so. A file that is never there makes cargo ask again next time.
fn without_compiler(out: &Path) {
    println!("cargo::rerun-if-changed={}", out.join("compiler").display());
    println!(
        "cargo::warning=`{}` does not run: tests that run CUDA kernels on the CPU are skipped. Install g++, or name one in CXX",
        compiler()
    );
    fs::write(out.join("registry.rs"), "pub static KERNELS: &[Kernel] = &[];\n").unwrap();
}

fn stop(message: &str) -> ! {
    eprintln!("{message}");
    exit(1);
}

fn cu_files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "cu"));
    files.sort();
    files
}

fn units(product: &Path, own: &Path) -> Vec<Unit> {
    let mut units = vec![];
    let stem = |file: &Path| file.file_stem().unwrap().to_str().unwrap().to_string();
    for file in cu_files(product) {
        let types = [(false, "f32"), (true, "bf16")];
        // wgmma multiplies bf16 alone.
        for (bf16, kind) in types.into_iter().filter(|(bf16, _)| *bf16 || !stem(&file).ends_with("_hopper")) {
            units.push(Unit { name: format!("{}_{kind}", stem(&file)), file: file.clone(), bf16, bug: None, own: false, planted: None });
        }
    }
    for file in cu_files(own) {
        let source = fs::read_to_string(&file).unwrap();
        let name = format!("own_{}", stem(&file));
        units.push(Unit { name: name.clone(), file: file.clone(), bf16: false, bug: None, own: true, planted: None });
        let mut bugs: Vec<&str> = source.lines().filter_map(|l| l.trim().split_once("def BUG_")).map(|l| l.1.trim()).collect();
        bugs.sort();
        bugs.dedup();
        for bug in bugs {
            let bug = format!("BUG_{bug}");
            units.push(Unit { name: format!("{name}__{bug}"), file: file.clone(), bf16: false, bug: Some(bug), own: true, planted: None });
        }
    }
    units
}

/// The list of planted bugs: `== name file changed`, the text, `->`, what it becomes.
fn planted(list: &str) -> Vec<Planted> {
    let blocks = list.split("\n== ").skip(1);
    let parse = |block: &str| {
        let (head, body) = block.split_once('\n')?;
        let [name, file, changed] = head.split_whitespace().collect::<Vec<_>>()[..] else { return None };
        let (from, to) = body.split_once("\n->\n")?;
        let [name, file, changed, from, to] = [name, file, changed, from, to.trim_end()].map(String::from);
        Some(Planted { name, file, changed, from, to })
    };
    blocks.map(|b| parse(b).unwrap_or_else(|| stop(&format!("planted.txt: `== {b}` is not of the form that its head describes")))).collect()
}

/// Copies the kernel and all headers to a folder of its own, with the bug.
fn plant(bug: Planted, product: &Path, to: &Path) -> Unit {
    let folder = to.join(&bug.name);
    fs::create_dir_all(&folder).unwrap();
    let mut found = false;
    for file in fs::read_dir(product).unwrap().map(|f| f.unwrap().path()) {
        let name = file.file_name().unwrap().to_str().unwrap();
        if name != bug.file && !name.ends_with(".cuh") {
            continue;
        }
        let mut text = fs::read_to_string(&file).unwrap();
        if name == bug.changed {
            found = text.contains(&bug.from);
            text = text.replacen(&bug.from, &bug.to, 1);
        }
        fs::write(folder.join(name), text).unwrap();
    }
    if !found {
        stop(&format!("planted.txt: {} has no `{}` any more; plant `{}` elsewhere", bug.changed, bug.from, bug.name));
    }
    let file = folder.join(&bug.file);
    Unit { name: format!("planted_{}", bug.name), file, bf16: true, bug: Some(bug.name.clone()), own: true, planted: Some(bug) }
}

/// The C++ text of a unit. The namespace keeps functions of one name in two units apart.
fn text_of(unit: &Unit) -> String {
    let mut text =
        String::from("#include <math.h>\n#include <stddef.h>\n#include <stdint.h>\n#include <type_traits>\n#include <utility>\n");
    writeln!(text, "#define BF16 {}", unit.bf16 as u32).unwrap();
    match (&unit.bug, &unit.planted) {
        (Some(bug), None) => writeln!(text, "#define {bug}").unwrap(),
        (_, Some(bug)) => writeln!(text, "// {:?} is {:?}", bug.from, bug.to).unwrap(),
        _ => {}
    }
    writeln!(text, "namespace {} {{\n#include \"emulator.h\"\n#include \"{}\"\n}}", unit.name, unit.file.display()).unwrap();
    text
}

/// One kernel: its C++ entry, and its line in the table of the crate.
fn entry(unit: &Unit, kernel: &Kernel, text: &mut String, registry: &mut String, table: &mut String) {
    let (space, name) = (&unit.name, &kernel.name);
    let symbol = format!("emu_{space}_{name}");
    writeln!(text, "extern \"C\" UNCHECKED void {symbol}(const {space}::u64 *words) {{ {space}::emu_call(&{space}::{name}, words); }}")
        .unwrap();
    writeln!(text, "namespace {space} {{ static int bounds_{name}() {{ return emu_bounds({}); }} }}", kernel.bounds).unwrap();
    writeln!(text, "extern \"C\" int {symbol}_bounds() {{ return {space}::bounds_{name}(); }}").unwrap();
    writeln!(registry, "    fn {symbol}(words: *const u64);\n    fn {symbol}_bounds() -> i32;").unwrap();
    let suffix = unit.bug.as_ref().map_or(String::new(), |b| format!("__{b}"));
    let params: String = kernel.params.iter().map(|(n, k)| format!("Param {{ name: {n:?}, kind: Kind::{k} }}, ")).collect();
    writeln!(
        table,
        "    Kernel {{ name: \"{name}{suffix}\", bf16: {}, own: {}, entry: {symbol}, bounds: {symbol}_bounds, params: &[{params}] }},",
        unit.bf16, unit.own
    )
    .unwrap();
}

/// The kernels of a file, whose text is `own` and with that of its headers `all`, both without comments.
fn kernels(own: &str, all: &str) -> Result<Vec<Kernel>, String> {
    let kernel = |entry: Entry| {
        let params = entry.params.iter().map(|field| Ok((field.name.to_string(), kind(field, all)?)));
        let params = params.collect::<Result<_, String>>().map_err(|why| format!("{}: {why}", entry.name))?;
        Ok(Kernel { name: entry.name.to_string(), bounds: entry.bounds.unwrap_or("1024").to_string(), params })
    };
    parse::entries(own)?.into_iter().map(kernel).collect()
}

/// The `ArgKind` of the crate that a parameter is.
fn kind(field: &Field, all: &str) -> Result<String, String> {
    Ok(match (field.of, field.pointer) {
        (_, true) if field.constant => "In".into(),
        (_, true) => "Out".into(),
        ("int" | "u32" | "float", false) => "Value".into(),
        ("TensorMap", false) => "Map".into(),
        (name, false) => {
            // The crate looks at the pointers of a structure.
            let fields = parse::fields(all, name)?;
            let (places, _) = parse::places(fields.iter().map(|f| if f.pointer { 8 } else { 4 }));
            let pointers = fields.iter().zip(places).filter(|(f, _)| f.pointer);
            let members: String = pointers.map(|(f, at)| format!("({:?}, {at}, {}), ", f.name, f.constant)).collect();
            format!("Struct(&[{members}])")
        }
    })
}

/// The text of a file with all headers that it includes, and that these include.
fn with_headers(source: &str, folders: &[PathBuf]) -> String {
    parse::with_headers(source, |name| folders.iter().find_map(|f| fs::read_to_string(f.join(name)).ok()))
}

struct Job {
    path: PathBuf,
    text: String,
    checked: bool,
    headers: String,
}

fn compile(jobs: &[Job], folders: &[PathBuf]) -> Vec<PathBuf> {
    let next = AtomicUsize::new(0);
    let workers = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1usize);
    std::thread::scope(|scope| {
        for _ in 0..workers.min(jobs.len()) {
            scope.spawn(|| {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    compile_one(job, folders);
                }
            });
        }
    });
    jobs.iter().map(|j| j.path.with_extension("o")).collect()
}

fn compile_one(job: &Job, folders: &[PathBuf]) {
    let compiler = compiler();
    let opt = env::var("EMULATOR_OPT").unwrap_or("2".into());
    let checks = if job.checked { CHECKS } else { "" };
    let source = job.text.lines().filter_map(|l| l.strip_prefix("#include \"/")?.strip_suffix('"'));
    let sources: String = source.map(|f| fs::read_to_string(format!("/{f}")).unwrap()).collect();
    let mut hasher = DefaultHasher::new();
    (&compiler, &opt, FLAGS, checks, &job.text, sources, &job.headers).hash(&mut hasher);
    let key = hasher.finish().to_string();
    let (object, stamp) = (job.path.with_extension("o"), job.path.with_extension("key"));
    if object.exists() && fs::read_to_string(&stamp).is_ok_and(|k| k == key) {
        return;
    }
    fs::write(&job.path, &job.text).unwrap();
    let mut command = Command::new(&compiler);
    command.args(FLAGS.split_whitespace()).args(checks.split_whitespace()).arg(format!("-O{opt}")).args(["-Wno-unknown-pragmas", "-c"]);
    if opt == "0" {
        command.arg("-g3");
    }
    for folder in folders {
        command.arg("-I").arg(folder);
    }
    match command.arg(&job.path).arg("-o").arg(&object).output() {
        Err(e) => stop(&format!("`{compiler}` does not run any more: {e}")),
        Ok(o) if !o.status.success() => {
            stop(&format!("{compiler} refuses {}:\n{}", job.path.display(), String::from_utf8_lossy(&o.stderr)))
        }
        Ok(_) => fs::write(stamp, key).unwrap(),
    }
}

fn archive(out: &Path, objects: &[PathBuf]) {
    let library = out.join("libemulated.a");
    let _ = fs::remove_file(&library);
    match Command::new("ar").arg("crs").arg(&library).args(objects).output() {
        Ok(o) if o.status.success() => {}
        Ok(o) => stop(&format!("ar cannot collect the kernels:\n{}", String::from_utf8_lossy(&o.stderr))),
        Err(e) => stop(&format!("the emulator's kernels need `ar`, which does not run ({e}): install binutils")),
    }
    println!("cargo::rustc-link-search=native={}", out.display());
    println!("cargo::rustc-link-lib=static=emulated");
}
