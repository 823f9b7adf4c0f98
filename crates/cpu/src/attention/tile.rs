//! Products of tiles that lie in memory as they are: nothing is packed. A kernel broadcasts elements of A, wherever they lie, and multiplies
//! them by rows of B, which are read as vectors; so A may be a transpose, and B has to be row-major.
#![allow(
    unsafe_code,
    reason = "vector loads and stores through pointers; sizes are asserted where slices become pointers"
)]
use crate::isa::Isa;
use std::ops::Range;

/// `C[rows][columns] (+)= sum_p A[rows][p] B[p][columns]`; arguments: k, a, its strides by row and by p, b, its row stride, c, its row
/// stride, columns, add.
type TileFn = unsafe fn(usize, *const f32, usize, usize, *const f32, usize, *mut f32, usize, usize, bool);

/// The left factor: element `(i, p)` is `data[i * rs + p * cs]`.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    pub(super) data: &'a [f32],
    pub(super) rs: usize,
    pub(super) cs: usize,
}

/// Sizes of a product: `c` is `[m, n]`, the inner dimension `k`.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
}

/// `c (+)= a b`; `c` and `b` are row-major with rows of `ldc` and `ldb` values.
///
/// For each tile, `part` is asked which part of the inner dimension counts (rest being zero), given the rows and the columns of the tile;
/// a tile of which nothing counts is left as it was.
///
/// # Panics
/// If an operand is smaller than the sizes say.
pub(super) fn product(
    isa: Isa,
    c: &mut [f32],
    ldc: usize,
    add: bool,
    size: Size,
    a: Left<'_>,
    b: &[f32],
    ldb: usize,
    part: impl Fn(Range<usize>, Range<usize>) -> Range<usize>,
) {
    let Size { m, n, k } = size;
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    assert!(n <= ldc && (m - 1) * ldc + n <= c.len(), "the output is smaller than the product");
    assert!((m - 1) * a.rs + (k - 1) * a.cs < a.data.len(), "the left factor is smaller than the product");
    assert!(n <= ldb && (k - 1) * ldb + n <= b.len(), "the right factor is smaller than the product");
    let (mr, nr, kernels) = kernels(isa);
    for j in (0..n).step_by(nr) {
        let columns = nr.min(n - j);
        for i in (0..m).step_by(mr) {
            let rows = mr.min(m - i);
            let Range { start, end } = part(i..i + rows, j..j + columns);
            let end = end.min(k);
            if start >= end {
                continue;
            }
            // SAFETY: rows i.. and columns j.. end inside all three (asserted above), and so do steps start..end of k. The instructions
            // are those of `isa`, which the machine has (`Cpu::with_isa` checked).
            unsafe {
                kernels[rows - 1](
                    end - start,
                    a.data.as_ptr().add(i * a.rs + start * a.cs),
                    a.rs,
                    a.cs,
                    b.as_ptr().add(start * ldb + j),
                    ldb,
                    c.as_mut_ptr().add(i * ldc + j),
                    ldc,
                    columns,
                    add,
                );
            }
        }
    }
}

/// Rows and columns of a tile, and a kernel for each number of rows up to that.
fn kernels(isa: Isa) -> (usize, usize, &'static [TileFn]) {
    #[cfg(target_arch = "x86_64")]
    if isa.has_avx512() {
        const AVX512: [TileFn; 12] = [
            avx512::<1>,
            avx512::<2>,
            avx512::<3>,
            avx512::<4>,
            avx512::<5>,
            avx512::<6>,
            avx512::<7>,
            avx512::<8>,
            avx512::<9>,
            avx512::<10>,
            avx512::<11>,
            avx512::<12>,
        ];
        return (12, 32, &AVX512);
    }
    #[cfg(target_arch = "x86_64")]
    if Isa::Avx2 <= isa {
        const AVX2: [TileFn; 6] = [avx2::<1>, avx2::<2>, avx2::<3>, avx2::<4>, avx2::<5>, avx2::<6>];
        return (6, 16, &AVX2);
    }
    let _ = isa;
    (4, 8, &[portable::<1>, portable::<2>, portable::<3>, portable::<4>])
}

/// # Safety
/// `a` has `R` rows of `k` values by its strides, `b` `k` rows and `c` `R` rows of `columns <= 8` values by theirs.
unsafe fn portable<const R: usize>(
    k: usize,
    a: *const f32,
    rs: usize,
    cs: usize,
    b: *const f32,
    ldb: usize,
    c: *mut f32,
    ldc: usize,
    columns: usize,
    add: bool,
) {
    let mut acc = [[0.0f32; 8]; R];
    for p in 0..k {
        // SAFETY: row p of b, by contract.
        let b = unsafe { std::slice::from_raw_parts(b.add(p * ldb), columns) };
        for (i, acc) in acc.iter_mut().enumerate() {
            // SAFETY: element (i, p), by contract.
            let a = unsafe { *a.add(i * rs + p * cs) };
            acc.iter_mut().zip(b).for_each(|(acc, b)| *acc += a * b);
        }
    }
    for (i, acc) in acc.iter().enumerate() {
        // SAFETY: row i of c, by contract.
        let c = unsafe { std::slice::from_raw_parts_mut(c.add(i * ldc), columns) };
        c.iter_mut().zip(acc).for_each(|(c, acc)| *c = if add { *c + acc } else { *acc });
    }
}

/// At six rows, 12 accumulators, two vectors of B and one broadcast of A fit the 16 registers.
///
/// # Safety
/// As `portable`, with `columns <= 16`; the machine has AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const R: usize>(
    k: usize,
    mut a: *const f32,
    rs: usize,
    cs: usize,
    mut b: *const f32,
    ldb: usize,
    c: *mut f32,
    ldc: usize,
    columns: usize,
    add: bool,
) {
    use std::arch::x86_64::*;
    let mut acc = [[_mm256_setzero_ps(); 2]; R];
    if columns == 16 {
        for _ in 0..k {
            // SAFETY: a row of 16 values of b, and element (i, p) of a, by contract.
            unsafe {
                let (b0, b1) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)));
                for (i, acc) in acc.iter_mut().enumerate() {
                    let ai = _mm256_broadcast_ss(&*a.add(i * rs));
                    acc[0] = _mm256_fmadd_ps(ai, b0, acc[0]);
                    acc[1] = _mm256_fmadd_ps(ai, b1, acc[1]);
                }
            }
            (a, b) = (a.wrapping_add(cs), b.wrapping_add(ldb));
        }
        for (i, acc) in acc.iter().enumerate() {
            // SAFETY: row i of c holds 16 values, by contract.
            unsafe {
                let c = c.add(i * ldc);
                let (mut c0, mut c1) = (acc[0], acc[1]);
                if add {
                    (c0, c1) = (_mm256_add_ps(_mm256_loadu_ps(c), c0), _mm256_add_ps(_mm256_loadu_ps(c.add(8)), c1));
                }
                _mm256_storeu_ps(c, c0);
                _mm256_storeu_ps(c.add(8), c1);
            }
        }
        return;
    }
    // Fewer columns: the same with masks, under which nothing is read or written.
    let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    let mask = |first: usize| _mm256_cmpgt_epi32(_mm256_set1_epi32(columns as i32 - first as i32), lanes);
    let (m0, m1) = (mask(0), mask(8));
    // With eight columns or fewer the second vector begins where b may end: a pointer that is not followed.
    for _ in 0..k {
        // SAFETY: `columns` values of b under the masks, and element (i, p) of a, by contract.
        unsafe {
            let (b0, b1) = (_mm256_maskload_ps(b, m0), _mm256_maskload_ps(b.wrapping_add(8), m1));
            for (i, acc) in acc.iter_mut().enumerate() {
                let ai = _mm256_broadcast_ss(&*a.add(i * rs));
                acc[0] = _mm256_fmadd_ps(ai, b0, acc[0]);
                acc[1] = _mm256_fmadd_ps(ai, b1, acc[1]);
            }
        }
        (a, b) = (a.wrapping_add(cs), b.wrapping_add(ldb));
    }
    for (i, acc) in acc.iter().enumerate() {
        for (at, mask, mut value) in [(0, m0, acc[0]), (8, m1, acc[1])] {
            // SAFETY: `columns` values of row i of c under the masks, by contract.
            unsafe {
                let c = c.wrapping_add(i * ldc + at);
                if add {
                    value = _mm256_add_ps(_mm256_maskload_ps(c, mask), value);
                }
                _mm256_maskstore_ps(c, mask, value);
            }
        }
    }
}

/// At twelve rows, 24 accumulators, two vectors of B and one broadcast of A fit the 32 registers. Masks are free here.
///
/// # Safety
/// As `portable`, with `columns <= 32`; the machine has AVX-512F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512<const R: usize>(
    k: usize,
    mut a: *const f32,
    rs: usize,
    cs: usize,
    mut b: *const f32,
    ldb: usize,
    c: *mut f32,
    ldc: usize,
    columns: usize,
    add: bool,
) {
    use std::arch::x86_64::*;
    let mask = |first: usize| ((1u32 << columns.saturating_sub(first).min(16)) - 1) as __mmask16;
    let (m0, m1) = (mask(0), mask(16));
    let mut acc = [[_mm512_setzero_ps(); 2]; R];
    for _ in 0..k {
        // SAFETY: `columns` values of b under the masks, and element (i, p) of a, by contract.
        unsafe {
            let (b0, b1) = (_mm512_maskz_loadu_ps(m0, b), _mm512_maskz_loadu_ps(m1, b.wrapping_add(16)));
            for (i, acc) in acc.iter_mut().enumerate() {
                let ai = _mm512_set1_ps(*a.add(i * rs));
                acc[0] = _mm512_fmadd_ps(ai, b0, acc[0]);
                acc[1] = _mm512_fmadd_ps(ai, b1, acc[1]);
            }
        }
        (a, b) = (a.wrapping_add(cs), b.wrapping_add(ldb));
    }
    for (i, acc) in acc.iter().enumerate() {
        for (at, mask, mut value) in [(0, m0, acc[0]), (16, m1, acc[1])] {
            // SAFETY: `columns` values of row i of c under the masks, by contract.
            unsafe {
                let c = c.wrapping_add(i * ldc + at);
                if add {
                    value = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, c), value);
                }
                _mm512_mask_storeu_ps(c, mask, value);
            }
        }
    }
}
