//! Loads, stores, atomics and asynchronous copies, with their checks and their traffic.

use super::Machine;
use super::warp::{InFlight, Lanes64, Warp, lanes};
use crate::ir::{AtomOp, Instruction, Op, Operand, Space, Type};
use crate::memory::{Other, Touching};
use crate::report::FindingKind;
use crate::shared::{Access, WINDOW, WINDOW_BYTES};

/// Where an address leads.
#[derive(Clone, Copy)]
pub(super) enum Place {
    /// Offset in shared memory.
    Shared(usize),
    /// Allocation and offset in it.
    Global(usize, usize),
}

/// Addresses of one warp-wide access, for the counters.
pub(crate) struct Touched {
    pub(crate) address: Lanes64,
    pub(crate) mask: u32,
}

impl Touched {
    pub(crate) fn none() -> Self {
        Self { address: [0; 32], mask: 0 }
    }

    pub(crate) fn add(&mut self, lane: usize, address: u64) {
        self.address[lane] = address;
        self.mask |= 1 << lane;
    }
}

fn operand_parts(o: &Operand) -> &[Operand] {
    if let Operand::Vector(v) = o { v } else { std::slice::from_ref(o) }
}

impl Machine<'_> {
    /// Runs an instruction of this file; false if it is not one.
    pub(super) fn run_memory(&mut self, w: &mut Warp, i: &Instruction, m: u32) -> bool {
        match i.op {
            Op::LdParam { ty, .. } => self.load_param(w, i, m, ty),
            Op::Ld { space, ty, n } => self.load(w, i, m, space, ty, n.into()),
            Op::St { space, ty, n } => self.store(w, i, m, space, ty, n.into()),
            Op::Atom { op, space, ty, result } => self.atomic(w, i, m, op, space, ty, result),
            Op::CpAsync => self.copy_async(w, i, m),
            Op::CpCommit => {
                for l in lanes(m) {
                    w.commits[l] = w.commits[l].wrapping_add(1);
                }
            }
            Op::CpWait => {
                let keep = if let Some(Operand::Imm(n)) = i.args.first() { *n as u32 } else { 0 };
                self.wait(w, m, Some(keep));
            }
            Op::CpWaitAll => self.wait(w, m, None),
            _ => return false,
        }
        true
    }

    fn load_param(&self, w: &mut Warp, i: &Instruction, m: u32, ty: Type) {
        let Operand::Address(base, offset) = &i.args[1] else { return };
        let Operand::Param(p) = **base else { return };
        let size = ty.bytes();
        let mut at = i64::from(p).wrapping_add(*offset);
        for part in operand_parts(&i.args[0]) {
            let mut raw = [0u8; 8];
            if let Ok(start) = usize::try_from(at)
                && let Some(bytes) = self.launch.params.get(start..start.saturating_add(size))
            {
                raw[..size].copy_from_slice(bytes);
            }
            w.set64(part, &[extend(u64::from_le_bytes(raw), ty); 32], m);
            at = at.wrapping_add(size as i64);
        }
    }

    /// Finds and checks an address; reports what is wrong with it.
    pub(super) fn place(
        &mut self,
        w: &Warp,
        i: &Instruction,
        lane: usize,
        space: Space,
        address: u64,
        bytes: usize,
    ) -> Option<Place> {
        let window = address.wrapping_sub(WINDOW) < WINDOW_BYTES;
        let place = if space == Space::Shared || space == Space::Generic && window {
            let a = if window { address - WINDOW } else { address };
            if a.checked_add(bytes as u64).is_none_or(|end| end > self.shared.data.len() as u64) {
                let size = self.shared.data.len();
                self.find(FindingKind::OutOfBounds, i, w, lane, || {
                    format!("{bytes} bytes at shared address {a:#x}; the block has {size} bytes of shared memory")
                });
                return None;
            }
            Place::Shared(a as usize)
        } else {
            let cached = self.last;
            let found = match (cached < self.memory.usage_count()).then(|| self.memory.at(cached)) {
                Some(c) if address >= c.base && address - c.base + bytes as u64 <= c.data.len() as u64 => {
                    Some((cached, (address - c.base) as usize))
                }
                _ => self.memory.find(address, bytes),
            };
            let Some((index, offset)) = found else {
                let near = self.memory.describe(address);
                self.find(FindingKind::OutOfBounds, i, w, lane, || {
                    format!("{bytes} bytes at global address {address:#x}: {near}")
                });
                return None;
            };
            self.last = index;
            Place::Global(index, offset)
        };
        if address & (bytes as u64 - 1) != 0 {
            self.find(FindingKind::Misaligned, i, w, lane, || {
                format!("address {address:#x} is not a multiple of {bytes}")
            });
            return None;
        }
        Some(place)
    }

    /// Records an access to shared memory and reports conflicts.
    pub(super) fn touch_shared(
        &mut self,
        w: &Warp,
        i: &Instruction,
        lane: usize,
        at: usize,
        bytes: usize,
        how: Access,
    ) {
        let o = self.options;
        let Some(c) = self.shared.touch(w.id, at, bytes, how, o.shared_races, o.uninitialised) else { return };
        self.find(c.kind, i, w, lane, || {
            let (a, v) = (c.address, c.warp);
            match c.kind {
                FindingKind::Uninitialised => format!("shared address {a:#x} is read but nobody has written it"),
                FindingKind::InFlight => format!(
                    "shared address {a:#x} is touched while a cp.async of warp {v} is still writing it; wait for its \
                     group first"
                ),
                FindingKind::SharedReadAfterWrite => format!(
                    "shared address {a:#x} is read by warp {} and was written by warp {v} with no barrier between",
                    w.id
                ),
                FindingKind::SharedWriteAfterRead => format!(
                    "shared address {a:#x} is overwritten by warp {} and was read by warp {v} with no barrier between",
                    w.id
                ),
                _ => format!("shared address {a:#x} is written by warps {v} and {} with no barrier between", w.id),
            }
        });
    }

    fn touch_global(
        &mut self,
        w: &Warp,
        i: &Instruction,
        lane: usize,
        (index, offset): (usize, usize),
        bytes: usize,
        how: Touching,
    ) {
        if self.options.uninitialised && how != Touching::Write && !self.memory.at(index).initialised(offset, bytes) {
            self.find(FindingKind::Uninitialised, i, w, lane, || {
                format!("{bytes} bytes at offset {offset} of an allocation are read but were not all written")
            });
        }
        if !self.options.global_races {
            return;
        }
        let other = self.memory.at_mut(index).touch(self.stamps, self.cta_index, offset, bytes, how);
        if let Some(other) = other {
            self.find(FindingKind::GlobalRace, i, w, lane, || {
                let does = match how {
                    Touching::Read => "reads",
                    Touching::Write => "writes",
                    Touching::Atomic => "updates",
                };
                let them = match other {
                    Other::Reader(c) => format!("CTA number {c} reads"),
                    Other::Writer(c) => format!("CTA number {c} writes"),
                    Other::SeveralReaders => "several CTAs read".to_owned(),
                    Other::Atomics => "atomics update".to_owned(),
                };
                format!("this CTA {does} offset {offset} of an allocation that {them} in the same launch")
            });
        }
    }

    fn load(&mut self, w: &mut Warp, i: &Instruction, m: u32, space: Space, ty: Type, n: usize) {
        let size = ty.bytes();
        let bytes = size * n;
        let address = w.addresses(&i.args[1]);
        let mut raw = [[0u8; 16]; 32];
        let (mut global, mut shared) = (Touched::none(), Touched::none());
        for l in lanes(m) {
            match self.place(w, i, l, space, address[l], bytes) {
                Some(Place::Shared(at)) => {
                    self.touch_shared(w, i, l, at, bytes, Access::Read);
                    raw[l][..bytes].copy_from_slice(&self.shared.data[at..at + bytes]);
                    shared.add(l, at as u64);
                }
                Some(Place::Global(index, at)) => {
                    self.touch_global(w, i, l, (index, at), bytes, Touching::Read);
                    raw[l][..bytes].copy_from_slice(&self.memory.at(index).data[at..at + bytes]);
                    global.add(l, address[l]);
                }
                None => {}
            }
        }
        self.count_global(&global, bytes, false);
        self.count_shared(&shared, bytes);
        for (q, part) in operand_parts(&i.args[0]).iter().enumerate() {
            if size == 4 && matches!(part, Operand::R(_)) {
                let mut out = [0u32; 32];
                for l in 0..32 {
                    let b = &raw[l][4 * q..4 * q + 4];
                    out[l] = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                }
                w.set32(part, &out, m);
                continue;
            }
            let mut out = [0u64; 32];
            for l in 0..32 {
                let mut v = [0u8; 8];
                v[..size].copy_from_slice(&raw[l][size * q..size * (q + 1)]);
                out[l] = extend(u64::from_le_bytes(v), ty);
            }
            w.set64(part, &out, m);
        }
    }

    fn store(&mut self, w: &mut Warp, i: &Instruction, m: u32, space: Space, ty: Type, n: usize) {
        let size = ty.bytes();
        let bytes = size * n;
        let address = w.addresses(&i.args[0]);
        let mut raw = [[0u8; 16]; 32];
        for (q, part) in operand_parts(&i.args[1]).iter().enumerate() {
            let mut buffer = [0; 32];
            let x = w.get64(part, &mut buffer);
            for l in 0..32 {
                raw[l][size * q..size * (q + 1)].copy_from_slice(&x[l].to_le_bytes()[..size]);
            }
        }
        let (mut global, mut shared) = (Touched::none(), Touched::none());
        for l in lanes(m) {
            match self.place(w, i, l, space, address[l], bytes) {
                Some(Place::Shared(at)) => {
                    self.touch_shared(w, i, l, at, bytes, Access::Write);
                    self.shared.data[at..at + bytes].copy_from_slice(&raw[l][..bytes]);
                    shared.add(l, at as u64);
                }
                Some(Place::Global(index, at)) => {
                    self.touch_global(w, i, l, (index, at), bytes, Touching::Write);
                    let a = self.memory.at_mut(index);
                    a.data[at..at + bytes].copy_from_slice(&raw[l][..bytes]);
                    a.mark_written(at, bytes);
                    global.add(l, address[l]);
                }
                None => {}
            }
        }
        self.count_global(&global, bytes, true);
        self.count_shared(&shared, bytes);
    }

    fn atomic(&mut self, w: &mut Warp, i: &Instruction, m: u32, op: AtomOp, space: Space, ty: Type, result: bool) {
        let at = usize::from(result);
        let size = ty.bytes();
        let address = w.addresses(&i.args[at]);
        let (mut bx, mut by) = ([0; 32], [0; 32]);
        let x = *w.get64(&i.args[at + 1], &mut bx);
        let y = i.args.get(at + 2).map_or([0; 32], |o| *w.get64(o, &mut by));
        // Immediates have 64 bits.
        let [x, y] = [x, y].map(|v| v.map(|v| v & u64::MAX >> (64 - 8 * size)));
        let mut old = [0; 32];
        let (mut global, mut shared) = (Touched::none(), Touched::none());
        for l in lanes(m) {
            if ty.is_float() {
                self.find(FindingKind::FloatAtomic, i, w, l, || {
                    "the order of the threads, and so the rounding of the sum, differs from run to run".to_owned()
                });
            }
            let mut raw = [0u8; 8];
            match self.place(w, i, l, space, address[l], size) {
                Some(Place::Shared(o)) => {
                    self.touch_shared(w, i, l, o, size, Access::Atomic);
                    raw[..size].copy_from_slice(&self.shared.data[o..o + size]);
                    let v = u64::from_le_bytes(raw);
                    let new = update(op, ty, v, x[l], y[l]).to_le_bytes();
                    self.shared.data[o..o + size].copy_from_slice(&new[..size]);
                    old[l] = v;
                    shared.add(l, o as u64);
                }
                Some(Place::Global(index, o)) => {
                    self.touch_global(w, i, l, (index, o), size, Touching::Atomic);
                    let a = self.memory.at_mut(index);
                    raw[..size].copy_from_slice(&a.data[o..o + size]);
                    let v = u64::from_le_bytes(raw);
                    let new = update(op, ty, v, x[l], y[l]).to_le_bytes();
                    a.data[o..o + size].copy_from_slice(&new[..size]);
                    a.mark_written(o, size);
                    old[l] = v;
                    global.add(l, address[l]);
                }
                None => {}
            }
        }
        self.count_global(&global, size, true);
        self.count_shared(&shared, size);
        if result {
            w.set64(&i.args[0], &old, m);
        }
    }

    fn copy_async(&mut self, w: &mut Warp, i: &Instruction, m: u32) {
        let to = w.addresses(&i.args[0]);
        let from = w.addresses(&i.args[1]);
        let Operand::Imm(bytes) = i.args[2] else { return };
        let bytes = bytes as usize;
        let mut buffer = [0; 32];
        let sizes = i.args.get(3).map_or([bytes as u32; 32], |o| *w.get32(o, &mut buffer));
        let (mut global, mut shared) = (Touched::none(), Touched::none());
        let mut read = 0;
        for l in lanes(m) {
            let taken = (sizes[l] as usize).min(bytes);
            if (sizes[l] as usize) > bytes {
                self.find(FindingKind::Malformed, i, w, l, || format!("{} bytes of {bytes} are read", sizes[l]));
            }
            let mut found = 0;
            if taken > 0 {
                if from[l] & (bytes as u64 - 1) != 0 {
                    self.find(FindingKind::Misaligned, i, w, l, || {
                        format!("the source {:#x} is not a multiple of {bytes}", from[l])
                    });
                } else if let Some(at) = self.memory.find(from[l], taken) {
                    self.touch_global(w, i, l, at, taken, Touching::Read);
                    global.add(l, from[l]);
                    read += taken as u64;
                    found = taken;
                } else {
                    let near = self.memory.describe(from[l]);
                    self.find(FindingKind::OutOfBounds, i, w, l, || {
                        format!("{taken} bytes at global address {:#x}: {near}", from[l])
                    });
                }
            }
            if let Some(Place::Shared(at)) = self.place(w, i, l, Space::Shared, to[l], bytes) {
                self.touch_shared(w, i, l, at, bytes, Access::Async((w.id * 32 + l) as u16));
                // Whoever reads these bytes before the wait sees poison.
                self.shared.data[at..at + bytes].fill(0xCB);
                let pc = self.pc;
                w.in_flight.push(InFlight {
                    lane: l as u8,
                    bytes: bytes as u8,
                    from_source: found as u8,
                    to: at as u32,
                    from: from[l],
                    group: w.commits[l],
                    pc,
                });
                shared.add(l, at as u64);
            }
        }
        self.count_global_bytes(&global, bytes, read);
        self.count_shared(&shared, bytes);
    }

    /// Completes the copies of the lanes in `m`: all but the last `keep` groups, or everything.
    fn wait(&mut self, w: &mut Warp, m: u32, keep: Option<u32>) {
        let mut kept = 0;
        for q in 0..w.in_flight.len() {
            let c = w.in_flight[q];
            let lane = usize::from(c.lane);
            let due = match keep {
                None => true,
                Some(n) => u64::from(c.group) + u64::from(n) < u64::from(w.commits[lane]),
            };
            if m >> lane & 1 == 0 || !due {
                w.in_flight[kept] = c;
                kept += 1;
                continue;
            }
            let (to, bytes, taken) = (c.to as usize, usize::from(c.bytes), usize::from(c.from_source));
            let mut raw = [0u8; 16];
            if let Some((index, at)) = self.memory.find(c.from, taken).filter(|_| taken > 0) {
                raw[..taken].copy_from_slice(&self.memory.at(index).data[at..at + taken]);
            }
            self.shared.data[to..to + bytes].copy_from_slice(&raw[..bytes]);
            self.shared.arrived(w.id, to, bytes);
        }
        w.in_flight.truncate(kept);
    }
}

/// Sign-extends signed types.
fn extend(v: u64, ty: Type) -> u64 {
    match ty {
        Type::S8 => v as i8 as i64 as u64,
        Type::S16 => v as i16 as i64 as u64,
        Type::S32 => v as i32 as i64 as u64,
        _ => v,
    }
}

fn update(op: AtomOp, ty: Type, old: u64, x: u64, y: u64) -> u64 {
    let (a, b) = (extend(old, ty), extend(x, ty));
    match op {
        AtomOp::Add if ty == Type::F32 => (f32::from_bits(old as u32) + f32::from_bits(x as u32)).to_bits().into(),
        AtomOp::Add if ty == Type::F64 => (f64::from_bits(old) + f64::from_bits(x)).to_bits(),
        AtomOp::Add => old.wrapping_add(x),
        AtomOp::Min if ty.is_signed() => (a as i64).min(b as i64) as u64,
        AtomOp::Max if ty.is_signed() => (a as i64).max(b as i64) as u64,
        AtomOp::Min => old.min(x),
        AtomOp::Max => old.max(x),
        AtomOp::And => old & x,
        AtomOp::Or => old | x,
        AtomOp::Xor => old ^ x,
        AtomOp::Exch => x,
        AtomOp::Cas => {
            if old == x {
                y
            } else {
                old
            }
        }
        AtomOp::Inc => {
            if old >= x {
                0
            } else {
                old + 1
            }
        }
        AtomOp::Dec => {
            if old == 0 || old > x {
                x
            } else {
                old - 1
            }
        }
    }
}
