//! Scores of few rows: dot products of queries and keys, both as they lie.
#![allow(unsafe_code, reason = "vector loads through pointers; sizes are asserted where slices become pointers")]
use crate::{isa::Isa, norm::dot};

/// `s[i][j] = q_i . k_j` for the rows `i` of all key/value heads, `rows` to a head, in rows of `ld` scores.
///
/// `k` and `v` are rows of all key/value heads. What is read next, `v`, is asked for meanwhile: read head by head, it would come in leaps
/// that no hardware foresees.
///
/// # Panics
/// If an operand is smaller than the sizes say.
pub(super) fn scores(isa: Isa, s: &mut [f32], ld: usize, q: &[f32], k: &[f32], v: &[f32], rows: usize, h: usize) {
    let kv_heads = q.len() / (rows * h);
    let (kc, n) = (kv_heads * h, k.len() / (kv_heads * h));
    assert!(n <= ld && kv_heads * rows * ld <= s.len() && k.len() == v.len(), "operands are not of one size");
    #[cfg(target_arch = "x86_64")]
    if Isa::Avx2 <= isa {
        let mut j = 0;
        while j < n {
            let keys = if n - j >= KEYS { KEYS } else { 1 };
            prefetch(&v[j * kc..(j + keys) * kc]);
            for kv in 0..kv_heads {
                let mut r = 0;
                while r < rows {
                    let some = if rows - r >= ROWS { ROWS } else { 1 };
                    let i = kv * rows + r;
                    let run = match (some, keys) {
                        (ROWS, KEYS) => avx2::<ROWS, KEYS>,
                        (ROWS, _) => avx2::<ROWS, 1>,
                        (_, KEYS) => avx2::<1, KEYS>,
                        _ => avx2::<1, 1>,
                    };
                    let (q, k) = (&q[i * h..(i + some) * h], &k[j * kc + kv * h..]);
                    let s = &mut s[i * ld + j..];
                    assert!(
                        (keys - 1) * kc + h <= k.len() && (some - 1) * ld + keys <= s.len(),
                        "outside of an operand"
                    );
                    // SAFETY: inside (asserted); the machine has AVX2 and FMA (`Cpu::with_isa` checked).
                    unsafe { run(s.as_mut_ptr(), ld, q.as_ptr(), k.as_ptr(), kc, h) };
                    r += some;
                }
            }
            j += keys;
        }
        return;
    }
    let _ = isa;
    for (j, k) in k.chunks_exact(kc).enumerate() {
        for (i, q) in q.chunks_exact(h).enumerate() {
            s[i * ld + j] = dot(q, &k[i / rows * h..][..h]);
        }
    }
}

/// Rows and keys of a tile: 12 accumulators and a vector of each key fill the 16 registers.
#[cfg(target_arch = "x86_64")]
const ROWS: usize = 3;
#[cfg(target_arch = "x86_64")]
const KEYS: usize = 4;

/// Asks for memory to be brought near.
#[cfg(target_arch = "x86_64")]
fn prefetch(x: &[f32]) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    for line in x.chunks(16) {
        // SAFETY: a hint to the processor: it has no effect that the program could see.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
}

/// `s[i][j] = q_i . k_j` for `R` rows of `h` and `K` keys.
///
/// # Safety
/// `q` has `R` rows of `h` values, `k` `K` rows of as many with stride `kc`, `s` `R` rows of `K` with stride `ld`; the machine has AVX2, FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const R: usize, const K: usize>(
    s: *mut f32,
    ld: usize,
    q: *const f32,
    k: *const f32,
    kc: usize,
    h: usize,
) {
    use std::arch::x86_64::*;
    let mut acc = [[_mm256_setzero_ps(); K]; R];
    let whole = h / 8 * 8;
    for c in (0..whole).step_by(8) {
        // SAFETY: values c..c + 8 of each row, by contract.
        unsafe {
            let k: [__m256; K] = std::array::from_fn(|j| _mm256_loadu_ps(k.add(j * kc + c)));
            for (i, acc) in acc.iter_mut().enumerate() {
                let q = _mm256_loadu_ps(q.add(i * h + c));
                for (acc, k) in acc.iter_mut().zip(k) {
                    *acc = _mm256_fmadd_ps(q, k, *acc);
                }
            }
        }
    }
    for (i, acc) in acc.iter().enumerate() {
        for (j, &acc) in acc.iter().enumerate() {
            let half = _mm_add_ps(_mm256_castps256_ps128(acc), _mm256_extractf128_ps::<1>(acc));
            let pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
            let mut sum = _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)));
            for c in whole..h {
                // SAFETY: value c of each row, by contract.
                sum += unsafe { *q.add(i * h + c) * *k.add(j * kc + c) };
            }
            // SAFETY: score (i, j), by contract.
            unsafe { *s.add(i * ld + j) = sum };
        }
    }
}
