//! Puts the texts of `kernels/` into the program. It asks nothing of the machine: kernels are compiled where they run.

use std::path::Path;
use std::{env, fs};

fn main() {
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo says where the package is");
    let folder = Path::new(&root).join("kernels");
    println!("cargo::rerun-if-changed={}", folder.display());
    let entries = fs::read_dir(&folder).expect("the package has a folder `kernels`");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("a folder can be listed").file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| name.ends_with(".cu") || name.ends_with(".cuh"));
    names.sort();
    let rows: String = names.iter().map(|name| format!("    ({name:?}, include_str!({:?})),\n", folder.join(name))).collect();
    let table = format!("/// Name and text of every file of `kernels/`, by name.\nstatic EMBEDDED: &[(&str, &str)] = &[\n{rows}];\n");
    let out = env::var("OUT_DIR").expect("cargo says where to write");
    fs::write(Path::new(&out).join("kernels.rs"), table).expect("the build folder can be written");
    // The tests need line numbers, the program is five times as large with them.
    if env::var("CARGO_CFG_UNIX").is_ok() && env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        println!("cargo::rustc-link-arg-bin=sslmem=-Wl,-S");
    }
}
