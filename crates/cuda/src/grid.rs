//! How elements and rows are shared out to threads: the host's side of `each_group` and `each_of_row` in `kernels/include/common.cuh`.
use crate::{driver::Address, kernel::Launch};
use paring_ops::{Error, Result};

/// Threads of a block where nothing asks for another number.
pub(crate) const THREADS: u32 = 256;

/// Whether every address is a multiple of the bytes beside it.
pub(crate) fn aligned(operands: &[(Address, u64)]) -> bool {
    operands.iter().all(|(address, bytes)| address.0.is_multiple_of(*bytes))
}

/// A launch over `n` elements, and how many groups of `each` of them are read and written at once: none when the operands are not aligned.
/// A thread has one group, or one of the elements that are left.
pub(crate) fn groups(entry: &'static str, n: usize, each: usize, aligned: bool) -> (Launch, u64) {
    let groups = if aligned { n / each } else { 0 };
    let threads = groups + (n - groups * each);
    let blocks = threads.div_ceil(THREADS as usize);
    // What does not fit is refused at the launch.
    (Launch::linear(entry, u32::try_from(blocks).unwrap_or(u32::MAX), THREADS), groups as u64)
}

/// Threads of a block that has a row of `d` elements, `each` at a time: whole warps, of which each thread has about two packs; at most `most`.
pub(crate) fn row_threads(d: usize, each: usize, most: u32) -> u32 {
    let warps = d.div_ceil(each * 2 * 32).clamp(1, (most / 32) as usize);
    warps as u32 * 32
}

/// A size as kernels take it.
///
/// # Errors
/// [`Error::Unsupported`] above `u32::MAX`.
pub(crate) fn size(op: &'static str, n: usize) -> Result<u32> {
    u32::try_from(n).map_err(|_| Error::Unsupported { op, what: format!("a dimension of {n}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_element_has_one_thread() {
        // 1027 elements: 256 groups of 4 and 3 alone are 259 threads.
        assert_eq!(groups("e", 1027, 4, true), (Launch::linear("e", 2, THREADS), 256));
        assert_eq!(groups("e", 1027, 4, false), (Launch::linear("e", 5, THREADS), 0));
        assert_eq!(groups("e", 0, 4, true), (Launch::linear("e", 0, THREADS), 0));
    }

    #[test]
    fn rows_get_whole_warps() {
        assert_eq!([1, 256, 257, 4096, 1 << 20].map(|d| row_threads(d, 4, 256)), [32, 32, 64, 256, 256]);
        assert!(aligned(&[(Address(32), 16), (Address(8), 8)]) && !aligned(&[(Address(8), 16)]));
        assert!(size("op", 1 << 32).is_err());
    }
}
