//! Products of few rows in vectors: 8 or 16 lanes along the inner dimension, some rows of x by some rows of w at a time.
#![allow(unsafe_code, reason = "vector loads through pointers, by the contract of `Run`")]
use super::{Form, Kernels, Weights};
use half::bf16;
use std::arch::x86_64::*;

/// How far ahead of the weights that are multiplied others are asked for, in bytes: the processor foresees runs of addresses by itself, but
/// not across pages.
const AHEAD: usize = 8192;

/// A vector of f32, or of what else its instructions make of 32 bits.
///
/// # Safety
/// All functions: the machine has the instructions, and there is memory for what is loaded.
trait Vector: Copy {
    /// Units of 32 bits.
    const UNITS: usize = size_of::<Self>() / 4;

    unsafe fn zero() -> Self;
    unsafe fn load(x: *const f32) -> Self;
    unsafe fn multiply_add(acc: Self, x: Self, w: Self) -> Self;
    unsafe fn sum(acc: Self) -> f32;
}

impl Vector for __m256 {
    #[inline(always)]
    unsafe fn zero() -> __m256 {
        // SAFETY: by contract; so below.
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn load(x: *const f32) -> __m256 {
        // SAFETY: by contract.
        unsafe { _mm256_loadu_ps(x) }
    }

    #[inline(always)]
    unsafe fn multiply_add(acc: __m256, x: __m256, w: __m256) -> __m256 {
        // SAFETY: by contract.
        unsafe { _mm256_fmadd_ps(x, w, acc) }
    }

    #[inline(always)]
    unsafe fn sum(acc: __m256) -> f32 {
        // SAFETY: by contract.
        unsafe {
            let half = _mm_add_ps(_mm256_castps256_ps128(acc), _mm256_extractf128_ps::<1>(acc));
            let pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
            _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)))
        }
    }
}

impl Vector for __m512 {
    #[inline(always)]
    unsafe fn zero() -> __m512 {
        // SAFETY: by contract; so below.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn load(x: *const f32) -> __m512 {
        // SAFETY: by contract.
        unsafe { _mm512_loadu_ps(x) }
    }

    #[inline(always)]
    unsafe fn multiply_add(acc: __m512, x: __m512, w: __m512) -> __m512 {
        // SAFETY: by contract.
        unsafe { _mm512_fmadd_ps(x, w, acc) }
    }

    #[inline(always)]
    unsafe fn sum(acc: __m512) -> f32 {
        // SAFETY: by contract.
        unsafe { _mm512_reduce_add_ps(acc) }
    }
}

/// What an element type of w becomes in vectors, at each step along the inner dimension.
///
/// # Safety
/// As [`Vector`].
trait Lanes {
    type Weight: Weights;
    type Vector: Vector;
    /// Elements of a step, of x and of each row of w.
    const STEP: usize;
    /// Vectors that they become.
    const PARTS: usize;

    /// Part number `part` of a step.
    unsafe fn load_w(w: *const Self::Weight, part: usize) -> Self::Vector;

    #[inline(always)]
    unsafe fn multiply_add(acc: Self::Vector, x: Self::Vector, w: Self::Vector) -> Self::Vector {
        // SAFETY: by contract.
        unsafe { Vector::multiply_add(acc, x, w) }
    }
}

/// `y[r][c] = x_r . w_c` for `R` rows of x and `C` rows of w.
///
/// # Safety
/// As [`Run`]; to be inlined where the instructions of `L` are enabled.
#[inline(always)]
unsafe fn tile<L: Lanes, const R: usize, const C: usize>(
    k: usize,
    x: *const f32,
    ldx: usize,
    w: *const L::Weight,
    y: *mut f32,
    ld: usize,
) {
    // SAFETY: all elements that are read lie in the rows of x and w, those that are written in y, by contract; a prefetch is a hint, and its
    // address need not exist.
    unsafe {
        let mut acc = [[L::Vector::zero(); C]; R];
        let steps = k / L::STEP;
        for step in 0..steps {
            let bytes = C * L::STEP * size_of::<L::Weight>();
            let ahead = w.cast::<i8>().wrapping_add(AHEAD + step * bytes);
            for line in 0..bytes.div_ceil(64) {
                _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(64 * line));
            }
            for part in 0..L::PARTS {
                let mut ws = [L::Vector::zero(); C];
                for c in 0..C {
                    ws[c] = L::load_w(w.add(c * k + step * L::STEP), part);
                }
                for r in 0..R {
                    let x = L::Vector::load(x.add(r * ldx + (step * L::PARTS + part) * L::Vector::UNITS));
                    for c in 0..C {
                        acc[r][c] = L::multiply_add(acc[r][c], x, ws[c]);
                    }
                }
            }
        }
        for r in 0..R {
            let rest =
                std::slice::from_raw_parts(x.add(r * ldx + steps * L::PARTS * L::Vector::UNITS), k - steps * L::STEP);
            for c in 0..C {
                let w = std::slice::from_raw_parts(w.add(c * k + steps * L::STEP), rest.len());
                let rest: f32 = rest.iter().zip(w).map(|(x, w)| x * w.value()).sum();
                *y.add(r * ld + c) = L::Vector::sum(acc[r][c]) + rest;
            }
        }
    }
}

/// The kernels of some [`Lanes`]: for each number of rows of x, how many rows of w fill the registers.
macro_rules! kernels {
    ($name:ident, $lanes:ty, $weight:ty, $form:expr, $features:literal, [$($rows:literal x $columns:literal),*]) => {
        pub(super) fn $name() -> Kernels<$weight> {
            /// # Safety
            /// As [`Run`].
            #[target_feature(enable = $features)]
            unsafe fn run<const R: usize, const C: usize>(
                k: usize,
                x: *const f32,
                ldx: usize,
                w: *const $weight,
                y: *mut f32,
                ld: usize,
            ) {
                // SAFETY: the contract is handed on.
                unsafe { tile::<$lanes, R, C>(k, x, ldx, w, y, ld) }
            }
            Kernels { form: $form, of: [$(($columns, run::<$rows, $columns>, run::<$rows, 1>)),*] }
        }
    };
}

/// f32 as they lie.
struct Avx2F32;

impl Lanes for Avx2F32 {
    type Weight = f32;
    type Vector = __m256;
    const STEP: usize = 8;
    const PARTS: usize = 1;

    #[inline(always)]
    unsafe fn load_w(w: *const f32, _: usize) -> __m256 {
        // SAFETY: by contract.
        unsafe { _mm256_loadu_ps(w) }
    }
}
kernels!(avx2_f32, Avx2F32, f32, Form::AsIs, "avx2,fma", [1 x 4, 2 x 4, 3 x 4, 4 x 3]);

/// bf16 in two parts: even elements go up 16 bits, odd ones are there already.
struct Avx2Bf16;

impl Lanes for Avx2Bf16 {
    type Weight = bf16;
    type Vector = __m256;
    const STEP: usize = 16;
    const PARTS: usize = 2;

    #[inline(always)]
    unsafe fn load_w(w: *const bf16, part: usize) -> __m256 {
        // SAFETY: by contract.
        unsafe {
            let pairs = _mm256_loadu_si256(w.cast());
            _mm256_castsi256_ps(match part {
                0 => _mm256_slli_epi32::<16>(pairs),
                _ => _mm256_and_si256(pairs, _mm256_set1_epi32(!0xffff)),
            })
        }
    }
}
kernels!(avx2_bf16, Avx2Bf16, bf16, Form::Split(8), "avx2,fma", [1 x 4, 2 x 4, 3 x 4, 4 x 3]);

/// f32 as they lie.
struct Avx512F32;

impl Lanes for Avx512F32 {
    type Weight = f32;
    type Vector = __m512;
    const STEP: usize = 16;
    const PARTS: usize = 1;

    #[inline(always)]
    unsafe fn load_w(w: *const f32, _: usize) -> __m512 {
        // SAFETY: by contract.
        unsafe { _mm512_loadu_ps(w) }
    }
}
kernels!(avx512_f32, Avx512F32, f32, Form::AsIs, "avx512f", [1 x 4, 2 x 8, 3 x 8, 4 x 6]);

/// bf16 in two parts, as [`Avx2Bf16`].
struct Avx512Bf16;

impl Lanes for Avx512Bf16 {
    type Weight = bf16;
    type Vector = __m512;
    const STEP: usize = 32;
    const PARTS: usize = 2;

    #[inline(always)]
    unsafe fn load_w(w: *const bf16, part: usize) -> __m512 {
        // SAFETY: by contract.
        unsafe {
            let pairs = _mm512_loadu_si512(w.cast());
            _mm512_castsi512_ps(match part {
                0 => _mm512_slli_epi32::<16>(pairs),
                _ => _mm512_and_si512(pairs, _mm512_set1_epi32(!0xffff)),
            })
        }
    }
}
kernels!(avx512_bf16, Avx512Bf16, bf16, Form::Split(16), "avx512f", [1 x 4, 2 x 4, 3 x 4, 4 x 4]);

/// Pairs of bf16 for the instruction that multiplies such: denormal ones count as zero, and the sum is rounded after every pair.
struct Avx512Pairs;

impl Lanes for Avx512Pairs {
    type Weight = bf16;
    type Vector = __m512;
    const STEP: usize = 32;
    const PARTS: usize = 1;

    #[inline(always)]
    unsafe fn load_w(w: *const bf16, _: usize) -> __m512 {
        // SAFETY: by contract.
        unsafe { _mm512_loadu_ps(w.cast()) }
    }

    #[inline(always)]
    unsafe fn multiply_add(acc: __m512, x: __m512, w: __m512) -> __m512 {
        // SAFETY: by contract; both types are 64 bytes of any content.
        unsafe {
            let pairs = |v| std::mem::transmute::<__m512, __m512bh>(v);
            _mm512_dpbf16_ps(acc, pairs(x), pairs(w))
        }
    }
}
kernels!(avx512_pairs, Avx512Pairs, bf16, Form::Pairs(32), "avx512f,avx512bf16", [1 x 4, 2 x 8, 3 x 8, 4 x 6]);
