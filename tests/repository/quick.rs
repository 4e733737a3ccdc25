//! `cargo quick` leaves out what there is to leave out.

use std::process::Command;

#[test]
fn every_name_that_the_fast_tests_leave_out_is_of_a_test() {
    let config = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/.cargo/config.toml")).unwrap();
    let config: toml::Table = config.parse().unwrap();
    let words: Vec<&str> = config["alias"]["quick"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    let left_out: Vec<&str> = words.windows(2).filter(|pair| pair[0] == "--skip").map(|pair| pair[1]).collect();
    assert!(left_out.len() > 3, "{words:?}");
    let listed = Command::new(std::env::current_exe().unwrap()).arg("--list").output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    for name in left_out {
        assert!(listed.lines().any(|test| test.contains(name)), "no test has a name with {name}");
    }
}
