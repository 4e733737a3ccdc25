//! The programs in `examples/`, run on little data. `cargo test` builds them; a run of this binary alone does not, and then says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sslmem::data::{Source, Synthetic};
use sslmem::{manifest, table};

/// The built program, if there is one. CI has all of them.
fn program(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_BIN_EXE_sslmem")).with_file_name("examples").join(name);
    if !path.exists() {
        assert!(std::env::var_os("CI").is_none(), "{} is not built", path.display());
        println!("skipped: {} is not built; `cargo test --release` builds it", path.display());
        return None;
    }
    Some(path)
}

fn run(program: &Path, arguments: &[&Path]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {error}", program.display());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn train_and_score() {
    let (Some(train), Some(score)) = (program("train"), program("score")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("run");
    let said = run(&train, &[&dir, Path::new("1")]);
    assert_eq!(said.lines().filter(|line| line.starts_with("S_")).count(), 4, "{said}");
    assert!(dir.join("report.html").exists());

    let photos = folder.path().join("photos");
    fs::create_dir(&photos).unwrap();
    let source = Synthetic::new(12, 3).unwrap();
    for index in 0..12 {
        let image = source.image(index).unwrap();
        let (width, height) = (image.width as u32, image.height as u32);
        image::RgbImage::from_raw(width, height, image.pixels).unwrap().save(photos.join(format!("{index:02}.png"))).unwrap();
    }
    let [f, g] = ["f", "g"].map(|name| dir.join(format!("pair1/{name}.safetensors")));
    let out = folder.path().join("scores.parquet");
    let said = run(&score, &[&f, &g, &photos, &out]);
    assert_eq!(said.lines().count(), 11, "ten images and the table: {said}");
    let rows = manifest::scored(&out, manifest::Trust::Verified).unwrap().rows;
    assert_eq!(rows.len(), 12);
    assert!(rows.iter().all(|row| row.align_f > 0.0 && row.stderr > 0.0));
    assert_eq!(run(&score, &[&f, &g, &photos, &out]), said, "what is scored is found");
}

#[test]
fn a_data_set_of_ones_own() {
    let Some(program) = program("own_data") else { return };
    let folder = tempfile::tempdir().unwrap();
    let said = run(&program, &[folder.path(), Path::new("1")]);
    assert_eq!(said.lines().filter(|line| line.starts_with("S_")).count(), 4, "{said}");
    let rows = table::read(folder.path().join("scores.parquet")).unwrap();
    assert_eq!(rows.len(), 320);
    assert_eq!(rows[0].id, "slope/0000");
    assert!(folder.path().join("report.html").exists());
}

#[test]
fn a_method_of_ones_own() {
    let Some(program) = program("own_method") else { return };
    let folder = tempfile::tempdir().unwrap();
    let said = run(&program, &[folder.path(), Path::new("6")]);
    // "loss A in the first step, B in the last of N"
    let numbers: Vec<f32> = said.split([' ', ',']).filter(|word| word.contains('.')).filter_map(|word| word.parse().ok()).collect();
    assert!(numbers.len() == 2 && numbers[1] < numbers[0] - 0.1, "the loss does not fall: {said}");
    // Its encoder is one that every verb reads.
    let out = folder.path().join("features.safetensors");
    let mut embed = Command::new(env!("CARGO_BIN_EXE_sslmem"));
    embed.args(["--quiet", "embed", "--data", "synthetic:10", "--encoder"]).arg(folder.path().join("f.safetensors"));
    let output = embed.arg("--out").arg(&out).output().unwrap();
    assert!(output.status.success() && out.exists(), "{}", String::from_utf8_lossy(&output.stderr));
}
