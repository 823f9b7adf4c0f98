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
    write: u32,
    /// Interval of the last reads.
    read: u32,
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
    now: u32,
    /// First interval of this CTA.
    start: u32,
    /// Interval each warp is in.
    own: Vec<u32>,
    /// `seen[w * warps + v]`: up to which interval warp `w` has seen the accesses of warp `v`; its own always.
    seen: Vec<u32>,
    /// The least of a warp's row in `seen`: everything up to there is ordered before it.
    floor: Vec<u32>,
}

impl Clocks {
    fn start_cta(&mut self, warps: usize) {
        self.now += 1;
        self.start = self.now;
        self.own.clear();
        self.own.resize(warps, self.now);
        self.seen.clear();
        self.seen.resize(warps * warps, 0);
        self.floor.clear();
        self.floor.resize(warps, if warps == 1 { u32::MAX } else { 0 });
        for w in 0..warps {
            self.seen[w * warps + w] = u32::MAX;
        }
    }

    /// A barrier completed: each of `waiting` has now seen what all of `arrived` did before it.
    pub(crate) fn barrier(&mut self, arrived: &[usize], waiting: &[usize]) {
        let warps = self.own.len();
        let mut joined = vec![0u32; warps];
        for &w in arrived {
            for (v, j) in joined.iter_mut().enumerate() {
                let known = if v == w { self.own[w] } else { self.seen[w * warps + v] };
                *j = (*j).max(known);
            }
        }
        self.now = self.now.saturating_add(1);
        for &w in waiting {
            let row = &mut self.seen[w * warps..(w + 1) * warps];
            row.copy_from_slice(&joined);
            row[w] = u32::MAX;
            self.floor[w] = row.iter().copied().min().unwrap_or(0);
        }
        for &w in arrived {
            self.own[w] = self.now;
        }
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

    /// Nothing of this CTA has happened yet.
    pub(crate) fn start_cta(&mut self, warps: usize) {
        if self.clocks.now > u32::MAX / 2 {
            self.granules.fill(Granule::default());
            self.clocks.now = 0;
        }
        self.clocks.start_cta(warps);
    }

    /// Records an access of `warp` and returns the first thing that is wrong with it.
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
        let warps = c.own.len();
        // Accesses of warp `v` up to `seen[v]` are ordered before this one.
        let seen = &c.seen[warp * warps..(warp + 1) * warps];
        let (me, floor, bit) = (c.own[warp], c.floor[warp], 1u32 << warp);
        let mut found: Option<Conflict> = None;
        let first = address / 2;
        for (n, cell) in self.granules[first..(address + len).div_ceil(2)].iter_mut().enumerate() {
            let mut report = |kind, other| {
                if found.is_none() {
                    found = Some(Conflict { kind, address: 2 * (first + n), warp: other });
                }
            };
            let written = cell.write >= c.start;
            let writer = usize::from(cell.writer);
            let after_write = !written || cell.write <= seen[writer];
            if !written {
                cell.pending = 0;
            }
            if races && cell.pending != 0 {
                report(FindingKind::InFlight, usize::from(cell.pending - 1) / 32);
            }
            if cell.read < c.start || cell.read <= floor {
                cell.readers = 0;
            }
            if how == Access::Read || how == Access::Atomic {
                if init && !written {
                    report(FindingKind::Uninitialised, warp);
                }
                if races && !after_write && !(how == Access::Atomic && cell.atomic) {
                    report(FindingKind::SharedReadAfterWrite, writer);
                }
            }
            if how == Access::Read {
                if cell.read < me {
                    cell.readers = unordered(cell.readers, cell.read, seen);
                    cell.read = me;
                }
                cell.readers |= bit;
                continue;
            }
            if races {
                if how != Access::Atomic && !after_write {
                    report(FindingKind::SharedWriteAfterWrite, writer);
                }
                let others = unordered(cell.readers & !bit, cell.read, seen);
                if others != 0 {
                    report(FindingKind::SharedWriteAfterRead, others.trailing_zeros() as usize);
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

/// Those of `readers`, who read in `interval`, that the warp of the row `seen` has not synchronised with.
fn unordered(mut readers: u32, interval: u32, seen: &[u32]) -> u32 {
    let mut left = 0;
    while readers != 0 {
        let v = readers.trailing_zeros();
        readers &= readers - 1;
        if interval > seen[v as usize] {
            left |= 1 << v;
        }
    }
    left
}
