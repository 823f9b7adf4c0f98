//! Blocked, packed matrix products: `C (+)= A B` with any strides, after Goto and van de Geijn, "Anatomy of high-performance matrix
//! multiplication", ACM TOMS 34(3), 2008; products with few rows go another way, see [`dots`].
//!
//! The operand with fewer rows (A's) or columns (B's) is packed whole by all threads. Then threads take parts of the other dimension: a
//! task packs its part of the other operand into memory of its own, which stays in the second-level cache, and a micro-kernel multiplies
//! panels of both into a tile of C that stays in registers. The inner dimension is cut into equal blocks only where a panel would leave
//! the first-level cache: C then is read and written once for each.
//!
//! A weight that many products read may be packed once ([`Packed`]): the panels are those that a product would make, and so is the result.
//!
//! Threads take tiles of C, never parts of the inner dimension, and the blocks of the inner dimension are the same for every partition:
//! the result does not depend on the number of threads.

mod dots; // few rows, nothing packed
mod kernel; // micro-kernels
mod pack; // operands into panels
mod packed; // weights whose panels are kept
mod scratch; // aligned memory of every thread

use crate::{isa::Isa, pool::Threads};
pub(crate) use dots::{dots, few_rows};
use kernel::{Kernel, Store};
pub(crate) use pack::{Mat, round_bf16};
pub(crate) use packed::{Columns, Packed};
pub(crate) use scratch::with_scratch;

/// Units of the inner dimension that are multiplied at a time: a panel of A of this length stays in the first-level cache.
const KC: usize = 768;
/// Bytes of the shared operand that are packed at a time: a part of the last-level cache.
const SHARED_BYTES: usize = 8 << 20;
/// Bytes of a product from which on it is written past the caches, if it is written only once.
const STREAM_BYTES: usize = 48 << 20;
/// Bytes of its own operand that a task packs at a time, at most: they stay in the second-level cache.
const OWN_BYTES: usize = 160 << 10;
/// Tasks for every thread, where there are panels enough: a core that is taken away does not hold up the others for long.
const TASKS_PER_THREAD: usize = 3;

/// Panels of a task, of so many `bytes` each: the number that lets all threads end soonest, if they are equally fast.
fn panels_of_task(panels: usize, bytes: usize, threads: usize) -> usize {
    let most = (panels / (TASKS_PER_THREAD * threads)).min(OWN_BYTES / bytes).max(1);
    let longest = |part: usize| panels.div_ceil(part).div_ceil(threads) * part;
    (1..=most).rev().min_by_key(|&part| longest(part)).unwrap_or(1)
}

/// Where a product goes: rows of `ld` values, of which the first columns are written.
#[derive(Clone, Copy)]
pub(crate) struct Out {
    ptr: *mut f32,
    ld: usize,
    len: usize,
}

// SAFETY: `Out` is handed to tasks that write disjoint tiles of it; `Out::new` borrows the memory mutably for as long as the product runs.
#[allow(unsafe_code, reason = "disjoint tiles of one matrix are written by several threads")]
unsafe impl Send for Out {}
// SAFETY: as above.
#[allow(unsafe_code, reason = "disjoint tiles of one matrix are written by several threads")]
unsafe impl Sync for Out {}

impl Out {
    /// A matrix with rows of `ld` values.
    pub(crate) fn new(c: &mut [f32], ld: usize) -> Out {
        Out { ptr: c.as_mut_ptr(), ld, len: c.len() }
    }

    /// The matrix that begins `offset` values further on.
    pub(crate) fn at(&self, offset: usize) -> Out {
        assert!(offset <= self.len, "outside of the matrix");
        Out { ptr: self.ptr.wrapping_add(offset), ld: self.ld, len: self.len - offset }
    }

    /// The first `n` values.
    ///
    /// # Safety
    /// The memory that [`Out::new`] borrowed is still there, and nobody else touches these values meanwhile.
    #[allow(unsafe_code, reason = "disjoint tiles of one matrix are written by several threads")]
    pub(crate) unsafe fn head<'a>(self, n: usize) -> &'a mut [f32] {
        assert!(n <= self.len, "outside of the matrix");
        // SAFETY: inside (asserted), the rest by contract.
        unsafe { std::slice::from_raw_parts_mut(self.ptr, n) }
    }
}

/// The inner dimension in blocks: of equal length but the last, and of a whole number of units.
#[derive(Clone, Copy)]
struct Blocks {
    k: usize,
    /// Elements of a block.
    len: usize,
}

impl Blocks {
    fn of(k: usize, kernel: &Kernel) -> Blocks {
        let most = KC * kernel.unit.elements();
        // A multiple of sixteen keeps packing in whole vectors.
        Blocks { k, len: k.div_ceil(k.div_ceil(most)).next_multiple_of(16) }
    }

    fn each(self, kernel: &Kernel) -> impl Iterator<Item = Block> + use<> {
        let unit = kernel.unit;
        (0..self.k.div_ceil(self.len)).map(move |i| {
            let (k0, kb) = (i * self.len, self.len.min(self.k - i * self.len));
            Block { k0, kb, units: unit.units(kb) }
        })
    }
}

/// A piece of the inner dimension.
struct Block {
    /// First element.
    k0: usize,
    /// Elements.
    kb: usize,
    /// Units of the kernel.
    units: usize,
}

/// `c (+)= a b` with `a` `[m, k]`, `b` `[k, n]`, `c` `[m, n]` row-major without gaps.
///
/// # Panics
/// If an operand is smaller than the sizes say.
pub(crate) fn gemm<'a>(
    isa: Isa,
    threads: &Threads,
    c: &mut [f32],
    add: bool,
    m: usize,
    n: usize,
    k: usize,
    a: Mat<'_>,
    b: impl Into<Columns<'a>>,
) {
    let b = b.into();
    assert!(c.len() == m * n && a.covers(m, k) && b.covers(k, n), "operands are smaller than the product");
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if !add {
            c.fill(0.0);
        }
        return;
    }
    let kernel = Kernel::of(isa, a.is_bf16() && b.is_bf16());
    let Kernel { mr, nr, unit, .. } = kernel;
    let blocks = Blocks::of(k, &kernel);
    let streams = STREAM_BYTES <= 4 * c.len() && k <= blocks.len;
    let out = Out::new(c, n);
    let (row_panels, column_panels) = (m.div_ceil(mr), n.div_ceil(nr));
    // Which operand all threads share: the smaller one. The other is cut into parts of whole panels.
    let share_a = m <= n;
    let (shared_panels, shared_width, own_panels, own_width) =
        if share_a { (row_panels, mr, column_panels, nr) } else { (column_panels, nr, row_panels, mr) };
    let part = panels_of_task(own_panels, 4 * own_width * unit.units(blocks.len), threads.count());
    let pack_shared = |out: &mut [f32], block: &Block, panel: usize, count: usize| {
        if share_a {
            a.pack_rows(isa, unit, out, block.k0, block.kb, panel * mr, (count * mr).min(m - panel * mr), mr);
        } else {
            b.pack(isa, &kernel, out, block, panel, count, n);
        }
    };
    let shared_rows = shared_panels * shared_width;
    // A long inner dimension is taken in groups of blocks, so that what is shared stays in the last-level cache.
    let all: Vec<Block> = blocks.each(&kernel).collect();
    let per_group = (SHARED_BYTES / (4 * shared_rows * unit.units(blocks.len))).clamp(1, all.len());
    for group in all.chunks(per_group) {
        let units: usize = group.iter().map(|b| b.units).sum();
        let ready = if share_a { None } else { b.panels(&kernel, group[0].k0, units, 0, column_panels) };
        with_scratch(0, if ready.is_some() { 0 } else { shared_rows * units }, |shared| {
            // Block after block, in each panel after panel: a panel of a block is one run.
            let mut rest = &mut *shared;
            for block in group.iter().filter(|_| ready.is_none()) {
                let (out, behind) = rest.split_at_mut(shared_rows * block.units);
                rest = behind;
                let panels = panels_of_task(shared_panels, 4 * shared_width * block.units, threads.count());
                threads.pieces(panels * shared_width * block.units, out, |i, out| {
                    pack_shared(out, block, i * panels, panels.min(shared_panels - i * panels));
                });
            }
            let shared = ready.unwrap_or(shared);
            threads.for_each(own_panels.div_ceil(part), |task| {
                let first = task * part;
                let count = part.min(own_panels - first);
                with_scratch(1, count * own_width * unit.units(blocks.len), |own| {
                    let mut at = 0;
                    for block in group {
                        let shared = &shared[at..][..shared_rows * block.units];
                        at += shared.len();
                        let ub = block.units;
                        let store = match add || 0 < block.k0 {
                            true => Store::Add,
                            false if streams => Store::Stream,
                            false => Store::Set,
                        };
                        let ready = if share_a { b.panels(&kernel, block.k0, ub, first, count) } else { None };
                        if ready.is_none() && share_a {
                            b.pack(isa, &kernel, own, block, first, count, n);
                        } else if ready.is_none() {
                            let rows = (count * mr).min(m - first * mr);
                            a.pack_rows(isa, unit, own, block.k0, block.kb, first * mr, rows, mr);
                        }
                        let own = ready.unwrap_or(own);
                        let (a_panels, b_panels) = if share_a { (shared, own) } else { (own, shared) };
                        let (a_first, a_count) = if share_a { (0, row_panels) } else { (first, count) };
                        let (b_first, b_count) = if share_a { (first, count) } else { (0, column_panels) };
                        let tile = |i: usize, j: usize| {
                            let (row, column) = ((a_first + i) * mr, (b_first + j) * nr);
                            let (rows, columns) = (mr.min(m - row), nr.min(n - column));
                            let (a, b) = (&a_panels[i * ub * mr..][..ub * mr], &b_panels[j * ub * nr..][..ub * nr]);
                            kernel.tile(&out, row, column, rows, columns, ub, a, b, store);
                        };
                        // A shared panel comes from the last-level cache once, and meets all of this task's panels.
                        if share_a {
                            (0..a_count).for_each(|i| (0..b_count).for_each(|j| tile(i, j)));
                        } else {
                            (0..b_count).for_each(|j| (0..a_count).for_each(|i| tile(i, j)));
                        }
                    }
                });
            });
        });
    }
}
