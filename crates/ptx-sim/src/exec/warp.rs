//! A warp: registers of 32 lanes, the groups of lanes that still run, and reading and writing of operands.

use crate::ir::{Operand, Special};

/// A mask with all 32 lanes.
pub(crate) const ALL: u32 = u32::MAX;

/// Launch geometry that special registers show.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Geometry {
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) cta: [u32; 3],
    pub(crate) dynamic_shared: u32,
    pub(crate) total_shared: u32,
    /// Instructions run so far, as a clock.
    pub(crate) clock: u64,
}

/// Lanes that share a program counter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    pub(crate) pc: u32,
    pub(crate) mask: u32,
    /// Waits at a warp-wide instruction for lanes that are elsewhere.
    pub(crate) parked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Running,
    /// At a barrier: its number and, if given, the number of threads it needs.
    Waiting {
        id: u32,
        threads: Option<u32>,
        pc: u32,
    },
    Done,
}

/// A `cp.async` of one lane that has not been waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InFlight {
    pub(crate) lane: u8,
    pub(crate) bytes: u8,
    /// Bytes that come from memory; the rest is zeros.
    pub(crate) from_source: u8,
    pub(crate) to: u32,
    pub(crate) from: u64,
    /// The lane's group number when it was issued.
    pub(crate) group: u32,
    pub(crate) pc: u32,
}

pub(crate) struct Warp {
    pub(crate) id: usize,
    pub(crate) predicates: Vec<u32>,
    pub(crate) r: Vec<[u32; 32]>,
    pub(crate) d: Vec<[u64; 32]>,
    pub(crate) groups: Vec<Group>,
    /// Lanes that have not left the kernel.
    pub(crate) live: u32,
    pub(crate) state: State,
    /// Every group waits for another: the next warp-wide instruction runs with lanes missing.
    pub(crate) forced: bool,
    pub(crate) in_flight: Vec<InFlight>,
    /// Groups that each lane has committed.
    pub(crate) commits: [u32; 32],
    pub(crate) geometry: Geometry,
}

pub(crate) type Lanes32 = [u32; 32];
pub(crate) type Lanes64 = [u64; 32];

/// The lanes of a mask, lowest first.
pub(crate) fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        if mask == 0 {
            return None;
        }
        let l = mask.trailing_zeros() as usize;
        mask &= mask - 1;
        Some(l)
    })
}

impl Warp {
    pub(crate) fn new(id: usize, predicates: usize, r: usize, d: usize) -> Self {
        Self {
            id,
            predicates: vec![0; predicates],
            r: vec![[0; 32]; r],
            d: vec![[0; 32]; d],
            groups: Vec::new(),
            live: 0,
            state: State::Done,
            forced: false,
            in_flight: Vec::new(),
            commits: [0; 32],
            geometry: Geometry::default(),
        }
    }

    /// Ready for a new CTA with `lanes` lanes.
    pub(crate) fn reset(&mut self, lanes: u32, geometry: Geometry) {
        // What nobody wrote is a NaN, and an address of nothing: who relies on a register's first contents is seen.
        self.predicates.fill(0x5555_5555);
        self.r.fill([0xffc0_dead; 32]);
        self.d.fill([0xfff8_dead_dead_dead; 32]);
        self.live = if lanes >= 32 { ALL } else { (1 << lanes) - 1 };
        self.groups.clear();
        self.groups.push(Group { pc: 0, mask: self.live, parked: false });
        self.state = State::Running;
        self.forced = false;
        self.in_flight.clear();
        self.commits = [0; 32];
        self.geometry = geometry;
    }

    /// Joins groups that met, runs the lowest program counter first and parked groups last.
    pub(crate) fn regroup(&mut self) {
        self.groups.retain(|g| g.mask != 0);
        self.groups.sort_unstable_by_key(|g| g.pc);
        self.groups.dedup_by(|later, first| {
            let met = later.pc == first.pc;
            if met {
                first.mask |= later.mask;
                first.parked = false;
            }
            met
        });
        let stuck = self.groups.iter().all(|g| g.parked);
        self.forced = stuck && self.groups.len() > 1;
        if stuck {
            for g in &mut self.groups {
                g.parked = false;
            }
        }
        self.groups.sort_by_key(|g| g.parked);
    }

    fn special(&self, s: Special, lane: usize) -> u64 {
        let g = &self.geometry;
        let thread = (self.id * 32 + lane) as u32;
        let [bx, by, bz] = g.block;
        let bit = 1u32 << lane;
        u64::from(match s {
            Special::Tid(0) => thread % bx,
            Special::Tid(1) => thread / bx % by,
            Special::Tid(_) => thread / bx / by,
            Special::Ntid(a) => g.block[usize::from(a)],
            Special::Ctaid(a) => g.cta[usize::from(a)],
            Special::Nctaid(a) => g.grid[usize::from(a)],
            Special::LaneId => lane as u32,
            Special::WarpId => self.id as u32,
            Special::NWarpId => (bx * by * bz).div_ceil(32),
            Special::SmId | Special::GridId => 0,
            Special::LaneMaskEq => bit,
            Special::LaneMaskLt => bit - 1,
            Special::LaneMaskLe => bit | (bit - 1),
            Special::LaneMaskGt => !(bit | (bit - 1)),
            Special::LaneMaskGe => !(bit - 1),
            Special::Clock => return g.clock,
            Special::DynamicShared => g.dynamic_shared,
            Special::TotalShared => g.total_shared,
            Special::WarpSize => 32,
        })
    }

    /// A source operand as 32 bits a lane. `buffer` holds it where it is not a register already.
    #[inline]
    pub(crate) fn get32<'a>(&'a self, o: &Operand, buffer: &'a mut Lanes32) -> &'a Lanes32 {
        match o {
            Operand::R(i) => return &self.r[*i as usize],
            Operand::Imm(v) => *buffer = [*v as u32; 32],
            Operand::D(i) => {
                let d = &self.d[*i as usize];
                for l in 0..32 {
                    buffer[l] = d[l] as u32;
                }
            }
            Operand::Special(s) => {
                for l in 0..32 {
                    buffer[l] = self.special(*s, l) as u32;
                }
            }
            _ => *buffer = [0; 32],
        }
        buffer
    }

    /// A source operand as 64 bits a lane; 32-bit registers are zero-extended.
    #[inline]
    pub(crate) fn get64<'a>(&'a self, o: &Operand, buffer: &'a mut Lanes64) -> &'a Lanes64 {
        match o {
            Operand::D(i) => return &self.d[*i as usize],
            Operand::Imm(v) => *buffer = [*v; 32],
            Operand::R(i) => {
                let r = &self.r[*i as usize];
                for l in 0..32 {
                    buffer[l] = u64::from(r[l]);
                }
            }
            Operand::Special(s) => {
                for l in 0..32 {
                    buffer[l] = self.special(*s, l);
                }
            }
            _ => *buffer = [0; 32],
        }
        buffer
    }

    #[inline]
    pub(crate) fn set32(&mut self, o: &Operand, v: &Lanes32, mask: u32) {
        match o {
            Operand::R(i) => {
                let r = &mut self.r[*i as usize];
                if mask == ALL {
                    *r = *v;
                } else {
                    for l in 0..32 {
                        r[l] = if mask >> l & 1 == 1 { v[l] } else { r[l] };
                    }
                }
            }
            Operand::D(i) => {
                let d = &mut self.d[*i as usize];
                for l in 0..32 {
                    d[l] = if mask >> l & 1 == 1 { u64::from(v[l]) } else { d[l] };
                }
            }
            _ => {}
        }
    }

    #[inline]
    pub(crate) fn set64(&mut self, o: &Operand, v: &Lanes64, mask: u32) {
        match o {
            Operand::D(i) => {
                let d = &mut self.d[*i as usize];
                if mask == ALL {
                    *d = *v;
                } else {
                    for l in 0..32 {
                        d[l] = if mask >> l & 1 == 1 { v[l] } else { d[l] };
                    }
                }
            }
            Operand::R(i) => {
                let r = &mut self.r[*i as usize];
                for l in 0..32 {
                    r[l] = if mask >> l & 1 == 1 { v[l] as u32 } else { r[l] };
                }
            }
            _ => {}
        }
    }

    /// A predicate operand as a mask.
    pub(crate) fn pred(&self, o: &Operand) -> u32 {
        match o {
            Operand::P(i, negated) => self.predicates[*i as usize] ^ if *negated { ALL } else { 0 },
            Operand::Imm(v) if *v != 0 => ALL,
            _ => 0,
        }
    }

    pub(crate) fn set_pred(&mut self, o: &Operand, v: u32, mask: u32) {
        if let Operand::P(i, _) = o {
            let p = &mut self.predicates[*i as usize];
            *p = (*p & !mask) | (v & mask);
        }
    }

    /// Addresses of `[base + offset]`.
    pub(crate) fn addresses(&self, o: &Operand) -> Lanes64 {
        let Operand::Address(base, offset) = o else { return [0; 32] };
        let mut buffer = [0; 32];
        let mut out = *self.get64(base, &mut buffer);
        if *offset != 0 {
            for a in &mut out {
                *a = a.wrapping_add(*offset as u64);
            }
        }
        out
    }

    /// Applies a function of one 32-bit operand.
    #[inline(always)]
    pub(crate) fn map1(&mut self, a: &[Operand], mask: u32, f: impl Fn(u32) -> u32) {
        let mut out = [0; 32];
        let mut bx = [0; 32];
        let x = self.get32(&a[1], &mut bx);
        for l in 0..32 {
            out[l] = f(x[l]);
        }
        self.set32(&a[0], &out, mask);
    }

    /// Applies a function of two 32-bit operands.
    #[inline(always)]
    pub(crate) fn map2(&mut self, a: &[Operand], mask: u32, f: impl Fn(u32, u32) -> u32) {
        let mut out = [0; 32];
        let (mut bx, mut by) = ([0; 32], [0; 32]);
        let x = self.get32(&a[1], &mut bx);
        let y = self.get32(&a[2], &mut by);
        for l in 0..32 {
            out[l] = f(x[l], y[l]);
        }
        self.set32(&a[0], &out, mask);
    }

    /// Applies a function of three 32-bit operands.
    #[inline(always)]
    pub(crate) fn map3(&mut self, a: &[Operand], mask: u32, f: impl Fn(u32, u32, u32) -> u32) {
        let mut out = [0; 32];
        let (mut bx, mut by, mut bz) = ([0; 32], [0; 32], [0; 32]);
        let x = self.get32(&a[1], &mut bx);
        let y = self.get32(&a[2], &mut by);
        let z = self.get32(&a[3], &mut bz);
        for l in 0..32 {
            out[l] = f(x[l], y[l], z[l]);
        }
        self.set32(&a[0], &out, mask);
    }

    /// Applies a function of one 64-bit operand.
    #[inline(always)]
    pub(crate) fn map1_wide(&mut self, a: &[Operand], mask: u32, f: impl Fn(u64) -> u64) {
        let mut out = [0; 32];
        let mut bx = [0; 32];
        let x = self.get64(&a[1], &mut bx);
        for l in 0..32 {
            out[l] = f(x[l]);
        }
        self.set64(&a[0], &out, mask);
    }

    /// Applies a function of two 64-bit operands.
    #[inline(always)]
    pub(crate) fn map2_wide(&mut self, a: &[Operand], mask: u32, f: impl Fn(u64, u64) -> u64) {
        let mut out = [0; 32];
        let (mut bx, mut by) = ([0; 32], [0; 32]);
        let x = self.get64(&a[1], &mut bx);
        let y = self.get64(&a[2], &mut by);
        for l in 0..32 {
            out[l] = f(x[l], y[l]);
        }
        self.set64(&a[0], &out, mask);
    }

    /// Applies a function of three 64-bit operands.
    #[inline(always)]
    pub(crate) fn map3_wide(&mut self, a: &[Operand], mask: u32, f: impl Fn(u64, u64, u64) -> u64) {
        let mut out = [0; 32];
        let (mut bx, mut by, mut bz) = ([0; 32], [0; 32], [0; 32]);
        let x = self.get64(&a[1], &mut bx);
        let y = self.get64(&a[2], &mut by);
        let z = self.get64(&a[3], &mut bz);
        for l in 0..32 {
            out[l] = f(x[l], y[l], z[l]);
        }
        self.set64(&a[0], &out, mask);
    }
}
