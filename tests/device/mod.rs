//! The seam to a GPU, with a device that keeps its memory in a list: programs and weights work through its functions alone, and a missing
//! feature is an error in a sentence.

pub mod replay;
mod signature;

use sslmem::device::signature::MAP;
use sslmem::device::{Arg, Capabilities, Device, Gpu, GpuDevice, Host, Launch, Matrix, Replay};
use sslmem::error::{Error, Result};
use sslmem::init::Init;
use sslmem::tape::{Call, Cost, Mode, Operands, Tape};
use sslmem::var::{Dtype, Var};
use sslmem::weights::Weights;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

#[derive(Default)]
struct List {
    blocks: RefCell<BTreeMap<u64, Vec<u8>>>, // address to memory
    launches: RefCell<Vec<Launch>>,
    room: usize,
}

impl GpuDevice for List {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
    fn free(&self, address: u64) {
        self.blocks.borrow_mut().remove(&address);
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities::portable((8, 0), 1, 0)
    }
    fn map(&self, _: u64, _: &Matrix) -> Result<[u64; MAP]> {
        unreachable!("no kernel for Hopper is chosen")
    }
    fn alloc(&self, bytes: usize) -> Result<u64> {
        if bytes > self.room {
            return Err(Error::config(format!("the device has no room for {bytes} bytes"), "lower the batch"));
        }
        let mut blocks = self.blocks.borrow_mut();
        let address = blocks.last_key_value().map_or(0, |(last, _)| *last) + 4096;
        blocks.insert(address, vec![0; bytes]);
        Ok(address)
    }
    fn upload(&self, to: u64, bytes: &[u8]) -> Result<()> {
        self.blocks.borrow_mut().get_mut(&to).unwrap()[..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
    fn download(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        bytes.copy_from_slice(&self.blocks.borrow()[&from][..bytes.len()]);
        Ok(())
    }
    /// Knows one kernel: y = the sum of the first `count` of values, times `scale`.
    fn launch(&self, launch: &Launch, words: &[u64]) -> Result<()> {
        assert_eq!(launch.kernel, "scaled_sum");
        let &[y, values, count, scale] = words else { panic!("four arguments") };
        let values = self.blocks.borrow()[&values].clone();
        let values = values.chunks_exact(4).take(count as usize).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        let total = values.sum::<f32>() * f32::from_bits(scale as u32);
        self.blocks.borrow_mut().insert(y, total.to_le_bytes().to_vec());
        self.launches.borrow_mut().push(launch.clone());
        Ok(())
    }
    fn capture(&self, _: &mut dyn FnMut() -> Result<()>) -> Result<Option<Replay>> {
        Ok(None)
    }
    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        work().map(|()| 0.0)
    }
}

struct Mean {
    y: Var, // [1]
    x: Var, // [rows]
    rows: usize,
}

impl Call for Mean {
    fn name(&self) -> &'static str {
        "mean"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.y], &[self.x])
    }
    fn cpu(&self, m: &Host) {
        m.f_mut(self.y)[0] = m.f(self.x).iter().take(self.rows).sum::<f32>() / self.rows as f32;
    }
    fn gpu(&self, g: &Gpu) {
        let launch = Launch { kernel: "scaled_sum", grid: [1, 1, 1], block: [1024, 1, 1], shared: 0 };
        g.launch(&launch, &[self.y.into(), self.x.into(), self.rows.into(), Arg::F32(1.0 / self.rows as f32)]);
    }
    fn cost(&self, _: u64) -> Cost {
        Cost::default()
    }
}

/// An op that only the CPU knows.
struct NoKernel(Var);

impl Call for NoKernel {
    fn name(&self) -> &'static str {
        "no_kernel"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.0], &[])
    }
    fn cpu(&self, _: &Host) {}
    fn cost(&self, _: u64) -> Cost {
        Cost::default()
    }
}

/// Gives the kernel what it does not take.
struct Wrong(Var);

impl Call for Wrong {
    fn name(&self) -> &'static str {
        "wrong"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.0], &[])
    }
    fn cpu(&self, _: &Host) {}
    fn gpu(&self, g: &Gpu) {
        let launch = Launch { kernel: "scaled_sum", grid: [1, 1, 1], block: [1024, 1, 1], shared: 0 };
        g.launch(&launch, &[self.0.into(), Arg::F32(1.0), Arg::I32(1), Arg::F32(1.0)]);
    }
    fn cost(&self, _: u64) -> Cost {
        Cost::default()
    }
}

#[test]
fn a_program_runs_through_the_device_as_on_the_cpu() {
    let gpu = Rc::new(List { room: 1 << 20, ..List::default() });
    let run = |device: Device| {
        let mut tape = Tape::new(Mode::Eval);
        let w = tape.root().param("w", [4], Init::Uniform(1.0));
        let (y, z) = (tape.f32([1]), tape.fixed([1], Dtype::F32));
        tape.no_grad(Mean { y, x: w, rows: 4 });
        tape.no_grad(Mean { y: z, x: y, rows: 1 });
        let mut weights = Weights::on(device, 9);
        let mut program = tape.compile(&mut weights).unwrap();
        program.run().unwrap();
        program.write(w, &[1.0f32, 2.0, 4.0, 5.0]).unwrap();
        program.run().unwrap();
        (program.read::<f32>(z).unwrap(), weights.get("w").unwrap().unwrap())
    };
    let cpu = run(Device::Cpu);
    assert_eq!(run(Device::Gpu(gpu.clone())), cpu);
    assert_eq!(cpu.0, [3.0]);
    assert_eq!(gpu.launches.borrow().len(), 4);
}

#[test]
fn a_launch_that_does_not_fit_its_kernel_never_starts() {
    let gpu = Rc::new(List { room: 1 << 20, ..List::default() });
    let mut tape = Tape::new(Mode::Eval);
    let y = tape.fixed([1], Dtype::F32);
    tape.no_grad(Wrong(y));
    let mut program = tape.compile(&mut Weights::on(Device::Gpu(gpu.clone()), 0)).unwrap();
    let error = program.run().unwrap_err().to_string();
    assert!(error.contains("argument 2 (`values`) of `scaled_sum`") && error.contains("not a float"), "{error}");
    assert!(gpu.launches.borrow().is_empty());
}

#[test]
fn what_a_gpu_cannot_do_is_said_in_a_sentence() {
    let mut tape = Tape::new(Mode::Eval);
    let x = tape.fixed([8], Dtype::F32);
    tape.no_grad(NoKernel(x));
    let gpu = Rc::new(List { room: 1 << 20, ..List::default() });
    let mut program = tape.compile(&mut Weights::on(Device::Gpu(gpu), 0)).unwrap();
    let error = program.run().unwrap_err().to_string();
    assert_eq!(error, "`no_kernel` has no GPU kernel in this version; run on the CPU");
    let mut tape = Tape::new(Mode::Eval);
    tape.fixed([1000], Dtype::F32);
    let error = tape.compile(&mut Weights::on(Device::Gpu(Rc::new(List::default())), 0)).err().unwrap().to_string();
    assert!(error.contains("no room for 4000 bytes"), "{error}");
}
