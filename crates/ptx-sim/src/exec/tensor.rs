//! Tensor-core products and `ldmatrix`.
//!
//! The products of bf16, f16 and tf32 factors are exact in f64, and so are their sums to far beyond f32. Hardware
//! rounds its sums in ways that NVIDIA does not document; the two ends of the range are a sum rounded to nearest and
//! one truncated, which [`crate::Rounding`] chooses.

use super::Machine;
use super::memory::Touched;
use super::warp::{ALL, Lanes32, Warp};
use crate::ir::{Instruction, MmaKind, Op, Operand, Round, Space, Type};
use crate::numeric::{bf16_to_f32, canonical, f16_to_f32, to_f32};
use crate::report::FindingKind;
use crate::shared::Access;

/// The factors, as f64 (8-bit integers are exact too).
struct Factors<const K: usize> {
    a: [[f64; K]; 16],
    b: [[f64; 8]; K],
}

impl<const K: usize> Factors<K> {
    fn new() -> Self {
        Self { a: [[0.0; K]; 16], b: [[0.0; 8]; K] }
    }

    /// The sums of products, exact far beyond f32.
    fn product(&self) -> [[f64; 8]; 16] {
        let mut sums = [[0f64; 8]; 16];
        for (s, row) in sums.iter_mut().zip(&self.a) {
            for (x, column) in row.iter().zip(&self.b) {
                for n in 0..8 {
                    s[n] += x * column[n];
                }
            }
        }
        sums
    }
}

impl Machine<'_> {
    /// Runs an instruction of this file; false if it is not one.
    pub(super) fn run_tensor(&mut self, w: &mut Warp, i: &Instruction, m: u32) -> bool {
        match i.op {
            Op::Mma(kind) => self.product(w, i, kind),
            Op::Ldmatrix { n, trans } => self.load_matrix(w, i, m, n.into(), trans),
            _ => return false,
        }
        true
    }

    fn load_matrix(&mut self, w: &mut Warp, i: &Instruction, m: u32, n: usize, trans: bool) {
        let address = w.addresses(&i.args[1]);
        let parts = part_list(&i.args[0]);
        let mut touched = Touched::none();
        for (q, part) in parts.iter().enumerate().take(n) {
            let mut rows = [[0u16; 8]; 8];
            for (r, row) in rows.iter_mut().enumerate() {
                let lane = 8 * q + r;
                let Some(at) = self.shared_row(w, i, lane, address[lane]) else { continue };
                self.touch_shared(w, i, lane, at, 16, Access::Read);
                touched.add(lane, at as u64);
                for (e, v) in row.iter_mut().enumerate() {
                    *v = u16::from_le_bytes([self.shared.data[at + 2 * e], self.shared.data[at + 2 * e + 1]]);
                }
            }
            let mut out = [0u32; 32];
            for (l, v) in out.iter_mut().enumerate() {
                let (r, c) = (l / 4, l % 4 * 2);
                let (low, high) = if trans { (rows[c][r], rows[c + 1][r]) } else { (rows[r][c], rows[r][c + 1]) };
                *v = u32::from(low) | u32::from(high) << 16;
            }
            w.set32(part, &out, m);
        }
        self.count_shared(&touched, 16);
    }

    fn product(&mut self, w: &mut Warp, i: &Instruction, kind: MmaKind) {
        let (sums, k) = match kind {
            MmaKind::M16n8k16(ty) => (halves::<16>(w, i, ty).product(), 16),
            MmaKind::M16n8k8Half(ty) => (halves::<8>(w, i, ty).product(), 8),
            MmaKind::M16n8k8Tf32 => (tf32(w, i).product(), 8),
            MmaKind::M16n8k32 { a_signed, b_signed, .. } => (bytes(w, i, a_signed, b_signed).product(), 32),
        };
        self.tensor_flops += 2 * 16 * 8 * k;
        let (from, to) = (part_list(&i.args[3]), part_list(&i.args[0]));
        let integer = matches!(kind, MmaKind::M16n8k32 { .. });
        let saturate = matches!(kind, MmaKind::M16n8k32 { sat: true, .. });
        let round = if self.deviation.truncates() { Round::Zero } else { Round::Nearest };
        let mut results = [[0u32; 32]; 4];
        for (q, out) in results.iter_mut().enumerate() {
            let mut buffer = [0; 32];
            let c = w.get32(&from[q], &mut buffer);
            for l in 0..32 {
                let sum = sums[l / 4 + 8 * (q >> 1)][l % 4 * 2 + (q & 1)];
                out[l] = if saturate {
                    (c[l] as i32).saturating_add(sum as i32) as u32
                } else if integer {
                    c[l].wrapping_add(sum as i32 as u32)
                } else {
                    let sum = f64::from(f32::from_bits(c[l])) + sum;
                    canonical(if round == Round::Nearest { sum as f32 } else { to_f32(sum, round) })
                };
            }
        }
        for (part, out) in to.iter().zip(&results) {
            w.set32(part, out, ALL);
        }
    }

    /// Checks the address of one row of 16 bytes.
    fn shared_row(&mut self, w: &Warp, i: &Instruction, lane: usize, address: u64) -> Option<usize> {
        match self.place(w, i, lane, Space::Shared, address, 16) {
            Some(super::memory::Place::Shared(at)) => Some(at),
            _ => None,
        }
    }

    /// Warp-wide instructions of the tensor cores need every lane of a full warp.
    pub(super) fn needs_full_warp(&mut self, w: &Warp, i: &Instruction, m: u32) -> bool {
        if m == ALL {
            return true;
        }
        self.find(FindingKind::Divergence, i, w, m.trailing_zeros() as usize % 32, || {
            format!("only lanes {m:#010x} of warp {} take part; all 32 must", w.id)
        });
        false
    }
}

fn part_list(o: &Operand) -> &[Operand] {
    if let Operand::Vector(v) = o { v } else { std::slice::from_ref(o) }
}

/// Gives each register of a fragment to a function.
#[inline(always)]
fn each(w: &Warp, fragment: &Operand, mut put: impl FnMut(usize, &Lanes32)) {
    for (q, part) in part_list(fragment).iter().enumerate() {
        let mut buffer = [0; 32];
        put(q, w.get32(part, &mut buffer));
    }
}

/// Spreads the fragments of halves over the matrices, as the PTX manual lays them out. Lane `l` is in group `l / 4`.
fn halves<const K: usize>(w: &Warp, i: &Instruction, ty: Type) -> Factors<K> {
    let mut f = Factors::new();
    let widen = |x: u32| -> f64 { if ty == Type::Bf16 { bf16_to_f32(x as u16) } else { f16_to_f32(x as u16) }.into() };
    each(w, &i.args[1], |q, x| {
        for l in 0..32 {
            let (row, k) = (l / 4 + 8 * (q & 1), l % 4 * 2 + 8 * (q >> 1));
            f.a[row][k] = widen(x[l]);
            f.a[row][k + 1] = widen(x[l] >> 16);
        }
    });
    each(w, &i.args[2], |q, x| {
        for l in 0..32 {
            let k = l % 4 * 2 + 8 * q;
            f.b[k][l / 4] = widen(x[l]);
            f.b[k + 1][l / 4] = widen(x[l] >> 16);
        }
    });
    f
}

/// The same for tf32; the low 13 bits of a register are ignored.
fn tf32(w: &Warp, i: &Instruction) -> Factors<8> {
    let mut f = Factors::new();
    let widen = |x: u32| f64::from(f32::from_bits(x & !0x1fff));
    each(w, &i.args[1], |q, x| {
        for l in 0..32 {
            f.a[l / 4 + 8 * (q & 1)][l % 4 + 4 * (q >> 1)] = widen(x[l]);
        }
    });
    each(w, &i.args[2], |q, x| {
        for l in 0..32 {
            f.b[l % 4 + 4 * q][l / 4] = widen(x[l]);
        }
    });
    f
}

/// The same for 8-bit integers.
fn bytes(w: &Warp, i: &Instruction, a_signed: bool, b_signed: bool) -> Factors<32> {
    let mut f = Factors::new();
    let byte = |x: u32, e: usize, signed: bool| {
        let b = x.to_le_bytes()[e];
        if signed { f64::from(b as i8) } else { f64::from(b) }
    };
    each(w, &i.args[1], |q, x| {
        for l in 0..32 {
            for e in 0..4 {
                f.a[l / 4 + 8 * (q & 1)][l % 4 * 4 + 16 * (q >> 1) + e] = byte(x[l], e, a_signed);
            }
        }
    });
    each(w, &i.args[2], |q, x| {
        for l in 0..32 {
            for e in 0..4 {
                f.b[l % 4 * 4 + 16 * q + e][l / 4] = byte(x[l], e, b_signed);
            }
        }
    });
    f
}
