//! ldmatrix and mma.sync, on the fragments of a whole warp. The layouts are those of the PTX manual.

use crate::machine::Machine;
use crate::warp::Warp;

#[repr(C)]
struct Ldmatrix {
    row: u32,
    count: u32,
    trans: u32,
    r: *mut u32,
}

#[repr(C)]
struct Mma {
    d: *mut f32,
    a: *const u32,
    b: *const u32,
}

/// The two bf16 of a register.
pub fn pair(register: u32) -> [f32; 2] {
    [f32::from_bits(register << 16), f32::from_bits(register & 0xffff_0000)]
}

pub fn ldmatrix(machine: &mut Machine, number: usize) -> Result<(), String> {
    let site = machine.block.warps[number].calls[0].site;
    let lane_args = |warp: &Warp, lane: usize| {
        // SAFETY: all 32 lanes wait in ldmatrix with these arguments on their stacks.
        unsafe { &*(warp.calls[lane].args as *const Ldmatrix) }
    };
    let Ldmatrix { count, trans, .. } = *lane_args(&machine.block.warps[number], 0);
    let mut offsets = [0; 32];
    let offsets = &mut offsets[..count as usize * 8];
    for (lane, offset) in offsets.iter_mut().enumerate() {
        let row = lane_args(&machine.block.warps[number], lane).row;
        machine.shared.at(row, 16, 16, "ldmatrix").map_err(|e| format!("{e}, at {site}"))?;
        *offset = Machine::offset(row);
        machine.shared_by(number * 32 + lane, *offset, 16, false, "ldmatrix")?;
    }
    if machine.options.counts {
        machine.counter.ldmatrix(site, offsets);
    }
    let warp = &machine.block.warps[number];
    for matrix in 0..count as usize {
        // SAFETY: the rows lie inside the block's shared memory, as checked above, and are aligned.
        let rows: [[u16; 8]; 8] = std::array::from_fn(|r| unsafe { *((machine.shared.base + offsets[matrix * 8 + r]) as *const [u16; 8]) });
        for lane in 0..32 {
            let (row, column) = (lane / 4, lane % 4 * 2);
            let [low, high] = match trans {
                0 => [rows[row][column], rows[row][column + 1]],
                _ => [rows[column][row], rows[column + 1][row]],
            };
            // SAFETY: `r` has `count` registers.
            unsafe { *lane_args(warp, lane).r.add(matrix) = low as u32 | (high as u32) << 16 };
        }
    }
    Ok(())
}

pub fn mma(machine: &mut Machine, number: usize) {
    let warp = &machine.block.warps[number];
    let (mut a, mut b, mut d) = ([[0f32; 16]; 16], [[0f32; 8]; 16], [[0f32; 8]; 16]);
    let fragments = |lane: usize| {
        // SAFETY: all 32 lanes wait in mma with these arguments on their stacks: 4, 2 and 4 registers.
        unsafe {
            let args = &*(warp.calls[lane].args as *const Mma);
            (&*(args.a as *const [u32; 4]), &*(args.b as *const [u32; 2]), &mut *(args.d as *mut [f32; 4]))
        }
    };
    for lane in 0..32 {
        let (g, q) = (lane / 4, lane % 4 * 2);
        let (fa, fb, fd) = fragments(lane);
        for (i, &register) in fa.iter().enumerate() {
            let (row, column) = (g + i % 2 * 8, q + i / 2 * 8);
            [a[row][column], a[row][column + 1]] = pair(register);
        }
        for (i, &register) in fb.iter().enumerate() {
            [b[q + i * 8][g], b[q + i * 8 + 1][g]] = pair(register);
        }
        for i in 0..2 {
            d[g + i * 8][q..q + 2].copy_from_slice(&fd[i * 2..i * 2 + 2]);
        }
    }
    for (sums, row) in d.iter_mut().zip(&a) {
        for (&x, column) in row.iter().zip(&b) {
            sums.iter_mut().zip(column).for_each(|(sum, y)| *sum += x * y);
        }
    }
    for lane in 0..32 {
        let (g, q) = (lane / 4, lane % 4 * 2);
        for i in 0..2 {
            fragments(lane).2[i * 2..i * 2 + 2].copy_from_slice(&d[g + i * 8][q..q + 2]);
        }
    }
    machine.counter.mma(16 * 8 * 16);
}
