//! Tiles of products in vectors of 256 bits: 32 products of bytes become eight partial sums at once.
//!
//! The instructions multiply unsigned by signed bytes. Halves of bytes (Q4_0, Q4_1) are unsigned as they are stored: what Q4_0 has to have
//! subtracted comes with the activations. Bytes (Q8_0) give their sign to the activations, which have room for it: they are never -128.
#![allow(unsafe_code, reason = "vector loads through pointers; bounds are asserted")]
use super::{
    Blocks, LEN, MOST, Q4_0, Q4_1, Q8_0, TOGETHER,
    activations::{GROUP, Group, Rounded},
    format,
};
use crate::isa::Isa;
use std::arch::x86_64::*;

/// How far ahead of a row's blocks memory is asked for, in bytes.
const AHEAD: usize = 2048;

/// See [`super::tile`].
pub(super) fn tile(
    isa: Isa,
    sums: &mut [[f32; TOGETHER]; MOST],
    x: Rounded<'_>,
    rows: usize,
    w: Blocks<'_>,
    columns: usize,
) {
    assert!(
        rows <= MOST && columns <= TOGETHER && columns * w.row_bytes() <= w.bytes.len(),
        "a tile of {rows}x{columns}"
    );
    let format = format(w.dtype);
    let x = x.raw(format, rows * w.row);
    // SAFETY: the machine has the instructions (`Cpu::with_isa` checked); x has `rows` and w `columns` rows of `w.row` blocks (asserted).
    unsafe {
        match isa {
            Isa::AvxVnni => avx_vnni::tile(format, sums, x, rows, w, columns),
            isa if Isa::Avx512Vnni <= isa => avx512_vnni::tile(format, sums, x, rows, w, columns),
            _ => avx2::tile(format, sums, x, rows, w, columns),
        }
    }
}

/// See [`super::row`].
pub(super) fn rows(isa: Isa, y: &mut [f32], x: Rounded<'_>, w: Blocks<'_>) {
    assert!(y.len() * w.row_bytes() <= w.bytes.len(), "rows of weights are missing");
    let format = format(w.dtype);
    let (row, groups) = (x.raw(format, w.row), x.groups);
    // SAFETY: the machine has the instructions (`Cpu::with_isa` checked); x has one row and w `y.len()` rows of `w.row` blocks (asserted,
    // by `raw` for x). Groups are of whole rows, or none.
    unsafe {
        match isa {
            Isa::AvxVnni => avx_vnni::rows(format, y, row, w),
            isa if Isa::Avx512Vnni <= isa && groups.len() == w.row / GROUP && !groups.is_empty() => {
                fours::rows(format == Q4_1, y, row, groups, w)
            }
            isa if Isa::Avx512Vnni <= isa => avx512_vnni::rows(format, y, row, w),
            _ => avx2::rows(format, y, row, w),
        }
    }
}

/// Activations in groups of blocks.
///
/// # Panics
/// Without the instructions that multiply them so.
pub(super) fn groups(isa: Isa, out: &mut Vec<Group>, q: &[[[i8; LEN]; GROUP]], scales: &[[f32; GROUP]]) {
    assert!(Isa::Avx512Vnni <= isa, "groups are for AVX512-VNNI");
    // SAFETY: the machine has the instructions: `Cpu::with_isa` refuses an `Isa` that it lacks.
    unsafe { fours::groups(out, q, scales) }
}

/// [`Rounded`], from its first row on.
#[derive(Clone, Copy)]
struct X {
    q: *const [i8; LEN],
    scales: *const f32,
    offsets: *const [i32; 8],
    of_min: *const f32,
}

impl Rounded<'_> {
    /// Pointers to what a kernel for `format` reads of `blocks` blocks.
    fn raw(&self, format: u8, blocks: usize) -> X {
        let Rounded { q, scales, offsets, sums, .. } = self;
        assert!(blocks <= q.len() && blocks <= scales.len(), "rows of activations are missing");
        assert!(format != Q4_0 || blocks <= offsets.len(), "offsets of activations are missing");
        assert!(format != Q4_1 || blocks <= sums.len(), "sums of activations are missing");
        X { q: q.as_ptr(), scales: scales.as_ptr(), offsets: offsets.as_ptr(), of_min: sums.as_ptr() }
    }
}

/// Bytes of a block.
pub(super) const fn bytes(format: u8) -> usize {
    match format {
        Q8_0 => 34,
        Q4_0 => 18,
        _ => 20,
    }
}

/// The 32 halves of 16 bytes, low ones first.
///
/// # Safety
/// `p` is 16 bytes.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn nibbles(p: *const u8) -> __m256i {
    // SAFETY: by contract.
    let both = unsafe { _mm_loadu_si128(p.cast()) };
    _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16::<4>(both), both), _mm256_set1_epi8(15))
}

/// Kernels for instructions that have `dot`: partial sums plus the products of unsigned and signed bytes, four neighbours together.
macro_rules! kernels {
    ($name:ident, $features:literal, |$sum:ident, $a:ident, $b:ident| $dot:expr) => {
        mod $name {
            use super::*;

            #[inline]
            #[target_feature(enable = $features)]
            fn dot($sum: __m256i, $a: __m256i, $b: __m256i) -> __m256i {
                $dot
            }

            /// # Safety
            /// As [`tiles`].
            #[target_feature(enable = $features)]
            pub(super) unsafe fn tile(
                format: u8,
                sums: &mut [[f32; TOGETHER]; MOST],
                x: X,
                rows: usize,
                w: Blocks<'_>,
                columns: usize,
            ) {
                // SAFETY: by contract.
                unsafe {
                    match format {
                        Q8_0 => tiles::<Q8_0>(sums, x, rows, w, columns),
                        Q4_0 => tiles::<Q4_0>(sums, x, rows, w, columns),
                        _ => tiles::<Q4_1>(sums, x, rows, w, columns),
                    }
                }
            }

            /// # Safety
            /// The machine has the instructions; there are `rows` rows of x and `columns` rows of w, of `w.row` blocks of this format each.
            #[target_feature(enable = $features)]
            unsafe fn tiles<const FORMAT: u8>(
                sums: &mut [[f32; TOGETHER]; MOST],
                x: X,
                rows: usize,
                w: Blocks<'_>,
                columns: usize,
            ) {
                let (p, n) = (w.bytes.as_ptr(), w.row);
                // SAFETY: by contract.
                unsafe {
                    match (rows, columns) {
                        (2, 4) => block::<FORMAT, 2, 4>(sums, x, p, n, 0),
                        (3, 4) => {
                            block::<FORMAT, 3, 2>(sums, x, p, n, 0);
                            block::<FORMAT, 3, 2>(sums, x, p, n, 2);
                        }
                        (4, 4) => {
                            block::<FORMAT, 4, 2>(sums, x, p, n, 0);
                            block::<FORMAT, 4, 2>(sums, x, p, n, 2);
                        }
                        _ => {
                            for column in 0..columns {
                                match rows {
                                    1 => sums[0][column] = row::<FORMAT>(x, p.add(column * w.row_bytes()), n),
                                    2 => block::<FORMAT, 2, 1>(sums, x, p, n, column),
                                    3 => block::<FORMAT, 3, 1>(sums, x, p, n, column),
                                    _ => block::<FORMAT, 4, 1>(sums, x, p, n, column),
                                }
                            }
                        }
                    }
                }
            }

            /// A row of x by each row of w.
            ///
            /// # Safety
            /// As [`tiles`], with one row of x and `y.len()` rows of w.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn rows(format: u8, y: &mut [f32], x: X, w: Blocks<'_>) {
                for (c, y) in y.iter_mut().enumerate() {
                    // SAFETY: by contract.
                    *y = unsafe {
                        let p = w.bytes.as_ptr().add(c * w.row_bytes());
                        match format {
                            Q8_0 => row::<Q8_0>(x, p, w.row),
                            Q4_0 => row::<Q4_0>(x, p, w.row),
                            _ => row::<Q4_1>(x, p, w.row),
                        }
                    };
                }
            }

            /// A row of x by a row of w. Memory is read in order, which is what processors fetch ahead best, and blocks go to two sums by
            /// turns: one would wait for itself.
            ///
            /// # Safety
            /// As [`tiles`], with one row each.
            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn row<const FORMAT: u8>(x: X, w: *const u8, n: usize) -> f32 {
                let mut acc = [_mm256_setzero_ps(); 2];
                let mut b = 0;
                // SAFETY: blocks below n of both rows.
                unsafe {
                    while b + 2 <= n {
                        acc[0] = step::<FORMAT>(acc[0], x, w, b);
                        acc[1] = step::<FORMAT>(acc[1], x, w, b + 1);
                        b += 2;
                    }
                    if b < n {
                        acc[0] = step::<FORMAT>(acc[0], x, w, b);
                    }
                }
                sum(_mm256_add_ps(acc[0], acc[1]))
            }

            /// Adds the product of blocks `b` of a row of x and a row of w.
            ///
            /// # Safety
            /// As [`tiles`]; both rows have a block `b`.
            #[inline]
            #[target_feature(enable = $features)]
            pub(super) unsafe fn step<const FORMAT: u8>(acc: __m256, x: X, w: *const u8, b: usize) -> __m256 {
                // SAFETY: block b is there by contract. What is asked for ahead may be anywhere.
                unsafe {
                    let p = w.add(b * bytes(FORMAT));
                    _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(AHEAD).cast());
                    let (q, scale, pair) = parts::<FORMAT>(p);
                    add_block::<FORMAT>(acc, x, b, q, scale, pair)
                }
            }

            /// Integers (Q8_0: the bytes; Q4: the halves of the bytes, low ones first), scale everywhere, scale and minimum by turns.
            ///
            /// # Safety
            /// The machine has the instructions; `p` is a block.
            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn parts<const FORMAT: u8>(p: *const u8) -> (__m256i, __m256, __m256) {
                // SAFETY: inside the block.
                unsafe {
                    let q = match FORMAT {
                        Q8_0 => _mm256_loadu_si256(p.add(2).cast()),
                        _ => nibbles(p.add(bytes(FORMAT) - 16)),
                    };
                    let pair = match FORMAT {
                        Q4_1 => _mm256_cvtph_ps(_mm_set1_epi32(p.cast::<i32>().read_unaligned())),
                        _ => _mm256_cvtph_ps(_mm_set1_epi16(p.cast::<i16>().read_unaligned())),
                    };
                    (q, if FORMAT == Q4_1 { _mm256_moveldup_ps(pair) } else { pair }, pair)
                }
            }

            /// Adds the product of block `at` of x and the block of w that [`parts`] gave.
            ///
            /// # Safety
            /// As [`tiles`]; x has a block `at`.
            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn add_block<const FORMAT: u8>(
                acc: __m256,
                x: X,
                at: usize,
                q: __m256i,
                scale: __m256,
                pair: __m256,
            ) -> __m256 {
                // SAFETY: by contract.
                unsafe {
                    let xq = _mm256_loadu_si256(x.q.add(at).cast());
                    let products = match FORMAT {
                        Q8_0 => dot(_mm256_setzero_si256(), _mm256_abs_epi8(q), _mm256_sign_epi8(xq, q)),
                        Q4_0 => dot(_mm256_loadu_si256(x.offsets.add(at).cast()), q, xq),
                        _ => dot(_mm256_setzero_si256(), q, xq),
                    };
                    let scales = _mm256_mul_ps(scale, _mm256_broadcast_ss(&*x.scales.add(at)));
                    let acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(products), scales, acc);
                    if FORMAT != Q4_1 {
                        return acc;
                    }
                    // The minimum times a quarter of the sum, in four lanes.
                    let sum = _mm256_broadcast_ss(&*x.of_min.add(at));
                    _mm256_fmadd_ps(pair, _mm256_blend_ps::<0b1010_1010>(_mm256_setzero_ps(), sum), acc)
                }
            }

            #[inline]
            #[target_feature(enable = $features)]
            pub(super) fn sum(eight: __m256) -> f32 {
                let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
            }

            /// R rows of x by C rows of w from `column` on, all at the same time.
            ///
            /// # Safety
            /// As [`tiles`].
            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn block<const FORMAT: u8, const R: usize, const C: usize>(
                sums: &mut [[f32; TOGETHER]; MOST],
                x: X,
                w: *const u8,
                n: usize,
                column: usize,
            ) {
                let size = bytes(FORMAT);
                let ahead = AHEAD.max(C * n * size);
                let mut acc = [[_mm256_setzero_ps(); C]; R];
                for b in 0..n {
                    for c in 0..C {
                        // SAFETY: block b of row `column + c`, and for the activations block b of row r, are there by contract. What is
                        // asked for ahead may be anywhere.
                        unsafe {
                            let p = w.add(((column + c) * n + b) * size);
                            _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(ahead).cast());
                            let (q, scale, pair) = parts::<FORMAT>(p);
                            for r in 0..R {
                                acc[r][c] = add_block::<FORMAT>(acc[r][c], x, r * n + b, q, scale, pair);
                            }
                        }
                    }
                }
                for r in 0..R {
                    for c in 0..C {
                        sums[r][column + c] = sum(acc[r][c]);
                    }
                }
            }
        }
    };
}

kernels!(avx2, "avx2,fma,f16c", |sum, a, b| {
    // At most 2 * 128 * 127: fits 16 bits.
    let pairs = _mm256_maddubs_epi16(a, b);
    _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
});
kernels!(avx_vnni, "avx2,fma,f16c,avxvnni", |sum, a, b| _mm256_dpbusd_avx_epi32(sum, a, b));
kernels!(avx512_vnni, "avx2,fma,f16c,avx512f,avx512vl,avx512vnni", |sum, a, b| _mm256_dpbusd_epi32(sum, a, b));

/// A row of x by rows of w in halves of bytes: four blocks at a time in vectors of 512 bits, four lanes each.
mod fours {
    use super::*;

    /// Blocks of activations by four.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn groups(out: &mut Vec<Group>, q: &[[[i8; LEN]; GROUP]], scales: &[[f32; GROUP]]) {
        let by_four = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
        out.extend(q.iter().zip(scales).map(|(q, scales)| {
            // SAFETY: two blocks of 32 bytes each, and four scales.
            let (first, last, scales) = unsafe {
                let pair = |b: usize| _mm512_loadu_si512(q.as_ptr().add(b).cast());
                (pair(0), pair(2), _mm_loadu_ps(scales.as_ptr()))
            };
            let low = _mm512_shuffle_i64x2::<0b10_00_10_00>(first, last);
            let high = _mm512_shuffle_i64x2::<0b11_01_11_01>(first, last);
            let ones = _mm512_set1_epi8(1);
            let sums = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(_mm512_setzero_si512(), ones, low), ones, high);
            let scales = _mm512_permutexvar_ps(by_four, _mm512_castps128_ps512(scales));
            let mut group = Group { q: [[0; 64]; 2], offsets: [0; 16], scales: [0.0; 16], sums: [0.0; 16] };
            // SAFETY: every array of a group is a vector.
            unsafe {
                _mm512_store_si512(group.q[0].as_mut_ptr().cast(), low);
                _mm512_store_si512(group.q[1].as_mut_ptr().cast(), high);
                let offsets = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32::<3>(sums));
                _mm512_store_si512(group.offsets.as_mut_ptr().cast(), offsets);
                _mm512_store_ps(group.scales.as_mut_ptr(), scales);
                _mm512_store_ps(group.sums.as_mut_ptr(), _mm512_mul_ps(scales, _mm512_cvtepi32_ps(sums)));
            }
            group
        }));
    }

    /// # Safety
    /// As `avx512_vnni::rows`; x in groups are all whole groups of the row.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) unsafe fn rows(with_min: bool, y: &mut [f32], x: X, groups: &[Group], w: Blocks<'_>) {
        for (c, y) in y.iter_mut().enumerate() {
            // SAFETY: by contract.
            *y = unsafe {
                let p = w.bytes.as_ptr().add(c * w.row_bytes());
                if with_min { row::<Q4_1>(x, groups, p, w.row) } else { row::<Q4_0>(x, groups, p, w.row) }
            };
        }
    }

    /// # Safety
    /// As [`rows`], with one row of w.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn row<const FORMAT: u8>(x: X, groups: &[Group], w: *const u8, n: usize) -> f32 {
        let size = const { bytes(FORMAT) };
        // Where the halves of scales (and of minima) lie among the 32 of the first 64 bytes of a group: four times each.
        let stride = (size / 2) as i64;
        let four = |word: i64| word * 0x0001_0001_0001_0001;
        let scales = _mm512_set_epi64(0, 0, 0, 0, four(3 * stride), four(2 * stride), four(stride), 0);
        let minima = _mm512_add_epi16(scales, _mm512_set1_epi16(1));
        let low = _mm512_set1_epi8(15);
        // SAFETY: for a group of x and as many blocks of w, 72 or 80 bytes. What is asked for ahead may be anywhere.
        let step = |acc: __m512, group: &Group, p: *const u8| unsafe {
            _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(AHEAD).cast());
            _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(AHEAD + 64).cast());
            let quarter = |b: usize| _mm_loadu_si128(p.add(b * size + size - 16).cast());
            let both = _mm512_inserti64x4::<1>(
                _mm512_castsi256_si512(_mm256_set_m128i(quarter(1), quarter(0))),
                _mm256_set_m128i(quarter(3), quarter(2)),
            );
            let words = _mm512_loadu_si512(p.cast());
            let halves = |at| _mm512_cvtph_ps(_mm512_castsi512_si256(_mm512_permutexvar_epi16(at, words)));
            let scale = _mm512_mul_ps(halves(scales), _mm512_load_ps(group.scales.as_ptr()));
            let start = match FORMAT {
                Q4_0 => _mm512_load_si512(group.offsets.as_ptr().cast()),
                _ => _mm512_setzero_si512(),
            };
            let [x_low, x_high] = [0, 1].map(|h| _mm512_load_si512(group.q[h].as_ptr().cast()));
            let products = _mm512_dpbusd_epi32(start, _mm512_and_si512(both, low), x_low);
            let high = _mm512_and_si512(_mm512_srli_epi16::<4>(both), low);
            let products = _mm512_dpbusd_epi32(products, high, x_high);
            let acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(products), scale, acc);
            match FORMAT {
                Q4_1 => _mm512_fmadd_ps(halves(minima), _mm512_load_ps(group.sums.as_ptr()), acc),
                _ => acc,
            }
        };
        let group_bytes = GROUP * size;
        let mut acc = [_mm512_setzero_ps(); 2];
        let (pairs, last) = groups.as_chunks::<2>();
        let mut p = w;
        for [a, b] in pairs {
            // The caller has all blocks of the groups.
            acc = [step(acc[0], a, p), step(acc[1], b, p.wrapping_add(group_bytes))];
            p = p.wrapping_add(2 * group_bytes);
        }
        for a in last {
            acc[0] = step(acc[0], a, p);
        }
        let acc = _mm512_add_ps(acc[0], acc[1]);
        let mut eight = _mm256_add_ps(_mm512_castps512_ps256(acc), _mm512_extractf32x8_ps::<1>(acc));
        for b in groups.len() * GROUP..n {
            // SAFETY: a block of both rows.
            eight = unsafe { avx512_vnni::step::<FORMAT>(eight, x, w, b) };
        }
        avx512_vnni::sum(eight)
    }
}
