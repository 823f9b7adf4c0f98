//! Packing into f32 with AVX2: eight lanes by eight units are transposed in registers, or runs of eight lanes are copied.
#![allow(unsafe_code, reason = "vector loads and stores through pointers; bounds are asserted by the caller")]
use super::{BF16, F32, Lanes, ROWS};
use std::arch::x86_64::*;

/// Packs as many units of every panel as vectors can, from the first on, and returns how many.
///
/// # Safety
/// The machine has AVX2. `T` is f32 for `F32` and `ROUNDED`, bf16 for `BF16`. All lanes and inner elements lie inside `data`, all
/// panels inside `out`; `ks` or the stride of the lanes is 1.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn pack<T, const SOURCE: u8>(
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
        if ks == 1 && lanes.stride != 1 {
            transposed::<T, SOURCE>(out, data, lanes, kb)
        } else {
            copied::<T, SOURCE>(out, data, lanes, kb, ks)
        }
    }
}

/// Lanes lie apart, inner elements side by side: eight lanes by eight units are transposed in registers.
///
/// # Safety
/// As [`pack`]; `data` is the first lane's first element.
#[target_feature(enable = "avx2")]
unsafe fn transposed<T, const SOURCE: u8>(out: *mut f32, data: *const T, lanes: Lanes, kb: usize) -> usize {
    let Lanes { count, width, stride, .. } = lanes;
    let whole = kb / 8 * 8;
    for panel in 0..count.div_ceil(width) {
        for u in (0..whole).step_by(8) {
            for group in (0..width).step_by(8) {
                let first = panel * width + group;
                let have = count.saturating_sub(first).min(8).min(width - group);
                let mut r = [_mm256_setzero_ps(); 8];
                // SAFETY: `have` lanes from `first` on exist, each with eight units from `u` on; in `out` the panel has `kb` rows of
                // `width`, of which `width - group` values lie behind column `group`.
                unsafe {
                    // Behind the last lane nothing is read, and this points nowhere.
                    let from = data.wrapping_add(first * stride + u);
                    if have == 8 {
                        for (i, r) in r.iter_mut().enumerate() {
                            *r = inner::<T, SOURCE>(from.add(i * stride));
                        }
                    } else {
                        for (i, r) in r.iter_mut().enumerate().take(have) {
                            *r = inner::<T, SOURCE>(from.add(i * stride));
                        }
                    }
                    let r = transpose(r);
                    let to = out.add((panel * kb + u) * width + group);
                    for (i, &r) in r.iter().enumerate() {
                        store(to.add(i * width), r, width - group);
                    }
                }
            }
        }
    }
    whole
}

/// Lanes lie side by side: runs of them are copied.
///
/// # Safety
/// As [`pack`]; `data` is the first lane's first element.
#[target_feature(enable = "avx2")]
unsafe fn copied<T, const SOURCE: u8>(out: *mut f32, data: *const T, lanes: Lanes, kb: usize, ks: usize) -> usize {
    let Lanes { count, width, .. } = lanes;
    for block in (0..kb).step_by(ROWS) {
        for panel in 0..count.div_ceil(width) {
            for u in block..kb.min(block + ROWS) {
                for group in (0..width).step_by(8) {
                    let first = panel * width + group;
                    let have = count.saturating_sub(first).min(8).min(width - group);
                    // SAFETY: `have` lanes from `first` on exist in the rows of this unit; for `out` as above.
                    unsafe {
                        let from = data.wrapping_add(u * ks + first);
                        let r = run::<T, SOURCE>(from, have);
                        store(out.add((panel * kb + u) * width + group), r, width - group);
                    }
                }
            }
        }
    }
    kb
}

/// Rounds eight f32 to bf16, kept in the upper halves: to nearest, ties to even, NaN kept. The same bits as `round_bf16`.
#[target_feature(enable = "avx2")]
fn rounded(x: __m256) -> __m256 {
    let bits = _mm256_castps_si256(x);
    let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
    let up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
    let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(x, x);
    let chosen = _mm256_blendv_ps(_mm256_castsi256_ps(up), _mm256_castsi256_ps(quiet), nan);
    _mm256_and_ps(chosen, _mm256_castsi256_ps(_mm256_set1_epi32(0xffff_0000_u32 as i32)))
}

/// Eight elements of one lane.
///
/// # Safety
/// Eight elements lie behind `from`.
#[target_feature(enable = "avx2")]
unsafe fn inner<T, const SOURCE: u8>(from: *const T) -> __m256 {
    // SAFETY: by contract.
    unsafe {
        match SOURCE {
            BF16 => widened(_mm_loadu_si128(from.cast())),
            F32 => _mm256_loadu_ps(from.cast()),
            _ => rounded(_mm256_loadu_ps(from.cast())),
        }
    }
}

/// One element of up to eight lanes that lie side by side; the rest is zero.
///
/// # Safety
/// `have` elements lie behind `from`.
#[target_feature(enable = "avx2")]
unsafe fn run<T, const SOURCE: u8>(from: *const T, have: usize) -> __m256 {
    // SAFETY: by contract.
    unsafe {
        match SOURCE {
            BF16 => widened(some_u16(from.cast(), have)),
            F32 => some_f32(from.cast(), have),
            _ => rounded(some_f32(from.cast(), have)),
        }
    }
}

#[target_feature(enable = "avx2")]
fn widened(x: __m128i) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(x)))
}

/// # Safety
/// `have` values lie behind `from`.
#[target_feature(enable = "avx2")]
unsafe fn some_f32(from: *const f32, have: usize) -> __m256 {
    // SAFETY: by contract; no more than `have` values are read.
    unsafe {
        match have {
            8 => _mm256_loadu_ps(from),
            6 => _mm256_set_m128(_mm_castsi128_ps(_mm_loadl_epi64(from.add(4).cast())), _mm_loadu_ps(from)),
            _ => {
                let mut values = [0.0f32; 8];
                std::ptr::copy_nonoverlapping(from, values.as_mut_ptr(), have.min(8));
                _mm256_loadu_ps(values.as_ptr())
            }
        }
    }
}

/// # Safety
/// `have` values lie behind `from`.
#[target_feature(enable = "avx2")]
unsafe fn some_u16(from: *const u16, have: usize) -> __m128i {
    // SAFETY: by contract; no more than `have` values are read.
    unsafe {
        match have {
            8 => _mm_loadu_si128(from.cast()),
            6 => _mm_unpacklo_epi64(_mm_loadl_epi64(from.cast()), _mm_loadu_si32(from.add(4).cast())),
            _ => {
                let mut values = [0u16; 8];
                std::ptr::copy_nonoverlapping(from, values.as_mut_ptr(), have.min(8));
                _mm_loadu_si128(values.as_ptr().cast())
            }
        }
    }
}

/// Stores the first `room` values, at most eight.
///
/// # Safety
/// `room` values lie behind `to`.
#[target_feature(enable = "avx2")]
unsafe fn store(to: *mut f32, x: __m256, room: usize) {
    // SAFETY: by contract; no more than `room` values are written.
    unsafe {
        match room {
            8.. => _mm256_storeu_ps(to, x),
            6 => {
                _mm_storeu_ps(to, _mm256_castps256_ps128(x));
                _mm_storel_epi64(to.add(4).cast(), _mm_castps_si128(_mm256_extractf128_ps::<1>(x)));
            }
            _ => {
                let mut values = [0.0f32; 8];
                _mm256_storeu_ps(values.as_mut_ptr(), x);
                std::ptr::copy_nonoverlapping(values.as_ptr(), to, room);
            }
        }
    }
}

/// Rows become columns.
#[target_feature(enable = "avx2")]
fn transpose(r: [__m256; 8]) -> [__m256; 8] {
    let (a0, a1) = (_mm256_unpacklo_ps(r[0], r[1]), _mm256_unpackhi_ps(r[0], r[1]));
    let (a2, a3) = (_mm256_unpacklo_ps(r[2], r[3]), _mm256_unpackhi_ps(r[2], r[3]));
    let (a4, a5) = (_mm256_unpacklo_ps(r[4], r[5]), _mm256_unpackhi_ps(r[4], r[5]));
    let (a6, a7) = (_mm256_unpacklo_ps(r[6], r[7]), _mm256_unpackhi_ps(r[6], r[7]));
    let (b0, b1) = (_mm256_shuffle_ps::<0x44>(a0, a2), _mm256_shuffle_ps::<0xee>(a0, a2));
    let (b2, b3) = (_mm256_shuffle_ps::<0x44>(a1, a3), _mm256_shuffle_ps::<0xee>(a1, a3));
    let (b4, b5) = (_mm256_shuffle_ps::<0x44>(a4, a6), _mm256_shuffle_ps::<0xee>(a4, a6));
    let (b6, b7) = (_mm256_shuffle_ps::<0x44>(a5, a7), _mm256_shuffle_ps::<0xee>(a5, a7));
    [
        _mm256_permute2f128_ps::<0x20>(b0, b4),
        _mm256_permute2f128_ps::<0x20>(b1, b5),
        _mm256_permute2f128_ps::<0x20>(b2, b6),
        _mm256_permute2f128_ps::<0x20>(b3, b7),
        _mm256_permute2f128_ps::<0x31>(b0, b4),
        _mm256_permute2f128_ps::<0x31>(b1, b5),
        _mm256_permute2f128_ps::<0x31>(b2, b6),
        _mm256_permute2f128_ps::<0x31>(b3, b7),
    ]
}
