//! Counting of sectors and wavefronts for warp-wide accesses.

use super::Machine;
use super::memory::Touched;
use super::warp::lanes;

impl Machine<'_> {
    /// Counts a global access where each lane moves `bytes`.
    pub(super) fn count_global(&mut self, t: &Touched, bytes: usize, write: bool) {
        let moved = u64::from(t.mask.count_ones()) * bytes as u64;
        self.count_sectors(t, bytes, moved, write);
    }

    /// Counts a global read where the lanes read `moved` bytes together.
    pub(super) fn count_global_bytes(&mut self, t: &Touched, bytes: usize, moved: u64) {
        self.count_sectors(t, bytes, moved, false);
    }

    fn count_sectors(&mut self, t: &Touched, bytes: usize, moved: u64, write: bool) {
        if !self.options.counters || t.mask == 0 {
            return;
        }
        let mut sectors = [0u64; 64];
        let mut n = 0;
        let mut sorted = true;
        for l in lanes(t.mask) {
            // Accesses are aligned and at most 16 bytes, so each lies in one sector.
            let s = t.address[l] / 32;
            if n > 0 && sectors[n - 1] == s {
                continue;
            }
            sorted &= n == 0 || sectors[n - 1] < s;
            sectors[n] = s;
            n += 1;
        }
        let used = &mut sectors[..n];
        let mut count = n as u64;
        if !sorted {
            used.sort_unstable();
            count = 1 + used.windows(2).filter(|p| p[0] != p[1]).count() as u64;
        }
        let mut fresh = 0;
        let mut last = u64::MAX;
        for &s in used.iter() {
            if s == last {
                continue;
            }
            last = s;
            if let Some((index, at)) = self.memory.find(s * 32, 0) {
                fresh += self.memory.at_mut(index).touch_sectors(at, bytes.min(32), write);
            }
        }
        let c = &mut self.counters;
        c.global_requests += 1;
        c.global_sectors += count;
        let ideal = moved.div_ceil(32).clamp(1, count);
        c.global_ideal_sectors += ideal;
        if write {
            c.global_bytes_written += moved;
            c.unique_sectors_written += fresh;
        } else {
            c.global_bytes_read += moved;
            c.unique_sectors_read += fresh;
        }
        let cost = &mut self.costs[self.pc as usize];
        cost.executed += 1;
        cost.extra_sectors += count - ideal;
    }

    /// Counts a shared access where each lane moves `bytes`.
    ///
    /// 32 banks of 4 bytes; an access of 8 bytes takes two half-warp phases, one of 16 bytes four. A phase takes as
    /// many wavefronts as one bank has distinct words.
    pub(super) fn count_shared(&mut self, t: &Touched, bytes: usize) {
        if !self.options.counters || t.mask == 0 {
            return;
        }
        let per_phase = match bytes {
            16.. => 8,
            8.. => 16,
            _ => 32,
        };
        let words = bytes.div_ceil(4) as u32;
        let (mut wavefronts, mut ideal) = (0u64, 0u64);
        for first in (0..32).step_by(per_phase) {
            let phase = t.mask & (u32::MAX >> (32 - per_phase)) << first;
            if phase == 0 {
                continue;
            }
            ideal += 1;
            wavefronts += phase_wavefronts(t, phase, words);
        }
        let c = &mut self.counters;
        c.shared_requests += 1;
        c.shared_wavefronts += wavefronts;
        c.shared_ideal_wavefronts += ideal;
        let cost = &mut self.costs[self.pc as usize];
        cost.executed += 1;
        cost.extra_wavefronts += wavefronts - ideal;
    }
}

fn phase_wavefronts(t: &Touched, phase: u32, words: u32) -> u64 {
    // Usual case: each bank is asked for one word at most.
    let mut first = [0u32; 32];
    let mut used = 0u32;
    let mut conflict = false;
    for l in lanes(phase) {
        let base = (t.address[l] / 4) as u32;
        for word in base..base + words {
            let bank = (word % 32) as usize;
            if used >> bank & 1 == 0 {
                used |= 1 << bank;
                first[bank] = word;
            } else if first[bank] != word {
                conflict = true;
            }
        }
    }
    if !conflict {
        return 1;
    }
    let mut all = [0u32; 64];
    let mut n = 0;
    for l in lanes(phase) {
        let base = (t.address[l] / 4) as u32;
        for word in base..base + words {
            if !all[..n].contains(&word) {
                all[n] = word;
                n += 1;
            }
        }
    }
    let mut per_bank = [0u64; 32];
    for word in &all[..n] {
        per_bank[(word % 32) as usize] += 1;
    }
    per_bank.into_iter().max().unwrap_or(1)
}
