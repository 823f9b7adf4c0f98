//! Products of many rows with quantised weights, in AVX512-VNNI: both factors are packed, and a tile of sums stays in registers.
//!
//! Threads round rows of x to 8 bits and pack them, six rows a panel, as the four bytes of each row that an instruction multiplies at a
//! time, block after block. Then a task takes 32 rows of w, packs them likewise as unsigned bytes (plus 128 or 8 where the type is signed,
//! for which the sums of a block begin with minus as much times the block of x), and multiplies them with all panels of x. Both panels stay
//! in the nearer caches. The sums of a block are integers; scales come in once a block.
#![allow(unsafe_code, reason = "vector loads and stores through pointers; lengths are asserted")]
use super::{
    Blocks, LEN, Q4_0, Q4_1, Q8_0,
    activations::round,
    format,
    x86::{bytes, nibbles},
};
use crate::{
    gemm::{Out, with_scratch},
    isa::Isa,
    pool::Threads,
};
use std::arch::x86_64::*;

/// Rows of x from which packing pays; measured.
pub(super) const MANY: usize = 12;

/// Rows of a tile: 12 sums of integers, as many of floats, and what they are made of fit the 32 registers.
const ROWS: usize = 6;
/// Columns of a tile, which are rows of w: two vectors.
const COLUMNS: usize = 32;
/// Steps of four elements in a block.
const STEPS: usize = LEN / 4;
/// Words of 32 bits of a block of a panel of x: the four bytes of a step of each row; what sums begin with; scales; scales times sums.
const X_WORDS: usize = (STEPS + 3) * ROWS;
/// Blocks of a row that are rounded at a time.
const ROUNDED: usize = 16;
/// Tasks for every thread: enough that a core that is taken away does not hold up the others for long.
const TASKS_PER_THREAD: usize = 4;

/// Words of a block of a panel of w: the four bytes of a step of each column; scales; minima where there are.
const fn w_words(format: u8) -> usize {
    COLUMNS * if format == Q4_1 { STEPS + 2 } else { STEPS + 1 }
}

/// `y[m, n] = x[m, k] w[n, k]^T` on a machine with [`Isa::Avx512Vnni`].
///
/// # Panics
/// If an operand is not of the sizes.
pub(super) fn linear(isa: Isa, threads: &Threads, y: &mut [f32], n: usize, x: &[f32], w: Blocks<'_>) {
    let (m, k) = (y.len() / n, w.row * LEN);
    assert!(Isa::Avx512Vnni <= isa && y.len() == m * n && x.len() == m * k && w.bytes.len() == n * w.row_bytes());
    let format = format(w.dtype);
    let (panels, panel_words) = (m.div_ceil(ROWS), w.row * X_WORDS);
    with_scratch(0, panels * panel_words, |packed| {
        let each = panels.div_ceil(TASKS_PER_THREAD * threads.count());
        threads.rows(panels, each, bytemuck::cast_slice_mut(packed), |task, out: &mut [u32]| {
            for (i, out) in out.chunks_exact_mut(panel_words.max(1)).enumerate() {
                let first = (task * each + i) * ROWS;
                pack_x(isa, format, out, k, &x[first * k..m.min(first + ROWS) * k]);
            }
        });
        let packed: &[u32] = bytemuck::cast_slice(packed);
        let out = Out::new(y, n);
        // Where there are few columns for many threads, rows are shared out as well.
        let column_panels = n.div_ceil(COLUMNS);
        let parts = (TASKS_PER_THREAD * threads.count()).div_ceil(column_panels).clamp(1, panels.div_ceil(MANY));
        let part = panels.div_ceil(parts);
        threads.for_each(column_panels * parts, |task| {
            let (j, panels_of) = (task / parts * COLUMNS, task % parts * part..panels.min((task % parts + 1) * part));
            let columns = COLUMNS.min(n - j);
            with_scratch(1, w.row * w_words(format), |own| {
                let own: &mut [u32] = bytemuck::cast_slice_mut(own);
                let rows = &w.bytes[j * w.row_bytes()..][..columns * w.row_bytes()];
                // SAFETY: the machine has the instructions: asserted, and `Cpu::with_isa` refuses an `Isa` that it lacks.
                unsafe {
                    match format {
                        Q8_0 => pack_w::<Q8_0>(own, columns, rows, w.row),
                        Q4_0 => pack_w::<Q4_0>(own, columns, rows, w.row),
                        _ => pack_w::<Q4_1>(own, columns, rows, w.row),
                    }
                }
                for i in panels_of.clone() {
                    let x = &packed[i * panel_words..][..panel_words];
                    let tile = Tile { out: out.at(i * ROWS * n + j), ld: n, rows: ROWS.min(m - i * ROWS), columns };
                    // SAFETY: as above. The tile is inside of y, since its rows and columns are, and this task's alone.
                    unsafe {
                        match format {
                            Q4_1 => multiply::<Q4_1>(&tile, w.row, x, own),
                            _ => multiply::<Q8_0>(&tile, w.row, x, own),
                        }
                    }
                }
            });
        });
    });
}

/// Up to [`ROWS`] rows of `k` values into a panel; rows that are missing are zeros.
fn pack_x(isa: Isa, format: u8, out: &mut [u32], k: usize, x: &[f32]) {
    let zero = match format {
        Q8_0 => 128,
        Q4_0 => 8,
        _ => 0,
    };
    if x.len() < ROWS * k {
        out.fill(0);
    }
    for (r, x) in x.chunks_exact(k).enumerate() {
        let blocks = x.as_chunks::<LEN>().0.chunks(ROUNDED);
        for (x, out) in blocks.zip(out.chunks_mut(ROUNDED * X_WORDS)) {
            let (mut q, mut scales) = ([[0; LEN]; ROUNDED], [0.0; ROUNDED]);
            round(isa, x, &mut q[..x.len()], &mut scales);
            for ((q, scale), out) in q.iter().zip(scales).zip(out.as_chunks_mut::<X_WORDS>().0) {
                for (step, four) in q.as_chunks::<4>().0.iter().enumerate() {
                    out[step * ROWS + r] = u32::from_ne_bytes(four.map(|q| q as u8));
                }
                let sum = q.iter().map(|&q| i32::from(q)).sum::<i32>();
                out[STEPS * ROWS + r] = (-zero * sum) as u32;
                out[(STEPS + 1) * ROWS + r] = scale.to_bits();
                out[(STEPS + 2) * ROWS + r] = (scale * sum as f32).to_bits();
            }
        }
    }
}

/// Up to [`COLUMNS`] rows of `blocks` blocks into a panel; columns that are missing are zeros, and so are their scales.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn pack_w<const FORMAT: u8>(out: &mut [u32], columns: usize, rows: &[u8], blocks: usize) {
    let size = bytes(FORMAT);
    assert!(out.len() == blocks * w_words(FORMAT) && rows.len() == columns * blocks * size, "a panel of other sizes");
    for (b, out) in out.chunks_exact_mut(w_words(FORMAT)).enumerate() {
        let (mut scales, mut minima) = ([0u16; COLUMNS], [0u16; COLUMNS]);
        for first in (0..COLUMNS).step_by(8) {
            let mut eight = [_mm256_setzero_si256(); 8];
            for (i, q) in eight.iter_mut().enumerate().take(columns.saturating_sub(first)) {
                let block = &rows[((first + i) * blocks + b) * size..][..size];
                scales[first + i] = u16::from_le_bytes([block[0], block[1]]);
                if FORMAT == Q4_1 {
                    minima[first + i] = u16::from_le_bytes([block[2], block[3]]);
                }
                // SAFETY: the integers are the last 32, or 16, bytes of the block.
                *q = unsafe {
                    match FORMAT {
                        Q8_0 => {
                            let q = _mm256_loadu_si256(block.as_ptr().add(size - 32).cast());
                            _mm256_xor_si256(q, _mm256_set1_epi8(-128))
                        }
                        _ => nibbles(block.as_ptr().add(size - 16)),
                    }
                };
            }
            for (step, q) in transposed(eight).into_iter().enumerate() {
                let out = &mut out[step * COLUMNS + first..][..8];
                // SAFETY: eight words.
                unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), q) };
            }
        }
        let tables = [&scales, &minima];
        for (halves, out) in tables.iter().zip(out[STEPS * COLUMNS..].as_chunks_mut::<COLUMNS>().0) {
            for (halves, out) in halves.as_chunks::<16>().0.iter().zip(out.as_chunks_mut::<16>().0) {
                // SAFETY: sixteen halves, and as many words.
                unsafe {
                    let halves = _mm256_loadu_si256(halves.as_ptr().cast());
                    _mm512_storeu_ps(out.as_mut_ptr().cast(), _mm512_cvtph_ps(halves));
                }
            }
        }
    }
}

/// Rows of eight words as columns.
#[inline]
#[target_feature(enable = "avx2")]
fn transposed(r: [__m256i; 8]) -> [__m256i; 8] {
    let pair = |i: usize| (_mm256_unpacklo_epi32(r[i], r[i + 1]), _mm256_unpackhi_epi32(r[i], r[i + 1]));
    let four = |i: usize| {
        let ((a, b), (c, d)) = (pair(i), pair(i + 2));
        [
            _mm256_unpacklo_epi64(a, c),
            _mm256_unpackhi_epi64(a, c),
            _mm256_unpacklo_epi64(b, d),
            _mm256_unpackhi_epi64(b, d),
        ]
    };
    let (a, b) = (four(0), four(4));
    let low = |i: usize| _mm256_permute2x128_si256::<0x20>(a[i], b[i]);
    let high = |i: usize| _mm256_permute2x128_si256::<0x31>(a[i], b[i]);
    [low(0), low(1), low(2), low(3), high(0), high(1), high(2), high(3)]
}

/// Where a tile of the product goes: `rows` rows of `columns` values, `ld` apart.
struct Tile {
    out: Out,
    ld: usize,
    rows: usize,
    columns: usize,
}

/// The product of two panels of `blocks` blocks. With or without minima: `FORMAT` is [`Q4_1`] or any other.
///
/// # Safety
/// The machine has the instructions; the tile is inside of its matrix, whose memory is still there, and nobody else touches it meanwhile.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn multiply<const FORMAT: u8>(tile: &Tile, blocks: usize, x: &[u32], w: &[u32]) {
    assert!(x.len() == blocks * X_WORDS && w.len() == blocks * w_words(FORMAT), "panels of other sizes");
    let mut acc = [[_mm512_setzero_ps(); 2]; ROWS];
    if FORMAT == Q4_1 {
        // In a loop of its own: beside the sums of integers there are not enough registers.
        for (x, w) in x.chunks_exact(X_WORDS).zip(w.chunks_exact(w_words(FORMAT))) {
            let (sums, minima) = (&x[(STEPS + 2) * ROWS..], &w[(STEPS + 1) * COLUMNS..][..COLUMNS]);
            // SAFETY: two vectors of minima.
            let minima = [0, 16].map(|c| unsafe { _mm512_loadu_ps(minima.as_ptr().add(c).cast()) });
            for (acc, &sum) in acc.iter_mut().zip(sums) {
                *acc = [0, 1].map(|c| _mm512_fmadd_ps(minima[c], _mm512_set1_ps(f32::from_bits(sum)), acc[c]));
            }
        }
    }
    let (mut x, mut w) = (x.as_ptr(), w.as_ptr());
    for _ in 0..blocks {
        // SAFETY: a block of both panels: of x, `STEPS + 3` times ROWS words, of w, as many times COLUMNS as `w_words` says.
        unsafe {
            let word = |row: usize, r: usize| _mm512_set1_epi32(x.add(row * ROWS + r).cast::<i32>().read());
            let float = |row: usize, r: usize| _mm512_set1_ps(x.add(row * ROWS + r).cast::<f32>().read());
            let columns = |row: usize| [0, 16].map(|c| _mm512_loadu_si512(w.add(row * COLUMNS + c).cast()));
            let mut sums = [[_mm512_setzero_si512(); 2]; ROWS];
            for (r, sums) in sums.iter_mut().enumerate() {
                *sums = [word(STEPS, r); 2];
            }
            for step in 0..STEPS {
                let w = columns(step);
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = word(step, r);
                    for (sum, w) in sums.iter_mut().zip(w) {
                        *sum = _mm512_dpbusd_epi32(*sum, w, x);
                    }
                }
            }
            let scales = columns(STEPS).map(|w| _mm512_castsi512_ps(w));
            for r in 0..ROWS {
                let scale = float(STEPS + 1, r);
                for c in 0..2 {
                    let scale = _mm512_mul_ps(scale, scales[c]);
                    acc[r][c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r][c]), scale, acc[r][c]);
                }
            }
            (x, w) = (x.add(X_WORDS), w.add(w_words(FORMAT)));
        }
    }
    let mask = u32::MAX >> (COLUMNS - tile.columns);
    for (r, acc) in acc.iter().enumerate().take(tile.rows) {
        // SAFETY: a row of the tile.
        let row = unsafe { tile.out.at(r * tile.ld).head(tile.columns) }.as_mut_ptr();
        for (c, &acc) in acc.iter().enumerate() {
            // SAFETY: only columns of the tile are stored.
            unsafe { _mm512_mask_storeu_ps(row.wrapping_add(16 * c), (mask >> (16 * c)) as u16, acc) };
        }
    }
}
