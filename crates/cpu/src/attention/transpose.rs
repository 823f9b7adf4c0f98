//! Rows of queries become lanes.
#![allow(
    unsafe_code,
    reason = "vector loads and stores through pointers; sizes are asserted where slices become pointers"
)]
use super::rows::ROWS;
use crate::isa::{Isa, vectorised};

/// `to[c][r] = from[r][c]` for [`ROWS`] rows of `h` values.
///
/// # Panics
/// If an operand is smaller than that.
pub(super) fn transpose(isa: Isa, to: &mut [f32], from: &[f32], h: usize) {
    #[cfg(target_arch = "x86_64")]
    if isa.has_avx512() {
        assert!(h * ROWS <= to.len() && h * ROWS <= from.len(), "an operand is smaller than the transpose");
        // SAFETY: both hold h * ROWS values (asserted); the machine has AVX-512F (`Cpu::with_isa` checked).
        return unsafe { avx512(to, from, h) };
    }
    by_eight(isa, to, from, h);
}

vectorised! {
    fn by_eight(to: &mut [f32], from: &[f32], h: usize) {
        let whole = h / 8 * 8;
        for r in (0..ROWS).step_by(8) {
            for c in (0..whole).step_by(8) {
                let mut square = [[0.0f32; 8]; 8];
                for i in 0..8 {
                    for (j, x) in from[(r + i) * h + c..][..8].iter().enumerate() {
                        square[j][i] = *x;
                    }
                }
                for (j, lanes) in square.iter().enumerate() {
                    to[(c + j) * ROWS + r..][..8].copy_from_slice(lanes);
                }
            }
            for c in whole..h {
                for i in 0..8 {
                    to[c * ROWS + r + i] = from[(r + i) * h + c];
                }
            }
        }
    }
}

/// Squares of sixteen in registers; columns that are left one by one.
///
/// # Safety
/// `to` and `from` hold `h * ROWS` values; the machine has AVX-512F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512(to: &mut [f32], from: &[f32], h: usize) {
    use std::arch::x86_64::*;
    let whole = h / 16 * 16;
    for r in (0..ROWS).step_by(16) {
        for c in (0..whole).step_by(16) {
            let mut rows = [_mm512_setzero_ps(); 16];
            for (i, row) in rows.iter_mut().enumerate() {
                // SAFETY: sixteen values of row r + i, by contract.
                *row = unsafe { _mm512_loadu_ps(from.as_ptr().add((r + i) * h + c)) };
            }
            for (j, column) in square(rows).into_iter().enumerate() {
                // SAFETY: sixteen lanes of column c + j, by contract.
                unsafe { _mm512_storeu_ps(to.as_mut_ptr().add((c + j) * ROWS + r), column) };
            }
        }
        for c in whole..h {
            for i in 0..16 {
                to[c * ROWS + r + i] = from[(r + i) * h + c];
            }
        }
    }
}

/// Rows become columns: pairs of rows, pairs of these, then quarters of vectors.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn square(rows: [std::arch::x86_64::__m512; 16]) -> [std::arch::x86_64::__m512; 16] {
    use std::arch::x86_64::*;
    let mut columns = rows;
    // After this, vector 4 j + c holds in its quarter q column 4 q + c of rows 4 j to 4 j + 3.
    for j in (0..16).step_by(4) {
        let low = |a, b| _mm512_castps_pd(_mm512_unpacklo_ps(a, b));
        let high = |a, b| _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
        let (a, b) = (low(rows[j], rows[j + 1]), low(rows[j + 2], rows[j + 3]));
        let (c, d) = (high(rows[j], rows[j + 1]), high(rows[j + 2], rows[j + 3]));
        columns[j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
        columns[j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        columns[j + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(c, d));
        columns[j + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(c, d));
    }
    for c in 0..4 {
        let [u, v, w, x] = [columns[c], columns[c + 4], columns[c + 8], columns[c + 12]];
        // Quarters 0 and 2, quarters 1 and 3.
        let (even, even_2) = (_mm512_shuffle_f32x4::<0x88>(u, v), _mm512_shuffle_f32x4::<0x88>(w, x));
        let (odd, odd_2) = (_mm512_shuffle_f32x4::<0xdd>(u, v), _mm512_shuffle_f32x4::<0xdd>(w, x));
        columns[c] = _mm512_shuffle_f32x4::<0x88>(even, even_2);
        columns[c + 8] = _mm512_shuffle_f32x4::<0xdd>(even, even_2);
        columns[c + 4] = _mm512_shuffle_f32x4::<0x88>(odd, odd_2);
        columns[c + 12] = _mm512_shuffle_f32x4::<0xdd>(odd, odd_2);
    }
    columns
}
