//! A value that was lost (NaN) surfaces in what is made of it, on the CPU and in the kernels: a network must not hide it.

use crate::emulated::{Emulated, missing};
use emulator::Options;
use sslmem::device::Device;
use sslmem::tape::{Mode, Scope, Tape};
use sslmem::var::{Dtype, Var};
use sslmem::weights::Weights;

type Build = fn(&mut Scope, Var) -> Var;

/// What `build` makes of the activation `x` [1, 4, 4, 9].
fn run(device: Device, x: &[f32], build: Build) -> Vec<f32> {
    let mut tape = Tape::new(Mode::Eval);
    let input = tape.fixed([1, 4, 4, 9], Dtype::Activation);
    let y = build(&mut tape.root(), input);
    tape.keep(y);
    let mut program = tape.compile(&mut Weights::on(device, 0)).unwrap();
    program.write(input, x).unwrap();
    program.run().unwrap();
    program.read(y).unwrap()
}

#[test]
fn a_nan_wins_every_maximum_it_is_in() {
    // At row 1, column 2, in the last channel; everything else of that channel is larger than what a maximum begins with.
    let mut x: Vec<f32> = (0..4 * 4 * 9).map(|i| (i * 37 % 23) as f32 - 11.0).collect();
    x[(4 + 2) * 9 + 8] = f32::NAN;
    let ops: [(&str, Build, &[usize]); 3] = [
        // Windows of 3 around rows and columns 0 and 2 hold it where they reach row 1 and column 2.
        ("max_pool of 3", |s, x| s.max_pool(x, 3), &[1, 3]),
        ("max_pool of 2", |s, x| s.max_pool(x, 2), &[1]),
        ("relu", |s, x| s.relu(x), &[6]),
    ];
    for (name, build, expected) in ops {
        let check = |y: Vec<f32>, device: &str| {
            let lost: Vec<usize> = (0..y.len()).filter(|i| y[*i].is_nan()).collect();
            let expected: Vec<usize> = expected.iter().map(|pixel| pixel * 9 + 8).collect();
            assert_eq!(lost, expected, "{name} on {device}");
        };
        check(run(Device::Cpu, &x, build), "the CPU");
        if !missing() {
            for dtype in [Dtype::F32, Dtype::Bf16] {
                check(run(Device::Gpu(Emulated::new(dtype, Options::default())), &x, build), dtype.name());
            }
        }
    }
}
