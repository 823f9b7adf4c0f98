//! Micro-kernels: a tile of C in registers, one column of A times one row of B after the other.
//!
//! Operands are packed in units of 32 bits: an f32, or two bf16 that are neighbours along the inner dimension, for the instruction that
//! multiplies such pairs. A kernel does not care which until it multiplies.
#![allow(
    unsafe_code,
    reason = "vector loads and stores through pointers; lengths are asserted where slices become pointers"
)]
use super::Out;
use crate::isa::Isa;

/// `C[mr][nr] (+)= sum_k a[k][mr] b[k][nr]`; arguments: k in units, a, b, c, row stride of c, what becomes of c.
type TileFn = unsafe fn(usize, *const f32, *const f32, *mut f32, usize, Store);

/// What becomes of a tile of C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    /// It is written.
    Set,
    /// It is added to what is there.
    Add,
    /// It is written past the caches, where the kernel can and the tile is aligned to cache lines: C is larger than they are, and reading
    /// what is about to be overwritten would cost as much as writing it.
    Stream,
}

/// What a unit of a packed operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// One f32.
    F32,
    /// Two bf16, the lower half first along the inner dimension.
    Pair,
}

/// A micro-kernel and the tile it makes.
#[derive(Clone, Copy)]
pub(crate) struct Kernel {
    /// Rows of a tile.
    pub(crate) mr: usize,
    /// Columns of a tile.
    pub(crate) nr: usize,
    /// What the packed operands consist of.
    pub(crate) unit: Unit,
    run: TileFn,
}

/// The largest tile of any kernel.
const MAX_TILE: usize = 14 * 32;

impl Kernel {
    /// The kernel for f32, or for operands that are rounded to bf16, on `isa`, which the machine has (`Cpu::with_isa` checked).
    pub(crate) fn of(isa: Isa, bf16: bool) -> Kernel {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 if bf16 => Kernel { mr: 14, nr: 32, unit: Unit::Pair, run: avx512_bf16_14x32 },
            #[cfg(target_arch = "x86_64")]
            isa if isa.has_avx512() => Kernel { mr: 14, nr: 32, unit: Unit::F32, run: avx512_14x32 },
            #[cfg(target_arch = "x86_64")]
            isa if Isa::Avx2 <= isa => Kernel { mr: 6, nr: 16, unit: Unit::F32, run: avx2_6x16 },
            _ => Kernel { mr: 4, nr: 8, unit: Unit::F32, run: portable_4x8 },
        }
    }

    /// Multiplies two slivers of `k` units into the tile of `rows` x `columns` at `(i, j)` of `out`.
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
        store: Store,
    ) {
        assert!(k * self.mr <= a.len() && k * self.nr <= b.len(), "slivers are shorter than the inner dimension");
        // SAFETY: the tile lies inside the matrix that `Out` was made from: callers derive i, j, rows, columns from its checked sizes.
        let c = unsafe { out.ptr.add(i * out.ld + j) };
        if rows == self.mr && columns == self.nr {
            // SAFETY: a and b hold k steps (asserted above); c is a full tile that only this task writes.
            unsafe { (self.run)(k, a.as_ptr(), b.as_ptr(), c, out.ld, store) };
            return;
        }
        // At the edges the kernel still makes a full tile, into memory of its own.
        let mut tile = [0.0f32; MAX_TILE];
        // SAFETY: as above, and `tile` holds mr * nr values for every kernel (MAX_TILE).
        unsafe { (self.run)(k, a.as_ptr(), b.as_ptr(), tile.as_mut_ptr(), self.nr, Store::Set) };
        for (row, values) in tile.chunks(self.nr).take(rows).enumerate() {
            // SAFETY: row < rows, and `columns` values from there lie inside the tile that only this task writes.
            let target = unsafe { std::slice::from_raw_parts_mut(c.add(row * out.ld), columns) };
            for (t, v) in target.iter_mut().zip(values) {
                *t = if store == Store::Add { *t + v } else { *v };
            }
        }
    }
}

/// # Safety
/// `a` holds `4 k` values, `b` `8 k`; `c` is a 4 x 8 tile with row stride `ld`.
unsafe fn portable_4x8(k: usize, a: *const f32, b: *const f32, c: *mut f32, ld: usize, how: Store) {
    // SAFETY: lengths by contract.
    let (a, b) = unsafe { (std::slice::from_raw_parts(a, 4 * k), std::slice::from_raw_parts(b, 8 * k)) };
    let mut acc = [[0.0f32; 8]; 4];
    for (a, b) in a.as_chunks::<4>().0.iter().zip(b.as_chunks::<8>().0) {
        for (acc, a) in acc.iter_mut().zip(a) {
            for (acc, b) in acc.iter_mut().zip(b) {
                *acc += a * b;
            }
        }
    }
    for (i, acc) in acc.iter().enumerate() {
        // SAFETY: row i of the tile.
        let row = unsafe { std::slice::from_raw_parts_mut(c.add(i * ld), 8) };
        for (c, v) in row.iter_mut().zip(acc) {
            *c = if how == Store::Add { *c + v } else { *v };
        }
    }
}

/// Adds a tile of accumulators to C, or stores it. One macro for all vector widths: the loads, sums and stores differ in name only.
#[cfg(target_arch = "x86_64")]
macro_rules! store_tile {
    ($acc:ident, $c:ident, $ld:ident, $how:ident, $lanes:literal, $load:ident, $sum:ident, $store:ident) => {
        for (i, acc) in $acc.iter().enumerate() {
            for (j, &acc) in acc.iter().enumerate() {
                // SAFETY: vector j of row i of the tile, by the kernel's contract.
                unsafe {
                    let c = $c.add(i * $ld + j * $lanes);
                    $store(c, if $how == Store::Add { $sum($load(c), acc) } else { acc });
                }
            }
        }
    };
}

/// 12 accumulators, 2 rows of B and 1 broadcast of A fit the 16 registers.
///
/// # Safety
/// The machine has AVX2 and FMA. `a` holds `6 k` values, `b` `16 k`; `c` is a 6 x 16 tile with row stride `ld`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2_6x16(k: usize, mut a: *const f32, mut b: *const f32, c: *mut f32, ld: usize, how: Store) {
    use std::arch::x86_64::*;
    let mut acc = [[_mm256_setzero_ps(); 2]; 6];
    for i in 0..6 {
        // C is needed at the end: it is on its way meanwhile. A prefetch has no obligations.
        _mm_prefetch::<_MM_HINT_T0>(c.wrapping_add(i * ld).cast());
    }
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
    store_tile!(acc, c, ld, how, 8, _mm256_loadu_ps, _mm256_add_ps, _mm256_storeu_ps);
}

/// The body of both AVX-512 kernels; `$step` makes the new accumulator of (accumulator, a, b).
///
/// 28 accumulators, 2 rows of B and 1 broadcast of A fit the 32 registers.
#[cfg(target_arch = "x86_64")]
macro_rules! avx512_tile {
    ($k:ident, $a:ident, $b:ident, $c:ident, $ld:ident, $how:ident, $step:expr) => {
        use std::arch::x86_64::*;
        let mut acc = [[_mm512_setzero_ps(); 2]; 14];
        if $how != Store::Stream {
            for i in 0..14 {
                _mm_prefetch::<_MM_HINT_T0>($c.wrapping_add(i * $ld).cast());
                _mm_prefetch::<_MM_HINT_T0>($c.wrapping_add(i * $ld + 16).cast());
            }
        }
        for _ in 0..$k {
            // SAFETY: k steps of 14 and 32 units, by contract.
            unsafe {
                let (b0, b1) = (_mm512_loadu_ps($b), _mm512_loadu_ps($b.add(16)));
                for (i, acc) in acc.iter_mut().enumerate() {
                    let ai = _mm512_set1_ps(*$a.add(i));
                    acc[0] = $step(acc[0], ai, b0);
                    acc[1] = $step(acc[1], ai, b1);
                }
                ($a, $b) = ($a.add(14), $b.add(32));
            }
        }
        if $how == Store::Stream && $ld.is_multiple_of(16) && $c.addr().is_multiple_of(64) {
            store_tile!(acc, $c, $ld, $how, 16, _mm512_loadu_ps, _mm512_add_ps, _mm512_stream_ps);
            // Such stores are not ordered by themselves: whoever is told that this task is done has to see them.
            _mm_sfence();
        } else {
            store_tile!(acc, $c, $ld, $how, 16, _mm512_loadu_ps, _mm512_add_ps, _mm512_storeu_ps);
        }
    };
}

/// # Safety
/// The machine has AVX-512F. `a` holds `14 k` values, `b` `32 k`; `c` is a 14 x 32 tile with row stride `ld`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512_14x32(k: usize, mut a: *const f32, mut b: *const f32, c: *mut f32, ld: usize, how: Store) {
    avx512_tile!(k, a, b, c, ld, how, |acc, a, b| _mm512_fmadd_ps(a, b, acc));
}

/// Denormal bf16 count as zero, and sums are rounded after every pair: what the instruction does.
///
/// # Safety
/// The machine has AVX-512F and AVX512-BF16. `a` holds `14 k` pairs of bf16, `b` `32 k`; `c` is a 14 x 32 tile with row stride `ld`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn avx512_bf16_14x32(k: usize, mut a: *const f32, mut b: *const f32, c: *mut f32, ld: usize, how: Store) {
    // SAFETY of the casts: both types are 64 bytes of any content.
    avx512_tile!(k, a, b, c, ld, how, |acc, a, b| _mm512_dpbf16_ps(
        acc,
        std::mem::transmute::<__m512, __m512bh>(a),
        std::mem::transmute::<__m512, __m512bh>(b)
    ));
}
