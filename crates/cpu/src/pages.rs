//! Large pages for weights. Decoding reads every weight for every token: in pages of 4 KiB the processor looks up an address for every 64
//! cache lines, and in a virtual machine each look-up is two.
#![allow(unsafe_code, reason = "a system call that Rust has no function for")]

/// Bytes of a large page of x86-64, and of arm64 with small pages of 4 KiB.
const LARGE: usize = 2 << 20;

/// Asks the system to move `bytes`, and what lies before them in the same large page, to large pages; nothing happens where it cannot. Large
/// pages in which the bytes end are left to those that are loaded next.
pub(crate) fn move_to_large(bytes: &[u8]) {
    let end = bytes.as_ptr_range().end as usize / LARGE * LARGE;
    let start = bytes.as_ptr() as usize / LARGE * LARGE;
    if start < end {
        collapse(start, end - start);
    }
}

#[cfg(all(target_os = "linux", target_pointer_width = "64", any(target_arch = "x86_64", target_arch = "aarch64")))]
fn collapse(start: usize, len: usize) {
    use std::ffi::{c_int, c_void};
    unsafe extern "C" {
        fn madvise(start: *mut c_void, len: usize, advice: c_int) -> c_int;
    }
    /// Of Linux from 6.1 on; see madvise(2).
    const MADV_COLLAPSE: c_int = 25;
    // SAFETY: contents stay as they are, whoever owns the memory: only where the system keeps it changes. Memory that is not there is an error
    // that changes nothing. Whether it succeeded does not matter to what is computed.
    let _ = unsafe { madvise(std::ptr::without_provenance_mut(start), len, MADV_COLLAPSE) };
}

#[cfg(not(all(
    target_os = "linux",
    target_pointer_width = "64",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
fn collapse(_: usize, _: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_stay() {
        let bytes: Vec<u8> = (0..3 * LARGE + 12345).map(|i| (i * 31 % 251) as u8).collect();
        for part in [&bytes[..], &bytes[777..LARGE], &bytes[LARGE / 2..2 * LARGE], &bytes[..0]] {
            move_to_large(part);
        }
        assert!(bytes.iter().enumerate().all(|(i, &b)| b == (i * 31 % 251) as u8));
    }
}
