//! Host memory and host functions that programs hand to the driver as bare addresses, and the page-locked memory that it gives them.
#![allow(unsafe_code, reason = "memory that belongs to the program is reached by its address, as in any driver")]
use crate::work::HostFunction;
use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    collections::BTreeMap,
    ffi::c_void,
    ptr::{with_exposed_provenance, with_exposed_provenance_mut},
    slice,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Page-locked memory begins at multiples of this, a page.
const PAGE: usize = 4096;

/// Page-locked memory that programs hold, by address.
static PINNED: Mutex<BTreeMap<usize, usize>> = Mutex::new(BTreeMap::new());

fn pinned() -> MutexGuard<'static, BTreeMap<usize, usize>> {
    PINNED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Zeroed page-locked memory; `None` when there is none, or for no bytes.
pub(crate) fn allocate_pinned(bytes: usize) -> Option<*mut c_void> {
    let layout = Layout::from_size_align(bytes, PAGE).ok().filter(|l| l.size() > 0)?;
    // SAFETY: the layout is of at least one byte.
    let start = unsafe { alloc_zeroed(layout) };
    if start.is_null() {
        return None;
    }
    pinned().insert(start.expose_provenance(), bytes);
    Some(start.cast())
}

/// The length of the page-locked memory that begins at `start`.
pub(crate) fn pinned_bytes(start: usize) -> Option<usize> {
    pinned().get(&start).copied()
}

/// Whether `at..at + bytes` is page-locked.
pub(crate) fn is_pinned(at: usize, bytes: usize) -> bool {
    let found = pinned().range(..=at).next_back().map(|(&start, &length)| (start, length));
    found.is_some_and(|(start, length)| (at - start).checked_add(bytes).is_some_and(|end| end <= length))
}

/// Gives page-locked memory back; whether it was any. No queued work may use it any more.
pub(crate) fn free_pinned(start: usize) -> bool {
    let Some(bytes) = pinned().remove(&start) else {
        return false;
    };
    if let Ok(layout) = Layout::from_size_align(bytes, PAGE) {
        // SAFETY: made by `allocate_pinned` with this layout, and taken out of the table, so freed once.
        unsafe { dealloc(with_exposed_provenance_mut(start), layout) };
    }
    true
}

/// The host bytes that a copy reads.
pub(crate) fn bytes<'a>(at: usize, bytes: usize) -> &'a [u8] {
    // SAFETY: the program handed this range to a copy, and must keep it readable until the copy has run (the contract of cuMemcpy*); the
    // slice lives as long as the call that makes it.
    unsafe { slice::from_raw_parts(with_exposed_provenance(at), bytes) }
}

/// The host bytes that a copy writes.
pub(crate) fn bytes_mut<'a>(at: usize, bytes: usize) -> &'a mut [u8] {
    // SAFETY: as in `bytes`: writable, and nobody else's until the copy has run.
    unsafe { slice::from_raw_parts_mut(with_exposed_provenance_mut(at), bytes) }
}

/// Calls a host function with its argument.
pub(crate) fn call(function: HostFunction, data: usize) {
    function(with_exposed_provenance_mut(data));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_locked_memory_is_known_by_its_range() {
        let start = allocate_pinned(100).unwrap().addr();
        assert!(is_pinned(start, 100) && is_pinned(start + 60, 40));
        assert!(!is_pinned(start + 60, 41));
        assert_eq!(pinned_bytes(start), Some(100));
        assert!(free_pinned(start) && !free_pinned(start) && !is_pinned(start, 1));
        assert_eq!(allocate_pinned(0), None);
    }
}
