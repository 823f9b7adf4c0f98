//! Micro-kernels: a tile of C in registers, one column of A times one row of B after the other.
#![allow(
    unsafe_code,
    reason = "vector loads and stores through pointers; lengths are asserted where slices become pointers"
)]
use super::Out;
use crate::isa::Isa;

/// `C[mr][nr] (+)= sum_k a[k][mr] b[k][nr]`; arguments: k, a, b, c, row stride of c, add.
type TileFn = unsafe fn(usize, *const f32, *const f32, *mut f32, usize, bool);

/// A micro-kernel and the tile it makes.
#[derive(Clone, Copy)]
pub(crate) struct Kernel {
    /// Rows of a tile.
    pub(crate) mr: usize,
    /// Columns of a tile.
    pub(crate) nr: usize,
    run: TileFn,
}

/// The largest tile of any kernel.
const MAX_TILE: usize = 14 * 32;

impl Kernel {
    /// The kernel for `isa`, which the machine has (`Cpu::with_isa` checked).
    pub(crate) fn of(isa: Isa) -> Kernel {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Kernel { mr: 14, nr: 32, run: avx512_14x32 },
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Kernel { mr: 6, nr: 16, run: avx2_6x16 },
            _ => Kernel { mr: 4, nr: 8, run: portable_4x8 },
        }
    }

    /// Multiplies two slivers into the tile of `rows` x `columns` at `(i, j)` of `out`.
    ///
    /// The caller owns that tile: no other thread writes it, and it lies inside `out`.
    pub(super) fn tile(
        &self,
        out: &Out,
        i: usize,
        j: usize,
        rows: usize,
        columns: usize,
        k: usize,
        a: &[f32],
        b: &[f32],
        add: bool,
    ) {
        assert!(k * self.mr <= a.len() && k * self.nr <= b.len(), "slivers are shorter than the inner dimension");
        // SAFETY: the tile lies inside the matrix that `Out` was made from: callers derive i, j, rows, columns from its checked sizes.
        let c = unsafe { out.ptr.add(i * out.ld + j) };
        if rows == self.mr && columns == self.nr {
            // SAFETY: a and b hold k steps (asserted above); c is a full tile that only this task writes.
            unsafe { (self.run)(k, a.as_ptr(), b.as_ptr(), c, out.ld, add) };
            return;
        }
        // At the edges the kernel still makes a full tile, into memory of its own.
        let mut tile = [0.0f32; MAX_TILE];
        // SAFETY: as above, and `tile` holds mr * nr values for every kernel (MAX_TILE).
        unsafe { (self.run)(k, a.as_ptr(), b.as_ptr(), tile.as_mut_ptr(), self.nr, false) };
        for (row, values) in tile.chunks(self.nr).take(rows).enumerate() {
            // SAFETY: row < rows, and `columns` values from there lie inside the tile that only this task writes.
            let target = unsafe { std::slice::from_raw_parts_mut(c.add(row * out.ld), columns) };
            for (t, v) in target.iter_mut().zip(values) {
                *t = if add { *t + v } else { *v };
            }
        }
    }
}

/// # Safety
/// `a` holds `4 k` values, `b` `8 k`; `c` is a 4 x 8 tile with row stride `ld`.
unsafe fn portable_4x8(k: usize, a: *const f32, b: *const f32, c: *mut f32, ld: usize, add: bool) {
    // SAFETY: lengths by contract.
    let (a, b) = unsafe { (std::slice::from_raw_parts(a, 4 * k), std::slice::from_raw_parts(b, 8 * k)) };
    let mut acc = [[0.0f32; 8]; 4];
    for (a, b) in a.as_chunks::<4>().0.iter().zip(b.as_chunks::<8>().0) {
        for i in 0..4 {
            for j in 0..8 {
                acc[i][j] += a[i] * b[j];
            }
        }
    }
    for (i, row) in acc.iter().enumerate() {
        // SAFETY: row i of the tile, by contract.
        let target = unsafe { std::slice::from_raw_parts_mut(c.add(i * ld), 8) };
        for (t, v) in target.iter_mut().zip(row) {
            *t = if add { *t + v } else { *v };
        }
    }
}

/// 12 accumulators, 2 rows of B and 1 broadcast of A fit the 16 registers.
///
/// # Safety
/// The machine has AVX2 and FMA. `a` holds `6 k` values, `b` `16 k`; `c` is a 6 x 16 tile with row stride `ld`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2_6x16(k: usize, mut a: *const f32, mut b: *const f32, c: *mut f32, ld: usize, add: bool) {
    use std::arch::x86_64::*;
    let mut acc = [[_mm256_setzero_ps(); 2]; 6];
    for _ in 0..k {
        // SAFETY: k steps of 6 and 16 values, by contract.
        unsafe {
            let (b0, b1) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)));
            for (i, acc) in acc.iter_mut().enumerate() {
                let ai = _mm256_broadcast_ss(&*a.add(i));
                acc[0] = _mm256_fmadd_ps(ai, b0, acc[0]);
                acc[1] = _mm256_fmadd_ps(ai, b1, acc[1]);
            }
            (a, b) = (a.add(6), b.add(16));
        }
    }
    for (i, acc) in acc.iter().enumerate() {
        // SAFETY: row i of the tile, by contract.
        unsafe {
            let c = c.add(i * ld);
            let (mut c0, mut c1) = (acc[0], acc[1]);
            if add {
                (c0, c1) = (_mm256_add_ps(_mm256_loadu_ps(c), c0), _mm256_add_ps(_mm256_loadu_ps(c.add(8)), c1));
            }
            _mm256_storeu_ps(c, c0);
            _mm256_storeu_ps(c.add(8), c1);
        }
    }
}

/// 28 accumulators, 2 rows of B and 1 broadcast of A fit the 32 registers.
///
/// # Safety
/// The machine has AVX-512F. `a` holds `14 k` values, `b` `32 k`; `c` is a 14 x 32 tile with row stride `ld`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512_14x32(k: usize, mut a: *const f32, mut b: *const f32, c: *mut f32, ld: usize, add: bool) {
    use std::arch::x86_64::*;
    let mut acc = [[_mm512_setzero_ps(); 2]; 14];
    for _ in 0..k {
        // SAFETY: k steps of 14 and 32 values, by contract.
        unsafe {
            let (b0, b1) = (_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16)));
            for (i, acc) in acc.iter_mut().enumerate() {
                let ai = _mm512_set1_ps(*a.add(i));
                acc[0] = _mm512_fmadd_ps(ai, b0, acc[0]);
                acc[1] = _mm512_fmadd_ps(ai, b1, acc[1]);
            }
            (a, b) = (a.add(14), b.add(32));
        }
    }
    for (i, acc) in acc.iter().enumerate() {
        // SAFETY: row i of the tile, by contract.
        unsafe {
            let c = c.add(i * ld);
            let (mut c0, mut c1) = (acc[0], acc[1]);
            if add {
                (c0, c1) = (_mm512_add_ps(_mm512_loadu_ps(c), c0), _mm512_add_ps(_mm512_loadu_ps(c.add(16)), c1));
            }
            _mm512_storeu_ps(c, c0);
            _mm512_storeu_ps(c.add(16), c1);
        }
    }
}
