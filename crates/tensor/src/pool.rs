//! Memory that is used again. A training step asks for some two thousand activations of the same few sizes as the step before; from the
//! system, each would be pages to fault in and zeros to write, only to be overwritten.
//!
//! What is kept is cut to what is asked for, and joined again when the parts come back: where activations were in the forward, gradients of
//! weights can be in the backward, which have other sizes.
//!
//! What is kept is bounded by what was needed: handed-out and kept bytes together do not exceed the most that was handed out at once
//! lately, but for parts of what is still in use, and a sixteenth: sizes do not always fit, and a pool that gives back too eagerly makes
//! every step fault in pages anew. So the pool makes no peak that would not have been one without it, and a process whose needs shrink
//! gives its memory back.
use crate::{DType, Error, HostBuffer, Result, Shape, Tensor, host::Block};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

/// "Lately" is this many requests, and up to as many before them: several steps of a model of a hundred layers.
const LATELY: u64 = 1 << 14;

/// What a pool holds, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Handed out now.
    pub live: usize,
    /// The most that was handed out at any time.
    pub peak: usize,
    /// Kept for later.
    pub cached: usize,
    /// Taken from the system, over all requests.
    pub fresh: u64,
    /// Used again, over all requests.
    pub reused: u64,
}

/// Host memory for one backend. Clones share it; buffers come back when they are dropped, from any thread.
#[derive(Clone, Default)]
pub struct HostPool(Arc<Shelf>);

#[derive(Default)]
pub(crate) struct Shelf(Mutex<State>);

#[derive(Default)]
struct State {
    /// By place, with the number of the request before which it came back. No two neighbours are of one whole.
    kept: BTreeMap<usize, (u64, Block)>,
    /// The same by size, then place.
    sizes: BTreeSet<(usize, usize)>,
    requests: u64,
    memory: Memory,
    /// The most handed out in this stretch of requests, and in the one before.
    peaks: [usize; 2],
}

/// A kept block is cut for a request of at least this part of it, so that small ones do not crumble large ones.
const PARTS: usize = 64;

impl HostPool {
    /// An empty pool.
    pub fn new() -> Self {
        HostPool::default()
    }

    /// `len` bytes of unspecified contents.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when the allocator refuses, also after all kept memory was given back.
    pub fn buffer(&self, len: usize) -> Result<HostBuffer> {
        let (mut buffer, _) = self.take(len)?;
        if cfg!(debug_assertions) {
            // NaN in every type of float: who relies on what is in there is seen.
            buffer.bytes_mut().fill(0xff);
        }
        Ok(buffer)
    }

    /// `len` bytes of zeros.
    ///
    /// # Errors
    /// Those of [`HostPool::buffer`].
    pub fn zeroed(&self, len: usize) -> Result<HostBuffer> {
        self.zeroed_by(len, |bytes| bytes.fill(0))
    }

    /// `len` bytes of zeros, which `zero` writes where memory is used again.
    ///
    /// # Errors
    /// Those of [`HostPool::buffer`].
    pub fn zeroed_by(&self, len: usize, zero: impl FnOnce(&mut [u8])) -> Result<HostBuffer> {
        let (mut buffer, fresh) = self.take(len)?;
        if !fresh {
            zero(buffer.bytes_mut());
        }
        Ok(buffer)
    }

    /// A tensor of unspecified contents.
    ///
    /// # Errors
    /// Those of [`HostPool::buffer`].
    pub fn tensor(&self, dtype: DType, shape: Shape) -> Result<Tensor> {
        Tensor::new(Arc::new(self.buffer(dtype.bytes_of(shape)?)?), dtype, shape)
    }

    /// A tensor of zeros, which `zero` writes where memory is used again.
    ///
    /// # Errors
    /// Those of [`HostPool::buffer`].
    pub fn tensor_zeroed_by(&self, dtype: DType, shape: Shape, zero: impl FnOnce(&mut [u8])) -> Result<Tensor> {
        Tensor::new(Arc::new(self.zeroed_by(dtype.bytes_of(shape)?, zero)?), dtype, shape)
    }

    /// What the pool holds now.
    pub fn memory(&self) -> Memory {
        self.0.lock().memory
    }

    /// A buffer, and whether it is fresh from the system: zeros.
    fn take(&self, len: usize) -> Result<(HostBuffer, bool)> {
        let want = Block::capacity_for(len).ok_or(Error::OutOfMemory { bytes: len })?;
        let mut state = self.0.lock();
        state.count_request();
        let (block, fresh) = match state.find(want) {
            Some(block) => (block, false),
            None => (state.fresh(want).ok_or(Error::OutOfMemory { bytes: len })?, true),
        };
        Ok((HostBuffer::lent(block, len, Arc::downgrade(&self.0)), fresh))
    }
}

impl fmt::Debug for HostPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HostPool").field(&self.memory()).finish()
    }
}

impl Shelf {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code under the lock panics between two changes that belong together.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where buffers come back to. Without a pool left, their memory goes to the system.
    pub(crate) fn put_back(home: &Weak<Shelf>, block: Block) {
        if let Some(shelf) = home.upgrade() {
            shelf.lock().keep(block);
        }
    }
}

impl State {
    fn count_request(&mut self) {
        self.requests += 1;
        if self.requests.is_multiple_of(LATELY) {
            self.peaks = [self.memory.live, self.peaks[0]];
            self.trim(self.memory.live);
        }
    }

    /// The smallest kept block that is large enough, cut to size; of several the one in front.
    fn find(&mut self, want: usize) -> Option<Block> {
        let &(size, place) = self.sizes.range((want, 0)..=(want.saturating_mul(PARTS), usize::MAX)).next()?;
        let (when, mut block) = self.remove(size, place)?;
        // A rest of less than an eighth would be of little use.
        if size - want > want / 8 {
            let rest = block.split_off(want);
            self.insert(when, rest);
        }
        self.memory.reused += block.capacity() as u64;
        self.lend(block.capacity());
        Some(block)
    }

    fn fresh(&mut self, want: usize) -> Option<Block> {
        // Room is made first: what is kept and does not fit must not add to what may become the peak.
        self.trim(self.memory.live.saturating_add(want));
        let block = Block::zeroed(want).or_else(|| {
            self.trim_to(0);
            Block::zeroed(want)
        })?;
        self.memory.fresh += want as u64;
        self.lend(want);
        Some(block)
    }

    fn lend(&mut self, size: usize) {
        self.memory.live += size;
        self.memory.peak = self.memory.peak.max(self.memory.live);
        self.peaks[0] = self.peaks[0].max(self.memory.live);
    }

    fn keep(&mut self, mut block: Block) {
        if block.capacity() == 0 {
            return; // has no place of its own
        }
        self.memory.live -= block.capacity();
        if let Some((&place, (_, before))) = self.kept.range(..block.start()).next_back()
            && before.continues_in(&block)
            && let Some((_, mut before)) = self.remove(before.capacity(), place)
        {
            before.join(block);
            block = before;
        }
        let end = block.start() + block.capacity();
        if let Some((_, after)) = self.kept.get(&end)
            && block.continues_in(after)
            && let Some((_, after)) = self.remove(after.capacity(), end)
        {
            block.join(after);
        }
        self.insert(self.requests, block);
        self.trim(self.memory.live);
    }

    /// Gives back what would be above the bound with `live` bytes handed out.
    fn trim(&mut self, live: usize) {
        let lately = live.max(self.peaks[0]).max(self.peaks[1]);
        self.trim_to((lately - live).saturating_add(lately / 16));
    }

    /// Gives back all but `cached` bytes, the longest unused first; parts only once they are whole again.
    fn trim_to(&mut self, cached: usize) {
        while self.memory.cached > cached {
            let whole = self.kept.iter().filter(|(_, (_, block))| block.is_whole());
            let oldest = whole.map(|(&place, (when, block))| (*when, block.capacity(), place)).min();
            let Some((_, size, place)) = oldest else { return };
            self.remove(size, place);
        }
    }

    fn insert(&mut self, when: u64, block: Block) {
        let (size, place) = (block.capacity(), block.start());
        self.memory.cached += size;
        self.sizes.insert((size, place));
        self.kept.insert(place, (when, block));
    }

    fn remove(&mut self, size: usize, place: usize) -> Option<(u64, Block)> {
        self.sizes.remove(&(size, place));
        let removed = self.kept.remove(&place)?;
        self.memory.cached -= size;
        Some(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1 << 10;

    /// Where a buffer lies.
    fn place(buffer: &HostBuffer) -> usize {
        buffer.bytes().as_ptr() as usize
    }

    #[test]
    fn what_came_back_is_handed_out_again_and_zeros_are_zeros() {
        let pool = HostPool::new();
        let mut a = pool.buffer(100 * KIB).unwrap();
        a.bytes_mut().fill(7);
        let first = place(&a);
        drop(a);
        // Smaller by less than an eighth: fits.
        let b = pool.zeroed(90 * KIB).unwrap();
        assert_eq!((place(&b), b.bytes().len()), (first, 90 * KIB));
        assert!(b.bytes().iter().all(|&x| x == 0));
        // Alive, so nobody else's.
        let c = pool.buffer(90 * KIB).unwrap();
        assert_ne!(place(&c), first);
        drop(b);
        // Much smaller: would crumble it.
        let d = pool.zeroed(KIB).unwrap();
        assert_ne!(place(&d), first);
        assert!(d.bytes().iter().all(|&x| x == 0));
        let memory = pool.memory();
        assert_eq!((memory.live, memory.cached), (91 * KIB, 100 * KIB));
        assert_eq!((memory.peak, memory.fresh, memory.reused), (190 * KIB, 191 * KIB as u64, 100 * KIB as u64));
    }

    #[test]
    fn what_came_back_is_cut_to_size_and_joined_again() {
        let pool = HostPool::new();
        let whole = pool.buffer(120 * KIB).unwrap();
        let first = place(&whole);
        drop(whole);
        let mut parts: Vec<HostBuffer> = [30, 40, 50].map(|size| pool.buffer(size * KIB).unwrap()).into();
        assert_eq!(parts.iter().map(place).collect::<Vec<_>>(), [first, first + 30 * KIB, first + 70 * KIB]);
        parts.iter_mut().zip(1..).for_each(|(part, i)| part.bytes_mut().fill(i));
        assert!(parts.iter().zip(1..).all(|(part, i)| part.bytes().iter().all(|&x| x == i)));
        assert_eq!((pool.memory().live, pool.memory().cached), (120 * KIB, 0));
        // The middle comes back last, and joins both sides.
        for i in [0, 1, 0] {
            parts.remove(i);
        }
        let again = pool.buffer(120 * KIB).unwrap();
        assert_eq!((place(&again), pool.memory().fresh), (first, 120 * KIB as u64));
    }

    #[test]
    fn a_steady_loop_takes_nothing_from_the_system() {
        let pool = HostPool::new();
        let step = || {
            let held: Vec<HostBuffer> = (1..40).map(|i| pool.buffer((i % 7 + 1) * 3 * KIB).unwrap()).collect();
            let places: std::collections::BTreeSet<usize> = held.iter().map(place).collect();
            assert_eq!(places.len(), held.len());
        };
        step();
        let fresh = pool.memory().fresh;
        (0..50).for_each(|_| step());
        let memory = pool.memory();
        assert_eq!((memory.fresh, memory.live, memory.reused), (fresh, 0, 50 * fresh));
        assert_eq!(memory.cached as u64, fresh);
    }

    #[test]
    fn what_is_kept_and_what_is_handed_out_stay_within_what_was_once_needed() {
        let pool = HostPool::new();
        // Sizes that never fit: a cache without a bound would hold them all.
        for i in 0..200 {
            let _held = pool.buffer((100 + 20 * i) * KIB).unwrap();
            let memory = pool.memory();
            assert!(memory.live + memory.cached <= memory.peak + memory.peak / 8, "{memory:?}");
        }
        assert!(pool.memory().cached > 0);
        // Long afterwards small requests only: the rest has gone back.
        for _ in 0..2 * LATELY {
            pool.buffer(KIB).unwrap();
        }
        let memory = pool.memory();
        assert!(memory.cached <= KIB + KIB / 8, "{memory:?}");
        assert_eq!(memory.peak, (100 + 20 * 199) * KIB);
    }

    #[test]
    fn buffers_come_back_from_other_threads_and_outlive_their_pool() {
        let pool = HostPool::new();
        std::thread::scope(|scope| {
            for i in 0..4u8 {
                let pool = pool.clone();
                scope.spawn(move || {
                    for n in 0..200 {
                        let mut held = [KIB, (n % 5 + 1) * KIB].map(|len| pool.buffer(len).unwrap());
                        held.iter_mut().for_each(|buffer| buffer.bytes_mut().fill(i));
                        assert!(held.iter().all(|buffer| buffer.bytes().iter().all(|&x| x == i)));
                    }
                });
            }
        });
        let memory = pool.memory();
        assert_eq!(memory.live, 0);
        assert!(memory.peak <= 4 * 6 * KIB, "{memory:?}");
        let last = pool.zeroed(5).unwrap();
        drop(pool);
        assert_eq!(last.bytes(), [0; 5]);
    }

    #[test]
    fn an_impossible_request_is_an_error_and_counts_nothing() {
        let pool = HostPool::new();
        let kept = pool.buffer(10 * KIB).unwrap();
        for len in [isize::MAX as usize / 2, usize::MAX] {
            assert_eq!(pool.buffer(len).unwrap_err(), Error::OutOfMemory { bytes: len });
            assert_eq!(pool.zeroed(len).unwrap_err(), Error::OutOfMemory { bytes: len });
        }
        assert_eq!((pool.memory().live, pool.memory().peak), (kept.bytes().len(), 10 * KIB));
    }
}
