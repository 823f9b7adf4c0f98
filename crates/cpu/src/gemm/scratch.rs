//! Memory for packed panels: aligned to a cache line, kept by every thread from call to call.
use std::cell::RefCell;

/// One cache line of f32.
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(super) struct Line([f32; 16]);

/// A thread that kept more than this for a shared operand gives it back: 32 MB.
const KEEP: usize = (32 << 20) / 64;

thread_local! {
    static SCRATCH: RefCell<[Vec<Line>; 4]> = const { RefCell::new([const { Vec::new() }; 4]) };
}

/// Calls `f` with `len` values of unspecified contents. A thread has four of these, for use at the same time: `slot` 0 and 1 are those of
/// matrix products, 2 and 3 of attention. A slot that is in use already is replaced by new memory.
pub(crate) fn with_scratch<R>(slot: usize, len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut lines = SCRATCH.with_borrow_mut(|all| std::mem::take(&mut all[slot]));
    let count = len.div_ceil(16);
    if lines.len() < count {
        lines.resize(count, Line([0.0; 16]));
    }
    let result = f(&mut bytemuck::cast_slice_mut(&mut lines)[..len]);
    if lines.len() <= KEEP {
        SCRATCH.with_borrow_mut(|all| all[slot] = lines);
    }
    result
}
