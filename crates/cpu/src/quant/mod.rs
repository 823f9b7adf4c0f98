//! Products with quantised weights, straight from ggml's blocks: `y = x w^T` where x is rounded to 8 bits in blocks of 32 (`paring_ops`'
//! `round_block`), so that the products of a block are integers.
//!
//! With few rows of x the blocks are multiplied as they lie in memory, which is then the limit: a decoded token reads every weight once,
//! and 8 or 4 bits are a quarter or an eighth of what f32 would read. One row of x is multiplied with one row of w after the other, a few
//! with four at a time. See [`dots`]. Many rows are another matter: both factors are packed, where there are instructions for it.
//!
//! Threads take rows of w, whose products are always summed in the same order: results do not depend on how many there are.

mod activations; // x in 8 bits
mod dequantize; // blocks to f32
#[cfg(target_arch = "x86_64")]
mod packed; // many rows
mod portable; // plain Rust
#[cfg(target_arch = "x86_64")]
mod x86; // vectors

use crate::{gemm::Out, isa::Isa, pool::Threads};
use activations::Rounded;
pub(crate) use dequantize::dequantize_into;
use paring_tensor::DType;

/// Bytes of weights that are worth a task: a few microseconds.
const TASK_BYTES: usize = 48 << 10;
/// Rows of w whose products are made at a time. Tasks begin at multiples, so that a row is summed alike whatever task it is in.
const TOGETHER: usize = 4;

/// The blocks of quantised types: what kernels are chosen by at compile time.
pub(super) const Q8_0: u8 = 0;
pub(super) const Q4_0: u8 = 1;
pub(super) const Q4_1: u8 = 2;

/// Elements of a block.
const LEN: usize = paring_tensor::block::LEN;

/// A matrix `[n, k]` of blocks.
#[derive(Clone, Copy)]
pub(crate) struct Blocks<'a> {
    dtype: DType,
    bytes: &'a [u8],
    /// Blocks of a row.
    row: usize,
}

impl<'a> Blocks<'a> {
    /// `n` rows of `k` elements.
    ///
    /// # Panics
    /// If `dtype` has no blocks, or `bytes` are not of this size.
    pub(crate) fn new(dtype: DType, bytes: &'a [u8], n: usize, k: usize) -> Self {
        assert!(dtype.is_quantised() && k.is_multiple_of(LEN), "rows of {k} elements of {dtype} are no blocks");
        assert!(bytes.len() == n * dtype.bytes(k), "blocks are not of the product's sizes");
        Blocks { dtype, bytes, row: k / LEN }
    }

    fn row_bytes(&self) -> usize {
        self.row * self.dtype.block().1
    }
}

/// `y[m, n] = x[m, k] w[n, k]^T` with w of ggml's blocks.
///
/// # Panics
/// If an operand is not of the sizes.
pub(crate) fn linear(isa: Isa, threads: &Threads, y: &mut [f32], n: usize, k: usize, x: &[f32], w: Blocks<'_>) {
    let m = y.len().checked_div(n).unwrap_or(x.len().checked_div(k).unwrap_or(0));
    assert!(y.len() == m * n && x.len() == m * k && w.row * LEN == k, "operands are not of the product's sizes");
    if y.is_empty() {
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if Isa::Avx512Vnni <= isa && packed::MANY <= m {
        return packed::linear(isa, threads, y, n, x, w);
    }
    activations::with_rounded(isa, threads, x, k, w.dtype, |x| dots(isa, threads, y, n, x, w));
}

/// Tiles of a few rows of x and [`TOGETHER`] rows of w, each block read once from memory.
fn dots(isa: Isa, threads: &Threads, y: &mut [f32], n: usize, x: Rounded<'_>, w: Blocks<'_>) {
    let m = y.len() / n;
    let bytes = w.row_bytes();
    // As many tasks for every thread, and few where there is little to do.
    let tasks = (n * bytes / TASK_BYTES).next_multiple_of(threads.count()).clamp(1, 8 * threads.count());
    let rows = n.div_ceil(tasks).next_multiple_of(TOGETHER);
    if m == 1 {
        return threads
            .pieces(rows, y, |task, y| row(isa, y, x, Blocks { bytes: &w.bytes[task * rows * bytes..], ..w }));
    }
    let out = Out::new(y, n);
    threads.for_each(n.div_ceil(rows), |task| {
        let (first, end) = (task * rows, n.min((task + 1) * rows));
        for j in (first..end).step_by(TOGETHER) {
            let count = TOGETHER.min(end - j);
            let w = Blocks { bytes: &w.bytes[j * bytes..], ..w };
            for i in (0..m).step_by(MOST) {
                let x_rows = MOST.min(m - i);
                let mut sums = [[0.0; TOGETHER]; MOST];
                tile(isa, &mut sums, x.from(i), x_rows, w, count);
                for (r, sums) in sums.iter().enumerate().take(x_rows) {
                    #[allow(unsafe_code, reason = "tasks write disjoint columns of one matrix")]
                    // SAFETY: row i + r, columns from j on: this task's alone, and inside, since i + r < m and j + count <= n.
                    let target = unsafe { out.at((i + r) * n + j).head(count) };
                    target.copy_from_slice(&sums[..count]);
                }
            }
        }
    });
}

/// `y` becomes the products of one row of x and the first rows of w.
fn row(isa: Isa, y: &mut [f32], x: Rounded<'_>, w: Blocks<'_>) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        isa if Isa::Avx2 <= isa => x86::rows(isa, y, x, w),
        _ => portable::rows(y, x, w),
    }
}

/// Rows of x of a tile, at most.
const MOST: usize = 4;

/// `sums[r][c]` becomes the product of row `r` of x and row `c` of w; `rows <= MOST` and `columns <= TOGETHER` of both are there.
fn tile(isa: Isa, sums: &mut [[f32; TOGETHER]; MOST], x: Rounded<'_>, rows: usize, w: Blocks<'_>, columns: usize) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        isa if Isa::Avx2 <= isa => x86::tile(isa, sums, x, rows, w, columns),
        _ => portable::tile(sums, x, rows, w, columns),
    }
}

/// The types in the order of the constants.
fn format(dtype: DType) -> u8 {
    match dtype {
        DType::Q4_0 => Q4_0,
        DType::Q4_1 => Q4_1,
        _ => Q8_0,
    }
}
