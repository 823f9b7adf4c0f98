//! Device memory that is used again: `cuMemFree` waits for the device and `cuMemAlloc` is slow, and a step asks for the same sizes over and
//! over. Parts of regions are cut to what is asked for and joined again when they come back.
//!
//! A buffer comes back when the host drops it, though kernels that use it may still be queued: whoever gets the memory next queues its own
//! kernels behind them, on the same stream.
use crate::driver::{Address, Driver, Failure, Region, Result};
use paring_tensor::Buffer;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

/// Buffers begin at multiples of this: any vector load is aligned, and no two buffers share a sector.
const ALIGNMENT: usize = 256;

/// Regions are taken from the driver in multiples of this.
const GRAIN: usize = 2 << 20;

/// Requests below this share regions of [`SHARED`] bytes.
const SMALL: usize = 1 << 20;

/// Size of a region for small requests.
const SHARED: usize = 8 << 20;

/// How buffers get their memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Allocation {
    /// From regions that are kept and used again.
    #[default]
    Pooled,
    /// Each from the driver, of exactly its size: slow, and lets a memory checker see every step past an end.
    Exact,
}

/// What a pool holds, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Handed out now.
    pub live: usize,
    /// The most that was handed out at any time.
    pub peak: usize,
    /// Taken from the driver now: handed out, or kept for later.
    pub reserved: usize,
}

/// Where a part of a region lies: the region's number, and the offset in it.
type Place = (usize, usize);

#[derive(Debug, Default)]
struct State {
    regions: BTreeMap<usize, Region>,
    next_region: usize,
    /// Free parts and their lengths. No two neighbours of one region.
    free: BTreeMap<Place, usize>,
    /// The same by length.
    sizes: BTreeSet<(usize, Place)>,
    held: Held,
    /// While a graph is captured, what is free may still be used by its nodes, which have not run.
    capturing: bool,
}

/// The memory of one device.
#[derive(Debug)]
pub(crate) struct Pool {
    driver: Arc<Driver>,
    allocation: Allocation,
    state: Mutex<State>,
}

impl Pool {
    pub(crate) fn new(driver: Arc<Driver>, allocation: Allocation) -> Arc<Pool> {
        Arc::new(Pool { driver, allocation, state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code under the lock panics between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn allocation(&self) -> Allocation {
        self.allocation
    }

    /// Says that a graph is being captured, or no longer is.
    pub(crate) fn set_capturing(&self, capturing: bool) {
        self.lock().capturing = capturing;
    }

    pub(crate) fn held(&self) -> Held {
        self.lock().held
    }

    /// `len` bytes of unspecified contents.
    pub(crate) fn buffer(self: &Arc<Self>, len: usize) -> Result<DeviceBuffer> {
        let too_large = || Failure { message: format!("{len} bytes"), out_of_memory: true };
        // A buffer of nothing has an address too: kernels are then not launched, but it may be an operand.
        let want = len.max(1).checked_next_multiple_of(ALIGNMENT).ok_or_else(too_large)?;
        let mut state = self.lock();
        let (place, size) = match self.allocation {
            Allocation::Exact => (state.reserve(&self.driver, len.max(1))?, len.max(1)),
            Allocation::Pooled => match state.take(want) {
                Some(place) => (place, want),
                None => {
                    let fresh = match want < SMALL {
                        true => SHARED,
                        false => want.checked_next_multiple_of(GRAIN).ok_or_else(too_large)?,
                    };
                    let place = match state.reserve(&self.driver, fresh) {
                        // What is kept in other sizes may be just what is missing; freeing waits for the device.
                        Err(e) if e.out_of_memory && !state.capturing => {
                            state.give_back();
                            state.reserve(&self.driver, fresh).or_else(|_| state.reserve(&self.driver, want))?
                        }
                        reserved => reserved?,
                    };
                    let size = state.regions.get(&place.0).map_or(want, Region::bytes);
                    state.put(place, size);
                    (state.take(want).unwrap_or(place), want)
                }
            },
        };
        state.held.live += size;
        state.held.peak = state.held.peak.max(state.held.live);
        let address = state.regions.get(&place.0).map_or(Address(0), |r| r.address().add(place.1));
        Ok(DeviceBuffer { home: Arc::downgrade(self), place, size, address, len })
    }

    fn put_back(&self, place: Place, size: usize) {
        let mut state = self.lock();
        state.held.live -= size;
        match self.allocation {
            Allocation::Pooled => state.put(place, size),
            Allocation::Exact => state.forget(place.0),
        }
    }
}

impl State {
    /// A fresh region of `bytes`.
    fn reserve(&mut self, driver: &Arc<Driver>, bytes: usize) -> Result<Place> {
        let region = driver.allocate(bytes)?;
        self.held.reserved += bytes;
        let number = self.next_region;
        self.next_region += 1;
        self.regions.insert(number, region);
        Ok((number, 0))
    }

    fn forget(&mut self, region: usize) {
        if let Some(region) = self.regions.remove(&region) {
            self.held.reserved -= region.bytes();
        }
    }

    /// The smallest free part that is large enough, cut to size.
    fn take(&mut self, want: usize) -> Option<Place> {
        let &(size, place) = self.sizes.range((want, (0, 0))..).next()?;
        self.sizes.remove(&(size, place));
        self.free.remove(&place);
        if want < size {
            self.insert((place.0, place.1 + want), size - want);
        }
        Some(place)
    }

    fn insert(&mut self, place: Place, size: usize) {
        self.free.insert(place, size);
        self.sizes.insert((size, place));
    }

    /// Frees a part and joins it with its neighbours.
    fn put(&mut self, place: Place, mut size: usize) {
        let (region, mut start) = place;
        if let Some(next) = self.free.remove(&(region, start + size)) {
            self.sizes.remove(&(next, (region, start + size)));
            size += next;
        }
        if let Some((&(r, before), &length)) = self.free.range(..place).next_back()
            && r == region
            && before + length == start
        {
            self.free.remove(&(r, before));
            self.sizes.remove(&(length, (r, before)));
            start = before;
            size += length;
        }
        self.insert((region, start), size);
    }

    /// Returns to the driver every region that is free from end to end.
    fn give_back(&mut self) {
        let whole = |(&(region, start), &size): (&Place, &usize)| {
            (start == 0 && self.regions.get(&region).is_some_and(|r| r.bytes() == size)).then_some((region, size))
        };
        let whole: Vec<(usize, usize)> = self.free.iter().filter_map(whole).collect();
        for (region, size) in whole {
            self.free.remove(&(region, 0));
            self.sizes.remove(&(size, (region, 0)));
            self.forget(region);
        }
    }
}

/// A part of a device's memory: what this backend's tensors hold.
#[derive(Debug)]
pub(crate) struct DeviceBuffer {
    home: Weak<Pool>,
    place: Place,
    size: usize,
    address: Address,
    len: usize,
}

impl DeviceBuffer {
    pub(crate) fn address(&self) -> Address {
        self.address
    }

    /// Whether `pool` is where it comes from.
    pub(crate) fn is_of(&self, pool: &Arc<Pool>) -> bool {
        self.home.as_ptr() == Arc::as_ptr(pool)
    }
}

impl Buffer for DeviceBuffer {
    fn len(&self) -> usize {
        self.len
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        if let Some(pool) = self.home.upgrade() {
            pool.put_back(self.place, self.size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parts of one region of 1000, without a driver.
    fn region() -> State {
        let mut state = State::default();
        state.put((0, 0), 1000);
        state
    }

    #[test]
    fn parts_are_cut_and_joined_again() {
        let mut state = region();
        let parts: Vec<Place> = [300, 200, 400].into_iter().map(|n| state.take(n).unwrap()).collect();
        assert_eq!(parts, [(0, 0), (0, 300), (0, 500)]);
        assert_eq!(state.take(200), None);
        assert_eq!(state.take(100), Some((0, 900)));
        state.put((0, 0), 300);
        state.put((0, 500), 400);
        // The smaller of the two that are large enough.
        assert_eq!(state.take(300), Some((0, 0)));
        state.put((0, 0), 300);
        state.put((0, 300), 200);
        state.put((0, 900), 100);
        assert_eq!(state.free.iter().collect::<Vec<_>>(), [(&(0, 0), &1000)]);
        assert_eq!(state.sizes.iter().collect::<Vec<_>>(), [&(1000, (0, 0))]);
    }

    #[test]
    fn neighbours_of_other_regions_are_not_joined() {
        let mut state = region();
        state.put((1, 0), 500);
        assert_eq!(state.free.len(), 2);
    }
}
