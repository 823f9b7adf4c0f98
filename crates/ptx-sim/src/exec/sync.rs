//! Exchange between lanes and gathering of lanes for warp-wide instructions.

use super::Machine;
use super::warp::{ALL, Warp, lanes};
use crate::ir::{Instruction, Op, Operand, Redux, ShflMode, Type, VoteMode};
use crate::report::FindingKind;

impl Machine<'_> {
    /// Brings the lanes of `required` together for a warp-wide instruction. False: this group has to wait for lanes
    /// that are elsewhere in the program, and runs the instruction again later.
    pub(super) fn gather(&mut self, w: &mut Warp, i: &Instruction, m: u32, required: u32) -> bool {
        let missing = required & w.live & !m;
        if missing == 0 {
            return true;
        }
        let guarded = w.groups.first().is_some_and(|g| g.mask & missing != 0);
        if w.groups.len() > 1 && !w.forced && !guarded {
            let g = &mut w.groups[0];
            g.pc = self.pc;
            g.parked = true;
            return false;
        }
        self.find(FindingKind::Divergence, i, w, m.trailing_zeros() as usize % 32, || {
            format!("lanes {m:#010x} of warp {} are here, lanes {missing:#010x} are missing", w.id)
        });
        true
    }

    /// Lanes that an instruction needs together; none for ordinary instructions.
    pub(super) fn required(w: &Warp, i: &Instruction, m: u32) -> u32 {
        let named = |o: &Operand| {
            let mut buffer = [0; 32];
            let masks = w.get32(o, &mut buffer);
            lanes(m).fold(0, |all, l| all | masks[l])
        };
        match i.op {
            Op::Bar | Op::BarArrive | Op::Mma(_) | Op::Ldmatrix { .. } => ALL,
            Op::Shfl(_) => named(&i.args[4]),
            Op::Vote(_) | Op::MatchAny(_) | Op::Redux(..) => named(&i.args[2]),
            Op::BarWarp => named(&i.args[0]),
            _ => 0,
        }
    }

    /// Runs an instruction of this file; false if it is not one.
    pub(super) fn run_lanes(&mut self, w: &mut Warp, i: &Instruction, m: u32) -> bool {
        let a = &*i.args;
        match i.op {
            Op::Shfl(mode) => self.shuffle(w, i, m, mode),
            Op::Vote(mode) => {
                let p = w.pred(&a[1]) & m;
                match mode {
                    VoteMode::Ballot => w.set32(&a[0], &[p; 32], m),
                    VoteMode::Any => w.set_pred(&a[0], if p != 0 { ALL } else { 0 }, m),
                    VoteMode::All => w.set_pred(&a[0], if p == m { ALL } else { 0 }, m),
                    VoteMode::Uni => w.set_pred(&a[0], if p == m || p == 0 { ALL } else { 0 }, m),
                }
            }
            Op::ActiveMask => w.set32(&a[0], &[m; 32], m),
            Op::MatchAny(_) => {
                let mut buffer = [0; 32];
                let x = *w.get64(&a[1], &mut buffer);
                let mut out = [0; 32];
                for l in lanes(m) {
                    out[l] = lanes(m).filter(|&k| x[k] == x[l]).fold(0, |p, k| p | 1 << k);
                }
                w.set32(&a[0], &out, m);
            }
            Op::Redux(op, ty) => {
                let mut buffer = [0; 32];
                let x = *w.get32(&a[1], &mut buffer);
                let signed = ty == Type::S32;
                let r = lanes(m).map(|l| x[l]).reduce(|p, q| match op {
                    Redux::Add => p.wrapping_add(q),
                    Redux::Min if signed => (p as i32).min(q as i32) as u32,
                    Redux::Max if signed => (p as i32).max(q as i32) as u32,
                    Redux::Min => p.min(q),
                    Redux::Max => p.max(q),
                    Redux::And => p & q,
                    Redux::Or => p | q,
                    Redux::Xor => p ^ q,
                });
                w.set32(&a[0], &[r.unwrap_or(0); 32], m);
            }
            Op::BarWarp | Op::Fence | Op::Nop => {}
            Op::Trap => {
                self.find(FindingKind::Trap, i, w, m.trailing_zeros() as usize % 32, || {
                    "the kernel gave up".to_owned()
                });
            }
            _ => return false,
        }
        true
    }

    fn shuffle(&mut self, w: &mut Warp, i: &Instruction, m: u32, mode: ShflMode) {
        let a = &*i.args;
        let (mut bx, mut bb, mut bc) = ([0; 32], [0; 32], [0; 32]);
        let x = *w.get32(&a[1], &mut bx);
        let b = *w.get32(&a[2], &mut bb);
        let c = *w.get32(&a[3], &mut bc);
        let mut mask_buffer = [0; 32];
        let masks = *w.get32(&a[4], &mut mask_buffer);
        let mut out = [0; 32];
        let mut valid = 0u32;
        for l in lanes(m) {
            if masks[l] >> l & 1 == 0 {
                self.find(FindingKind::Divergence, i, w, l, || {
                    format!("lane {l} takes part, and its mask {:#x} leaves it out", masks[l])
                });
            }
            let lane = l as u32;
            let (segment, clamp, by) = (c[l] >> 8 & 31, c[l] & 31, b[l] & 31);
            let last = lane & segment | clamp & !segment;
            let first = lane & segment;
            let (from, ok) = match mode {
                ShflMode::Up => (lane.wrapping_sub(by), lane as i32 - by as i32 >= last as i32),
                ShflMode::Down => (lane + by, lane + by <= last),
                ShflMode::Bfly => (lane ^ by, lane ^ by <= last),
                ShflMode::Idx => (first | by & !segment, first | by & !segment <= last),
            };
            let from = if ok { (from & 31) as usize } else { l };
            if m >> from & 1 == 0 {
                self.find(FindingKind::Divergence, i, w, l, || {
                    format!("lane {l} reads from lane {from}, which does not take part")
                });
            }
            out[l] = x[from];
            valid |= u32::from(ok) << l;
        }
        if let Operand::Pair(p) = &a[0] {
            w.set32(&p.0, &out, m);
            w.set_pred(&p.1, valid, m);
        } else {
            w.set32(&a[0], &out, m);
        }
    }
}
