//! The `sslmem` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(sslmem::cmd::main(std::env::args_os()))
}
