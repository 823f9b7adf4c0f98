//! Global memory: allocations with guard gaps, a bit for each byte that says whether it was ever written, and the
//! records that the race checker and the traffic counters keep for each allocation.

use std::fmt;

/// First device address; far from 0 and from the window of shared memory, so a mixed-up address is never valid.
const FIRST_ADDRESS: u64 = 0x7f00_0000_0000;
/// Allocations start on multiples of this, as `cuMemAlloc` promises at least 256.
const ALIGNMENT: u64 = 512;
/// Unmapped bytes after each allocation.
const GUARD: u64 = 1024;
/// Bytes that fresh memory reads as: large odd numbers, so that they show in results.
const POISON: u8 = 0xCD;

/// Why the host could not reach device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryError {
    /// First address of the access.
    pub address: u64,
    /// Its length in bytes.
    pub bytes: usize,
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {:#x} are not inside one live allocation", self.bytes, self.address)
    }
}

impl std::error::Error for MemoryError {}

/// A set of small integers, one bit each.
#[derive(Clone, Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn set_range(&mut self, start: usize, len: usize) {
        let (mut i, end) = (start, start + len);
        while i < end {
            let (word, bit) = (i / 64, i % 64);
            let n = (64 - bit).min(end - i);
            self.0[word] |= ones(n) << bit;
            i += n;
        }
    }

    fn clear_range(&mut self, start: usize, len: usize) {
        let (mut i, end) = (start, start + len);
        while i < end {
            let (word, bit) = (i / 64, i % 64);
            let n = (64 - bit).min(end - i);
            self.0[word] &= !(ones(n) << bit);
            i += n;
        }
    }

    fn has_range(&self, start: usize, len: usize) -> bool {
        let (mut i, end) = (start, start + len);
        while i < end {
            let (word, bit) = (i / 64, i % 64);
            let n = (64 - bit).min(end - i);
            let mask = ones(n) << bit;
            if self.0[word] & mask != mask {
                return false;
            }
            i += n;
        }
        true
    }

    fn get(&self, i: usize) -> bool {
        self.0[i / 64] >> (i % 64) & 1 == 1
    }
}

/// `n` low bits set, `1 <= n <= 64`.
fn ones(n: usize) -> u64 {
    u64::MAX >> (64 - n)
}

/// Who touched a 2-byte granule in this launch: stamps of CTAs, see [`Stamps`].
#[derive(Clone, Copy, Default)]
struct Touch {
    write: u32,
    read: u32,
}

/// Set in the stamp of a writer that was an atomic.
const ATOMIC: u32 = 1 << 31;

/// The stamps of one launch. CTA `i` writes `base + i`; older stamps belong to older launches, so nothing is cleared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamps {
    base: u32,
    ctas: u32,
}

impl Stamps {
    fn many(self) -> u32 {
        self.base + self.ctas
    }
}

/// How an access touches a granule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touching {
    Read,
    Write,
    Atomic,
}

/// Who the other CTA of a race is, where it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Other {
    Reader(u32),
    Writer(u32),
    SeveralReaders,
    Atomics,
}

pub(crate) struct Allocation {
    pub(crate) base: u64,
    pub(crate) data: Vec<u8>,
    written: Bits,
    touched: Vec<Touch>,
    sectors_read: Vec<u64>,
    sectors_written: Vec<u64>,
}

impl Allocation {
    pub(crate) fn initialised(&self, offset: usize, len: usize) -> bool {
        self.written.has_range(offset, len)
    }

    pub(crate) fn mark_written(&mut self, offset: usize, len: usize) {
        self.written.set_range(offset, len);
    }

    /// Records an access of CTA `cta`; the other CTA if they race.
    pub(crate) fn touch(
        &mut self,
        stamps: Stamps,
        cta: u32,
        offset: usize,
        len: usize,
        how: Touching,
    ) -> Option<Other> {
        if self.touched.is_empty() {
            self.touched = vec![Touch::default(); self.data.len().div_ceil(2)];
        }
        let me = stamps.base + cta.min(stamps.ctas - 1);
        let mut other = None;
        for t in &mut self.touched[offset / 2..(offset + len).div_ceil(2)] {
            let by_atomic = t.write & ATOMIC != 0;
            let writer = Some(t.write & !ATOMIC).filter(|&w| w >= stamps.base);
            let both_atomic = by_atomic && how == Touching::Atomic;
            if let Some(w) = writer.filter(|&w| w != me && !both_atomic) {
                other = Some(if w == stamps.many() { Other::Atomics } else { Other::Writer(w - stamps.base) });
            }
            if how == Touching::Read {
                t.read = if t.read < stamps.base || t.read == me { me } else { stamps.many() };
                continue;
            }
            if t.read >= stamps.base && t.read != me {
                other = Some(if t.read == stamps.many() {
                    Other::SeveralReaders
                } else {
                    Other::Reader(t.read - stamps.base)
                });
            }
            t.write = match (how, writer) {
                (Touching::Atomic, Some(w)) if by_atomic && w != me => stamps.many() | ATOMIC,
                (Touching::Atomic, _) => me | ATOMIC,
                _ => me,
            };
        }
        other
    }

    /// Marks the sectors of a run of bytes; the number that no earlier access of this launch touched.
    pub(crate) fn touch_sectors(&mut self, offset: usize, len: usize, write: bool) -> u64 {
        let bits = if write { &mut self.sectors_written } else { &mut self.sectors_read };
        if bits.is_empty() {
            bits.resize(self.data.len().div_ceil(32).div_ceil(64), 0);
        }
        let mut fresh = 0;
        for s in offset / 32..(offset + len).div_ceil(32) {
            let (word, bit) = (s / 64, 1u64 << (s % 64));
            if bits[word] & bit == 0 {
                bits[word] |= bit;
                fresh += 1;
            }
        }
        fresh
    }
}

/// Device memory. Allocations never share an address, not even with freed ones, and lie in a sea of unmapped bytes.
#[derive(Default)]
pub struct Memory {
    /// Sorted by address: addresses only grow.
    allocations: Vec<Allocation>,
    next: u64,
    next_stamp: u32,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: usize = self.allocations.iter().map(|a| a.data.len()).sum();
        f.debug_struct("Memory").field("allocations", &self.allocations.len()).field("bytes", &bytes).finish()
    }
}

impl Memory {
    /// Memory without allocations.
    pub fn new() -> Self {
        Self::default()
    }

    /// Allocates `bytes` and returns the device address, a multiple of 512. The bytes are uninitialised.
    pub fn alloc(&mut self, bytes: usize) -> u64 {
        let base = self.next.max(FIRST_ADDRESS);
        self.next = base + (bytes as u64).div_ceil(ALIGNMENT) * ALIGNMENT + GUARD;
        self.allocations.push(Allocation {
            base,
            data: vec![POISON; bytes],
            written: Bits(vec![0; bytes.div_ceil(64)]),
            touched: Vec::new(),
            sectors_read: Vec::new(),
            sectors_written: Vec::new(),
        });
        base
    }

    /// Frees the allocation that starts at `address`; false if there is none.
    pub fn free(&mut self, address: u64) -> bool {
        match self.allocations.binary_search_by_key(&address, |a| a.base) {
            Ok(i) => {
                self.allocations.remove(i);
                true
            }
            Err(_) => false,
        }
    }

    /// Live allocations and their bytes.
    pub fn usage(&self) -> (usize, usize) {
        (self.allocations.len(), self.allocations.iter().map(|a| a.data.len()).sum())
    }

    /// Writes bytes and marks them initialised.
    ///
    /// # Errors
    /// If the run is not inside one live allocation. Nothing is written then.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        let (i, o) = self.locate(address, bytes.len())?;
        let a = &mut self.allocations[i];
        a.data[o..o + bytes.len()].copy_from_slice(bytes);
        a.written.set_range(o, bytes.len());
        Ok(())
    }

    /// Reads bytes, initialised or not.
    ///
    /// # Errors
    /// If the run is not inside one live allocation.
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        let (i, o) = self.locate(address, into.len())?;
        into.copy_from_slice(&self.allocations[i].data[o..o + into.len()]);
        Ok(())
    }

    /// Sets `bytes` bytes to `value` and marks them initialised.
    ///
    /// # Errors
    /// If the run is not inside one live allocation.
    pub fn fill(&mut self, address: u64, value: u8, bytes: usize) -> Result<(), MemoryError> {
        let (i, o) = self.locate(address, bytes)?;
        let a = &mut self.allocations[i];
        a.data[o..o + bytes].fill(value);
        a.written.set_range(o, bytes);
        Ok(())
    }

    /// Copies within device memory. Bytes that were never written stay so in the copy.
    ///
    /// # Errors
    /// If a run is not inside one live allocation.
    pub fn copy(&mut self, to: u64, from: u64, bytes: usize) -> Result<(), MemoryError> {
        let (fi, fo) = self.locate(from, bytes)?;
        let (ti, to_offset) = self.locate(to, bytes)?;
        let source = &self.allocations[fi];
        let data = source.data[fo..fo + bytes].to_vec();
        let written: Vec<bool> = (fo..fo + bytes).map(|i| source.written.get(i)).collect();
        let target = &mut self.allocations[ti];
        target.data[to_offset..to_offset + bytes].copy_from_slice(&data);
        target.written.clear_range(to_offset, bytes);
        for (i, _) in written.iter().enumerate().filter(|(_, w)| **w) {
            target.written.set_range(to_offset + i, 1);
        }
        Ok(())
    }

    /// True if every byte of the run was written at some time.
    ///
    /// # Errors
    /// If the run is not inside one live allocation.
    pub fn is_initialised(&self, address: u64, bytes: usize) -> Result<bool, MemoryError> {
        let (i, o) = self.locate(address, bytes)?;
        Ok(self.allocations[i].initialised(o, bytes))
    }

    fn locate(&self, address: u64, bytes: usize) -> Result<(usize, usize), MemoryError> {
        if let Some(found) = self.find(address, bytes) {
            return Ok(found);
        }
        Err(MemoryError { address, bytes })
    }

    pub(crate) fn usage_count(&self) -> usize {
        self.allocations.len()
    }

    /// Index of the allocation that holds the run, and the offset in it.
    pub(crate) fn find(&self, address: u64, bytes: usize) -> Option<(usize, usize)> {
        let i = self.allocations.partition_point(|a| a.base <= address).checked_sub(1)?;
        let a = &self.allocations[i];
        let offset = usize::try_from(address - a.base).ok()?;
        (offset.checked_add(bytes)? <= a.data.len()).then_some((i, offset))
    }

    pub(crate) fn at(&self, index: usize) -> &Allocation {
        &self.allocations[index]
    }

    pub(crate) fn at_mut(&mut self, index: usize) -> &mut Allocation {
        &mut self.allocations[index]
    }

    /// A sentence about an address that is in no allocation: which allocation is nearest.
    pub(crate) fn describe(&self, address: u64) -> String {
        let i = self.allocations.partition_point(|a| a.base <= address);
        match i.checked_sub(1).map(|i| &self.allocations[i]) {
            Some(a) => {
                let past = address - a.base;
                format!("{past} bytes from the start of the nearest allocation, which has {} bytes", a.data.len())
            }
            None => "below every allocation".to_owned(),
        }
    }

    /// Starts a launch: fresh stamps for its CTAs and no sector touched.
    pub(crate) fn start_launch(&mut self, ctas: u32) -> Stamps {
        let ctas = ctas.min(1 << 30);
        if self.next_stamp == 0 || self.next_stamp > (1 << 30) - 2 {
            for a in &mut self.allocations {
                a.touched = Vec::new();
            }
            self.next_stamp = 1;
        }
        for a in &mut self.allocations {
            a.sectors_read.clear();
            a.sectors_written.clear();
        }
        let base = self.next_stamp;
        self.next_stamp = base + ctas + 1;
        Stamps { base, ctas }
    }
}
