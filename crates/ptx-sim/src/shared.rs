//! Shared memory of a CTA and the record of who touched it.
//!
//! Every 2-byte granule remembers its last writer and its readers with the barrier interval in which they came. Two
//! accesses of different warps conflict if no barrier that both warps passed lies between them. Byte accesses of two
//! warps to the same granule count as a conflict.

use crate::report::FindingKind;

/// Shared addresses in the generic address space start here.
pub(crate) const WINDOW: u64 = 0x0100_0000_0000;
/// Width of that window.
pub(crate) const WINDOW_BYTES: u64 = 1 << 32;

#[derive(Clone, Copy, Default)]
struct Granule {
    /// Interval of the last write; below the CTA's first interval: never written in this CTA.
    write: u64,
    /// Interval of the last reads.
    read: u64,
    /// Warps that read since.
    readers: u32,
    /// Thread of a `cp.async` in flight, plus 1.
    pending: u16,
    writer: u8,
    atomic: bool,
}

/// When each warp last synchronised with each other warp, in intervals.
///
/// Interval numbers grow over the whole launch, so a new CTA needs no clearing.
#[derive(Default)]
pub(crate) struct Clocks {
    /// Last interval handed out.
    now: u64,
    /// First interval of this CTA.
    start: u64,
    /// Interval each warp is in.
    own: Vec<u64>,
    /// `seen[w * warps + v]`: up to which interval warp `w` has seen the accesses of warp `v`.
    seen: Vec<u64>,
}

impl Clocks {
    pub(crate) fn start_cta(&mut self, warps: usize) {
        self.now += 1;
        self.start = self.now;
        self.own.clear();
        self.own.resize(warps, self.now);
        self.seen.clear();
        self.seen.resize(warps * warps, 0);
    }

    /// A barrier completed: each of `waiting` has now seen what all of `arrived` did before it.
    pub(crate) fn barrier(&mut self, arrived: &[usize], waiting: &[usize]) {
        let warps = self.own.len();
        let mut joined = vec![0u64; warps];
        for &w in arrived {
            for (v, j) in joined.iter_mut().enumerate() {
                *j = (*j).max(self.seen[w * warps + v]);
            }
            joined[w] = joined[w].max(self.own[w]);
        }
        self.now += 1;
        for &w in waiting {
            self.seen[w * warps..(w + 1) * warps].copy_from_slice(&joined);
        }
        for &w in arrived {
            self.own[w] = self.now;
        }
    }

    /// Warp `w` has not seen what warp `v` did in an interval.
    fn races(&self, w: usize, v: usize, interval: u64) -> bool {
        w != v && interval > self.seen[w * self.own.len() + v]
    }
}

/// A conflict: its kind, the granule's byte address and the other warp.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conflict {
    pub(crate) kind: FindingKind,
    pub(crate) address: usize,
    pub(crate) warp: usize,
}

/// How a warp touches shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    Atomic,
    /// The start of a `cp.async` of this thread.
    Async(u16),
}

#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) data: Vec<u8>,
    granules: Vec<Granule>,
    pub(crate) clocks: Clocks,
}

impl Shared {
    /// Shared memory of a launch; `track` keeps the records.
    pub(crate) fn new(bytes: usize, track: bool) -> Self {
        let granules = if track { vec![Granule::default(); bytes.div_ceil(2)] } else { Vec::new() };
        Self { data: vec![0xCD; bytes], granules, clocks: Clocks::default() }
    }

    /// Records an access of `warp` and returns the worst thing about it.
    pub(crate) fn touch(
        &mut self,
        warp: usize,
        address: usize,
        len: usize,
        how: Access,
        races: bool,
        init: bool,
    ) -> Option<Conflict> {
        if self.granules.is_empty() {
            return None;
        }
        let c = &self.clocks;
        let me = c.own[warp];
        let mut found: Option<Conflict> = None;
        let mut report = |kind, g: usize, warp| {
            if found.is_none() {
                found = Some(Conflict { kind, address: 2 * g, warp });
            }
        };
        for g in address / 2..(address + len).div_ceil(2) {
            let cell = &mut self.granules[g];
            let written = cell.write >= c.start;
            if !written {
                cell.pending = 0;
            }
            if cell.read < c.start {
                cell.readers = 0;
            }
            if cell.pending != 0 && races {
                report(FindingKind::InFlight, g, usize::from(cell.pending - 1) / 32);
            }
            let writer = usize::from(cell.writer);
            if how == Access::Read || how == Access::Atomic {
                if !written && init {
                    report(FindingKind::Uninitialised, g, warp);
                }
                let both_atomic = how == Access::Atomic && cell.atomic;
                if races && written && !both_atomic && c.races(warp, writer, cell.write) {
                    report(FindingKind::SharedReadAfterWrite, g, writer);
                }
            }
            if how == Access::Read {
                // Readers that this warp has seen are ordered before it; the others stay on record with it.
                if cell.read != me {
                    let mut rest = cell.readers;
                    while rest != 0 {
                        let v = rest.trailing_zeros() as usize;
                        rest &= rest - 1;
                        if !c.races(warp, v, cell.read) {
                            cell.readers &= !(1 << v);
                        }
                    }
                    cell.read = cell.read.max(me);
                }
                cell.readers |= 1 << warp;
                continue;
            }
            if races {
                if written && how != Access::Atomic && c.races(warp, writer, cell.write) {
                    report(FindingKind::SharedWriteAfterWrite, g, writer);
                }
                let others = cell.readers & !(1 << warp);
                if others != 0 {
                    let v = (0..c.own.len().min(32)).find(|&v| others >> v & 1 == 1 && c.races(warp, v, cell.read));
                    if let Some(v) = v {
                        report(FindingKind::SharedWriteAfterRead, g, v);
                    }
                }
            }
            cell.write = me;
            cell.writer = warp as u8;
            cell.atomic = how == Access::Atomic;
            cell.pending = if let Access::Async(thread) = how { thread + 1 } else { 0 };
        }
        found
    }

    /// A `cp.async` has arrived: the bytes are this warp's writes of now.
    pub(crate) fn arrived(&mut self, warp: usize, address: usize, len: usize) {
        if self.granules.is_empty() {
            return;
        }
        for g in &mut self.granules[address / 2..(address + len).div_ceil(2)] {
            g.pending = 0;
            g.write = self.clocks.own[warp];
            g.writer = warp as u8;
            g.atomic = false;
        }
    }
}
