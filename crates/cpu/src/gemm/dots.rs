//! Products with few rows, `y = x w^T`: a decoded token, a handful of sequences. Every weight is used a few times only, so packing it would
//! cost as much as the product. Rows of x and w are multiplied as they lie, eight lanes along the inner dimension; each row of w is read from
//! memory once. With one row the memory's bandwidth is the limit.
use super::{round_bf16, scratch::with_scratch};
use crate::{isa::Isa, pool::Threads};
use half::bf16;

/// Rows of x up to which this is faster than packing; measured, see `benches`.
const FEW: usize = 16;
/// Bytes of weights that are worth a task: a few microseconds.
const TASK_BYTES: usize = 48 << 10;
/// A whole number of groups of rows of w, whether of three or of four.
const ROWS: usize = 12;

/// Whether a product of `m` rows goes this way.
pub(crate) fn few_rows(m: usize) -> bool {
    m <= FEW
}

/// `y[m, n] = x[m, k] w[n, k]^T`; beside bf16 weights x is rounded to bf16.
///
/// # Panics
/// If an operand is not of the sizes.
pub(crate) fn dots<W: Weights>(isa: Isa, threads: &Threads, y: &mut [f32], n: usize, k: usize, x: &[f32], w: &[W]) {
    let m = y.len().checked_div(n).unwrap_or(x.len().checked_div(k).unwrap_or(0));
    assert!(y.len() == m * n && x.len() == m * k && w.len() == n * k, "operands are not of the product's sizes");
    if y.is_empty() {
        return;
    }
    if !W::ROUNDS {
        return shared_out(isa, threads, y, n, k, x, w);
    }
    with_scratch(0, x.len(), |rounded| {
        rounded.iter_mut().zip(x).for_each(|(r, &x)| *r = round_bf16(x));
        shared_out(isa, threads, y, n, k, rounded, w);
    });
}

fn shared_out<W: Weights>(isa: Isa, threads: &Threads, y: &mut [f32], n: usize, k: usize, x: &[f32], w: &[W]) {
    let m = y.len() / n;
    let least = (TASK_BYTES / (k * size_of::<W>()).max(1)).max(1);
    let rows = n.div_ceil(8 * threads.count()).max(least).next_multiple_of(ROWS);
    let out = super::Out::new(y, n);
    threads.for_each(n.div_ceil(rows), |task| {
        let (first, end) = (task * rows, n.min((task + 1) * rows));
        for i in (0..m).step_by(4) {
            // Four rows of x at a time are multiplied with all rows of this task, which stay in the cache: the first pass brings them.
            let count = 4.min(m - i);
            let x = &x[i * k..(i + count) * k];
            let mut j = first;
            while j < end {
                let step = (if count == 4 { 3 } else { 4 }).min(end - j);
                let mut sums = [[0.0f32; 4]; 4];
                let w = &w[j * k..(j + step) * k];
                W::tile(isa, &mut sums, k, x, w);
                for (r, sums) in sums.iter().enumerate().take(count) {
                    #[allow(unsafe_code, reason = "tasks write disjoint columns of one matrix")]
                    // SAFETY: row i + r, columns from j on: this task's alone, and inside, since i + r < m and j + step <= n.
                    let target = unsafe { out.at((i + r) * n + j).head(step) };
                    target.copy_from_slice(&sums[..step]);
                }
                j += step;
            }
        }
    });
}

/// An element type of weights.
pub(crate) trait Weights: Copy + Sync {
    /// Whether activations are rounded to bf16 beside it.
    const ROUNDS: bool;

    /// `sums[r][c]` becomes the product of row `r` of x and row `c` of w; both have at most four rows of `k`, and not both four.
    fn tile(isa: Isa, sums: &mut [[f32; 4]; 4], k: usize, x: &[f32], w: &[Self]);

    fn value(self) -> f32;
}

/// Plain Rust, in the same lanes as the vectors.
fn portable<W: Weights>(sums: &mut [[f32; 4]; 4], k: usize, x: &[f32], w: &[W]) {
    for (x, sums) in x.chunks_exact(k).zip(sums) {
        for (w, sum) in w.chunks_exact(k).zip(sums) {
            let ((x, x_tail), (w, w_tail)) = (x.as_chunks::<8>(), w.as_chunks::<8>());
            let mut lanes = [0.0f32; 8];
            for (x, w) in x.iter().zip(w) {
                for l in 0..8 {
                    lanes[l] += x[l] * w[l].value();
                }
            }
            let tail: f32 = x_tail.iter().zip(w_tail).map(|(x, w)| x * w.value()).sum();
            *sum = lanes.iter().sum::<f32>() + tail;
        }
    }
}

macro_rules! weights {
    ($type:ty, $rounds:literal, $value:expr, $load:expr) => {
        impl Weights for $type {
            const ROUNDS: bool = $rounds;

            fn tile(isa: Isa, sums: &mut [[f32; 4]; 4], k: usize, x: &[f32], w: &[Self]) {
                if k == 0 {
                    return;
                }
                match isa {
                    #[cfg(target_arch = "x86_64")]
                    #[allow(unsafe_code, reason = "vector loads; bounds are asserted")]
                    isa if Isa::Avx2 <= isa => {
                        let (rows, columns) = (x.len() / k, w.len() / k);
                        assert!(x.len() == rows * k && w.len() == columns * k, "rows are not of one length");
                        // SAFETY: the machine has AVX2 and FMA (`Cpu::with_isa` checked); x and w have `rows` and `columns` rows of k.
                        unsafe {
                            match (rows, columns) {
                                (1, 4) => avx2_tile::<1, 4>(sums, k, x, w),
                                (2, 4) => avx2_tile::<2, 4>(sums, k, x, w),
                                (3, 4) => avx2_tile::<3, 4>(sums, k, x, w),
                                (4, 3) => avx2_tile::<4, 3>(sums, k, x, w),
                                _ => {
                                    for (r, x) in x.chunks_exact(k).enumerate() {
                                        for (c, w) in w.chunks_exact(k).enumerate() {
                                            let mut one = [[0.0; 4]; 4];
                                            avx2_tile::<1, 1>(&mut one, k, x, w);
                                            sums[r][c] = one[0][0];
                                        }
                                    }
                                }
                            }
                        }
                    }
                    _ => portable(sums, k, x, w),
                }
                /// # Safety
                /// The machine has AVX2 and FMA; x and w have R and C rows of k.
                #[cfg(target_arch = "x86_64")]
                #[target_feature(enable = "avx2,fma")]
                #[allow(unsafe_code, reason = "vector loads")]
                unsafe fn avx2_tile<const R: usize, const C: usize>(
                    sums: &mut [[f32; 4]; 4],
                    k: usize,
                    x: &[f32],
                    w: &[$type],
                ) {
                    use std::arch::x86_64::*;
                    let mut acc = [[_mm256_setzero_ps(); C]; R];
                    let (xp, wp) = (x.as_ptr(), w.as_ptr());
                    let whole = k / 8 * 8;
                    for p in (0..whole).step_by(8) {
                        let mut wv = [_mm256_setzero_ps(); C];
                        for (c, wv) in wv.iter_mut().enumerate() {
                            // SAFETY: eight elements from p on in every row.
                            *wv = unsafe { $load(wp.add(c * k + p)) };
                        }
                        for r in 0..R {
                            // SAFETY: as above.
                            let xv = unsafe { _mm256_loadu_ps(xp.add(r * k + p)) };
                            for c in 0..C {
                                acc[r][c] = _mm256_fmadd_ps(xv, wv[c], acc[r][c]);
                            }
                        }
                    }
                    for r in 0..R {
                        for c in 0..C {
                            let mut lanes = [0.0f32; 8];
                            // SAFETY: eight values of its own.
                            unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), acc[r][c]) };
                            let tail: f32 = (whole..k).map(|p| x[r * k + p] * w[c * k + p].value()).sum();
                            sums[r][c] = lanes.iter().sum::<f32>() + tail;
                        }
                    }
                }
            }

            fn value(self) -> f32 {
                $value(self)
            }
        }
    };
}

weights!(f32, false, |x| x, |p| _mm256_loadu_ps(p));
weights!(bf16, true, bf16::to_f32, |p: *const half::bf16| {
    let bits = _mm_loadu_si128(p.cast());
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits)))
});
