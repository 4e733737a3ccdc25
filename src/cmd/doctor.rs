//! `sslmem doctor`: the requirements of a GPU run on this machine, and how to get the missing ones.

use clap::Args;

use super::print;
use crate::device::cuda::{self, Card, Survey, architecture};
use crate::device::{kernels, signature};
use crate::error::{Error, Result};
use crate::var::Dtype;

/// Show what this machine has for computing on a GPU, and what to do about what it lacks
#[derive(Args)]
#[command(after_help = "Example:\n  sslmem doctor")]
pub struct Verb {}

pub fn run(_: Verb) -> Result<()> {
    let found = cuda::survey();
    let mut page = Page::default();
    page.line("program", &format!("sslmem {}, {}", env!("CARGO_PKG_VERSION"), written()));
    page.line("cpu", &format!("{}, {} threads", std::env::consts::ARCH, rayon::current_num_threads()));
    page.result("driver", found.driver.as_ref().map(|driver| format!("for CUDA {}.{}", driver.version.0, driver.version.1)));
    let known = found.nvrtc.as_ref().map_or(&[][..], |nvrtc| &nvrtc.architectures);
    for (ordinal, card) in found.cards.iter().enumerate() {
        page.result(&format!("cuda:{ordinal}"), card.as_ref().map(|card| describe(card, known)));
    }
    page.result("compiler", found.nvrtc.as_ref().map(|nvrtc| format!("NVRTC {}.{}", nvrtc.version.0, nvrtc.version.1)));
    for looked in &found.looked {
        let outcome = looked.found.as_ref().map_or_else(String::clone, |(major, minor)| format!("found, {major}.{minor}"));
        page.line("", &format!("{}: {outcome}", looked.place.display()));
    }
    page.line("cache", &cache(&found));
    page.line("", &format!("(folders: {} and {}; kernels from a folder: {})", cuda::CACHE, cuda::NVRTC, kernels::FOLDER));
    page.verdict(&found);
    print(&page.text)
}

/// The kernels in this program.
fn written() -> String {
    match signature::table() {
        Ok(table) => format!("{} kernels", table.len()),
        Err(error) => error.to_string(),
    }
}

fn describe(card: &Card, known: &[i32]) -> String {
    let Card { name, memory, capability: (major, minor), shared, multiprocessors } = card;
    let memory = *memory as f64 / (1u64 << 30) as f64;
    let code = if known.is_empty() { String::new() } else { format!(", code for {}", architecture((*major, *minor), known)) };
    format!(
        "{name}, {memory:.0} GiB, compute capability {major}.{minor}{code}, {multiprocessors} multiprocessors, {} KiB shared",
        shared / 1024
    )
}

fn cache(found: &Survey) -> String {
    match &found.cache {
        (Some(folder), (files, bytes)) => format!("{}: {files} files, {:.1} MB", folder.display(), *bytes as f64 / 1e6),
        (None, _) => format!("none: set {} to a folder, or kernels are compiled in every process", cuda::CACHE),
    }
}

/// Lines of (name, text).
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn line(&mut self, name: &str, what: &str) {
        self.text += &format!("{name:<10} {what}\n");
    }

    fn result(&mut self, name: &str, what: std::result::Result<String, &Error>) {
        let what = what.unwrap_or_else(|error| format!("missing: {error}"));
        self.line(name, &what);
    }

    /// Whether each card can be used, after opening it.
    fn verdict(&mut self, found: &Survey) {
        if found.cards.is_empty() {
            self.line("result", "--device cpu works; --device cuda does not, see above");
        }
        for ordinal in 0..found.cards.len() {
            let opened = cuda::open(ordinal, Dtype::Bf16).map(|gpu| format!("--device cuda:{ordinal} works: {}", gpu.name()));
            self.line("result", &opened.unwrap_or_else(|error| format!("--device cuda:{ordinal} does not work: {error}")));
        }
    }
}
