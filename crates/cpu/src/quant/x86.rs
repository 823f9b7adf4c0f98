//! Tiles of products in vectors of 256 bits: 32 products of bytes become eight partial sums at once.
//!
//! The instructions multiply unsigned by signed bytes. Halves of bytes (Q4_0, Q4_1) are unsigned as they are stored: what Q4_0 has to have
//! subtracted comes with the activations. Bytes (Q8_0) give their sign to the activations, which have room for it: they are never -128.
#![allow(unsafe_code, reason = "vector loads through pointers; bounds are asserted")]
use super::{Blocks, LEN, MOST, Q4_0, Q4_1, Q8_0, TOGETHER, activations::Rounded, format};
use crate::isa::Isa;
use std::arch::x86_64::*;

/// How far ahead of a row's blocks memory is asked for, in bytes.
const AHEAD: usize = 1024;

/// See [`super::tile`].
pub(super) fn tile(
    isa: Isa,
    sums: &mut [[f32; TOGETHER]; MOST],
    x: Rounded<'_>,
    rows: usize,
    w: Blocks<'_>,
    columns: usize,
) {
    let Rounded { q, scales, offsets, sums: of_min, .. } = x;
    let blocks = rows * w.row;
    assert!(
        rows <= MOST && columns <= TOGETHER && columns * w.row_bytes() <= w.bytes.len(),
        "a tile of {rows}x{columns}"
    );
    assert!(blocks <= q.len() && blocks <= scales.len(), "rows of activations are missing");
    let format = format(w.dtype);
    assert!(format != Q4_0 || blocks <= offsets.len(), "offsets of activations are missing");
    assert!(format != Q4_1 || blocks <= of_min.len(), "sums of activations are missing");
    let x = X { q: q.as_ptr(), scales: scales.as_ptr(), offsets: offsets.as_ptr(), of_min: of_min.as_ptr() };
    // SAFETY: the machine has the instructions (`Cpu::with_isa` checked); x has `rows` and w `columns` rows of `w.row` blocks (asserted).
    unsafe {
        match isa {
            Isa::AvxVnni => avx_vnni::tile(format, sums, x, rows, w, columns),
            isa if Isa::Avx512Vnni <= isa => avx512_vnni::tile(format, sums, x, rows, w, columns),
            _ => avx2::tile(format, sums, x, rows, w, columns),
        }
    }
}

/// [`Rounded`], from its first row on.
#[derive(Clone, Copy)]
struct X {
    q: *const [i8; LEN],
    scales: *const f32,
    offsets: *const [i32; 8],
    of_min: *const f32,
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
                        (1, 4) => block::<FORMAT, 1, 4>(sums, x, p, n, 0),
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
                                    1 => block::<FORMAT, 1, 1>(sums, x, p, n, column),
                                    2 => block::<FORMAT, 2, 1>(sums, x, p, n, column),
                                    3 => block::<FORMAT, 3, 1>(sums, x, p, n, column),
                                    _ => block::<FORMAT, 4, 1>(sums, x, p, n, column),
                                }
                            }
                        }
                    }
                }
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
                let size = match FORMAT {
                    Q8_0 => 34,
                    Q4_0 => 18,
                    _ => 20,
                };
                let ahead = AHEAD.max(C * n * size);
                let mut acc = [[_mm256_setzero_ps(); C]; R];
                for b in 0..n {
                    for c in 0..C {
                        // SAFETY: block b of row `column + c`, and for the activations block b of row r, are there by contract. What is
                        // asked for ahead may be anywhere.
                        unsafe {
                            let p = w.add(((column + c) * n + b) * size);
                            _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(ahead).cast());
                            // Q8_0: the bytes. Q4: the halves of the bytes, low ones first.
                            let q = match FORMAT {
                                Q8_0 => _mm256_loadu_si256(p.add(2).cast()),
                                _ => {
                                    let both = _mm_loadu_si128(p.add(size - 16).cast());
                                    let halves = _mm256_set_m128i(_mm_srli_epi16::<4>(both), both);
                                    _mm256_and_si256(halves, _mm256_set1_epi8(15))
                                }
                            };
                            // Scale and minimum by turns, or the scale everywhere.
                            let pair = match FORMAT {
                                Q4_1 => _mm256_cvtph_ps(_mm_set1_epi32(p.cast::<i32>().read_unaligned())),
                                _ => _mm256_cvtph_ps(_mm_set1_epi16(p.cast::<i16>().read_unaligned())),
                            };
                            let scale = if FORMAT == Q4_1 { _mm256_moveldup_ps(pair) } else { pair };
                            for r in 0..R {
                                let at = r * n + b;
                                let xq = _mm256_loadu_si256(x.q.add(at).cast());
                                let products = match FORMAT {
                                    Q8_0 => dot(_mm256_setzero_si256(), _mm256_abs_epi8(q), _mm256_sign_epi8(xq, q)),
                                    Q4_0 => dot(_mm256_loadu_si256(x.offsets.add(at).cast()), q, xq),
                                    _ => dot(_mm256_setzero_si256(), q, xq),
                                };
                                let scales = _mm256_mul_ps(scale, _mm256_broadcast_ss(&*x.scales.add(at)));
                                acc[r][c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(products), scales, acc[r][c]);
                                if FORMAT == Q4_1 {
                                    // The minimum times a quarter of the sum, in four lanes.
                                    let sum = _mm256_broadcast_ss(&*x.of_min.add(at));
                                    let sum = _mm256_blend_ps::<0b1010_1010>(_mm256_setzero_ps(), sum);
                                    acc[r][c] = _mm256_fmadd_ps(pair, sum, acc[r][c]);
                                }
                            }
                        }
                    }
                }
                for r in 0..R {
                    for c in 0..C {
                        let four = _mm_add_ps(_mm256_castps256_ps128(acc[r][c]), _mm256_extractf128_ps::<1>(acc[r][c]));
                        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                        let one = _mm_add_ss(two, _mm_shuffle_ps::<1>(two, two));
                        sums[r][column + c] = _mm_cvtss_f32(one);
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
