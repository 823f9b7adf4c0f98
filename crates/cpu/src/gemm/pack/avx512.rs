//! Packing with AVX-512 and its bf16 conversions: sixteen lanes by sixteen units are transposed in registers, or runs of sixteen lanes are
//! copied. Masks take care of missing lanes and of the end of the inner dimension, so nothing is left for scalar code.
//!
//! The instruction that rounds to bf16 takes denormals for zero; so does the one that multiplies.
#![allow(unsafe_code, reason = "vector loads and stores through pointers; bounds are asserted by the caller")]
use super::{BF16, F32, Lanes, ROWS, Unit};
use std::arch::x86_64::*;

/// Packs all units of every panel and returns how many there are.
///
/// # Safety
/// The machine has AVX-512 F, BW, VL and BF16. `T` is f32 for `F32` and `ROUNDED`, bf16 for `BF16`. All lanes and inner elements lie inside
/// `data`, all panels inside `out`; `ks` or the stride of the lanes is 1.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn pack<T, const SOURCE: u8>(
    unit: Unit,
    out: &mut [f32],
    data: &[T],
    lanes: Lanes,
    k0: usize,
    kb: usize,
    ks: usize,
) -> usize {
    // SAFETY: the first lane's first element is inside, by contract.
    let data = unsafe { data.as_ptr().add(lanes.first * lanes.stride + k0 * ks) };
    let out = out.as_mut_ptr();
    // SAFETY: the contract is handed on.
    unsafe {
        match (ks == 1 && lanes.stride != 1, unit) {
            (true, Unit::F32) => transposed::<T, SOURCE, 1>(out, data, lanes, kb),
            (true, Unit::Pair) => transposed::<T, SOURCE, 2>(out, data, lanes, kb),
            (false, Unit::F32) => copied::<T, SOURCE, 1>(out, data, lanes, kb, ks),
            (false, Unit::Pair) => copied::<T, SOURCE, 2>(out, data, lanes, kb, ks),
        }
    }
    unit.units(kb)
}

/// The lowest `n` bits, at most 16.
fn mask16(n: usize) -> u16 {
    ((1u32 << n.min(16)) - 1) as u16
}

/// The lowest `n` bits, at most 32.
fn mask32(n: usize) -> u32 {
    ((1u64 << n.min(32)) - 1) as u32
}

/// Lanes lie apart, inner elements side by side.
///
/// # Safety
/// As [`pack`]; `data` is the first lane's first element.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn transposed<T, const SOURCE: u8, const PER: usize>(out: *mut f32, data: *const T, lanes: Lanes, kb: usize) {
    let Lanes { count, width, stride, .. } = lanes;
    let units = kb.div_ceil(PER);
    for panel in 0..count.div_ceil(width) {
        for group in (0..width).step_by(16) {
            let first = panel * width + group;
            let have = count.saturating_sub(first).min(16).min(width - group);
            let store = mask16(width - group);
            for u in (0..units).step_by(16) {
                let mut r = [_mm512_setzero_ps(); 16];
                // Behind the last lane nothing is read, and this points nowhere.
                let from = data.wrapping_add(first * stride + u * PER);
                // SAFETY: `have` lanes from `first` on exist, each with `kb - u * PER` elements from there on.
                unsafe {
                    if have == 16 && (u + 16) * PER <= kb {
                        for (i, r) in r.iter_mut().enumerate() {
                            ahead::<T, SOURCE, PER>(from.wrapping_add(i * stride));
                            *r = inner::<T, SOURCE, PER>(from.add(i * stride), 16 * PER);
                        }
                    } else {
                        for (i, r) in r.iter_mut().enumerate().take(have) {
                            ahead::<T, SOURCE, PER>(from.wrapping_add(i * stride));
                            *r = inner::<T, SOURCE, PER>(from.add(i * stride), kb - u * PER);
                        }
                    }
                }
                let r = transpose(r);
                for (i, &r) in r.iter().enumerate().take(units - u) {
                    // SAFETY: in `out` the panel has `units` rows of `width` values, of which `width - group` lie behind column `group`.
                    unsafe { _mm512_mask_storeu_ps(out.add((panel * units + u + i) * width + group), store, r) };
                }
            }
        }
    }
}

/// Lanes lie side by side: runs of them are copied.
///
/// # Safety
/// As [`pack`]; `data` is the first lane's first element.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn copied<T, const SOURCE: u8, const PER: usize>(
    out: *mut f32,
    data: *const T,
    lanes: Lanes,
    kb: usize,
    ks: usize,
) {
    let Lanes { count, width, .. } = lanes;
    let units = kb.div_ceil(PER);
    for block in (0..units).step_by(ROWS) {
        for panel in 0..count.div_ceil(width) {
            for u in block..units.min(block + ROWS) {
                // Of a pair the second may be missing.
                let second = PER == 2 && u * 2 + 1 < kb;
                for group in (0..width).step_by(16) {
                    let first = panel * width + group;
                    let have = mask16(count.saturating_sub(first).min(width - group));
                    // SAFETY: the lanes of `have` exist in the row or rows of this unit; for `out` as above.
                    unsafe {
                        let from = data.wrapping_add(u * PER * ks + first);
                        for row in 0..PER {
                            // The rows of the next block.
                            _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add((ROWS * PER + row) * ks).cast());
                        }
                        let r = run::<T, SOURCE, PER>(from, ks, have, if second { have } else { 0 });
                        let to = out.add((panel * units + u) * width + group);
                        _mm512_mask_storeu_ps(to, mask16(width - group), r);
                    }
                }
            }
        }
    }
}

/// Asks for what a lane's units some vectors further on will need: more lanes than a processor follows by itself.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn ahead<T, const SOURCE: u8, const PER: usize>(from: *const T) {
    let line = from.wrapping_add(AHEAD * 16 * PER);
    _mm_prefetch::<_MM_HINT_T0>(line.cast());
    if SOURCE != BF16 && PER == 2 {
        _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(16).cast());
    }
}

/// Vectors of a lane.
const AHEAD: usize = 4;

/// Sixteen units of one lane, of which `n` elements exist.
///
/// # Safety
/// `n` elements, or as many as are in sixteen units, lie behind `from`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn inner<T, const SOURCE: u8, const PER: usize>(from: *const T, n: usize) -> __m512 {
    // SAFETY: by contract; masked elements are not read.
    unsafe {
        match (SOURCE, PER) {
            (BF16, 1) => widened(_mm256_maskz_loadu_epi16(mask16(n), from.cast())),
            // In memory they are pairs already.
            (BF16, _) => _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(mask32(n), from.cast())),
            (F32, 1) => _mm512_maskz_loadu_ps(mask16(n), from.cast()),
            (_, 1) => {
                let x = _mm512_maskz_loadu_ps(mask16(n), from.cast());
                widened(bits256(_mm512_cvtneps_pbh(x)))
            }
            _ => {
                let a = _mm512_maskz_loadu_ps(mask16(n), from.cast());
                let b = _mm512_maskz_loadu_ps(mask16(n.saturating_sub(16)), from.cast::<f32>().wrapping_add(16));
                bits512(_mm512_cvtne2ps_pbh(b, a))
            }
        }
    }
}

/// One unit of up to sixteen lanes that lie side by side; the rest is zero.
///
/// # Safety
/// The elements of `have` lie behind `from`, and those of `second` behind `from + ks`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn run<T, const SOURCE: u8, const PER: usize>(from: *const T, ks: usize, have: u16, second: u16) -> __m512 {
    let next = from.wrapping_add(ks);
    // SAFETY: by contract; masked elements are not read.
    unsafe {
        match (SOURCE, PER) {
            (BF16, 1) => widened(_mm256_maskz_loadu_epi16(have, from.cast())),
            (BF16, _) => {
                let low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(have, from.cast()));
                let high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(second, next.cast()));
                _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32::<16>(high)))
            }
            (F32, 1) => _mm512_maskz_loadu_ps(have, from.cast()),
            (_, 1) => widened(bits256(_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(have, from.cast())))),
            _ => {
                let a = _mm512_maskz_loadu_ps(have, from.cast());
                let b = _mm512_maskz_loadu_ps(second, next.cast());
                // Sixteen of a, then sixteen of b; they become pairs.
                let halves = _mm512_castps_si512(bits512(_mm512_cvtne2ps_pbh(b, a)));
                let pairs: __m512i = std::mem::transmute::<[u16; 32], __m512i>(const { interleaved() });
                _mm512_castsi512_ps(_mm512_permutexvar_epi16(pairs, halves))
            }
        }
    }
}

/// 0, 16, 1, 17, and so on.
const fn interleaved() -> [u16; 32] {
    let mut order = [0; 32];
    let mut i = 0;
    while i < 32 {
        order[i] = (i / 2 + i % 2 * 16) as u16;
        i += 1;
    }
    order
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn bits512(x: __m512bh) -> __m512 {
    // SAFETY: both types are 64 bytes of any content.
    unsafe { std::mem::transmute::<__m512bh, __m512>(x) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn bits256(x: __m256bh) -> __m256i {
    // SAFETY: both types are 32 bytes of any content.
    unsafe { std::mem::transmute::<__m256bh, __m256i>(x) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn widened(x: __m256i) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(x)))
}

/// Rows become columns: pairs of rows, then fours, within quarters of the vectors; then the quarters.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn transpose(r: [__m512; 16]) -> [__m512; 16] {
    let mut a = r;
    for i in 0..8 {
        a[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    // Column 4 q + j of rows 4 i..4 i + 4 is quarter q of b[4 i + j].
    let mut b = a;
    for i in 0..4 {
        let [a0, a1, a2, a3] = [a[4 * i], a[4 * i + 1], a[4 * i + 2], a[4 * i + 3]];
        b[4 * i] = _mm512_shuffle_ps::<0x44>(a0, a2);
        b[4 * i + 1] = _mm512_shuffle_ps::<0xee>(a0, a2);
        b[4 * i + 2] = _mm512_shuffle_ps::<0x44>(a1, a3);
        b[4 * i + 3] = _mm512_shuffle_ps::<0xee>(a1, a3);
    }
    let mut c = b;
    for j in 0..4 {
        let [b0, b1, b2, b3] = [b[j], b[4 + j], b[8 + j], b[12 + j]];
        // Quarters 0 and 1, then 2 and 3, of two vectors.
        let (low01, high01) = (_mm512_shuffle_f32x4::<0x44>(b0, b1), _mm512_shuffle_f32x4::<0xee>(b0, b1));
        let (low23, high23) = (_mm512_shuffle_f32x4::<0x44>(b2, b3), _mm512_shuffle_f32x4::<0xee>(b2, b3));
        c[j] = _mm512_shuffle_f32x4::<0x88>(low01, low23);
        c[4 + j] = _mm512_shuffle_f32x4::<0xdd>(low01, low23);
        c[8 + j] = _mm512_shuffle_f32x4::<0x88>(high01, high23);
        c[12 + j] = _mm512_shuffle_f32x4::<0xdd>(high01, high23);
    }
    c
}
