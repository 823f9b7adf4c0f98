//! Blocked, packed matrix products: `C (+)= A B` with any strides, after Goto and van de Geijn, "Anatomy of high-performance matrix
//! multiplication", ACM TOMS 34(3), 2008.
//!
//! Columns of C are cut into blocks of NC, the inner dimension into blocks of KC, rows into blocks of MC. A block of B (KC x NC) is
//! packed once and read by all threads, a block of A (MC x KC) is packed by the thread that needs it, and a micro-kernel multiplies
//! slivers of them into a tile of C that stays in registers. Packing also converts: bf16 becomes f32, and f32 is rounded to bf16 when
//! the product computes in bf16.
//!
//! Threads take tiles of C, never parts of the inner dimension, and the blocks of the inner dimension are the same for every partition:
//! the result does not depend on the number of threads.

mod kernel; // micro-kernels
mod pack; // operands into slivers

use crate::isa::Isa;
use kernel::Kernel;
pub(crate) use pack::{Mat, round_bf16};
use rayon::prelude::*;

/// Inner dimension of a block: a sliver of A and one of B stay in the first-level cache.
const KC: usize = 256;
/// Rows of a block of A, rounded to the kernel's: MC x KC x 4 bytes stay in the second-level cache.
const MC: usize = 120;
/// Columns of a block of B.
const NC: usize = 2048;

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

/// `c (+)= a b` with `a` `[m, k]`, `b` `[k, n]`, `c` `[m, n]` row-major without gaps. Uses all threads of the current rayon pool.
///
/// # Panics
/// If an operand is smaller than the sizes say.
pub(crate) fn gemm(isa: Isa, c: &mut [f32], add: bool, m: usize, n: usize, k: usize, a: Mat<'_>, b: Mat<'_>) {
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
    let kernel = Kernel::of(isa);
    let out = Out::new(c, n);
    let (mc, nc) = (MC.next_multiple_of(kernel.mr), NC.next_multiple_of(kernel.nr));
    let mut b_pack = vec![0.0f32; KC * nc.min(n.next_multiple_of(kernel.nr))];
    // Few rows leave few row blocks: then columns are shared out as well.
    let threads = rayon::current_num_threads();
    for j0 in (0..n).step_by(nc) {
        let nb = nc.min(n - j0);
        for k0 in (0..k).step_by(KC) {
            let kb = KC.min(k - k0);
            b_pack[..kb * nb.next_multiple_of(kernel.nr)].par_chunks_mut(kb * kernel.nr).enumerate().for_each(
                |(i, sliver)| {
                    b.pack_columns(sliver, k0, kb, j0 + i * kernel.nr, kernel.nr.min(nb - i * kernel.nr), kernel.nr)
                },
            );
            let row_blocks = m.div_ceil(mc);
            let n_slivers = nb.div_ceil(kernel.nr);
            let column_parts = (4 * threads).div_ceil(row_blocks).clamp(1, n_slivers.div_ceil(4));
            let per_part = n_slivers.div_ceil(column_parts);
            let (b_pack, out) = (&b_pack, &out);
            (0..row_blocks * column_parts).into_par_iter().for_each_init(
                || vec![0.0f32; mc * KC],
                |a_pack, task| {
                    let (i0, part) = ((task / column_parts) * mc, task % column_parts);
                    let mb = mc.min(m - i0);
                    for (i, sliver) in
                        a_pack[..mb.next_multiple_of(kernel.mr) * kb].chunks_mut(kb * kernel.mr).enumerate()
                    {
                        a.pack_rows(sliver, k0, kb, i0 + i * kernel.mr, kernel.mr.min(mb - i * kernel.mr), kernel.mr);
                    }
                    let slivers = part * per_part..n_slivers.min((part + 1) * per_part);
                    for s in slivers {
                        let b_sliver = &b_pack[s * kb * kernel.nr..][..kb * kernel.nr];
                        let j = j0 + s * kernel.nr;
                        let columns = kernel.nr.min(nb - s * kernel.nr);
                        for (i, a_sliver) in
                            a_pack[..mb.next_multiple_of(kernel.mr) * kb].chunks(kb * kernel.mr).enumerate()
                        {
                            let rows = kernel.mr.min(mb - i * kernel.mr);
                            // The tile starts at row `i0 + i * mr`, column `j`, and `rows`, `columns` end inside C.
                            kernel.tile(
                                out,
                                i0 + i * kernel.mr,
                                j,
                                rows,
                                columns,
                                kb,
                                a_sliver,
                                b_sliver,
                                add || 0 < k0,
                            );
                        }
                    }
                },
            );
        }
    }
}

/// Scratch memory of [`small`].
#[derive(Default)]
pub(crate) struct Scratch {
    a: Vec<f32>,
    b: Vec<f32>,
}

/// `c (+)= a b` by the calling thread alone, for the tiles of attention.
///
/// # Panics
/// If an operand is smaller than the sizes say.
pub(crate) fn small(
    isa: Isa,
    scratch: &mut Scratch,
    out: Out,
    add: bool,
    m: usize,
    n: usize,
    k: usize,
    a: Mat<'_>,
    b: Mat<'_>,
) {
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    let inside = (m - 1) * out.ld + n <= out.len && n <= out.ld;
    assert!(inside && a.covers(m, k) && b.covers(k, n), "operands are smaller than the product");
    let kernel = Kernel::of(isa);
    scratch.a.resize(m.next_multiple_of(kernel.mr) * k, 0.0);
    scratch.b.resize(n.next_multiple_of(kernel.nr) * k, 0.0);
    for (i, sliver) in scratch.a.chunks_mut(k * kernel.mr).enumerate() {
        a.pack_rows(sliver, 0, k, i * kernel.mr, kernel.mr.min(m - i * kernel.mr), kernel.mr);
    }
    for (i, sliver) in scratch.b.chunks_mut(k * kernel.nr).enumerate() {
        b.pack_columns(sliver, 0, k, i * kernel.nr, kernel.nr.min(n - i * kernel.nr), kernel.nr);
    }
    for (j, b_sliver) in scratch.b.chunks(k * kernel.nr).enumerate() {
        for (i, a_sliver) in scratch.a.chunks(k * kernel.mr).enumerate() {
            let (rows, columns) = (kernel.mr.min(m - i * kernel.mr), kernel.nr.min(n - j * kernel.nr));
            kernel.tile(&out, i * kernel.mr, j * kernel.nr, rows, columns, k, a_sliver, b_sliver, add);
        }
    }
}
